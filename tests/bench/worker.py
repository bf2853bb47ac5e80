"""One run of airpy for a benchmark, in a process of its own: python -m tests.bench.worker TASK MODEL OPTIONS → one JSON object.

Works on the extension itself, so that a figure holds no more than the engine. Bandwidths are probed in this process right before
the model opens and right after the last pass; the plan gets those of before."""
from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from airpy import _core, profile
from tests.bench import routing, sweep

Json = dict[str, Any]
GREEDY = {"temperature": 0}
TRACED = 16                         # passes of experts() under a timeline
SETTLED = 3                         # passes at most until what is pinned stays as it is


def prompt(n: int, seed: int, vocab: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, vocab, n, np.int32)


def matrix_types(gguf: _core.GGUF) -> list[str]:
    return sorted({type for _, type, shape, *_ in gguf.tensors if len(shape) > 1})


def weights_of(gguf: _core.GGUF) -> Json:
    """The type of most weights, and how many weights a token and its logits are multiplied with. An embedding is only looked up."""
    matrices = {name: (type, shape[0] * shape[1], bytes) for name, type, shape, _, _, bytes in gguf.tensors if len(shape) == 2}
    bytes_of: dict[str, int] = {}
    for type, _, bytes in matrices.values():
        bytes_of[type] = bytes_of.get(type, 0) + bytes
    table = matrices.pop("token_embd.weight")
    output = matrices.pop("output.weight", table)
    return {"type": max(bytes_of, key=lambda type: bytes_of[type]), "weights_of_output": output[1],
            "weights_per_token": sum(n for _, n, _ in matrices.values())}


def probe(gguf: _core.GGUF, options: Json) -> Json:
    """Bandwidths as Engine takes them. disk is left out where nothing is to stream."""
    seconds = options.get("probe_seconds", 1.0)
    found = _core.probe_compute(matrix_types(gguf), options["threads"], max_bytes=512 << 20, seconds=seconds)
    if options["io"] == "direct":
        found |= _core.probe_disk(gguf.paths[0], seconds)
    if options.get("sweep"):
        found["sweep"] = sweep.best(gguf.paths[0], 2 * seconds)
    return found


def in_columns(records: list[Json]) -> Json:
    columns = {key: [r[key] for r in records] for key in records[0]}
    return {**columns, "median_s": float(np.median(columns["seconds"]))}


