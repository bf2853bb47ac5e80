"""Models that are no plain decoders on the CUDA backend, emulated (tests/cuda_emu) or with AIRPY_TEST_GPU=1 the real one: those that read a
text from both ends, those with a recurrent state, and those with a compressed one. Hidden states and logits against transformers' in
float32, bits, budgets."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import ENCODER_NAMES, encoder, golden, load
from on_cuda import CONTEXT, SMALL_RAM, error_of
from test_encoders import Case
from test_recurrent import IDS, OTHER, append

from airpy import _core, errors
from airpy.device import cuda_plugin

sys.path.insert(0, os.fspath(Path(__file__).parents[2] / "tools"))
import make_gguf

pytestmark = pytest.mark.timeout(900)


def states(case: Case, which: Any = None, logits: bool = False, **options: Any) -> np.ndarray:
    options = {"max_ram": SMALL_RAM + (64 << 20), **options}
    return case.states(which, logits, plugin=cuda_plugin(), device=0, **options)


# ---- models that read a text from both ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_hidden_states_are_those_of_transformers(cuda, name):
    case = Case(name)
    error = error_of(states(case), case.hidden)
    print(f"{name}: {error:.2e}")
    assert error <= 1e-10


@pytest.mark.parametrize("name", ["bert-rank", "qwen3-rank"])
def test_scores_are_those_of_transformers(cuda, name):
    case = Case(name)
    at = case.ends - 1 if name.startswith("qwen3") else np.concatenate([[0], case.ends[:-1]])
    np.testing.assert_allclose(states(case, logits=True)[at], case.scores, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("bert", "f32"), ("modern-bert", "f16")])
def test_a_text_has_its_bits_alone_and_among_others(cuda, name, kind):
    case = Case(name)
    want = states(case, [1, 3], kv_dtype=kind)
    first = len(case.texts[1])
    np.testing.assert_array_equal(states(case, [1], kv_dtype=kind), want[:first])
    in_turns = states(case, [3, 1], kv_dtype=kind, max_rows=66)
    np.testing.assert_array_equal(in_turns, np.concatenate([want[first:], want[:first]]))


def test_short_texts_take_turns_where_vram_has_no_room_for_a_block_of_each(cuda):
    """And one that is as long as the context has room."""
    texts = [np.array([5 + i, 7], np.int32) for i in range(30)] + [np.arange(60, dtype=np.int32)]
    found, passes = [], []
    for megabytes in (64, 0.6):
        memory = {"max_ram": SMALL_RAM, "max_vram": CONTEXT + int(megabytes * (1 << 20))}
        engine = _core.Engine(_core.GGUF(str(encoder("bert"))), n_ctx=64, plugin=cuda_plugin(), device=0, **memory)
        items = [(engine.sequence(), text, len(text), None, len(text)) for text in texts]
        found.append(np.array(engine.run(items, hidden=True).hidden))
        passes.append(engine.stats()["passes"])
        engine.close()
    assert passes[0] == 1 < passes[1]
    np.testing.assert_array_equal(*found)


def test_texts_are_embedded_as_by_the_cpu(cuda):
    texts = ["the cat sat", "on", ("a cat", "the end")]
    with load(encoder("bert")) as model:
        want = model.embed(texts)
    for device in ("cuda", "auto"):
        with load(encoder("bert"), device=device) as model:
            assert model.device == "cuda:0"
            np.testing.assert_allclose(model.embed(texts), want, atol=1e-5)


def test_the_output_does_not_cross_the_link_for_embeddings(cuda):
    """First of all, and later; a pass with logits then finds what it needs."""
    memory: dict[str, Any] = {"device": "cuda", "io": "direct", "n_ctx": 128, "max_ram": SMALL_RAM}
    with load(n_ctx=128) as model:
        want, logits = model.embed(["the cat", "a dog"]), model([[1, 2, 3]]).logits
    with load(**memory) as model:
        all_of_it = model.plan["device_fixed"] + sum(model.plan[f"device_{name}_bytes"] for name in ("state", "activation", "pin"))
    for vram in (all_of_it + (8 << 20), all_of_it - (3 << 20)):
        with load(**memory, max_vram=vram) as model:
            for _ in range(2):
                read = []
                for call in (lambda: model.embed(["the cat", "a dog"]), lambda: model([[1, 2, 3]]).logits):
                    before = model.stats()
                    found = call()
                    after = model.stats()
                    read.append(sum(after[f"{where}_bytes"] - before[f"{where}_bytes"] for where in ("disk", "ram")))
                    assert error_of(found, want if len(read) == 1 else logits) < 1e-4
            if model.plan.linked_bytes:
                assert 0 < read[0] < read[1]


# ---- layers with a recurrent state -------------------------------------------------------------------------------------------------


def engine_of(name: str, **options: Any) -> _core.Engine:
    options = {"max_ram": SMALL_RAM + (64 << 20), "n_ctx": 128, "plugin": cuda_plugin(), "device": 0, **options}
    return _core.Engine(_core.GGUF(str(golden(name))), **options)


@pytest.mark.parametrize("name", ["granitehybrid", "lfm2", "qwen3next"])
def test_bits_do_not_depend_on_how_a_text_is_cut_into_passes(cuda, name):
    engine = engine_of(name)
    ids, prompt = IDS[:24], 20
    whole = append(engine, engine.sequence(), ids, 5, prompt)
    by_passes = engine_of(name, max_rows=7)
    np.testing.assert_array_equal(append(by_passes, by_passes.sequence(), ids, 5, prompt), whole)
    sequence = engine.sequence()
    found = [append(engine, sequence, ids[:prompt], 1, prompt), *(append(engine, sequence, ids[i : i + 1]) for i in range(prompt, 24))]
    np.testing.assert_array_equal(np.concatenate(found), whole)  # a token each: the last ones are one graph
    sequence.truncate(22)
    assert sequence.length == prompt - 1  # where its state was kept
    np.testing.assert_array_equal(append(engine, sequence, ids[prompt - 1 :], 5, prompt), whole)


def smallest(name: str, **options: Any) -> _core.Engine:
    """With as little VRAM as it opens with, to a part of a MiB."""
    for sixteenths in range(1, 200):
        try:
            return engine_of(name, max_vram=CONTEXT + (sixteenths << 16), **options)
        except errors.BudgetError:
            continue
    raise AssertionError("it does not open")


@pytest.mark.parametrize("name", ["granitehybrid", "qwen3next"])
def test_states_that_vram_has_no_room_for_are_in_ram_and_come_back(cuda, name):
    """Many sequences, in one call and by turns, and forks of them, which go their own ways."""
    engine, small = engine_of(name), smallest(name, n_ctx=64, max_rows=8)
    texts = [IDS[:9], OTHER[:9], IDS[3:12], OTHER[1:2], IDS[5:14], OTHER[7:16]]
    found = []
    for each in (engine, small):
        sequences = [each.sequence() for _ in texts]
        calls = [(s, ids, 1, None, len(ids)) for s, ids in zip(sequences, texts, strict=True)]
        logits = [np.array(each.run(calls, logits=True).logits)]
        logits.append(np.array(each.run([(s, ids[:1], 1, None, 0) for s, ids in zip(sequences, texts, strict=True)], logits=True).logits))
        forks = [s.fork() for s in sequences[:3]]
        logits += [append(each, fork, OTHER[:2]) for fork in forks]
        logits += [append(each, s, IDS[:1]) for s in sequences]
        found.append(np.concatenate(logits))
        held = each.stats()["held_by"]["KV cache"]
        assert (held > 0) == (each is small), held  # of RAM
    np.testing.assert_array_equal(*found)


# ---- attention over a compressed state ---------------------------------------------------------------------------------------------

LATENT = {"layers": 2, "embd": 256, "ff": 256, "heads": 3, "vocab": 512, "ctx": 512, "head_dim": 64, "kv_rank": 64, "q_rank": 32}


@pytest.fixture(scope="module")
def latent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of one shape, by the type of weights: of products by heads 8 bits have another form than halves."""
    folder = tmp_path_factory.mktemp("latent")
    return {
        kind: make_gguf.write(folder / f"{kind}.gguf", shape="mla", arch="deepseek2", type=kind, rope_dim=32, value_dim=32, **LATENT)[0]
        for kind in ("Q8_0", "F16")
    }


