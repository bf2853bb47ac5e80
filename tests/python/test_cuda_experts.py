"""Mixtures of experts on the CUDA backend, emulated or real (on_cuda.py). Their logits against transformers': test_cuda.py; the kernels:
tests/cuda_emu/test_mixture.cu; which experts stay where: tests/c/test_memory_experts.c. Here: bits depend on neither where experts lie nor
when copies are done; memory, plans, figures and failures."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import golden, load
from on_cuda import REAL, SMALL_RAM, device_budget, error_of, report

from airpy import _core, errors

sys.path.insert(0, os.fspath(Path(__file__).parents[2] / "tools"))
import make_gguf

pytestmark = pytest.mark.timeout(900)  # the first one builds

PLAIN = "sm=70"  # no tensor cores, which take the emulation longest
IDS = [int(i) for i in np.arange(12) * 37 % 500]
SMALL: dict[str, Any] = {"device": "cuda", "n_ctx": 64, "max_ram": SMALL_RAM - (9 << 20)}  # has not all experts
LEAST = 1.3  # MiB of VRAM, for 8 of 24 experts; for all of them 4


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of Q4_K, the last layer with larger down matrices: two sizes of experts."""
    path = tmp_path_factory.mktemp("experts") / "moe.gguf"
    sizes = {"layers": 3, "experts": 8, "used": 2, "expert_ff": 256, "embd": 256}
    (path,) = make_gguf.write(path, shape="tiny", arch="qwen3moe", type="Q4_K_M", seed=5, **sizes)
    return Path(path)


@pytest.fixture
def plain(cuda):
    if not REAL:
        cuda(PLAIN)
    return cuda


resident_logits: list[np.ndarray] = []


@pytest.fixture
def resident(plain, mixture) -> np.ndarray:
    """Computed once, for all tests."""
    if not resident_logits:
        with load(mixture, device="cuda", n_ctx=64) as model:
            assert model.plan["device_expert_hit"] == 1 and model.plan["n_device_tiles"] == model.plan["n_tiles"]
            resident_logits.append(np.array(model([IDS]).logits[0]))
    return resident_logits[0]


def test_the_logits_are_near_those_of_the_cpu(mixture, resident):
    with load(mixture, n_ctx=64) as model:
        error = error_of(resident, np.array(model([IDS]).logits[0]))
    print(f"{error:.2e}")
    assert error <= 1e-4


@pytest.mark.parametrize(("megabytes", "io"), [(LEAST, "direct"), (1.8, "direct"), (3, "direct"), (LEAST, "mmap")])
def test_bits_do_not_depend_on_where_experts_lie(mixture, resident, io, megabytes):
    options = {**SMALL, "max_ram": None} if io == "mmap" else SMALL
    with load(mixture, io=io, max_vram=device_budget(megabytes), **options) as model:
        plan = model.plan
        got = [np.array(model([IDS]).logits[0]) for _ in range(2)]
        stats = model.stats()
    assert 0 < plan["device_expert_hit"] < 1, "some are in VRAM, and some are not"
    np.testing.assert_array_equal(got[0], resident)
    np.testing.assert_array_equal(got[1], resident)
    asked = stats["expert_hits"] + stats["expert_misses"]
    assert 0 < stats["expert_device_hits"] <= stats["expert_hits"] <= asked


@pytest.mark.parametrize("words", ["register=0", "mode=threads", "mode=sched,seed=0", "mode=sched,seed=5,order=random"])
def test_bits_do_not_depend_on_when_copies_are_done_nor_on_page_locking(cuda, plugin, mixture, resident, words):
    cuda(f"{PLAIN},{words}")
    with load(mixture, max_vram=device_budget(1.8), **SMALL) as model:
        for _ in range(2):
            np.testing.assert_array_equal(model([IDS]).logits[0], resident)
    left = report(plugin)
    assert not any(value for name, value in left.items() if name.startswith("live_")), left
    assert left["pageable_async"] == left["null_stream_async"] == left["unrecorded_waits"] == 0, left
    assert left["vram_peak"] <= 1.8 * (1 << 20)


