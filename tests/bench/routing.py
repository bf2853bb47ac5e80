"""Which experts to keep in memory: policies replayed on what the routers of a real mixture chose.

    python -m tests.bench.routing MODEL.gguf TEXT.txt        records the choices for the text and compares
    python -m tests.bench.routing                            compares on those recorded before (results/routing_trace.npz)

A trace is int16 [tokens, layers, experts used]: what each layer chose for each token, in passes of one token. Policies see the requests in
the order of a pass; those of a layer are held together, and the coldest of the others gives way. A share of hits is counted over the
second half of the tokens, when the first has filled the slots. "optimum" gives way what is needed last (L. A. Belady, 1966): none can do
better, as none knows the future.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.bench import common
from tests.bench.common import Json, percent, row

TRACE = common.RESULTS / "routing_trace.npz"
SHARES = (0.25, 0.5, 0.75)
HALF_LIVES = (16, 64, 128, 256, 1024)
OURS = 128                          # AIR__EXPERT_HALF_LIFE, csrc/memory/experts.c
Choices = npt.NDArray[np.int16]
Touch = Callable[[int, int], float]  # (unit, number of its request) -> its heat from now on; the coldest gives way


def chosen(before: list[list[int]], after: list[list[int]]) -> list[list[int]]:
    """The experts to which rows were sent between two answers of expert_rows(), of each layer that has some."""
    return [[e for e, (a, b) in enumerate(zip(x, y, strict=True)) if b > a] for x, y in zip(before, after, strict=True) if x]


def units_of(trace: Choices, experts: int) -> npt.NDArray[np.int64]:
    """[tokens * layers, used]: an expert of a layer by a number of its own."""
    tokens, layers, used = trace.shape
    return (trace.astype(np.int64) + experts * np.arange(layers)[None, :, None]).reshape(tokens * layers, used)


def replay(requests: npt.NDArray[np.int64], n_units: int, slots: int, touch: Touch, begin: int) -> float:
    """The share of hits among the requests from `begin` on."""
    heat, there = np.zeros(n_units), np.zeros(n_units, bool)
    hits = 0
    for number, units in enumerate(requests):
        for unit in units:
            heat[unit] = touch(int(unit), number)
        hits += int(there[units].sum()) if number >= begin else 0
        over = int(there.sum()) + int((~there[units]).sum()) - slots
        if over > 0:
            may_go = there.copy()
            may_go[units] = False
            cold = np.flatnonzero(may_go)
            there[cold[np.argsort(heat[cold], kind="stable")[:over]]] = False
        there[units] = True
    return hits / requests[begin:].size


def decayed(n_units: int, rows_per_half_life: float, layers: int) -> Touch:
    """One for every row, halved with the rows; of an infinite half-life, how often it was used at all."""
    log = np.full(n_units, -np.inf)

    def touch(unit: int, number: int) -> float:
        log[unit] = np.logaddexp2(log[unit], number // layers / rows_per_half_life)
        return float(log[unit])

    return touch


def recent(unit: int, number: int) -> float:
    return number


def fixed(requests: npt.NDArray[np.int64], n_units: int) -> Touch:
    """How often it was used in a warm-up, these requests: then never changed."""
    counts = np.bincount(requests.ravel(), minlength=n_units)
    return lambda unit, number: float(counts[unit])


def optimum(requests: npt.NDArray[np.int64], n_units: int) -> Touch:
    """The sooner it is needed again, the hotter."""
    next_use = np.full(requests.shape, len(requests) + 1)
    coming = np.full(n_units, len(requests) + 1)
    for number in range(len(requests) - 1, -1, -1):
        next_use[number] = coming[requests[number]]
        coming[requests[number]] = number
    return lambda unit, number: -float(next_use[number][requests[number] == unit][0])


def compare(trace: Choices, experts: int, slots: int, begin: int | None = None) -> dict[str, float]:
    """The share of hits of every policy, counted from token `begin` on (None: the second half's)."""
    tokens, layers, _ = trace.shape
    requests, n_units = units_of(trace, experts), layers * experts
    first = layers * (tokens // 2 if begin is None else begin)
    policies: dict[str, Touch] = {"LRU": recent}
    policies |= {f"half-life {h}": decayed(n_units, h, layers) for h in HALF_LIVES}
    policies |= {"LFU": decayed(n_units, np.inf, layers), "static": fixed(requests[:first], n_units)}
    policies |= {"optimum": optimum(requests, n_units)}
    return {name: replay(requests, n_units, slots, touch, first) for name, touch in policies.items()}


def record(model: Path, text: Path, tokens: int) -> tuple[Choices, int]:
    """The choices for the text's first tokens, as if it was being written; and how many experts a layer has."""
    from airpy import _core
    from airpy.tokenizer import Tokenizer

    gguf = _core.GGUF(str(model))
    engine = _core.Engine(gguf)
    ids = np.array(Tokenizer.from_gguf(model).encode(text.read_text()), np.int32)[:tokens]
    window = int(engine.plan["n_ctx"])
    found, before = [], engine.expert_rows()
    for begin in range(0, len(ids), window):
        sequence = engine.sequence()
        for i in ids[begin:begin + window]:
            engine.run([(sequence, np.array([i], np.int32), 1, {"temperature": 0}, sequence.length)])
            after = engine.expert_rows()
            found.append(chosen(before, after))
            before = after
        sequence.close()
    experts = max(map(len, before))
    engine.close()
    return np.array(found, np.int16), experts


def rows_of(found: dict[str, dict[str, float]]) -> list[Json]:
    """found: of each share of the experts that fits, the hits of every policy."""
    rows = []
    for share, hits in found.items():
        ours, best = hits[f"half-life {OURS}"], hits["optimum"]
        others = ", ".join(f"{name} {percent(h)}" for name, h in hits.items() if name not in (f"half-life {OURS}", "optimum"))
        most = max(h for name, h in hits.items() if name != "optimum")
        rows.append(row(f"{share} of the experts fit: hits", f"{percent(ours)} of at most {percent(best)} ({others})",
                        "≥ every other policy less 1 %", ours >= most - 0.01))
    return rows


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model", type=Path, nargs="?")
    ap.add_argument("text", type=Path, nargs="?")
    ap.add_argument("--tokens", type=int, default=2048)
    options = ap.parse_args()
    if options.model:
        if not options.text:
            ap.error("a model needs a text")
        trace, experts = record(options.model, options.text, options.tokens)
        np.savez_compressed(TRACE, trace=trace, experts=experts)
    else:
        saved = np.load(TRACE)
        trace, experts = saved["trace"], int(saved["experts"])
    n_units = trace.shape[1] * experts
    found = {percent(share): compare(trace, experts, int(share * n_units)) for share in SHARES}
    settings = {"tokens": trace.shape[0], "layers": trace.shape[1], "used": trace.shape[2], "experts": experts}
    common.write("routing", [], [common.Round()], settings, found, rows_of(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
