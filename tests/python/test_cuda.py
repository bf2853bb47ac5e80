"""Models on the CUDA backend, whose kernels and copies are emulated on the CPU (tests/cuda_emu): the same sources that nvcc compiles.
With AIRPY_TEST_GPU=1 it is the real one (tests/gpu), and tests that change or ask the emulation are skipped.

What is compared with what: logits with transformers' in float32, and with the CPU backend's; streamed ones with resident ones, bit for bit,
under every order of copies and kernels that CUDA allows; and what happens where a call of CUDA fails.
"""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import DEMO, GOLDEN, GOLDEN_NAMES, RATES, golden, load, run_python
from on_cuda import CONTEXT, REAL, SMALL_RAM, device_budget, error_of, only_emulated, report

from airpy import _core, errors
from airpy.device import cuda_plugin

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import make_gguf

pytestmark = pytest.mark.timeout(900)  # the first one builds

TINY = golden("llama")
IDS = [1, 45, 300, 7, 12, 99, 5, 81, 23, 64, 150, 31]


def logits_of(path: Path = DEMO, ids: Any = None, **options: Any) -> np.ndarray:
    with load(path, **options) as model:
        return np.array(model([IDS] if ids is None else ids).logits[0])


# ---- what is computed -------------------------------------------------------------------------------------------------------------


def test_a_model_that_gpus_do_not_run_is_the_cpus_by_auto(cuda, airpy, tmp_path):
    """Whether opened or planned; max_vram, which would then be nobody's, is refused."""
    sizes = {"layers": 1, "embd": 256, "ff": 256, "heads": 1, "vocab": 512, "ctx": 64, "head_dim": 96, "kv_rank": 1024, "q_rank": 64}
    latent, = make_gguf.write(tmp_path / "wide.gguf", shape="mla", arch="deepseek2", rope_dim=32, value_dim=96, **sizes)
    why = r'compressed state \(MLA\) of 1056 elements, but kernels are for up to 1024; use device "cpu"'
    with load(latent, device="auto") as model:
        assert model.device == "cpu"
    with pytest.raises(errors.ArgumentError, match="max_vram is a GPU's memory, but the CPU computes"):
        load(latent, device="auto", max_vram="1GiB")
    with pytest.raises(errors.UnsupportedError, match=why):
        load(latent, device="cuda")
    with pytest.raises(errors.UnsupportedError, match=why):
        _core.check_device(cuda_plugin(), _core.GGUF(os.fspath(latent)))
    _core.check_device(cuda_plugin(), _core.GGUF(os.fspath(TINY)))
    code, out, err = airpy("plan", latent, "--device", "auto")
    assert code == 0 and "VRAM" not in out, err


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_logits_are_those_of_transformers(cuda, name):
    data = np.load(GOLDEN / f"{name}.npz")
    with load(golden(name), device="cuda", kv_dtype="f32") as model:
        assert model.device == "cuda:0"
        logits = model(data["input_ids"]).logits
    error = error_of(logits[0], data["logits"])
    print(f"{name}: {error:.2e}")
    assert error <= 1e-6


@pytest.mark.parametrize("kv_dtype", ["f16", "f32", "q8_0", "q4_0"])
def test_logits_are_near_those_of_the_cpu(cuda, kv_dtype):
    """Both round activations to 8 bits and state alike; what differs is the order of float sums, and now and then, by that, a rounding:
    together less than rounding activations may cost (docs/design.md). A rounding in Q4_0 is a sixteenth of the largest of 32."""
    error = error_of(logits_of(device="cuda", kv_dtype=kv_dtype), logits_of(kv_dtype=kv_dtype))
    print(f"{kv_dtype}: {error:.2e}")
    assert error <= (1e-3 if kv_dtype == "q4_0" else 1e-4)


def test_generated_tokens_are_those_of_the_cpu(cuda):
    texts = []
    for device in ("cpu", "cuda"):
        with load(device=device, kv_dtype="f32") as model:
            texts.append(model.generate([IDS], max_new_tokens=10)[0].tolist())
    assert texts[0] == texts[1]


def unit(seed: int, n: int) -> float:
    """Draw number n of a stream, as base/random.h has it."""

    def mix(z: int) -> int:  # splitmix64
        z = z + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        z = (z ^ z >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        return z ^ z >> 31

    return (mix(mix(seed) ^ (n * 0xD1342543DE82EF95 + 1) & 0xFFFFFFFFFFFFFFFF) >> 11) / 2**53


def drawn(logits: np.ndarray, n: int, seed: int, temperature: float, top_k: int = 0, top_p: float = 1, min_p: float = 0) -> int:
    """What transformers' warpers leave of the whole row, in their order, drawn from by that number."""
    order = np.argsort(-logits, kind="stable")[: top_k or None]
    x = (logits[order].astype(np.float64) - logits[order[0]]) / temperature
    p = np.exp(x) / np.exp(x).sum()
    kept = (np.cumsum(p) - p < top_p) & (p >= min_p * p[0])
    sums = np.cumsum(p[kept])
    return int(order[np.searchsorted(sums, unit(seed, n) * sums[-1], side="right")])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "way", [{"top_k": 50}, {"top_k": 1}, {"top_k": 128, "top_p": 0.9}, {"top_k": 20, "min_p": 0.05}, {"top_k": 129}, {"top_p": 0.8}]
)
def test_drawn_tokens_are_those_of_the_whole_row(cuda, device, way):
    """Logits and tokens come from calls of their own: where only tokens are asked for, a device keeps all but the largest logits."""
    with load(device=device) as model:
        engine = model._engine
        sequence, tokens = engine.sequence(), np.array(IDS, np.int32)
        for i in range(4):
            sampling = {"temperature": 1.5, "seed": 7 + i, **way}
            logits = np.array(engine.run([(sequence.fork(), tokens, 1, None, len(IDS))], logits=True).logits)[0]
            result = engine.run([(sequence, tokens, 1, sampling, len(IDS))])
            token = result.sampled[0]
            assert token == drawn(logits, sequence.length, **sampling)
            wide = logits.astype(np.float64)
            assert result.logprobs[0] == pytest.approx(wide[token] - np.log(np.exp(wide).sum()), abs=1e-4)
            tokens = np.array([token], np.int32)


