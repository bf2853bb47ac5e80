"""What a real GPU gives, each figure beside its bound: python -m tests.gpu.bench [--build FOLDER [--prebuilt]] [--seconds 240]

Measures the link, the memory and the kernels (gpu_probe), then whole models of random weights, made on the spot: decoding with all weights
in VRAM and with less VRAM than weights, and prompts. A model n times the VRAM has a budget of its weights / n beside what the device takes
for itself. The bound of a pass is that of the bytes it must move: all weights at the speed the memory was read at, those not in VRAM at the
speed of page-locked copies; both go on at once, so the longer of the two.

What matters most comes first; what there is no time for is left out, and said so. Results are written after every step, to
tests/gpu/results/GPU.json and .md, or where --out says; those of an emulated GPU (AIRPY_CUDA_PLUGIN) only where --out says.
Exit status: 0, 1 a step failed, 2 wrong arguments or nothing to run, 3 no GPU.
"""
from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import importlib.util
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.gpu import build, table
from tests.gpu.driver import NO_GPU, NoGpuError, facts

Json = dict[str, Any]
RESULTS = Path(__file__).with_name("results")
MIB = 1 << 20
HEADROOM = 3 << 30                  # of RAM beside a model's weights: KV cache, ring, tokenizer, the interpreter
FIRST_FORMATS = ("Q4_K", "Q8_0", "Q6_K", "F16")
NO_RATES = ("took_s", "failed", "left_out")     # of a step


@dataclass(frozen=True)
class Synthetic:
    """A model to be made: make_gguf's shape and type, and what is cut of it."""

    name: str
    shape: str
    type: str
    layers: int = 0


SYNTHETIC = (Synthetic("7b-q4_k", "7b", "Q4_K"), Synthetic("7b-q8_0", "7b", "Q8_0"), Synthetic("70b-wide-q4_k", "70b", "Q4_K", 8))


@dataclass
class Bench:
    options: argparse.Namespace
    home: Path | None
    probe: Path
    found: Json
    ends: float
    out: Path | None
    folder: Path
    files: dict[str, Path] = field(default_factory=dict)
    failed: bool = False

    def left(self) -> float:
        return self.ends - time.monotonic()

    def run(self, command: Sequence[str | Path]) -> str:
        """What the command prints. Raises RuntimeError where it fails, or the time is over."""
        limit = max(5.0, self.left() + 15)
        try:
            done = subprocess.run([str(word) for word in command], cwd=build.ROOT, env=build.environment(self.home), text=True,
                                  capture_output=True, timeout=limit)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"no time left after {limit:.0f} s") from None
        if done.returncode:
            raise RuntimeError(f"ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}")
        return done.stdout

    def probed(self, task: str, *names: str, megabytes: float = 0) -> Json:
        size = megabytes or self.options.megabytes
        found: Json = json.loads(self.run([self.probe, task, str(size), str(self.options.each), *names]))
        return found

    def worker(self, task: str, model: Path, **options: Any) -> Json:
        probed = ("probe", "cpu") if options.get("cpu_share", 0) is None else ("probe",)
        rates = {name: rate for step in probed for name, rate in self.found["steps"].get(step, {}).items() if name not in NO_RATES}
        given = {"n_ctx": self.options.n_ctx, "rates": rates, "cpu_share": 0, **options}
        found: Json = json.loads(self.run(build.python("tests.gpu.worker", task, str(model), json.dumps(given))))
        return found

    def figure(self, step: str, name: str) -> float:
        """A figure found before; 0 where it was not."""
        return float(self.found["steps"].get(step, {}).get(name, 0.0))

    def step(self, name: str, needs: float, work: Callable[[], Json]) -> None:
        """Runs a step if there is time, and writes all that there is."""
        began = time.monotonic()
        if self.left() < needs:
            found: Json = {"left_out": f"{self.left():.0f} s were left, it takes about {needs:.0f}"}
        else:
            try:
                found = work()
            except LeftOut as why:
                found = {"left_out": str(why)}
            except Exception as error:      # the others go on; what went wrong is a result
                found, self.failed = {"failed": f"{type(error).__name__}: {error}"}, True
        self.found["steps"][name] = {**found, "took_s": round(time.monotonic() - began, 2)}
        for line in table.rows_of(name, self.found):
            print(f"{line['what']:<52} {line['text']}", flush=True)
        self.write()

    def write(self) -> None:
        if self.out is None:
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.found, indent=1) + "\n")
        self.out.with_suffix(".md").write_text(table.page([self.found]))


class LeftOut(Exception):
    """Why a step cannot be done here."""


# ---- steps ------------------------------------------------------------------------------------------------------------------------


