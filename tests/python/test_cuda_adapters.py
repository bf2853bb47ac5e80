"""LoRA adapters on the CUDA backend, emulated (tests/cuda_emu) or with AIRPY_TEST_GPU=1 the real one: PEFT's logits, the CPU's, rows with
different ones, memory. Orders of work and faults: tests/cuda_emu/test_adapters.cu; kernels: test_lora.cu."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import DEMO, encoder, golden, load
from on_cuda import CONTEXT, REAL, SMALL_RAM, device_budget, error_of, report
from test_adapters import CASES, FOLDER, logits, prompt, random_pairs, write_gguf

from airpy import _core, errors
from airpy.device import cuda_plugin

pytestmark = pytest.mark.timeout(900)  # the first one builds

HOW: dict[str, Any] = {"max_new_tokens": 4, "eos_token_id": [], "return_dict_in_generate": True, "output_logits": True}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_peft(cuda, case):
    name, want = CASES[case], np.load(FOLDER / f"{case}.npz")["logits"]
    with load(golden(name), device="cuda", kv_dtype="f32") as model:
        model.load_adapter(FOLDER / case)
        error = error_of(logits(model, name), want)
        print(f"{case}: {error:.1e}")
        assert error < 1e-10
        assert error_of(logits(model, name, adapter=None), want) > 0.1


def test_a_model_that_streams_has_the_bits_of_one_that_stays_near_the_cpus(cuda, tmp_path):
    """Of quantised weights; prompts and generated rows, each with its own, one of them in F16 in its file."""
    ids = np.random.default_rng(1).integers(0, 4096, (3, 12))
    kinds = ((8, np.float32), (3, np.float16))
    files = [write_gguf(tmp_path / f"{i}.gguf", random_pairs(DEMO, rank, i), kind=kind) for i, (rank, kind) in enumerate(kinds)]
    prompts, generated = [], []
    for options in ({}, {"device": "cuda"}, {"device": "cuda", "max_vram": device_budget(8), "max_ram": SMALL_RAM, "cpu_share": 0}):
        with load(n_ctx=512, kv_dtype="f32", **options) as model:
            names = [model.load_adapter(file, str(i)) for i, file in enumerate(files)]
            prompts.append(model(ids, adapter=[*names, None]).logits)
            generated.append(np.stack(model.generate(ids, adapter=[*names, None], **HOW).logits) if options else None)
            plan = model.plan
    assert 0 < plan["n_device_tiles"] < plan["n_tiles"]
    print(f"{error_of(prompts[1], prompts[0]):.1e}")
    assert error_of(prompts[1], prompts[0]) < 1e-9
    np.testing.assert_array_equal(prompts[2], prompts[1])
    np.testing.assert_array_equal(generated[2], generated[1])


def test_rows_of_a_batch_have_their_own(cuda):
    with load(golden("llama"), device="cuda", kv_dtype="f32") as model:
        for name in ("llama-all", "llama-attention"):
            model.load_adapter(FOLDER / name, name)
        ids = np.repeat(prompt("llama"), 5, axis=0)
        choices = ["llama-all", None, ("llama-attention", 0.5), "llama-attention", ("llama-all", -1)]
        together = model(ids, adapter=choices).logits
        for row, choice in enumerate(choices):
            model.forget()
            np.testing.assert_array_equal(together[row], model(ids[:1], adapter=choice).logits[0])
        assert len({row.tobytes() for row in together}) == 5
        model.forget()
        plain = model(ids[:1], adapter=None).logits[0]
    with load(golden("llama"), device="cuda", kv_dtype="f32") as model:
        np.testing.assert_array_equal(model(ids[:1]).logits[0], plain)


def test_encoders_have_them_as_well(cuda, tmp_path):
    adapter = write_gguf(tmp_path / "adapter.gguf", random_pairs(encoder("bert"), 3, 5), arch="bert")
    texts, found = ["the cat sat", "a dog"], []
    for device in ("cpu", "cuda"):
        with load(encoder("bert"), device=device) as model:
            plain = model.embed(texts)
            model.load_adapter(adapter)
            found.append(model.embed(texts))
            assert np.abs(found[-1] - plain).max() > 1e-2
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


# ---- memory --------------------------------------------------------------------------------------------------------------


def test_vram_is_counted_and_given_back(cuda, plugin, tmp_path):
    file = write_gguf(tmp_path / "large.gguf", random_pairs(DEMO, 16, 0))
    budget = device_budget(9)
    with load(device="cuda", max_vram=budget, max_ram=SMALL_RAM, n_ctx=512) as model:
        want = model.generate([[1, 2]], **HOW).sequences
        model.load_adapter(file, "large")
        sizes = model.adapters["large"]
        assert sizes["vram_bytes"] > 1 << 20 and sizes["bytes"] < 1 << 16  # matrices lie in VRAM alone
        model.generate([[1, 2]], **HOW)
        model.forget()
        used = 0 if REAL else report(plugin)["vram_used"]
        model.unload_adapter("large")
        assert REAL or used - report(plugin)["vram_used"] >= sizes["vram_bytes"] - (2 << 20)  # which counts whole pages
        np.testing.assert_array_equal(model.generate([[1, 2]], **HOW).sequences, want)
    if not REAL:
        left = report(plugin)
        assert left["vram_peak"] <= budget - CONTEXT
        assert not any(value for name, value in left.items() if name.startswith("live_")), left


def test_one_that_vram_does_not_hold_is_refused(cuda, tmp_path):
    file = write_gguf(tmp_path / "huge.gguf", random_pairs(DEMO, 200, 0))
    with load(device="cuda", max_vram=device_budget(6), max_ram=SMALL_RAM, n_ctx=64) as model:
        want = model.generate([[1, 2]], **HOW).sequences
        message = r"max_vram \d+\.\d MiB is too small by \d+\.\d MiB for an adapter of \d+\.\d MiB: in use \d+\.\d, of that weights"
        with pytest.raises(errors.BudgetError, match=message):
            model.load_adapter(file)
        assert model.adapters == {} and model.stats()["held_by"]["adapters"] == 0
        np.testing.assert_array_equal(model.generate([[1, 2]], **HOW).sequences, want)


def test_one_that_is_unloaded_stays_for_calls_under_way(cuda, plugin):
    with load(golden("llama"), device="cuda", n_ctx=64) as model:
        model.load_adapter(FOLDER / "llama-all", "kept")
        how = {"max_new_tokens": 8, "eos_token_id": []}  # of which the last ones are a captured pass
        want = model.generate([[1, 2, 3]], adapter="kept", **how)[0, 3:].tolist()
        model.load_adapter(FOLDER / "llama-all", "gone")
        seen: list[int] = []
        stream = model.stream([1, 2, 3], adapter="gone", on_tokens=seen.extend, **how)
        next(stream)
        model.unload_adapter("gone")
        list(stream)
        assert seen == want
        model.forget()
        gc.collect()
        assert model.stats()["held_by"]["adapters"] == model.adapters["kept"]["bytes"]
        assert model.generate([[1, 2, 3]], adapter=None, **how)[0, 3:].tolist() != want
        assert model.generate([[1, 2, 3]], adapter="kept", **how)[0, 3:].tolist() == want


# ---- the engine's side ---------------------------------------------------------------------------------------------------


def engine_of(name: str, **options: Any) -> _core.Engine:
    options = {"max_ram": SMALL_RAM + (64 << 20), "n_ctx": 64, "plugin": cuda_plugin(), "device": 0, **options}
    return _core.Engine(_core.GGUF(os.fspath(golden(name))), **options)


def adapter_of(engine: _core.Engine, rank: int) -> _core.Adapter:
    adapter = engine.adapter([("blk.0.attn_q.weight", rank, 40, 40)])
    rng = np.random.default_rng(rank)
    adapter.set(0, rng.normal(size=(rank, 40)).astype(np.float32), rng.normal(size=(40, rank)).astype(np.float32) / rank)
    return adapter


def test_any_rank_is_that_of_the_cpu(cuda):
    """Also ranks beyond the matrix's; nothing is read of what nobody has filled, which is zeros."""
    ids = np.arange(1, 9, dtype=np.int32)
    found: list[list[np.ndarray]] = []
    for device in ({"plugin": "", "device": 0}, {}):
        engine = engine_of("llama", kv_dtype="f32", **device)
        found.append([])
        for rank in (1, 2, 5, 64, 129):
            sequence = engine.sequence()
            sequence.adapt(adapter_of(engine, rank), 0.5)
            found[-1].append(np.array(engine.run([(sequence, ids, 8, None, 8)], logits=True).logits))
            sequence.close()
        empty, plain = engine.sequence(), engine.sequence()
        empty.adapt(engine.adapter([("blk.0.attn_q.weight", 3, 40, 40)]))
        both = np.array(engine.run([(each, ids, 8, None, 8) for each in (empty, plain)], logits=True).logits)
        np.testing.assert_array_equal(both[:8], both[8:])
        engine.close()
    for cpu, gpu in zip(*found, strict=True):
        assert error_of(gpu, cpu) < 1e-10


def test_one_that_a_sequence_has_is_not_changed(cuda):
    engine = engine_of("llama")
    adapter, sequence = adapter_of(engine, 2), engine.sequence()
    sequence.adapt(adapter)
    with pytest.raises(errors.StateError, match="a sequence has the adapter already"):
        adapter.set(0, np.ones((2, 40), np.float32), np.ones((40, 2), np.float32))
    sequence.close()
    engine.close()


def test_what_is_none_of_an_adapters_is_refused_as_by_the_cpu(cuda, tmp_path: Path):
    with load(golden("qwen3moe"), device="cuda", n_ctx=64) as model:
        _, _, shape, *_ = next(t for t in model._gguf.tensors if t[0] == "blk.0.ffn_up_exps.weight")
        pairs = {"blk.0.ffn_up_exps.weight": (np.zeros((2, shape[0]), np.float32), np.zeros((shape[1], 2), np.float32))}
        with pytest.raises(errors.UnsupportedError, match=r"changes blk\.0\.ffn_up_exps\.weight, experts of a mixture"):
            model.load_adapter(write_gguf(tmp_path / "experts.gguf", pairs, arch="qwen3moe"))
        assert model.adapters == {}