def test_a_text_drawn_by_top_k_is_that_of_the_cpu(cuda):
    texts = []
    for device in ("cpu", "cuda"):
        with load(device=device, kv_dtype="f32") as model:
            texts.append(model.generate([IDS], max_new_tokens=10, do_sample=True, temperature=1.2, seed=3)[0].tolist())
    assert texts[0] == texts[1]


# ---- bits -------------------------------------------------------------------------------------------------------------------------

SMALL = {"n_ctx": 64, "max_ram": SMALL_RAM}  # of the demo model: the rest of RAM does not hold its weights


resident_logits: list[np.ndarray] = []


@pytest.fixture
def resident(cuda) -> np.ndarray:
    """Computed once, for all tests."""
    if not resident_logits:
        resident_logits.append(logits_of(device="cuda", n_ctx=64))
    return resident_logits[0]


@pytest.mark.parametrize("megabytes", [2.5, 4, 6])
def test_streamed_weights_give_the_bits_of_resident_ones(cuda, resident, megabytes):
    with load(device="cuda", max_vram=device_budget(megabytes), **SMALL) as model:
        plan = model.plan
        first, again = (np.array(model([IDS]).logits[0]) for _ in range(2))
    assert 0 < plan["n_device_tiles"] < plan["n_tiles"], "some of it streams"
    np.testing.assert_array_equal(first, resident)
    np.testing.assert_array_equal(again, resident)


@pytest.mark.parametrize("words", ["register=0", "mode=threads", "mode=sched,seed=0", "mode=sched,seed=5,order=random"])
def test_bits_do_not_depend_on_when_copies_are_done_nor_on_page_locking(cuda, resident, words):
    cuda(words)
    with load(device="cuda", max_vram=device_budget(3), **SMALL) as model:
        np.testing.assert_array_equal(model([IDS]).logits[0], resident)


def test_a_mapped_file_gives_the_same_bits(cuda, resident):
    with load(device="cuda", n_ctx=64, io="mmap", max_vram=device_budget(3)) as model:
        assert model.plan["io"] == "mmap"
        np.testing.assert_array_equal(model([IDS]).logits[0], resident)


def test_a_text_alone_and_among_others_is_the_same(cuda):
    prompts = [IDS, IDS[3:9], [7] * 20, IDS[::-1]]
    with load(device="cuda", n_ctx=256) as model:
        together = [ids.tolist() for ids in model.generate(prompts, max_new_tokens=6, eos_token_id=[])]
        alone = [model.generate([ids], max_new_tokens=6, eos_token_id=[])[0].tolist() for ids in prompts]
    padded = max(map(len, prompts))
    assert [ids[padded:] for ids in together] == [ids[len(prompt) :] for ids, prompt in zip(alone, prompts, strict=True)]


def test_a_prompt_in_several_passes_is_the_same(cuda):
    """As many rows at once as VRAM has room for; a small budget has room for fewer."""
    ids = [int(i) for i in np.arange(100) * 7 % 500]
    with load(device="cuda", n_ctx=128) as model:
        want = np.array(model([ids]).logits[0])
    with load(device="cuda", n_ctx=128, max_vram=device_budget(3), max_ram=SMALL_RAM) as model:
        assert model.plan["max_rows"] < len(ids)
        np.testing.assert_array_equal(model([ids]).logits[0], want)


# ---- products that others compute --------------------------------------------------------------------------------------------------


def test_two_devices_and_the_cpu_compute_together(cuda, plugin):
    """Order and bits: tests/cuda_emu/test_share.cu, on weights in float32. These are in 8 bits or less."""
    cuda("devices=2")
    ram, vram = SMALL_RAM + _core.DEVICE_HOST_CONTEXT, (device_budget(3), device_budget(2))
    options: dict[str, Any] = {"n_ctx": 64, "max_ram": ram, "max_vram": vram}
    texts = []
    for share in (0.0, 0.4):
        with load(device="cuda:0,1", cpu_share=share, **options) as model:
            plan, helper = model.plan, model.plan["helpers"][0]
            assert model.device == "cuda:0,1" and 0 < helper["n_tiles"] < plan["n_device_tiles"] and helper["linked_tiles"] > 0
            assert (plan["n_host_tiles"] > 0) == (share > 0)
            texts.append(model.generate([IDS[:3]], max_new_tokens=3, eos_token_id=[])[0].tolist())
    with pytest.raises(errors.ArgumentError, match="max_vram names 2 memories, but cuda:0 has 1"):  # not one device as both
        load(device="cuda:0", plan=plan, bandwidths=None)
    with load(kv_dtype="f16") as model:
        texts.append(model.generate([IDS[:3]], max_new_tokens=3, eos_token_id=[])[0].tolist())
    assert texts[0] == texts[1] == texts[2]
    assert not any(value for name, value in report(plugin).items() if name.startswith("live_"))


