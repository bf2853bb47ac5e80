"""Whole models on a GPU: python -m tests.gpu.models [--list] [NAME…], in a process whose airpy has the CUDA backend (AIRPY_CUDA_PLUGIN).

Needs numpy and the extension, not the facade's packages. Prints a line of JSON for each check: its name, whether it holds, in words how
well, and the seconds it took. What is compared: logits with transformers' in float32 (tests/golden) and with the CPU backend's; streamed
ones with resident ones, bit for bit.
"""
from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from airpy import _core
from airpy.device import cuda_plugin
from airpy.errors import UnsupportedError
from tools import make_gguf

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
DEMO, GOLDEN = ROOT / "airpy" / "assets" / "demo-q8_0.gguf", ROOT / "tests" / "golden"
MIB = 1 << 20
IDS = [1, 45, 300, 7, 12, 99, 5, 81, 23, 64, 150, 31]
GREEDY = {"temperature": 0}
RATES = {"disk": 1e9, "block_bytes": MIB, "depth": 4, "memory": 1e10, "device_context": _core.DEVICE_CONTEXT}    # nothing is probed
FORMATS = ("Q4_K_M", "Q8_0", "Q2_K", "IQ3_S", "MXFP4", "F16")               # of the wide models; the kernels' tests have all


@contextmanager
def opened(path: Path, gpu: bool = True, **options: Any) -> Iterator[_core.Engine]:
    """max_ram: beside what CUDA takes of it."""
    where = {"plugin": cuda_plugin(), "device": 0} if gpu else {}
    if gpu and "max_ram" in options:
        options["max_ram"] += _core.DEVICE_HOST_CONTEXT
    engine = _core.Engine(_core.GGUF(str(path)), bandwidths=RATES, **{"n_ctx": 64, **where, **options})
    try:
        yield engine
    finally:
        engine.close()


def context_bytes() -> int:
    """What a plan counts for the device itself: budgets hold it. Opens no device."""
    plan = _core.solve_plan(_core.GGUF(str(DEMO)), max_vram=4 << 30, n_ctx=64, bandwidths=RATES)
    return int(plan["device_fixed"]) // MIB * MIB                   # small weights are less than a MiB


def vram(megabytes: float) -> int:
    return context_bytes() + int(megabytes * MIB)


def logits_in(engine: _core.Engine, texts: list[list[int]], prompt: bool = True) -> list[np.ndarray]:
    """Of every token of each text, all texts in one call; as rows of a prompt, or as generated ones."""
    sequences = [engine.sequence() for _ in texts]
    items = [(s, np.array(t, np.int32), len(t), None, len(t) if prompt else 0) for s, t in zip(sequences, texts, strict=True)]
    found = np.array(engine.run(items, logits=True).logits)
    for sequence in sequences:
        sequence.close()
    return np.split(found, np.cumsum([len(t) for t in texts])[:-1])


def logits(path: Path, ids: list[int] = IDS, prompt: bool = True, **options: Any) -> np.ndarray:
    with opened(path, **options) as engine:
        return logits_in(engine, [ids], prompt)[0]


def greedy(engine: _core.Engine, ids: list[int], n: int) -> list[int]:
    sequence, tokens = engine.sequence(), list(ids)
    for _ in range(n):
        new = np.array(tokens[sequence.length:], np.int32)
        tokens += engine.run([(sequence, new, 1, GREEDY, len(ids))]).sampled
    sequence.close()
    return tokens


def error_of(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.square(got - want, dtype=np.float64).sum() / np.square(want, dtype=np.float64).sum())


def must(holds: bool, text: str) -> str:
    if not holds:
        raise AssertionError(text)
    return text


def at_most(error: float, most: float, what: str = "") -> str:
    return must(error <= most, f"{what}{': ' if what else ''}NMSE {error:.1e}, at most {most:.0e}")


# ---- checks ------------------------------------------------------------------------------------------------------------------------


