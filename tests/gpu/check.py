"""Everything that must hold on a real GPU, in a few minutes: python -m tests.gpu.check [--build FOLDER [--prebuilt]]

Builds the extension, the CUDA backend and the kernels' tests for the GPU here, unless the folder is prebuilt, then runs: the kernels' tests
against the portable CPU; whole models against transformers' logits and the CPU's, streamed against resident; tests/python/test_cuda.py,
where pytest and the package's needs are; what max_vram promises, as the driver counts memory; compute-sanitizer, where it is. Every part
is a process of its own: one that crashes does not end the others. The table at the end says what was left out, and why.

Exit status: 0 all that ran held, 1 something did not, 2 wrong arguments or nothing to run, 3 no GPU.
--build-only builds, and with --pack FOLDER copies what another machine needs (--build FOLDER --prebuilt there); it needs no GPU.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.gpu import build
from tests.gpu.driver import NO_GPU, NoGpuError, Watch, facts

State = Literal["ok", "FAILED", "skipped"]
MIB = 1 << 20
KERNEL_TESTS = ("rows", "mixture", "recurrent", "attention", "products", "lora")
PYTEST_NEEDS = ("pytest", "pytest_timeout", "tokenizers", "jinja2", "tqdm", "numpy")
PYTHON_TESTS = {  # with what they need beside those
    "test_cuda": (), "test_cuda_experts": (), "test_cuda_models": ("gguf",), "test_cuda_adapters": ("gguf",),
}  # fmt: skip
# Small cases, by program: a sanitizer makes a kernel tens of times slower.
MEMCHECK = {
    "rows": "", "mixture": "rows_go_to_experts_of", "recurrent": "", "attention": "prompts_attend",
    "products": "prompts_do_not_depend", "lora": "a_columns_bits",
}  # fmt: skip
RACECHECK = {
    "rows": "a_norm_gives", "mixture": "rows_go_to_experts_of", "recurrent": "", "attention": "prompts_over",
    "products": "the_bits_of_a_prompts_result", "lora": "before_anything_else",
}  # fmt: skip


@dataclass
class Line:
    """A row of the summary."""

    name: str
    state: State
    seconds: float = 0.0
    text: str = ""


@dataclass
class Session:
    """What the parts share: where things are, how long there is, and what was found."""

    folder: Path
    home: Path
    ends: float
    lines: list[Line] = field(default_factory=list)

    def left(self, most: float) -> float:
        return max(1.0, min(most, self.ends - time.monotonic()))

    def add(self, name: str, state: State, seconds: float = 0.0, text: str = "") -> None:
        self.lines.append(Line(name, state, seconds, text))
        print(f"{state:<8} {seconds:6.1f} s  {name}{f': {text}' if text else ''}", flush=True)

    def skip_late(self, name: str) -> bool:
        """Whether there is no time left, which is then noted."""
        if late := time.monotonic() >= self.ends:
            self.add(name, "skipped", text="no time left (--seconds)")
        return late


@dataclass
class Done:
    """A program that ran."""

    code: int | None                # None: it ran out of time
    output: str
    seconds: float

    @property
    def state(self) -> State:
        return "ok" if self.code == 0 else "FAILED"

    def tail(self) -> str:
        lines = [line for line in self.output.strip().splitlines() if line.strip()]
        why = "ran out of time" if self.code is None else f"status {self.code}"
        return f"{why}: {' | '.join(lines[-3:])[-300:]}" if lines else why


def run(session: Session, command: Sequence[str | Path], most: float, **more: str) -> Done:
    began = time.monotonic()
    process = subprocess.Popen(
        [str(word) for word in command], cwd=build.ROOT, env=build.environment(session.home, **more), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=session.left(most))
        return Done(process.returncode, output, time.monotonic() - began)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        return Done(None, output, time.monotonic() - began)


# ---- kernels ----------------------------------------------------------------------------------------------------------------------


def kernels(session: Session) -> None:
    for test in KERNEL_TESTS:
        name = f"kernels: {test}"
        if session.skip_late(name):
            continue
        done = run(session, [session.folder / "gpu" / f"gpu_test_{test}"], 180)
        failed = re.findall(r"^FAILED (\w+)", done.output, re.M)
        passed = len(re.findall(r"^ok +\w+", done.output, re.M))
        if done.state == "ok":
            session.add(name, "ok", done.seconds, f"{passed} tests")
        else:
            if failed:
                print(done.output[-6000:])
            session.add(name, "FAILED", done.seconds, f"{passed} held, failed: {', '.join(failed)}" if failed else done.tail())


# ---- models -----------------------------------------------------------------------------------------------------------------------


def models(session: Session) -> None:
    listed = run(session, build.python("tests.gpu.models", "--list"), 60)
    if listed.state != "ok":
        session.add("models", "FAILED", listed.seconds, listed.tail())
        return
    for check in listed.output.split():
        name = f"models: {check.replace('_', ' ')}"
        if session.skip_late(name):
            continue
        done = run(session, build.python("tests.gpu.models", check), 120)
        found = json_in(done.output)
        if found:
            session.add(name, "ok" if found["ok"] and done.state == "ok" else "FAILED", done.seconds, str(found["text"]))
        else:
            session.add(name, "FAILED", done.seconds, done.tail())


def json_in(output: str) -> dict[str, object]:
    """The last line that is an object."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            try:
                found: dict[str, object] = json.loads(line)
                return found
            except ValueError:
                continue
    return {}