def test_a_profile_has_a_devices_layers_by_its_own_clock(cuda):
    with load(device="cuda", n_ctx=64, max_ram=SMALL_RAM, max_vram=device_budget(3)) as model:
        model.generate([IDS[:3]], max_new_tokens=2, eos_token_id=[])
        with model.profile() as profile:
            model.generate([IDS], max_new_tokens=2, eos_token_id=[])
        busy, stall = model._engine.layer_times()
    kinds, events = profile.kinds, profile.events
    layers = events[events["kind"] == kinds.index("device")]
    assert layers["layer"].tolist() == [*range(6), -1] * 2  # of each pass, one after the other
    last = (layers["end_ns"] - layers["begin_ns"])[7:].tolist()
    assert sum(last) > 0 and [max(0, time - waited) for time, waited in zip(last, stall, strict=True)] == busy
    assert not np.isin(events["kind"], [kinds.index(kind) for kind in ("layer", "products", "attention")]).any()
    assert sum(row["wall_ms"] for row in profile.table()) == pytest.approx(sum(layers["end_ns"] - layers["begin_ns"]) / 1e6)
    reads = events[np.isin(events["kind"], [kinds.index("read"), kinds.index("row")])]
    assert reads["bytes"].sum() == profile.disk_bytes > 0
    homes = model.plan.homes
    assert homes["VRAM"] == model.plan["device_weight_bytes"] and sum(homes.values()) == model.plan["weight_bytes"]


def test_shares_that_make_no_sense_are_refused(cuda):
    cuda("devices=2")
    with pytest.raises(errors.ArgumentError, match=r"cpu_share is 1\.5; expected a number from 0 to 1"):
        load(device="cuda", cpu_share=1.5)
    with pytest.raises(errors.ArgumentError, match="max_vram names 2 memories, but cuda:0 has 1"):
        load(device="cuda", max_vram="1GiB,2GiB")
    with pytest.raises(errors.BudgetError, match=r"max_vram 576\.1 MiB of device 2 of 2 is too small by .* raise it, or leave that device"):
        load(device="cuda:0,1", max_vram=(device_budget(3), device_budget(0.1)), max_ram=2 * SMALL_RAM, n_ctx=64)


# ---- rates and plans --------------------------------------------------------------------------------------------------------------


KIND = "F32"  # of TINY


@pytest.fixture
def probes(monkeypatch, tmp_path) -> dict[str, int]:
    """An empty store of calibrations; how often each probe was called."""
    monkeypatch.setenv("AIRPY_CACHE_DIR", os.fspath(tmp_path / "cache"))
    monkeypatch.delenv("AIRPY_BANDWIDTHS", raising=False)
    calls = dict.fromkeys(("probe_disk", "probe_compute", "probe_device", "probe_links"), 0)
    for name in calls:

        def counted(name: str, probe: Any, *given: Any, **options: Any) -> Any:
            calls[name] += 1
            return probe(*given, **options)

        monkeypatch.setattr(_core, name, partial(counted, name, getattr(_core, name)))
    return calls


def test_opening_on_a_gpu_measures_it_once_and_predicts(cuda, probes):
    for _ in range(2):
        with load(TINY, device="cuda", n_ctx=64, bandwidths=None) as model:
            rates, plan = model.plan.bandwidths, model.plan
            model.generate([[1]], max_new_tokens=3, eos_token_id=[])
            assert model.stats()["predicted_tok_s"] > 0
    assert probes == {"probe_disk": 1, "probe_compute": 0, "probe_device": 1, "probe_links": 0}
    for name in ("disk", "link", "link_back", "device", "device_op_s", "handover_s", "device_context"):
        assert rates[name] > 0, name
    assert rates["device_product"][KIND] > 0 and rates["device_product_columns"][KIND] > 0 and "product" not in rates
    assert plan["pass_s"] == plan["device_s"] > plan["weight_bytes"] / rates["device_product"][KIND] and plan["compute_s"] == 0
    with load(TINY, n_ctx=64, bandwidths=None) as model:
        assert "link" not in model.plan.bandwidths
    assert probes == {"probe_disk": 1, "probe_compute": 1, "probe_device": 1, "probe_links": 0}


def test_what_is_given_is_not_measured(cuda, probes):
    with load(TINY, device="cuda", n_ctx=64, bandwidths={"link": 1e9, "device": 1e10}) as model:
        assert model.plan.bandwidths["link"] == 1e9 and "handover_s" not in model.plan.bandwidths
    assert probes["probe_device"] == 0
    with load(TINY, device="cuda", n_ctx=64, bandwidths={"device": 1e10}) as model:
        rates = model.plan.bandwidths
    assert rates["device"] == 1e10 and rates["link"] > 0 and "device_product" not in rates and probes["probe_device"] == 1


def test_a_device_that_cannot_be_measured_is_opened_all_the_same(cuda, probes):
    cuda("fail=cudaMemcpyAsync:1:2")
    with load(TINY, device="cuda", n_ctx=64, bandwidths=None) as model:
        assert model([[1]]).logits.shape[1] == 1 and "link" not in model.plan.bandwidths


def test_passes_correct_the_rate_of_the_link(cuda, probes, monkeypatch):
    from airpy import calibration

    only_emulated("a slow link" if REAL else "")
    monkeypatch.setattr(calibration, "_LEARN_BYTES", 1)
    monkeypatch.setattr(calibration, "_LEARN_SECONDS", 0.0)
    with load(TINY, device="cuda", n_ctx=64, max_ram=SMALL_RAM, bandwidths=None) as model:
        plan, (key,) = model.plan, model._machine.gpu_keys
    less = sum(plan[f"device_{name}"] for name in ("fixed", "state_bytes", "activation_bytes")) + plan["device_pin_bytes"] * 3 // 4
    calibration._store(key, {**calibration._load(key), "link": 1e5})  # as if it had been measured at a bad moment
    with load(TINY, device="cuda", n_ctx=64, max_ram=SMALL_RAM, max_vram=less, cpu_share=0, bandwidths=None) as model:
        assert model.plan.bound == "link" and model._machine.gpu_keys == [key]
        model.generate([[1]], max_new_tokens=12, eos_token_id=[])
        assert calibration._load(key)["link"] > 2e5
    assert probes["probe_device"] == 1