def golden_models_give_the_logits_of_transformers() -> str:
    worst, held, refused = (0.0, ""), 0, []
    for path in sorted(GOLDEN.glob("*.npz")):
        data = np.load(path)
        ids = [int(i) for i in np.atleast_2d(data["input_ids"])[0]]
        try:
            found = [logits(GOLDEN / "models" / f"{path.stem}.gguf", ids, prompt, kv_dtype="f32") for prompt in (True, False)]
        except UnsupportedError:
            refused.append(path.stem)
            continue
        for each in found:
            error = error_of(each, data["logits"])
            at_most(error, 1e-6, path.stem)
            worst = max(worst, (error, path.stem))
        held += 1
    must(held > len(refused), f"{held} held, left to the CPU: {', '.join(refused)}")
    left = f"; left to the CPU: {', '.join(refused)}" if refused else ""
    return f"{held} models, worst NMSE {worst[0]:.1e} ({worst[1]}), at most 1e-06{left}"


# Products round their inputs to 8 bits: the last bit of an exponential decides some of these roundings, each of them others behind it,
# until two results lie apart as far as any two such roundings of the same numbers (an H200 and a CPU: 2e-4). Weights that are
# numbers round nothing; a state of 4 bits rounds more.
ROUNDED, EXACT = 1e-3, 1e-6


def the_demo_model_gives_the_logits_of_the_cpu() -> str:
    errors = []
    for kind in ("f16", "f32", "q8_0", "q4_0"):
        for prompt in (True, False):
            error = error_of(logits(DEMO, prompt=prompt, kv_dtype=kind), logits(DEMO, gpu=False, prompt=prompt, kv_dtype=kind))
            at_most(error, ROUNDED, kind)
            errors.append(error)
    return f"worst NMSE {max(errors):.1e}, at most {ROUNDED:.0e}"


def generated_tokens_are_those_of_the_cpu() -> str:
    texts = []
    for gpu in (False, True):
        with opened(DEMO, gpu=gpu, kv_dtype="f32") as engine:
            texts.append(greedy(engine, IDS, 40))
    return must(texts[0] == texts[1], "40 tokens, the likeliest each")


def streamed(path: Path, want: np.ndarray, share: str, **options: Any) -> str:
    """Two passes of one model under a budget: each with the bits of `want`."""
    with opened(path, **options) as engine:
        plan = engine.plan
        for _ in range(2):
            got = logits_in(engine, [IDS])[0]
            must(np.array_equal(got, want), f"{share}: {int((got != want).sum())} of {want.size} logits differ")
    must(plan["n_device_tiles"] < plan["n_tiles"], f"{share}: nothing streams")
    return f"{plan['n_device_tiles']}/{plan['n_tiles']}"


def streamed_weights_give_the_bits_of_resident_ones() -> str:
    want, found = logits(DEMO), []
    for megabytes in (2.5, 4, 6):
        found.append(streamed(DEMO, want, f"{megabytes} MiB", max_vram=vram(megabytes), max_ram=12 * MIB, io="direct"))
    found.append(streamed(DEMO, want, "mapped", max_vram=vram(3), io="mmap"))
    return f"tiles in VRAM: {', '.join(found)}, the last of a mapped file"


def wide(folder: str, kind: str) -> Path:
    """Two layers as wide as a 1b's, with random weights."""
    path = Path(folder) / f"{kind}.gguf"
    make_gguf.write(path, shape="1b", type=kind, layers=2, vocab=1024)
    return path


def wide_models_give_the_logits_of_the_cpu() -> str:
    errors = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in FORMATS:
            path = wide(folder, kind)
            errors.append(error_of(logits(path, kv_dtype="f32"), logits(path, gpu=False, kv_dtype="f32")))
            at_most(errors[-1], EXACT if kind == "F16" else ROUNDED, kind)
            path.unlink()
    found = ", ".join(f"{kind} {error:.0e}" for kind, error in zip(FORMATS, errors, strict=True))
    return f"{found}; at most {ROUNDED:.0e}, F16 {EXACT:.0e}"