def test_a_text_alone_and_among_others_is_the_same_and_is_that_of_the_cpu(plain, mixture):
    """Rows of prompts and generated ones are computed in the same passes, by kernels of their own."""
    prompts = [IDS[:3], IDS[3:7], [7] * 5]
    with load(mixture, max_vram=device_budget(1.8), **{**SMALL, "n_ctx": 128}) as model:
        together = [ids.tolist() for ids in model.generate(prompts, max_new_tokens=3, eos_token_id=[])]
        alone = [model.generate([ids], max_new_tokens=3, eos_token_id=[])[0].tolist() for ids in prompts]
    padded = max(map(len, prompts))
    assert [ids[padded:] for ids in together] == [ids[len(prompt) :] for ids, prompt in zip(alone, prompts, strict=True)]
    with load(mixture, n_ctx=64) as model:
        assert alone == [model.generate([ids], max_new_tokens=3, eos_token_id=[])[0].tolist() for ids in prompts]


def test_what_rows_are_sent_to_again_is_found_in_vram(plain, mixture):
    with load(mixture, max_vram=device_budget(LEAST), **SMALL) as model:
        model.generate([IDS[:1]], max_new_tokens=2, eos_token_id=[])
        before = model.stats()
        for _ in range(3):
            model([[IDS[0]]])
        after = model.stats()
    assert after["expert_device_hits"] - before["expert_device_hits"] >= 3 * 3  # of two in each of three layers at least one


# ---- several devices ---------------------------------------------------------------------------------------------------------------


def test_of_several_devices_the_first_computes_experts_and_the_plan_says_so(cuda, plugin, mixture):
    cuda(f"devices=2,{PLAIN}")
    texts = []
    memory = {"max_ram": 2 * SMALL_RAM, "max_vram": (device_budget(1.6), device_budget(1)), "cpu_share": 0.0, "n_ctx": 64}
    with load(mixture, device="cuda:0,1", **memory) as model:
        plan = model.plan
        assert plan["helpers"][0]["n_tiles"] > 0 and plan["device_expert_bytes"] > 0
        assert "experts of mixtures are computed by GPU 1 alone" in str(plan)
        texts.append(model.generate([IDS[:3]], max_new_tokens=3, eos_token_id=[])[0].tolist())
    with load(mixture, n_ctx=64) as model:
        texts.append(model.generate([IDS[:3]], max_new_tokens=3, eos_token_id=[])[0].tolist())
    assert texts[0] == texts[1]
    assert not any(value for name, value in report(plugin).items() if name.startswith("live_"))


# ---- plans -------------------------------------------------------------------------------------------------------------------------


def test_a_plan_says_where_experts_are_and_comes_back_from_its_file(plain, mixture, tmp_path):
    with load(mixture, max_vram=device_budget(2), **SMALL) as model:
        plan, text = model.plan, str(model.plan)
    hit, there = plan["device_expert_hit"], plan["expert_hit"]
    assert 0 < hit < there <= 1
    assert f"{100 * hit:.0f} % of them are in VRAM, {100 * there:.0f} % in memory" in text
    assert re.search(r"^experts used most +\d.* +\d", text, re.M) and re.search(r"^experts +Q4_K/Q6_K .*%", text, re.M)
    assert type(plan)(json.loads(json.dumps(plan.to_dict()))) == plan
    plan.save(tmp_path / "plan.json")
    with load(mixture, device="cuda", plan=tmp_path / "plan.json", bandwidths=None) as model:
        assert model.plan["device_expert_bytes"] == plan["device_expert_bytes"]
    for wrong in (2, "all", None):
        with pytest.raises(errors.ArgumentError, match="device_expert_hit"):
            type(plan)({**plan.to_dict(), "plan": {**plan.to_dict()["plan"], "device_expert_hit": wrong}})