def python_tests(session: Session) -> None:
    for test, needs in PYTHON_TESTS.items():
        name = f"tests/python/{test}.py"
        if lacking := [module for module in (*PYTEST_NEEDS, *needs) if importlib.util.find_spec(module) is None]:
            session.add(name, "skipped", text=f"not installed here: {', '.join(lacking)}")
            continue
        if session.skip_late(name):
            continue
        words = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", "--no-header", "--tb=short", name]
        done = run(session, build.python("pytest", *words), 180, AIRPY_TEST_GPU="1")
        last = done.output.strip().splitlines()[-1:] or [""]
        if done.state != "ok":
            print(done.output[-6000:])
        session.add(name, done.state, done.seconds, done.tail() if done.code is None else last[0].strip("= "))


# ---- memory -----------------------------------------------------------------------------------------------------------------------


def memory(session: Session) -> None:
    """What other processes lose while a model is open under a budget, against the budget; what the context takes is the rest of that
    beyond what the plan has for the model."""
    if session.skip_late("max_vram"):
        return
    try:
        watch = Watch()
    except NoGpuError as error:
        session.add("max_vram", "skipped", text=str(error))
        return
    with tempfile.TemporaryDirectory() as folder:
        wide = Path(folder) / "wide.gguf"
        made = run(session, [sys.executable, build.ROOT / "tools" / "make_gguf.py", "--shape", "1b", "--layers", "4", wide], 60)
        for model, megabytes in (("demo", 3.0), ("demo", 64.0), (str(wide), 60.0), (str(wide), 400.0)):
            if made.state == "ok" or model == "demo":
                hold(session, watch, model, megabytes)
    watch.close()


def hold(session: Session, watch: Watch, model: str, megabytes: float) -> None:
    name = f"max_vram: {Path(model).stem}, {megabytes:.0f} MiB beside the context"
    with watch:
        done = run(session, build.python("tests.gpu.models", "--hold", model, str(megabytes), "0.3"), 60)
    found = json_in(done.output)
    if done.state != "ok" or not found:
        session.add(name, "FAILED", done.seconds, done.tail())
        return
    ram = found.pop("ram")
    sizes = {key: int(str(value)) for key, value in found.items()}
    planned = sum(sizes.values()) - sizes["budget"] - 2 * sizes["context"]        # fixed holds the context too
    context = watch.taken - planned
    text = (f"{watch.taken / MIB:.0f} MiB taken of {sizes['budget'] / MIB:.0f}; planned for the model {planned / MIB:.0f}, so the context "
            f"with all kernels takes {context / MIB:.0f} (the backend counts {sizes['context'] / MIB:.0f})")
    session.add(name, "ok" if watch.taken <= sizes["budget"] else "FAILED", done.seconds, text)
    hold_ram(session, name.replace("max_vram", "max_ram"), ram)


def hold_ram(session: Session, name: str, ram: dict[str, int]) -> None:
    """Anonymous memory of the process against what the engine booked, the driver's own in it: docs/design.md, invariant 2."""
    own = ram["held"] - ram["context"]
    text = (f"{ram['grown'] / MIB:.0f} MiB more anonymous memory, {ram['held'] / MIB:.0f} booked, {own / MIB:.0f} of them the model's, so "
            f"CUDA takes {(ram['grown'] - own) / MIB:.0f}, or more where its page-locked memory is not anonymous (plans count "
            f"{ram['context'] / MIB:.0f})")
    session.add(name, "ok" if ram["grown"] <= ram["held"] + 16 * MIB else "FAILED", 0.0, text)


# ---- compute-sanitizer --------------------------------------------------------------------------------------------------------------


def sanitizer_path() -> str | None:
    toolkits = [os.environ.get("CUDA_PATH", ""), os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    folders = [os.path.join(folder, part) for folder in toolkits if folder for part in ("bin", "compute-sanitizer")]
    return shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))


def sanitizers(session: Session) -> None:
    tool = sanitizer_path()
    if not tool:
        session.add("compute-sanitizer", "skipped", text="not installed")
        return
    for kind, cases in (("memcheck", MEMCHECK), ("racecheck", RACECHECK)):
        for test, words in cases.items():
            command: list[str | Path] = [session.folder / "gpu" / f"gpu_test_{test}", *([words] if words else [])]
            if not sanitized(session, tool, kind, f"{test} {words}".strip(), command):
                return
    check = "streamed_weights_give_the_bits_of_resident_ones"
    sanitized(session, tool, "memcheck", "a streamed model", build.python("tests.gpu.models", check))