class Run:
    """An engine and what its passes took."""

    def __init__(self, model: str, options: Json) -> None:
        self.gguf = _core.GGUF(model)
        self.options = options
        self.before = probe(self.gguf, options)
        self.usage_at_open = _core.memory_info()["cgroup_usage"]
        keys = ("max_ram", "io", "threads", "n_ctx", "kv_dtype", "max_pins", "lookahead")
        self.given = {k: options[k] for k in keys if k in options}
        self.engine = _core.Engine(self.gguf, bandwidths=self.bandwidths(self.before), **self.given)
        self.vocab = self.engine.hparams["n_vocab"]

    @staticmethod
    def bandwidths(found: Json) -> Json:
        return {k: v for k, v in found.items() if k != "sweep"}

    def feed(self, sequences: Sequence[_core.Sequence], tokens: Sequence[np.ndarray]) -> tuple[list[int], Json]:
        """One call: the tokens chosen, and the call's time, bytes and prediction."""
        before = self.engine.stats()
        began = time.perf_counter()
        ids = self.engine.run([(s, t, 1, GREEDY, s.length) for s, t in zip(sequences, tokens, strict=True)]).sampled
        took = time.perf_counter() - began
        after = self.engine.stats()
        return ids, {
            "seconds": took, "passes": after["passes"] - before["passes"],
            "disk_bytes": after["pager_disk_bytes"] - before["pager_disk_bytes"],
            "stall_s": (after["pager_stall_ns"] - before["pager_stall_ns"]) * 1e-9,
            "predicted_s": after["last_predicted_s"], "pinned_bytes": after["pager_pinned_bytes"],
        }  # fmt: skip

    def walk(self) -> Json:
        """A pass with compute left out."""
        began = time.perf_counter()
        cost = self.engine.walk().cost
        return {"seconds": time.perf_counter() - began, "disk_bytes": cost[2]}

    def decode(self, sequences: Sequence[_core.Sequence], ids: list[int], n: int, walks: bool = False) -> Json:
        """n passes of one token for each sequence, after those that fill what may stay in memory; walks: a walk before each."""
        for _ in range(SETTLED):
            held = self.engine.stats()["pager_pinned_bytes"]
            ids, _ = self.feed(sequences, [np.array([i], np.int32) for i in ids])
            if self.engine.stats()["pager_pinned_bytes"] == held:
                break
        passes, walked = [], []
        for _ in range(n):
            if walks:
                walked.append(self.walk())
            ids, one = self.feed(sequences, [np.array([i], np.int32) for i in ids])
            passes.append(one)
        found = {**in_columns(passes), "beside_pins": _core.memory_info()["cgroup_usage"] - passes[-1]["pinned_bytes"]}
        return {**found, "walks": in_columns(walked)} if walks else found

    def texts(self, n: int, length: int) -> tuple[list[_core.Sequence], list[int]]:
        """n sequences, each with a prompt of its own, and their next tokens."""
        sequences = [self.engine.sequence() for _ in range(n)]
        ids, _ = self.feed(sequences, [prompt(length, seed, self.vocab) for seed in range(n)])
        return sequences, ids

    def report(self, **results: Any) -> Json:
        plan, stats = self.engine.plan, self.engine.stats()
        self.engine.close()
        after = probe(self.gguf, self.options)
        return {
            "probe_before": self.before, "probe_after": after, "usage_at_open": self.usage_at_open,
            "plan": {k: v for k, v in plan.items() if k != "weights"}, "held_by": stats["held_by"], "kernels": stats["kernels"],
            "threads": stats["threads"], "replanned": self.replanned(plan, after), **weights_of(self.gguf), **results,
        }  # fmt: skip

    def replanned(self, plan: Json, after: Json) -> Json:
        """How many times as long passes take by the plan with the bandwidths probed after them: of one token, of a prompt."""
        new = _core.solve_plan(self.gguf, bandwidths=self.bandwidths(after), **self.given)
        return {key: new[key] / plan[key] for key in ("pass_s", "prompt_s")}


def stream(model: str, options: Json) -> Json:
    """Decoding one text, in turns with walks; where asked, also several together and a long prompt, whose bytes are counted."""
    run = Run(model, options)
    sequences, ids = run.texts(1, options["prompt"])
    results: Json = {"one": run.decode(sequences, ids, options["new"], walks=True)}
    sequences[0].close()
    if options.get("long_prompt"):
        sequence = run.engine.sequence()
        _, found = run.feed([sequence], [prompt(options["long_prompt"], 99, run.vocab)])
        results["long_prompt"] = {**found, "tokens": options["long_prompt"]}
        sequence.close()
    if options.get("batch"):
        sequences, ids = run.texts(options["batch"], options["prompt"])
        results["batch"] = run.decode(sequences, ids, options["batch_new"])
        for sequence in sequences:
            sequence.close()
    return run.report(**results)


def resident(model: str, options: Json) -> Json:
    """Decoding one text with all weights in memory."""
    run = Run(model, options)
    sequences, ids = run.texts(1, options["prompt"])
    return run.report(one=run.decode(sequences, ids, options["new"]))


def batch(model: str, options: Json) -> Json:
    """Decoding 1, 2, 4 … texts together with all weights in memory."""
    run = Run(model, options)
    texts = {}
    for n in options["texts"]:
        sequences, ids = run.texts(n, options["prompt"])
        texts[str(n)] = run.decode(sequences, ids, options["new"])
        for sequence in sequences:
            sequence.close()
    return run.report(texts=texts)