def wide_models_streamed_give_the_bits_of_resident_ones() -> str:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = wide(folder, "Q4_K_M")
        want, weights = logits(path), path.stat().st_size
        for part in (2, 4):
            budget = vram(weights / part / MIB + 8)
            found.append(streamed(path, want, f"1/{part} and locked", max_vram=budget, max_ram=4 * weights, io="direct"))
            found.append(streamed(path, want, f"1/{part} from disk", max_vram=budget, max_ram=weights // 2 + 32 * MIB, io="direct"))
            found.append(streamed(path, want, f"1/{part} mapped", max_vram=budget, io="mmap"))
    return f"tiles in VRAM: {', '.join(found)}"


def a_text_alone_and_among_others_has_the_same_bits() -> str:
    texts = [IDS, IDS[3:9], [7] * 20, IDS[::-1]]
    with opened(DEMO, n_ctx=256) as engine:
        for prompt in (True, False):
            together = logits_in(engine, texts, prompt)
            for text, among in zip(texts, together, strict=True):
                must(np.array_equal(logits_in(engine, [text], prompt)[0], among), f"a text of {len(text)} tokens differs")
    return f"{len(texts)} texts, as prompts and as generated ones"


def a_prompt_in_several_passes_has_the_same_bits() -> str:
    ids = [int(i) for i in np.arange(300) * 7 % 500]
    want = logits(DEMO, ids, n_ctx=512)
    for rows in (37, 128):
        must(np.array_equal(logits(DEMO, ids, n_ctx=512, max_rows=rows), want), f"passes of {rows} rows differ")
    return "300 tokens in passes of 37 and of 128"


def results_are_the_same_each_time() -> str:
    first = logits(DEMO, n_ctx=64)
    with opened(DEMO) as engine:
        for _ in range(20):
            must(np.array_equal(logits_in(engine, [IDS])[0], first), "a repeated pass differs")
    return "21 passes"


CHECKS: tuple[Callable[[], str], ...] = (
    golden_models_give_the_logits_of_transformers, the_demo_model_gives_the_logits_of_the_cpu, generated_tokens_are_those_of_the_cpu,
    streamed_weights_give_the_bits_of_resident_ones, a_text_alone_and_among_others_has_the_same_bits,
    a_prompt_in_several_passes_has_the_same_bits, results_are_the_same_each_time, wide_models_give_the_logits_of_the_cpu,
    wide_models_streamed_give_the_bits_of_resident_ones,
)  # fmt: skip


# ---- for the measure of memory -------------------------------------------------------------------------------------------------------


def hold(path: Path, megabytes: float, seconds: float) -> Json:
    """Opens a model under a budget beyond the context's, computes, and stays a while so that others can see what it takes."""
    weights, before = path.stat().st_size, _core.memory_info()["process_anonymous"]
    with opened(path, max_vram=vram(megabytes), max_ram=2 * weights + 64 * MIB, io="direct") as engine:
        greedy(engine, IDS, 8)
        time.sleep(seconds)
        plan, ram = engine.plan, {"grown": _core.memory_info()["process_anonymous"] - before, "held": engine.stats()["held"],
                                "context": _core.DEVICE_HOST_CONTEXT}
    names = ("fixed", "graph_bytes", "pin_bytes", "ring_bytes", "state_bytes", "activation_bytes")
    return {"ram": ram, "budget": plan["device_budget"], "context": context_bytes(), **{name: plan[f"device_{name}"] for name in names}}


def run_check(check: Callable[[], str]) -> Json:
    began = time.monotonic()
    try:
        ok, text = True, check()
    except Exception as error:      # whatever it is, the other checks go on
        ok, text = False, f"{type(error).__name__}: {error}"
    return {"name": check.__name__, "ok": ok, "text": text, "seconds": time.monotonic() - began}


def main(words: list[str]) -> int:
    if words[:1] == ["--list"]:
        print("\n".join(check.__name__ for check in CHECKS))
        return 0
    if words[:1] == ["--hold"]:
        print(json.dumps(hold(Path(words[1]) if words[1] != "demo" else DEMO, float(words[2]), float(words[3]))))
        return 0
    held = True
    for check in CHECKS:
        if not words or check.__name__ in words:
            found = run_check(check)
            held &= found["ok"]
            print(json.dumps(found), flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
