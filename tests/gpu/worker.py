"""One run of a model on a GPU for the benchmark, in a process of its own: python -m tests.gpu.worker TASK MODEL OPTIONS → one JSON object.

Works on the extension itself, so that a figure holds no more than the engine. Options: vram_bytes beside what the device takes for itself
(0: all there is), max_ram, io, n_ctx, kv_dtype, max_rows, cpu_share (0: none, null: chosen), rates (bandwidths, which the plan is told);
new, prompts.
TASK probe measures those rates as the backend does for every plan, and cpu those of the CPU: MODEL is "", options are types and
megabytes."""
from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from airpy import _core
from airpy.device import cuda_plugin
from tests.bench.worker import GREEDY, prompt, weights_of

Json = dict[str, Any]
WARM = 3                            # passes before those timed: what stays comes to its place, buffers are made
PLANNED = ("weight_bytes", "device_weight_bytes", "host_weight_bytes", "compute_s", "device_pin_bytes", "device_budget", "device_fixed",
           "pin_bytes", "n_device_tiles", "n_tiles", "tile_bytes", "ring_bytes", "max_rows", "n_ctx", "io", "bound", "pass_s", "prompt_s",
           "budget")


class Run:
    """An engine on the first GPU and what its passes took."""

    def __init__(self, model: str, options: Json) -> None:
        began = time.perf_counter()
        gguf = _core.GGUF(model)
        given: Json = {key: options[key] for key in ("max_ram", "io", "n_ctx", "kv_dtype", "max_rows", "cpu_share") if key in options}
        rates: Json = options.get("rates", {})
        if options.get("vram_bytes"):
            fixed = int(_core.solve_plan(gguf, max_vram=64 << 30, n_ctx=64, bandwidths=rates)["device_fixed"])
            given["max_vram"] = fixed + options["vram_bytes"]
        self.engine = _core.Engine(gguf, bandwidths=rates, plugin=cuda_plugin(), device=0, **given)
        self.opened_s = time.perf_counter() - began
        self.vocab = self.engine.hparams["n_vocab"]
        self.facts = weights_of(gguf)

    def feed(self, sequence: _core.Sequence, tokens: np.ndarray, is_prompt: bool) -> tuple[list[int], Json]:
        """One call: the tokens chosen, and the call's time and bytes."""
        before, length = self.engine.stats(), sequence.length
        began = time.perf_counter()
        ids = self.engine.run([(sequence, tokens, 1, GREEDY, length + len(tokens) if is_prompt else 0)]).sampled
        took = time.perf_counter() - began
        after = self.engine.stats()
        return ids, {"seconds": took, "passes": after["passes"] - before["passes"],
                     "disk_bytes": after["pager_disk_bytes"] - before["pager_disk_bytes"]}

    def report(self, **results: Any) -> Json:
        plan = self.engine.plan
        self.engine.close()
        return {"plan": {key: plan[key] for key in PLANNED}, "opened_s": self.opened_s, **self.facts, **results}


def decode(run: Run, options: Json) -> Json:
    """Tokens of one text, one after the other; a first pass of a short prompt by itself."""
    sequence = run.engine.sequence()
    ids, first = run.feed(sequence, prompt(options.get("prompt", 16), 1, run.vocab), True)
    passes = []
    for i in range(WARM + options["new"]):
        ids, one = run.feed(sequence, np.array(ids, np.int32), False)
        if i >= WARM:
            passes.append(one)
    seconds = [one["seconds"] for one in passes]
    return run.report(first_s=first["seconds"], median_s=float(np.median(seconds)), seconds=seconds,
                      disk_bytes=float(np.median([one["disk_bytes"] for one in passes])))


def prefill(run: Run, options: Json) -> Json:
    """Prompts of each length, after a short one that brings what stays to its place; the best of two."""
    found = {}
    for length in (8, *options["prompts"]):
        runs = []
        for seed in range(1 if length == 8 else 2):
            sequence = run.engine.sequence()
            runs.append(run.feed(sequence, prompt(length, seed, run.vocab), True)[1])
            sequence.close()
        if length != 8:
            found[str(length)] = min(runs, key=lambda one: float(one["seconds"]))
    return run.report(prompts=found)


TASKS = {"decode": decode, "prefill": prefill}


def main() -> int:
    task, model, text = sys.argv[1:]
    options = json.loads(text)
    if task == "probe":
        print(json.dumps(_core.probe_device(cuda_plugin(), 0, options["types"], int(options["megabytes"] * (1 << 20)))))
        return 0
    if task == "cpu":
        print(json.dumps(dict(_core.probe_compute(options["types"], 0, "", int(options["megabytes"] * (1 << 20)), 0.4))))
        return 0
    print(json.dumps(TASKS[task](Run(model, options), options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