def latent_engine(path: Path, **options: Any) -> _core.Engine:
    options = {"max_ram": SMALL_RAM + (64 << 20), "n_ctx": 320, "plugin": cuda_plugin(), "device": 0, **options}
    return _core.Engine(_core.GGUF(str(path)), **options)


TEXT = np.arange(300, dtype=np.int32) * 37 % 500 + 3


@pytest.mark.parametrize(("kind", "kv_dtype"), [("Q8_0", "f16"), ("Q8_0", "q8_0"), ("F16", "f32"), ("F16", "q4_0")])
def test_logits_over_a_compressed_state_are_near_those_of_the_cpu(cuda, latent, kind, kv_dtype):
    """Of a prompt's rows and of generated ones. With weights in 8 bits the inputs of nine products a layer are rounded, and now and then to
    another side."""
    found = []
    on_cpu = _core.Engine(_core.GGUF(str(latent[kind])), kv_dtype=kv_dtype, n_ctx=320)
    for engine in (latent_engine(latent[kind], kv_dtype=kv_dtype), on_cpu):
        sequence = engine.sequence()
        logits = [append(engine, sequence, TEXT[:70], 70, 70), append(engine, sequence, TEXT[70:74], 4)]
        found.append(np.concatenate(logits))
    error = error_of(*found)
    print(f"{kind}, {kv_dtype}: {error:.2e}")
    assert error <= (1e-3 if kind == "Q8_0" or kv_dtype == "q4_0" else 1e-6)