def test_each_of_several_gpus_is_measured_and_their_links_together(cuda, probes):
    cuda("devices=2")
    options: dict[str, Any] = {"device": "cuda:0,1", "n_ctx": 64, "max_ram": 2 * SMALL_RAM, "bandwidths": None}
    for _ in range(2):
        with load(TINY, **options) as model:
            plan, machine = model.plan, model._machine
    assert probes == {"probe_disk": 1, "probe_compute": 0, "probe_device": 2, "probe_links": 1}
    (other,) = plan.bandwidths["helpers"]
    assert other["device_product"][KIND] > 0 and other["link"] > 0 and other["link"] != plan.bandwidths["link"]
    assert other["link_together"] > 0 and plan.bandwidths["link_together"] > 0
    assert len(plan.devices) == 2 and "2 x Emulated GPU: max_vram" in str(plan)
    assert re.search(r"GPU 1 Emulated GPU .*\nGPU 2 Emulated GPU +idle: the first holds all weights", str(plan))
    assert type(plan)(json.loads(json.dumps(plan.to_dict()))) == plan
    assert len(set(machine.gpu_keys)) == 2 and machine.links_key not in machine.gpu_keys
    with load(TINY, **{**options, "device": "cuda:1"}) as model:
        rates = model.plan.bandwidths
        assert len(model.plan.devices) == 1 and rates["link"] == other["link"] and "link_together" not in rates
    assert probes["probe_device"] == 2


@pytest.mark.parametrize("faster", [3.0, 1 / 3])
def test_what_streams_goes_over_each_link_as_much_as_it_takes(cuda, faster):
    """And whoever computes it, greedy tokens are those of the CPU."""
    cuda("devices=2")
    first = {"link": 1e8, "device": 1e11}
    rates = {"disk": 1e12, **first, "helpers": [{**first, "link": 1e8 * faster}]}
    memory = {"max_ram": 4 * SMALL_RAM, "max_vram": (device_budget(2.2), device_budget(1.6)), "cpu_share": 0.0}
    with load(device="cuda:0,1", n_ctx=64, bandwidths=rates, **memory) as model:
        one, two = model.plan["work"]
        got = model.generate([IDS[:3]], max_new_tokens=3, eos_token_id=[])[0].tolist()
    assert two["linked_bytes"] == pytest.approx(one["linked_bytes"] * faster, rel=0.25) and one["linked_bytes"] > 0
    with load() as model:
        assert model.generate([IDS[:3]], max_new_tokens=3, eos_token_id=[])[0].tolist() == got


def of_two_gpus(probes: dict[str, int]) -> Any:
    """A machine of two, measured."""
    with load(TINY, device="cuda:0,1", n_ctx=64, max_ram=2 * SMALL_RAM, bandwidths=None) as model:
        return model._machine, model.plan.bandwidths


def test_runs_teach_about_the_gpu_and_the_links_that_they_were_bound_by(cuda, probes, monkeypatch):
    from airpy import calibration

    cuda("devices=2")
    monkeypatch.setattr(calibration, "_LEARN_BYTES", 1)
    machine, used = of_two_gpus(probes)
    before = [calibration._load(key) for key in (*machine.gpu_keys, machine.links_key)]
    assert calibration.learn_compute(machine, "steps", used, 2.0, 1.0, which=1)
    assert calibration.learn_link(machine, 1, used, 1.0, 2.0)  # slower by half
    first, second, links = (calibration._load(key) for key in (*machine.gpu_keys, machine.links_key))
    assert first == before[0]
    assert second["device_product"][KIND] == pytest.approx(1.3 * before[1]["device_product"][KIND])
    assert links["link_together"] == pytest.approx(0.85 * before[2]["link_together"])
    assert links["helpers"][0]["link_together"] == pytest.approx(0.85 * before[2]["helpers"][0]["link_together"])
    rates = calibration.calibrate(machine)
    assert rates["link_together"] == links["link_together"] and rates["deciding"]["link_together"] == before[2]["link_together"]
    assert rates["helpers"][0]["device_product"] == second["device_product"]
    assert rates["deciding"]["helpers"][0]["device_product"] == before[1]["device_product"]