def model_file(bench: Bench, model: Synthetic) -> Path:
    """The model, made on first use."""
    if model.name in bench.files:
        return bench.files[model.name]
    from tools import make_gguf

    shape, path = make_gguf.SHAPES[model.shape], bench.folder / f"{model.name}.gguf"
    layers = model.layers or shape.layers
    size = make_gguf.FORMATS[model.type].bytes / make_gguf.FORMATS[model.type].block
    weights = layers * (2 * shape.embd**2 + 2 * shape.embd * shape.kv_heads * shape.head + 3 * shape.embd * shape.ff)
    bytes = int(size * (weights + 2 * shape.vocab * shape.embd))
    memory = available_memory()
    in_memory = bytes if memory_backed(bench.folder) else 0
    if shutil.disk_usage(bench.folder).free < bytes + 64 * MIB:
        raise LeftOut(f"{bytes / 1e9:.1f} GB do not fit {bench.folder}")
    if memory < in_memory + bytes + HEADROOM:
        raise LeftOut(f"the file and its page-locked copy need {(in_memory + bytes + HEADROOM) / 1e9:.1f} GB of RAM")
    words = ["--shape", model.shape, "--type", model.type, *(["--layers", str(model.layers)] if model.layers else [])]
    bench.run([sys.executable, build.ROOT / "tools" / "make_gguf.py", *words, path])
    bench.files[model.name] = path
    return path


def backend_probe(bench: Bench, formats: Sequence[str]) -> Json:
    """What plans are told: the backend's own, shorter measures."""
    options = json.dumps({"types": list(formats), "megabytes": min(256.0, bench.options.megabytes)})
    found: Json = json.loads(bench.run(build.python("tests.gpu.worker", "probe", "", options)))
    return found


def cpu_probe(bench: Bench, formats: Sequence[str]) -> Json:
    """What a plan is told of the CPU where that may compute a share."""
    options = json.dumps({"types": list(formats), "megabytes": min(256.0, bench.options.megabytes)})
    found: Json = json.loads(bench.run(build.python("tests.gpu.worker", "cpu", "", options)))
    return found


def drop(bench: Bench, model: Synthetic) -> None:
    """Its room is another's."""
    if model.name in bench.files and model.name != "given":
        bench.files.pop(model.name).unlink(missing_ok=True)


def decode_resident(bench: Bench, model: Synthetic) -> Json:
    path = model_file(bench, model)
    return bench.worker("decode", path, new=bench.options.new, max_ram=path.stat().st_size + HEADROOM)


def decode_streamed(
    bench: Bench, model: Synthetic, ratio: float, io: str, ram_share: float, cpu_share: float | None = 0
) -> Json:
    """ram_share: how much of the weights RAM may hold; 1 and more: all. cpu_share: None is as much as the plan chooses."""
    path = model_file(bench, model)
    size = path.stat().st_size
    ram = size + HEADROOM if ram_share >= 1 else int(size * ram_share) + (1 << 30)
    new = max(3, int(bench.options.new / (2 if ram_share >= 1 else 8)))
    return bench.worker("decode", path, new=new, vram_bytes=int(size / ratio), io=io, max_ram=ram, cpu_share=cpu_share)


def prefill(bench: Bench, model: Synthetic, ratio: float) -> Json:
    path = model_file(bench, model)
    size, prompts = path.stat().st_size, bench.options.prompts
    budget = {"vram_bytes": int(size / ratio), "io": "direct"} if ratio else {}
    found = bench.worker("prefill", path, prompts=prompts, n_ctx=max(prompts) + 16, max_ram=size + HEADROOM, **budget)
    return {**found, "of_format": bench.figure("prompts", f"{found['type']} x 512")}


def runtime(bench: Bench) -> Json:
    """What this machine lets a program do: locked pages are in the link's figures."""
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    found: Json = {"virtualised": " hypervisor" in flags, "cpus": len(os.sched_getaffinity(0)), "memory_bytes": available_memory(),
                   "kernel": ".".join(platform.release().split(".")[:2]), "python": platform.python_version(),
                   "folder_in_memory": memory_backed(bench.folder)}
    with tempfile.NamedTemporaryFile(dir=bench.folder) as file:
        file.write(bytes(MIB))
        file.flush()
        try:
            os.close(os.open(file.name, os.O_RDONLY | os.O_DIRECT))
            found["direct_reads"] = True
        except OSError:
            found["direct_reads"] = False
    return found


def llama_cpp(bench: Bench, model: Synthetic, ratio: float) -> Json:
    """llama-bench with as many layers on the GPU as a share of the model is; all for 0."""
    program = bench.options.llama_bench
    if not program:
        raise LeftOut("no --llama-bench given")
    from tools import make_gguf

    path, layers = model_file(bench, model), model.layers or make_gguf.SHAPES[model.shape].layers
    on_gpu = 99 if not ratio else int(layers / ratio)
    text = bench.run([program, "-m", path, "-ngl", str(on_gpu), "-p", str(bench.options.prompts[0]), "-n", "32", "-r", "2", "-o", "json"])
    runs = json.loads(text)
    return {"layers_on_gpu": on_gpu, "decode": max(r["avg_ts"] for r in runs if r["n_gen"]), "tokens": bench.options.prompts[0],
            "prompt": max(r["avg_ts"] for r in runs if not r["n_gen"]), "build": runs[0].get("build_commit", "")}


