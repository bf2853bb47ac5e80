"""From nothing to the first token, beside llama.cpp: python -m tests.bench.start --peer-python PYTHON

A cached file and a stored calibration, as from the second start on; modules are compiled, as an installed package's are. Every figure
is of a process of its own. The limits: from_pretrained() to the first token takes no more than building the tokenizer, 1.3 passes and
50 ms; the command line, from its process's start to the token, no more than 250 ms over that.

--vocabulary FILE …: tokenizers built as well, of GGUF files that may hold nothing else.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.bench import common
from tests.bench.common import Json, Round, percent, row

PASSES, REST_S = 1.3, 0.05          # beside the tokenizer
COMMAND_S = 0.25                    # of the command line, over from_pretrained() to the first token
TOKENIZER_S, TOKENIZER_TOKENS = 0.3, 150_000
PROMPT = "a"

API = """
import json, sys, time
begin = time.perf_counter()
from airpy import AutoModel
imported = time.perf_counter()
model = AutoModel.from_pretrained(sys.argv[1], device="cpu", threads=int(sys.argv[2]))
opened = time.perf_counter()
times = [opened]
step = lambda _: times.append(time.perf_counter())
prompt = model.tokenizer.encode(sys.argv[3])[:1]
for _ in model.stream(prompt, max_new_tokens=24, do_sample=False, eos_token_id=[], on_tokens=step): pass
steps = sorted(b - a for a, b in zip(times[1:], times[2:]))
print(json.dumps({"import_s": imported - begin, "open_s": opened - imported, "first_s": times[1] - imported,
                  "pass_s": steps[len(steps) // 2], "io": model.stats()["io"]}))
"""
TOKENIZER = """
import json, sys, time
from airpy import AutoModel
from airpy.tokenizer import Tokenizer
begin = time.perf_counter()
tokenizer = Tokenizer.from_gguf(sys.argv[1])
print(json.dumps({"seconds": time.perf_counter() - begin, "tokens": len(tokenizer)}))
"""


def environment(compiled: str) -> dict[str, str]:
    path = os.pathsep.join([str(common.ROOT), os.environ.get("PYTHONPATH", "")])
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": path, "PYTHONPYCACHEPREFIX": compiled}


def run_code(compiled: str, code: str, *words: str) -> Json:
    done = subprocess.run([sys.executable, "-c", code, *words], env=environment(compiled), capture_output=True, text=True, cwd="/")
    if done.returncode:
        raise RuntimeError(f"a start ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    found: Json = json.loads(done.stdout)
    return found


def command_line(compiled: str, model: Path, threads: int) -> Json:
    """Seconds until it prints, having one token, and until it is gone."""
    words = [sys.executable, "-m", "airpy", "generate", str(model), "--device", "cpu", "-p", PROMPT, "-n", "1", "--json",
             "--threads", str(threads)]
    begin = time.perf_counter()
    with subprocess.Popen(words, env=environment(compiled), stdout=subprocess.PIPE, cwd="/") as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        printed = time.perf_counter() - begin
        process.stdout.read()
    if process.returncode or first != b"{":
        raise RuntimeError(f"airpy generate ended with {process.returncode}")
    return {"seconds": printed, "exit_s": time.perf_counter() - begin}


def contenders(model: Path, compiled: str, options: argparse.Namespace) -> dict[str, Callable[[], Json]]:
    threads = str(options.threads)
    turns: dict[str, Callable[[], Json]] = {
        "api": partial(run_code, compiled, API, str(model), threads, PROMPT),
        "tokenizer": partial(run_code, compiled, TOKENIZER, str(model)),
        "command": partial(command_line, compiled, model, options.threads),
    }
    for file in options.vocabulary:
        turns[f"tokenizer of {file.stem}"] = partial(run_code, compiled, TOKENIZER, str(file))
    if options.peer_python:
        turns["llama.cpp"] = partial(
            common.peer, options.peer_python, model, threads=options.threads, prompt=1, new=1, load="mmap", repack="off")
    return turns


# ---- figures ---------------------------------------------------------------------------------------------------------------------


def figures_of(rounds: list[Round], vocabularies: list[Path]) -> Json:
    api, command = ([r.results[name] for r in rounds] for name in ("api", "command"))
    tokenizer = [r.results["tokenizer"]["seconds"] for r in rounds]
    figures: Json = {key: common.summary([a[key] for a in api]) for key in ("import_s", "open_s", "first_s", "pass_s")}
    figures |= {
        "io": api[0]["io"], "tokenizer_s": common.summary(tokenizer),
        "beside_tokenizer_s": common.summary([a["first_s"] - t for a, t in zip(api, tokenizer, strict=True)]),
        "limit_s": common.summary([PASSES * a["pass_s"] + REST_S for a in api]),
        "command_s": common.summary([c["seconds"] for c in command]), "exit_s": common.summary([c["exit_s"] for c in command]),
        "command_over_api_s": common.summary([c["seconds"] - a["first_s"] for c, a in zip(command, api, strict=True)]),
        "vocabularies": {file.stem: {"tokens": rounds[0].results[f"tokenizer of {file.stem}"]["tokens"], "seconds": common.summary(
            [r.results[f"tokenizer of {file.stem}"]["seconds"] for r in rounds])} for file in vocabularies},
    }  # fmt: skip
    if "llama.cpp" in rounds[0].results:
        them = [r.results["llama.cpp"] for r in rounds]
        figures |= {"peer": them[0]["peer"], "peer_s": common.summary([t["load_s"] + t["prefill_s"] for t in them])}
    return figures


def milliseconds(summary: Json) -> str:
    return f"{1e3 * summary['median']:.0f} ms (spread {percent(summary['spread'])})"


def table(f: Json) -> list[Json]:
    beside, limit, over = f["beside_tokenizer_s"]["median"], f["limit_s"]["median"], f["command_over_api_s"]["median"]
    passes = beside / f["pass_s"]["median"]
    rows = [
        row("from airpy import AutoModel", milliseconds(f["import_s"])),
        row("from_pretrained()", milliseconds(f["open_s"])),
        row("the tokenizer alone", milliseconds(f["tokenizer_s"])),
        row("from_pretrained() to the first token", milliseconds(f["first_s"])),
        row(f"the same without the tokenizer: {passes:.1f} passes", milliseconds(f["beside_tokenizer_s"]),
            f"≤ {1e3 * limit:.0f} ms", beside <= limit),
        row("airpy generate, to the first token", milliseconds(f["command_s"])),
        row("the same over from_pretrained() to the first token", milliseconds(f["command_over_api_s"]), f"≤ {1e3 * COMMAND_S:.0f} ms",
            over <= COMMAND_S),
    ]  # fmt: skip
    for name, v in f["vocabularies"].items():
        limit = TOKENIZER_S * max(1.0, v["tokens"] / TOKENIZER_TOKENS)
        rows.append(row(f"tokenizer of {name}, {v['tokens']} tokens", milliseconds(v["seconds"]), f"≤ {1e3 * limit:.0f} ms",
                        v["seconds"]["median"] <= limit))
    if "peer" in f:
        rows.append(row("llama.cpp, load to the first token", milliseconds(f["peer_s"])))
    return rows


def arguments() -> argparse.Namespace:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", type=Path, help="without, a synthetic 1b in Q4_K, kept in the cache folder")
    ap.add_argument("--threads", type=int, default=common.THREADS)
    ap.add_argument("--vocabulary", type=Path, nargs="+", default=[], metavar="FILE")
    ap.add_argument("--peer-python", help="a Python that has llama-cpp-python")
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--seconds", type=float, default=50, help="for all rounds; disturbed ones are repeated while it lasts")
    return ap.parse_args()


def main() -> int:
    options = arguments()
    model = common.model_file(options.model, "1b", "Q4_K").resolve()
    options.vocabulary = [file.resolve() for file in options.vocabulary]
    with tempfile.TemporaryDirectory() as compiled:
        turns = contenders(model, compiled, options)
        for run in turns.values():
            run()                   # compiles modules, stores the calibration, brings the file into memory
        rounds = common.take_turns(turns, options.rounds, options.seconds)
    figures = figures_of(rounds, options.vocabulary)
    settings = {"threads": options.threads, "prompt": PROMPT}
    common.write("start", [model, *options.vocabulary], rounds, settings, figures, table(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