def test_what_runs_teach_moves_no_share_until_it_is_measured_anew_for_that(cuda, probes, monkeypatch):
    """The same compute map, so the same bits, whatever passes have taught; only predictions move."""
    from airpy import calibration
    from airpy.cli import doctor

    cuda("devices=1")
    options: dict[str, Any] = {"device": "cuda", "n_ctx": 64, "max_ram": SMALL_RAM, "max_vram": device_budget(3), "bandwidths": None}
    with load(**options) as model:
        (key,), cpu, disk = model._machine.gpu_keys, model._machine.compute_key, model._machine.disk_key

    def pretend(link: float, memory: float, probed: bool = False) -> None:
        """As measured once (a slow link), or as runs have taught since."""
        compute = {"memory": memory, "product": {"Q8_0": memory}}
        gpu = {"link": link, "handover_s": 0.0, "device_context": CONTEXT}
        for name, rates in ((key, gpu), (cpu, compute), (disk, {"disk": 1e15})):
            new = {**calibration._load(name), **rates}
            calibration._store(name, new, new if probed else None)

    def shares() -> tuple[int, float, np.ndarray]:
        with load(**options) as model:
            sequence = model._engine.sequence()
            logits = np.array(model._engine.run([(sequence, np.array([1, 45], np.int32), 2, None, 0)], logits=True).logits)
            sequence.close()
            return model.plan["host_weight_bytes"], model.plan["link_s"], logits  # of generated tokens, which the CPU has a part in

    pretend(1e5, 1e6, probed=True)
    once, link_s, logits = shares()
    assert once > 0
    for link, memory in ((3e5, 1e6), (1e5, 4e6), (1e9, 1e6)):
        pretend(link, memory)
        again, now_s, same = shares()
        assert again == once and now_s == pytest.approx(link_s * 1e5 / link)
        np.testing.assert_array_equal(same, logits)
    doctor.examine(None)  # measures too, but is not asked to decide
    assert shares()[0] == once
    calls = dict(probes)
    from airpy.device import Device
    from airpy.forecast import plan_on

    given = {name: options.get(name) for name in ("max_ram", "max_vram", "n_ctx")}
    anew = plan_on(Device("cuda", (0,)), DEMO, given, fresh="decisions")
    assert probes["probe_device"] == calls["probe_device"] + 1 and anew["host_weight_bytes"] != once and "deciding" not in anew.bandwidths
    assert shares()[0] == anew["host_weight_bytes"]


def test_a_plan_says_what_it_was_made_for_and_is_solved_again_elsewhere(cuda, probes, tmp_path):
    only_emulated("another GPU" if REAL else "")
    with load(TINY, device="cuda", n_ctx=64, bandwidths=None) as model:
        plan = model.plan
    assert plan.devices == [{"name": "Emulated GPU", "capability": [8, 0], "driver": 13000}] and "Emulated GPU: max_vram" in str(plan)
    assert type(plan)(json.loads(json.dumps(plan.to_dict()))) == plan
    with load(TINY, device="cuda", plan=plan, bandwidths=None) as model:
        assert model.plan.bandwidths == plan.bandwidths and model.plan.devices == plan.devices
    assert probes["probe_device"] == 1
    cuda("sm=90,vram=1GiB")
    with load(TINY, device="cuda", plan=plan, bandwidths=None) as model:
        again = model.plan
    assert again.devices[0]["capability"] == [9, 0] and again["device_budget"] < 1 << 30 and again["n_ctx"] == plan["n_ctx"]
    with pytest.raises(errors.ArgumentError, match=r"the plan is for Emulated GPU, but the CPU computes; choose device 'cuda'"):
        load(TINY, plan=plan, bandwidths=None)
    with load(TINY, n_ctx=64, bandwidths=None) as model:
        on_cpu = model.plan
    assert on_cpu.devices == []
    with pytest.raises(errors.ArgumentError, match="the plan is for a CPU, but Emulated GPU computes; choose device 'cpu'"):
        load(TINY, device="cuda", plan=on_cpu, bandwidths=None)
    for wrong in ("H100", {"name": 1, "capability": [8, 0], "driver": 1}, {"name": "H100", "capability": [8], "driver": 1}):
        with pytest.raises(errors.ArgumentError, match="devices"):
            type(plan)({**plan.to_dict(), "devices": [wrong]})


def test_the_command_plans_for_the_gpu_without_opening_the_model(cuda, probes, monkeypatch, airpy, tmp_path):
    command = ("plan", TINY, "--device", "cuda", "--n-ctx", "64")
    with load(TINY, device="cuda", n_ctx=64, bandwidths=None) as model:
        plan = model.plan
    monkeypatch.setattr(_core, "Engine", lambda *given, **options: pytest.fail("it was opened"))
    code, out, _ = airpy(*command, "--json", "--save", tmp_path / "plan.json")
    found = json.loads(out)
    assert code == 0 and found["devices"] == plan.devices and found["bandwidths"] == plan.bandwidths
    assert found["plan"]["device_weight_bytes"] == plan["device_weight_bytes"] and found["predicted_tok_s"] == plan.predicted_tok_s
    assert probes["probe_device"] == 1
    assert airpy(*command[:4], "--plan", tmp_path / "plan.json")[0] == 0 and probes["probe_device"] == 1
    assert airpy(*command, "--probe")[0] == 0 and probes["probe_device"] == 2
    cuda("devices=0")
    code, _, err = airpy("plan", TINY, "--device", "auto", "--max-vram", "1GiB")
    assert code == 1 and "max_vram is a GPU's memory, but the CPU computes" in err


@pytest.mark.parametrize(("bound", "share"), [("device", 1.0), ("link", 0.75)])
def test_bench_measures_what_bounds_a_token_on_a_gpu(cuda, monkeypatch, airpy, bound, share):
    rates = {"disk": 1e12, "link": 1e6, "device": 1e9}
    monkeypatch.setenv("AIRPY_BANDWIDTHS", json.dumps(rates))
    with load(TINY, device="cuda", n_ctx=64, bandwidths=None) as model:
        plan = model.plan
    most = sum(plan[f"device_{name}"] for name in ("fixed", "state_bytes", "activation_bytes"))
    vram = most + (plan["device_graph_bytes"] + (1 << 20) if share == 1 else int(plan["device_pin_bytes"] * share))
    memory = ("--max-vram", vram, "--max-ram", SMALL_RAM, "--cpu-share", 0, "--n-ctx", 64)
    options = ("--device", "cuda", *memory, "--prompt-tokens", 2, "--tokens", 2, "--json")
    code, out, _ = airpy("bench", TINY, *options)
    decode = next(row for row in json.loads(out) if row["test"] == "decode")
    assert code == 0 and decode["bound"] == bound and decode["gb_s"] > 0 and decode["tok_s"] > 0
    assert decode["probe_gb_s"] == pytest.approx(rates[bound] / 1e9)