def sanitized(session: Session, tool: str, kind: str, what: str, command: Sequence[str | Path]) -> bool:
    """Runs one case; False where the tool itself cannot run, so that no other will."""
    name = f"compute-sanitizer {kind}: {what}"
    if session.skip_late(name):
        return True
    words = [tool, "--tool", kind, "--error-exitcode", "9", "--print-limit", "5", "--target-processes", "all"]
    if kind == "memcheck":
        words += ["--report-api-errors", "no"]                      # a refused page lock is asked for and handled
    done = run(session, [*words, *command], 90)
    summary = re.findall(r"=+ (?:ERROR|RACECHECK) SUMMARY: (.*)", done.output)
    if re.search(r"Device not supported|unable to|not supported on|Failed to initialize", done.output, re.I) and not summary:
        session.add("compute-sanitizer", "skipped", done.seconds, f"it cannot run here: {done.tail()}")
        return False
    if done.code is None:
        session.add(name, "skipped", done.seconds, "ran out of time without an end; what it printed: " + done.tail()[:120])
        return True
    if done.code:
        print(done.output[-6000:])
    session.add(name, done.state, done.seconds, "; ".join(summary) or done.tail())
    return True


# ---- all of it ------------------------------------------------------------------------------------------------------------------------

PARTS = {"kernels": kernels, "models": models, "memory": memory, "pytest": python_tests, "sanitizer": sanitizers}


def summary(lines: Sequence[Line], seconds: float) -> str:
    """The table, and in its last line how many of which."""
    width = max((len(line.name) for line in lines), default=4)
    rows = [f"{line.name:<{width}}  {line.state:<7}  {line.seconds:6.1f} s  {line.text}" for line in lines]
    counts = [f"{sum(line.state == state for line in lines)} {word}" for state, word in
              (("ok", "held"), ("FAILED", "failed"), ("skipped", "skipped"))]
    return "\n".join([*rows, f"{', '.join(counts)} in {seconds:.0f} s"])


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    ap = argparse.ArgumentParser("python -m tests.gpu.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--build", type=Path, default=build.FOLDER, metavar="FOLDER", help="where to build; default: build/gpu")
    ap.add_argument("--prebuilt", action="store_true", help="the folder has all that is needed: build nothing")
    ap.add_argument("--build-only", action="store_true", help="build and end; needs nvcc, but no GPU")
    ap.add_argument("--pack", type=Path, metavar="FOLDER", help="copy what running needs there, stripped")
    ap.add_argument("--architectures", default="", metavar="LIST", help="compute capabilities to build for, as 80,90; default: the GPU's")
    ap.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    ap.add_argument("--seconds", type=float, default=470, help="for all that runs; what there is no time for is skipped, and said so")
    ap.add_argument("--jobs", type=int, default=0, help="of the build")
    ap.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    options = ap.parse_args(words)
    if options.prebuilt and (options.build_only or options.pack):
        ap.error("--prebuilt builds nothing: leave --build-only and --pack out")
    return options


def made(options: argparse.Namespace) -> None:
    """Builds or looks for what was built; raises BuildError."""
    if not options.prebuilt:
        took = build.build(options.build, options.architectures, options.jobs)
        print(f"built in {took:.0f} s: {options.build}", flush=True)
    if lacking := build.missing(options.build):
        raise build.BuildError(f"{options.build} lacks {', '.join(lacking)}; build it with --build-only on a machine with nvcc")
    if options.pack:
        print(f"packed {build.pack(options.build, options.pack) / 1e6:.1f} MB: {options.pack}")


def main(words: Sequence[str] | None = None) -> int:
    options, began = arguments(words), time.monotonic()
    try:
        if not options.build_only:
            gpu = facts()
            print(f"{gpu['name']}, compute capability {gpu['major']}.{gpu['minor']}, {gpu['memory_bytes'] / 2**30:.0f} GiB, "
                  f"driver for CUDA {gpu['cuda_of_driver']}", flush=True)
        made(options)
    except NoGpuError as error:
        print(f"check: no GPU: {error}; nothing was checked", file=sys.stderr)
        return NO_GPU
    except build.BuildError as error:
        print(f"check: {error}", file=sys.stderr)
        return 2
    if options.build_only:
        return 0
    session = Session(options.build, build.package(options.build), began + options.seconds)
    for part in options.only:
        PARTS[part](session)
    print("\n" + summary(session.lines, time.monotonic() - began))
    if options.json:
        options.json.write_text(json.dumps({"gpu": gpu, "lines": [vars(line) for line in session.lines]}, indent=1) + "\n")
    return 1 if any(line.state == "FAILED" for line in session.lines) else 0


if __name__ == "__main__":
    sys.exit(main())