def test_a_token_takes_as_long_as_what_is_not_in_vram_takes_to_come(plain, mixture):
    rates = {"disk": 1e6, "link": 1e6, "device": 1e12}
    found = []
    for megabytes in (LEAST, 2.5, 8):
        options = {"n_ctx": 64, "max_ram": 1 << 30, "max_vram": device_budget(megabytes), "cpu_share": 0.0}
        plan = _core.solve_plan(_core.GGUF(os.fspath(mixture)), **options, bandwidths=rates)
        away = plan["weight_bytes"] - plan["device_weight_bytes"] + plan["expert_token_bytes"] * (1 - plan["device_expert_hit"])
        assert plan["link_s"] == pytest.approx(away / 1e6, rel=1e-6)
        found.append(plan["link_s"])
    assert found[0] > found[1] > found[2] == 0


def test_passes_teach_nothing_of_rates(plain, monkeypatch, tmp_path):
    """They are foretold as if all experts were used alike."""
    from airpy import calibration

    monkeypatch.setenv("AIRPY_CACHE_DIR", os.fspath(tmp_path))
    monkeypatch.setattr(calibration, "_LEARN_BYTES", 1)
    monkeypatch.setattr(calibration, "_LEARN_SECONDS", 0.0)
    kept = []
    for name in ("qwen3moe", "qwen3"):
        with load(golden(name), device="cuda", n_ctx=64, bandwidths=None) as model:
            (key,) = model._machine.gpu_keys
            before = calibration._load(key)
            model.generate([[1]], max_new_tokens=6, eos_token_id=[])
            kept.append(calibration._load(key) == before)
    assert kept == [True, False]


def test_a_budget_that_is_too_small_says_what_would_do(plain, mixture):
    with pytest.raises(errors.BudgetError, match=r"max_vram .* is too small by .*ring and experts") as refused:
        load(mixture, max_vram=device_budget(0.5), **SMALL)
    enough = re.search(r"raise max_vram to ([\d.]+) MiB", str(refused.value))
    assert enough
    with load(mixture, max_vram=f"{enough[1]}MiB", **SMALL) as model:
        assert model([IDS]).logits.shape[1] == len(IDS)


# ---- failures ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["cudaMemcpyAsync", "cudaEventRecord", "cudaStreamWaitEvent", "cudaEventSynchronize", "cudaLaunchKernel"])
def test_a_call_that_fails_is_an_error_and_the_model_works_on(cuda, plugin, mixture, resident, call):
    """In the midst of a pass, whatever was being done: what experts lie in VRAM is still true."""
    cuda(PLAIN)
    with load(mixture, max_vram=device_budget(1.8), **SMALL) as model:
        model([IDS[:1]])
        failed = 0
        for nth in (1, 4, 9, 20, 40, 1000):  # as many as there are
            cuda(f"{PLAIN},fail={call}:{nth}:1")
            try:
                model([IDS[:3]])
                break
            except errors.DeviceError as error:
                assert str(error).startswith("cuda: ")
            failed += 1
            cuda(PLAIN)
            np.testing.assert_array_equal(model([IDS[:3]]).logits[0], resident[:3])
        assert 2 <= failed <= 5
    assert not any(value for name, value in report(plugin).items() if name.startswith("live_"))


def test_a_device_that_cannot_hold_experts_leaves_nothing_behind(cuda, plugin):
    cuda(PLAIN)
    for nth in range(1, 12):
        cuda(f"{PLAIN},fail=cudaMalloc:{nth}:2")
        try:
            with load(golden("qwen3moe"), device="cuda", n_ctx=64) as model:
                model([[1, 2]])
        except errors.OutOfMemoryError as error:
            assert "MiB of VRAM for" in str(error)
        assert not any(value for name, value in report(plugin).items() if name.startswith("live_")), nth
