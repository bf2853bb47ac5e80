"""One program for airpy and for AirLLM, which have the same interface: seconds of each token, as one JSON object.

    PYTHON tests/bench/peer_airllm.py airllm DIRECTORY --new 4 --collect off
    PYTHON tests/bench/peer_airllm.py airpy MODEL.gguf --new 12 --max-ram 1GiB

The time of a token is that between two calls of a logits_processor, of which there is one a token, so that reading the prompt is not in it.
--collect off takes out what AirLLM does after every layer beside running it: gc.collect() and malloc_trim(), which is most of its time.
"""
from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]   # there is an airllm.py here, which is not theirs

import numpy as np  # noqa: E402


def open_model(options: argparse.Namespace) -> Any:
    package = importlib.import_module(options.package)
    if options.package == "airpy":
        return package.AutoModel.from_pretrained(
            options.model, device="cpu", max_ram=options.max_ram, threads=options.threads, n_ctx=512, kv_dtype="f16", progress=False
        )
    import torch

    torch.set_num_threads(options.threads)
    if options.collect == "off":
        importlib.import_module("airllm.airllm_base").clean_memory = lambda: None
    return package.AutoModel.from_pretrained(options.model, device="cpu")


def ids_of(options: argparse.Namespace) -> Any:
    ids = np.random.default_rng(1).integers(300, 4000, (1, options.prompt))
    if options.package == "airpy":
        return ids
    import torch

    return torch.from_numpy(ids)


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("package", choices=("airpy", "airllm"))
    ap.add_argument("model")
    ap.add_argument("--new", type=int, default=8)
    ap.add_argument("--prompt", type=int, default=8)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--max-ram")
    ap.add_argument("--collect", choices=("on", "off"), default="on")
    options = ap.parse_args()
    said, sys.stdout = sys.stdout, sys.stderr              # AirLLM prints as it goes
    began = time.perf_counter()
    model = open_model(options)
    opened = time.perf_counter()
    times: list[float] = []

    def note(ids: Any, scores: Any) -> Any:
        times.append(time.perf_counter())
        return scores

    out = model.generate(ids_of(options), max_new_tokens=options.new, use_cache=True, do_sample=False, logits_processor=[note])
    version = importlib.metadata.version("airllm") if options.package == "airllm" else importlib.import_module("airpy").__version__
    print(json.dumps({
        "package": f"{options.package} {version}", "open_s": opened - began, "first_s": times[0] - opened,
        "token_s": np.diff(times).tolist(), "ids": np.asarray(out)[0, options.prompt:].tolist(),
        "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    }), file=said)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