# ---- forked children ----------------------------------------------------------------------------------------------------------------

FORKS = r"""
import gc, os, re, sys
from airpy import AutoModel, errors
from models import RATES, golden

def open_tiny(**options):
    return AutoModel.from_pretrained(golden("llama"), device="cuda", n_ctx=64, bandwidths=RATES, progress=False, **options)

def ids(model):
    return model.generate([[1, 2]], max_new_tokens=4, eos_token_id=[]).tolist()

def kept_from_children():
    found = re.findall(r"^Size: +(\d+) kB$.*?^VmFlags:([^\n]*)", open("/proc/self/smaps").read(), re.M | re.S)
    return sum(int(size) << 10 for size, flags in found if "dc" in flags.split())

def fails(kind, call):
    try:
        call()
    except kind as error:
        return str(error)
    raise SystemExit(f"no {kind.__name__}")

before = kept_from_children()
model = open_tiny()
want = ids(model)
assert kept_from_children() - before >= model.plan["ring_bytes"] > 0
if not (child := os.fork()):
    assert "fork" in fails(errors.StateError, lambda: ids(model))
    assert "forked after it was used" in fails(errors.DeviceError, open_tiny)
    model.close()
    del model
    gc.collect()
    print("the child is done", flush=True)
    sys.exit(0)  # as children end that did not know of any of it
assert os.waitpid(child, 0)[1] == 0
assert ids(model) == want
model.close()
print("and the parent")
"""


def test_a_forked_child_leaves_the_device_and_its_pages_alone(cuda, plugin):
    only_emulated("a child" if REAL else "")
    done = run_python(FORKS, env={"AIRPY_CUDA_PLUGIN": os.fspath(plugin)})
    assert (done.returncode, done.stdout) == (0, "the child is done\nand the parent\n"), done.stderr


# ---- budgets and refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("megabytes", [2.5, 5, 9])
def test_vram_in_use_stays_within_the_budget(cuda, plugin, megabytes):
    with load(device="cuda", max_vram=device_budget(megabytes), **SMALL) as model:
        model.generate([IDS], max_new_tokens=4)
        assert model.plan["device_budget"] == device_budget(megabytes)
    left = report(plugin)
    assert left["vram_peak"] <= megabytes * (1 << 20)
    assert not any(value for name, value in left.items() if name.startswith("live_")), left
    assert left["pageable_async"] == left["null_stream_async"] == left["unrecorded_waits"] == 0, left


def test_what_weights_came_through_is_given_back_when_all_have(cuda, plugin, resident):
    only_emulated("a report" if REAL else "")
    for vram, stays in ((None, True), (device_budget(3), False)):
        with load(device="cuda", max_vram=vram, **SMALL) as model:
            booked, locked = model.stats()["held_by"]["fixed"], report(plugin)["page_locked"]
            model([IDS])
            less = booked - model.stats()["held_by"]["fixed"]
            assert less == (model.plan["staging_bytes"] if stays else 0)
            assert not stays or report(plugin)["page_locked"] <= locked - less < locked
            np.testing.assert_array_equal(model([IDS]).logits[0], resident)


def test_a_context_is_counted_as_measured_or_by_multiprocessors(cuda):
    fixed = []
    for words, context in [("", 0), ("sms=188", 0), ("", 200 << 20), ("", 5 << 30)]:
        cuda(words)
        with load(TINY, device="cuda", n_ctx=64, bandwidths={"link": 1e9, "device": 1e9, "device_context": context}) as model:
            fixed.append(model.plan["device_fixed"] >> 20)
    assert fixed == [576, 752, 200, 576]  # what others hold, who came first, is not the context's


def test_a_budget_that_is_too_small_says_what_would_do(cuda):
    with pytest.raises(errors.BudgetError, match=r"max_vram .* is too small by .*KV cache") as refused:
        load(device="cuda", max_vram=device_budget(0.1), n_ctx=64)
    enough = re.search(r"raise max_vram to ([\d.]+) MiB", str(refused.value))
    assert enough
    with load(device="cuda", max_vram=f"{enough[1]}MiB", n_ctx=64) as model:
        model([IDS])


def test_more_than_there_is_free_is_refused(cuda):
    cuda("vram=64MiB")
    with pytest.raises(errors.BudgetError, match=r"max_vram .* is more than there is: Emulated GPU has .* free"):
        load(device="cuda", max_vram="2GiB")


def test_sequences_beyond_vram_are_in_ram_and_beyond_that_refused(cuda):
    with load(device="cuda", max_vram=device_budget(3), **SMALL) as model:
        want = np.array(model([[1]]).logits[0])
        with pytest.raises(errors.BudgetError, match=r"max_ram .* is too small by .*this call needs KV cache"):
            model.generate([IDS] * 60, max_new_tokens=2)
        model.generate([[1], [45], [7]], max_new_tokens=1)
        assert model.stats()["held_by"]["KV cache"] > 0, "of RAM: VRAM has room for fewer"
        np.testing.assert_array_equal(model([[1]]).logits[0], want)