def prefill(model: str, options: Json) -> Json:
    """Reading prompts with all weights in memory, after a short one that brings them there."""
    run = Run(model, options)
    run.texts(1, 8)
    passes = []
    for seed in range(options["times"]):
        sequence = run.engine.sequence()
        passes.append(run.feed([sequence], [prompt(options["prompt"], 100 + seed, run.vocab)])[1])
        sequence.close()
    seconds = [p["seconds"] for p in passes]
    median, predicted = float(np.median(seconds)), passes[-1]["predicted_s"]
    return run.report(prompt={"tokens": options["prompt"], "seconds": seconds, "median_s": median, "predicted_s": predicted})


def at_depth(run: Run, depth: int, new: int, chunk: int) -> Json:
    """A pass of one token and one of chunk tokens behind depth others, the state of most of which is copied."""
    begun = min(depth, 1024) or 1
    [sequence], ids = run.texts(1, begun)
    if depth > begun:
        sequence.repeat(depth - begun)
    held = sequence.bytes
    one = run.decode([sequence], ids, new)
    sequence.truncate(depth)
    _, many = run.feed([sequence], [prompt(chunk, 99, run.vocab)])
    sequence.close()
    return {"bytes": held, "decode_s": one["median_s"], "prompt_s": many["seconds"]}


def attention(model: str, options: Json) -> Json:
    """Passes at several depths of context."""
    run = Run(model, options)
    run.texts(1, options["chunk"])
    return run.report(depths={str(d): at_depth(run, d, options["new"], options["chunk"]) for d in options["depths"]})


def beside_experts(run: Run, sequence: _core.Sequence, tokens: np.ndarray) -> float:
    """Seconds of a pass in which experts are neither read for nor computed with, as its first thread has them: attention, routers,
    output."""
    run.engine.timeline_begin(100_000)
    for i in range(len(tokens)):
        run.feed([sequence], [tokens[i:i + 1]])
    data, _ = run.engine.timeline_stop()
    events = np.asarray(data).view(profile.EVENT)
    took = {kind: sum(ns for ns in (e["end_ns"] - e["begin_ns"] for e in events[(events["lane"] == 0) & (events["kind"] == number)]))
            for number, kind in enumerate(_core.EVENT_KINDS) if kind in ("pass", "experts")}
    return float(took["pass"] - took["experts"]) / len(tokens) * 1e-9


def experts(model: str, options: Json) -> Json:
    """Decoding drawn tokens with a mixture of experts, of which some are in memory; what the routers chose, from the first token on.
    The last few tokens are for a timeline."""
    run = Run(model, options)
    n = options["warm"] + options["new"]
    drawn = np.random.default_rng(options["draw"]).integers(3, run.vocab, n + TRACED, np.int32)
    sequence = run.engine.sequence()
    passes, trace, rows = [], [], run.engine.expert_rows()
    for i in range(n):
        before = run.engine.stats()
        _, one = run.feed([sequence], [drawn[i:i + 1]])
        after, now = run.engine.stats(), run.engine.expert_rows()
        counts = {key: after[f"pager_expert_{key}"] - before[f"pager_expert_{key}"] for key in ("hits", "misses", "guesses", "guessed")}
        passes.append({**one, **counts})
        trace.append(routing.chosen(rows, now))
        rows = now
    timed = {**in_columns(passes[options["warm"]:]), "seconds_in_all": sum(p["seconds"] for p in passes[options["warm"]:])}
    held = run.engine.stats()["held_by"]["experts"]
    return run.report(one=timed, trace=trace, experts=max(map(len, rows)), expert_bytes=held,
                      beside_s=beside_experts(run, sequence, drawn[n:]))


TASKS = {"stream": stream, "resident": resident, "batch": batch, "prefill": prefill, "attention": attention, "experts": experts}


def main() -> int:
    task, model, options = sys.argv[1:]
    print(json.dumps(TASKS[task](model, json.loads(options))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