AIRLLM = """
import json, sys, time
from airllm import AutoModel
model = AutoModel.from_pretrained(sys.argv[1])
ids = model.tokenizer(["The meaning of"], return_tensors="pt")["input_ids"].cuda()
began = time.perf_counter()
model.generate(ids, max_new_tokens=2, use_cache=True, return_dict_in_generate=True)
print(json.dumps({"seconds_per_token": (time.perf_counter() - began) / 2}))
"""


def airllm(bench: Bench) -> Json:
    """Seconds of a token of a Hugging Face checkpoint, which is other bytes than a GGUF's."""
    if lacking := [name for name in ("airllm", "torch") if importlib.util.find_spec(name) is None]:
        raise LeftOut(f"not installed here: {', '.join(lacking)}")
    if not bench.options.airllm_model:
        raise LeftOut("no --airllm-model given")
    found: Json = json.loads(bench.run([sys.executable, "-c", AIRLLM, bench.options.airllm_model]).splitlines()[-1])
    return found


def other_formats() -> list[str]:
    from tools import make_gguf

    return [name for name in make_gguf.FORMATS if name not in FIRST_FORMATS]


def model_steps(bench: Bench, model: Synthetic, ratios: Sequence[float]) -> None:
    name = model.name
    bench.step(f"{name}: decode", 20, partial(decode_resident, bench, model))
    for ratio in ratios:
        streamed = partial(decode_streamed, bench, model, ratio, "direct", 1)
        bench.step(f"{name}: decode, {ratio:g} × VRAM", 15, streamed)
        bench.step(f"{name}: decode, {ratio:g} × VRAM, with the CPU", 15, partial(streamed, None))


def steps(bench: Bench) -> None:
    """The most telling first. Numbers are the seconds that a step is not begun without."""
    options = bench.options
    bench.step("runtime", 0, partial(runtime, bench))
    bench.step("link", 0, partial(bench.probed, "link"))
    bench.step("memory", 0, partial(bench.probed, "memory", megabytes=4 * options.megabytes))
    bench.step("probe", 0, partial(backend_probe, bench, options.formats or FIRST_FORMATS))
    bench.step("cpu", 0, partial(cpu_probe, bench, options.formats or FIRST_FORMATS))
    chosen = [Synthetic("given", "7b", "")] if options.model else list(SYNTHETIC)
    first, ratios, formats = chosen[0], list(options.ratios), options.formats or FIRST_FORMATS
    middle = [ratio for ratio in ratios if ratio in (2, 4)] or ratios[:1]
    model_steps(bench, first, middle)
    bench.step("products", 5, partial(bench.probed, "products", *formats))
    bench.step("prompts", 5, partial(bench.probed, "prompts", *formats))
    bench.step(f"{first.name}: prompt", 15, partial(prefill, bench, first, 0.0))
    bench.step(f"{first.name}: prompt, {middle[0]:g} × VRAM", 15, partial(prefill, bench, first, middle[0]))
    bench.step("attention", 5, partial(bench.probed, "attention", *map(str, options.depths)))
    for ratio in (0.0, middle[0]):
        bench.step(f"{first.name}: llama.cpp{f', {ratio:g} × VRAM' if ratio else ''}", 20, partial(llama_cpp, bench, first, ratio))
    for ratio in ratios:
        if ratio not in middle:
            bench.step(f"{first.name}: decode, {ratio:g} × VRAM", 15, partial(decode_streamed, bench, first, ratio, "direct", 1))
    bench.step(f"{first.name}: decode, {middle[0]:g} × VRAM, mapped", 15, partial(decode_streamed, bench, first, middle[0], "mmap", 1))
    for before, model in itertools.pairwise(chosen):
        drop(bench, before)
        model_steps(bench, model, middle)
        bench.step(f"{model.name}: prompt", 15, partial(prefill, bench, model, 0.0))
    if not options.formats:
        bench.step("products, other formats", 15, partial(bench.probed, "products", *other_formats()))
        bench.step("prompts, other formats", 20, partial(bench.probed, "prompts", *other_formats()))
    last = chosen[-1]
    bench.step(f"{last.name}: decode, {middle[0]:g} × VRAM, from disk", 30,
               partial(decode_streamed, bench, last, middle[0], "direct", 0.25))
    bench.step("airllm", 60, partial(airllm, bench))


# ---- the machine --------------------------------------------------------------------------------------------------------------------


def available_memory() -> int:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) << 10