def test_texts_that_have_more_than_n_ctx_together_take_turns_and_a_larger_one_makes_the_room(cuda):
    """As README says. Whether in turns or not, they have the same tokens."""
    prompts = [[1 + i, *range(20, 60)] for i in range(6)]
    passes, found = [], []
    for n_ctx in (64, 512):
        with load(device="cuda", max_vram=device_budget(2.4), max_ram=SMALL_RAM + (8 << 20), n_ctx=n_ctx, cpu_share=0) as model:
            assert model.plan["n_device_tiles"] < model.plan["n_tiles"], "some of it streams"
            got = model.generate(prompts, max_new_tokens=3, eos_token_id=[])
            found.append([row.tolist() for row in got])
            passes.append(model.last_call.decode.passes)
    assert found[0] == found[1] and passes[1] == 2 < passes[0]


def test_a_context_beyond_vram_is_in_ram_and_the_plan_says_so(cuda, plugin):
    with load(device="cuda", max_vram=device_budget(1.4), max_ram="96MiB", n_ctx=512) as model:
        plan = model.plan
        block = plan["state_bytes_full"] // (plan["away_blocks"] + 1)  # one is on its way
        assert 0 < plan["away_blocks"] < 8 and plan["device_shuttle_bytes"] == plan["away_blocks"] * block // 3  # two of six layers
        assert plan["device_state_bytes"] == (8 - plan["away_blocks"]) * block
        assert re.search(r"KV cache +\d+\.?\d* \w+ +\d+\.?\d* \w+\n(.*\n)*KV cache on its way +\d", str(plan)), str(plan)
        assert model([[1]]).logits.shape[0] == 1
    assert report(plugin)["vram_peak"] <= 1.4 * (1 << 20)


@pytest.mark.parametrize(
    ("words", "problem", "kind"),
    [
        ("devices=0", "no CUDA device is visible", errors.UnsupportedError),
        ("driver=0", "no NVIDIA driver was found", errors.UnsupportedError),
        ("driver=11040", r"the NVIDIA driver is for CUDA 11\.4, this build needs", errors.DeviceError),
    ],
)
def test_where_there_is_no_gpu_it_says_why_and_the_cpu_computes(cuda, words, problem, kind, capsys):
    """By default silently, as many machines have none, but for one that could be used if something were done."""
    from airpy.cli.main import main

    cuda(words)
    with pytest.raises(kind, match=problem):
        load(device="cuda")
    for named in ({"device": "auto"}, {"device": None}):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with load(**named) as model:
                assert model.device == "cpu" and model([IDS]).logits.shape[0] == 1
                assert "\nthe CPU computes: max_ram" in str(model.plan)
        assert len(said) == (kind is errors.DeviceError)
        for warning in said:
            assert re.match(f"the CPU computes: {problem}", str(warning.message)) and warning.filename.endswith("models.py")
    assert main(["doctor"]) == 0
    assert re.search(rf"GPU +none can be used: .*{problem}", capsys.readouterr().out)


def test_by_default_a_gpu_computes_where_it_can(cuda, airpy):
    """Of functions, AirLLM's classes and commands; elsewhere the CPU does, with one warning that says why."""
    from airpy import AirLLMLlama2, AutoModel

    quiet: dict[str, Any] = {"bandwidths": RATES, "progress": False, "n_ctx": 64}
    for opened in (AutoModel.from_pretrained(TINY, **quiet), AirLLMLlama2(TINY, **quiet)):
        with opened:
            assert opened.device == "cuda:0" and opened.plan.on_device
            saved = opened.plan
    code, out, err = airpy("plan", TINY, "--n-ctx", "64", "--json")
    assert code == 0 and json.loads(out)["devices"][0]["name"] == saved.devices[0]["name"] and not err
    with load(TINY, device="cpu", n_ctx=64) as model:
        of_cpu = model.plan
    cuda("devices=2")
    with AutoModel.from_pretrained(TINY, plan=saved, progress=False) as model:  # as many as it was made for
        assert model.device == "cuda:0"
    with AutoModel.from_pretrained(TINY, plan=of_cpu, progress=False) as model:
        assert model.device == "cpu"

    cuda("vram=256KiB")
    little = r"the CPU computes: max_vram .* is too small by .*"
    with pytest.warns(UserWarning, match=little) as said, AutoModel.from_pretrained(TINY, **quiet) as model:
        assert model.device == "cpu" and model([[1, 45]]).logits.shape[0] == 1
    assert len(said) == 1 and said[0].filename == __file__
    with pytest.raises(errors.BudgetError, match="max_vram"):
        AutoModel.from_pretrained(TINY, **quiet, max_vram="600MiB")  # who asks for a GPU is told
    with pytest.raises(errors.BudgetError, match="max_vram"):
        load(TINY, device="cuda", n_ctx=64)
    code, out, err = airpy("plan", TINY, "--n-ctx", "64", "--json")
    assert code == 0 and re.fullmatch(f"airpy: {little}\n", err) and json.loads(out)["devices"] == []
    cuda("driver=11040")
    with AutoModel.from_pretrained(TINY, plan=of_cpu, progress=False) as model, warnings.catch_warnings():
        warnings.simplefilter("error")  # nobody wants the GPU
        assert model.device == "cpu"
    with pytest.raises(errors.ArgumentError, match=r"but the CPU computes \(the NVIDIA driver is for CUDA 11\.4, .*\); choose"):
        AutoModel.from_pretrained(TINY, **quiet, max_vram="1GiB")