def opens(path: Path, megabytes: float) -> bool:
    try:
        latent_engine(path, n_ctx=128, max_ram=SMALL_RAM, max_vram=CONTEXT + int(megabytes * (1 << 20)), cpu_share=0.0).close()
    except errors.BudgetError:
        return False
    return True


@pytest.mark.parametrize(("kind", "prompt"), [("Q8_0", 70), ("deepseek2-v2", 40)])
def test_bits_over_a_compressed_state_do_not_depend_on_passes_nor_on_where_things_are(cuda, latent, kind, prompt):
    """Rows together and by turns, several sequences in a pass, weights that stream, state that is in RAM."""
    path = latent.get(kind) or golden(kind)
    least = next(eighths for eighths in range(1, 100) if opens(path, eighths / 8)) / 8 + (0.25 if kind in latent else 0)
    engine = latent_engine(path, n_ctx=128)
    text, other = TEXT[: prompt + 4] % engine.hparams["n_vocab"], TEXT[40:70] % engine.hparams["n_vocab"]
    want = append(engine, engine.sequence(), text, 5, prompt), append(engine, engine.sequence(), other, 1, len(other))
    small = latent_engine(path, n_ctx=128, max_ram=SMALL_RAM, max_vram=CONTEXT + int(least * (1 << 20)), cpu_share=0.0)
    assert small.plan["max_rows"] < prompt
    for each in (engine, small):
        sequence, beside = each.sequence(), each.sequence()
        np.testing.assert_array_equal(append(each, sequence, text[:prompt], 1, prompt)[0], want[0][0])
        for i in range(prompt, prompt + 3):
            append(each, sequence, text[i : i + 1])
        items = [(beside, other, 1, None, len(other)), (sequence, text[-1:], 1, None, 0)]
        np.testing.assert_array_equal(np.array(each.run(items, logits=True).logits), np.concatenate([want[1], want[0][4:]]))
    assert small.plan["away_blocks"] > 0 or small.plan["n_device_tiles"] < small.plan["n_tiles"]


@pytest.mark.parametrize(("kind", "most"), [("deepseek2-lite", 1e-10), ("Q8_0", 1e-3)])
def test_others_compute_products_by_heads_too(cuda, latent, kind, most):
    """Another device with the bits of one alone, and the CPU, whose sums have an order of their own: the first has no room for weights."""
    cuda("devices=2")
    path = latent.get(kind) or golden(kind)
    options: dict[str, Any] = {"n_ctx": 64, "max_rows": 8, "max_ram": 4 * SMALL_RAM}
    alone = latent_engine(path, n_ctx=64)
    text = TEXT[:12] % alone.hparams["n_vocab"]

    def opened(kib: int, **given: Any) -> _core.Engine | None:
        vram = CONTEXT + (kib << 10)
        try:
            return latent_engine(path, **options, **given, max_vram=(vram, CONTEXT + (8 << 20)) if "device" in given else vram)
        except errors.BudgetError:
            return None

    host = next(engine for kib in range(64, 4096, 16) if (engine := opened(kib, cpu_share=1.0)))
    beside = next(engine for kib in range(64, 4096, 16) if (engine := opened(kib, device=(0, 1), cpu_share=0.0)))
    heads = [weight for weight in host.plan["weights"] if re.search("attn_[kv]_b", weight[0])]
    assert len(heads) == 4 and not any(device for *_, device in heads)
    assert host.plan["n_device_tiles"] + host.plan["n_host_tiles"] == host.plan["n_tiles"]
    assert beside.plan["helpers"][0]["n_tiles"] >= beside.plan["n_tiles"] - 1
    found = []
    for engine in (alone, beside, host):
        sequence = engine.sequence()
        found.append(np.concatenate([append(engine, sequence, text, 5, 8), append(engine, sequence, text[:1])]))
    np.testing.assert_array_equal(found[1], found[0])
    assert 0 < error_of(found[2], found[0]) <= most