def memory_backed(folder: Path) -> bool:
    return str(folder.resolve()).startswith("/dev/shm")


def is_emulated(plugin: str) -> bool:
    """Whether a backend is the tests' emulation (tests/cuda_emu)."""
    try:
        return hasattr(ctypes.CDLL(plugin), "air_emu_report")
    except OSError:
        return False


def driver_version() -> str:
    with contextlib.suppress(OSError):
        done = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True)
        return done.stdout.split("\n")[0].strip() if done.returncode == 0 else ""
    return ""


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    ap = argparse.ArgumentParser("python -m tests.gpu.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--build", type=Path, default=build.FOLDER, metavar="FOLDER", help="where to build; default: build/gpu")
    ap.add_argument("--prebuilt", action="store_true", help="the folder has all that is needed: build nothing")
    ap.add_argument("--seconds", type=float, default=240, help="for all of it, but the build; default: 240")
    ap.add_argument("--out", type=Path, metavar="FILE", help="the results' JSON, a table beside it; default: tests/gpu/results/GPU.json")
    ap.add_argument("--folder", type=Path, help="where models are made; default: /dev/shm if it has room, else the temporary one")
    ap.add_argument("--model", type=Path, help="this file alone instead of the synthetic ones")
    ap.add_argument("--ratios", type=float, nargs="+", default=[1.5, 2, 4, 10], metavar="N", help="models of so many times the VRAM")
    ap.add_argument("--prompts", type=int, nargs="+", default=[512, 4032], metavar="N", help="lengths of prompts")
    ap.add_argument("--depths", type=int, nargs="+", default=[8192, 32768], metavar="N", help="of the context, of attention")
    ap.add_argument("--formats", nargs="+", help="of the products; default: the common ones first, then all")
    ap.add_argument("--new", type=int, default=32, help="tokens timed")
    ap.add_argument("--n-ctx", type=int, default=512)
    ap.add_argument("--megabytes", type=float, default=512, help="that the probes walk through: several times the GPU's cache")
    ap.add_argument("--each", type=float, default=0.15, help="seconds of a figure of the probes")
    ap.add_argument("--llama-bench", help="llama.cpp's llama-bench, built with CUDA, to compare with")
    ap.add_argument("--airllm-model", help="a Hugging Face checkpoint for AirLLM, to compare with where it is installed")
    ap.add_argument("--probe", type=Path, help=argparse.SUPPRESS)       # of the emulation, for tests
    return ap.parse_args(words)


def gpu_facts(emulated: bool) -> Json:
    if not emulated:
        return {**facts(), "driver": driver_version()}
    from airpy.device import find_gpus

    gpu = find_gpus()[0][0]
    return {"name": gpu.name, "memory_bytes": gpu.total, "driver": "", "cuda_of_driver": ""}


def prepared(options: argparse.Namespace, folder: Path) -> Bench:
    """Builds or finds what runs. Raises NoGpuError or BuildError."""
    emulated = is_emulated(os.environ.get("AIRPY_CUDA_PLUGIN", ""))
    gpu = gpu_facts(emulated)
    probe, home = options.probe or options.build / "gpu" / "gpu_probe", None
    if not emulated:
        if not options.prebuilt:
            print(f"built in {build.build(options.build):.0f} s: {options.build}")
        if lacking := build.missing(options.build):
            raise build.BuildError(f"{options.build} lacks {', '.join(lacking)}")
        home = build.package(options.build)
    elif not options.probe:
        raise build.BuildError("the emulation needs --probe")
    slug = re.sub(r"[^a-z0-9]+", "-", gpu["name"].lower()).strip("-")
    out = options.out or (None if emulated else RESULTS / f"{slug}.json")
    found: Json = {"gpu": gpu, "emulated": emulated, **build.origin(options.build),
                   "taken": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"), "seconds": options.seconds, "steps": {}}
    bench = Bench(options, home, probe, found, time.monotonic() + options.seconds, out, folder)
    if options.model:
        bench.files["given"] = options.model.resolve()
    return bench


def default_folder() -> Path:
    """In memory, where a disk bounds nothing, if there is room for the largest model; containers often have none."""
    shared = Path("/dev/shm")
    has_room = os.access(shared, os.W_OK) and shutil.disk_usage(shared).free >= 8 << 30
    return shared if has_room else Path(tempfile.gettempdir())


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    with tempfile.TemporaryDirectory(dir=options.folder or default_folder(), prefix="airpy-bench-") as folder:
        try:
            bench = prepared(options, Path(folder))
        except NoGpuError as error:
            print(f"bench: no GPU: {error}; nothing was measured", file=sys.stderr)
            return NO_GPU
        except build.BuildError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        print(table.heading(bench.found))
        steps(bench)
    print(f"written to {bench.out}" if bench.out else "an emulated GPU: nothing was written")
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