def test_doctor_names_the_gpus_and_measures_them(cuda, capsys, probes):
    from airpy.cli import doctor

    cuda("devices=2,vram=8GiB/4GiB")
    facts = doctor.examine(None)
    assert [gpu["total"] >> 30 for gpu in facts["gpus"]] == [8, 4] and facts["gpu_problem"] is None
    assert len({gpu["id"] for gpu in facts["gpus"]}) == 2 and all(gpu["link"] > 0 and gpu["handover_s"] > 0 for gpu in facts["gpus"])
    assert json.loads(json.dumps(facts)) and probes["probe_device"] == 2
    text = "\n".join(doctor._lines(facts))
    assert re.search(r"cuda:1 .*driver for CUDA 13\.0\n +link .* to it, .* back; its memory .*; a launch ", text)


def test_gpus_that_this_build_has_no_code_for_are_left_to_others(cuda, probes, capsys):
    """By device="auto", and by doctor, which says why; by name they are refused."""
    from airpy.cli.main import main

    old = r"cuda:{}, Emulated GPU, is of compute capability 7\.0, which this build has no code for; build airpy with AIRPY_\w+=70"
    for sm, device, line, used in [
        ("70/90", "cuda:1", rf"^GPU +not used: {old.format(0)}", "used     cuda:1, for models that it runs"),
        ("90/70", "cuda:0", rf"^GPU +not used: {old.format(1)}", "used     cuda:0, for models that it runs"),
        ("70", "cpu", rf"^GPU +none can be used: {old.format(0)}.*; {old.format(1)}", "the CPU computes\n"),
    ]:
        cuda(f"devices=2,sm={sm},image=80")
        with warnings.catch_warnings(record=True) as said, load(device="auto", n_ctx=64) as model:
            assert model.device == device and model([IDS]).logits.shape[0] == 1
        assert len(said) == (device == "cpu")
        assert main(["doctor"]) == 0
        out = capsys.readouterr().out
        assert re.search(line, out, re.M) and used in out and len(re.findall("^cuda:", out, re.M)) == (device != "cpu")
    with pytest.raises(errors.UnsupportedError, match=old.format(0)):
        load(device="cuda")


def test_doctor_says_why_a_gpu_cannot_be_measured(cuda, probes, monkeypatch):
    """And shows no figures of another day for it."""
    from airpy.cli import doctor

    cuda("devices=2")
    assert "link" in doctor.examine(None)["gpus"][0]
    cuda("devices=2,fail=cudaMalloc:1:2")
    facts = doctor.examine(None)
    text = "\n".join(doctor._lines(facts))
    assert "link" not in facts["gpus"][0] and facts["gpus"][1]["link"] > 0 and len(facts["links_together"]["rates"]) == 2
    assert re.search(r"cuda:0 .*\n +could not be measured: cuda: .* MiB of VRAM for a measurement: out of memory", text)


    def refuse(*given: Any) -> None:
        raise errors.OutOfMemoryError("cuda: a thread")

    monkeypatch.setattr(_core, "probe_links", refuse)
    text = "\n".join(doctor._lines(doctor.examine(None)))
    assert re.search(r"^links +to all of them at once could not be measured: cuda: a thread$", text, re.M)


def test_devices_are_named_as_in_pytorch(cuda):
    cuda("devices=2")
    for name, device in [("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("auto", "cuda:0,1"), ("cpu", "cpu")]:
        with load(device=name, n_ctx=64) as model:
            assert model.device == device and model.to(device) is model
    problems = {"cuda:2": "there is no cuda:2; this machine has 2", "tpu": "'tpu' is not supported", "cuda:0,0": "names a device twice"}
    for name, problem in problems.items():
        with pytest.raises(errors.UnsupportedError, match=problem):
            load(device=name)
    with pytest.raises(errors.ArgumentError, match="max_vram is a GPU's memory, but the CPU computes"):
        load(device="cpu", max_vram="1GiB")
    with pytest.raises(errors.ArgumentError, match="cpu_share is the CPU's part beside a GPU, but here it computes alone"):
        load(device="cpu", cpu_share=0.5)


FULL = r"out of memory \(\w+\); [\d.]+ MiB of VRAM are free of 8192\.0; lower max_vram, or end what else uses the GPU"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("fail=cudaMalloc:2:2", rf"cuda: \d+\.\d MiB of VRAM for [a-z ]+: {FULL}"),
        ("fail=cudaHostAlloc:1:2", r"cuda: \d+\.\d MiB of page-locked memory for copies of weights were refused; lower max_ram"),
        ("fail=cudaStreamCreateWithFlags:1:2", f"cuda: a stream: {FULL}"),
    ],
)
def test_what_fails_to_open_leaves_nothing_behind_and_says_what_helps(cuda, plugin, words, problem):
    cuda(words)
    with pytest.raises(errors.OutOfMemoryError, match=problem):
        load(device="cuda", n_ctx=64)([IDS])
    assert not any(value for name, value in report(plugin).items() if name.startswith("live_"))


def test_a_lost_device_is_an_error_that_says_so(cuda):
    cuda("lose=0:60")
    with load(device="cuda", n_ctx=64) as model:
        for _ in range(2):
            with pytest.raises(errors.DeviceError, match="cuda: "):
                model([IDS])


def test_a_plugin_that_is_none_or_of_another_version_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRPY_CUDA_PLUGIN", os.fspath(tmp_path / "none.so"))
    with pytest.raises(errors.UnsupportedError, match="this build of airpy has no CUDA backend"):
        load(device="cuda")
    (tmp_path / "none.so").write_bytes(b"no library")
    with pytest.raises(errors.FileIOError, match="cannot be loaded"):
        load(device="cuda")
    monkeypatch.setenv("AIRPY_CUDA_PLUGIN", _core.__file__)
    with pytest.raises(errors.UnsupportedError, match="is not a plugin of airpy"):
        load(device="cuda")
