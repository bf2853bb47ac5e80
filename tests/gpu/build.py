"""What the GPU tools run: the extension, the CUDA backend and the test programs, built here or before; and children that use them."""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.bench import common

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "gpu"
PROGRAMS = (
    "gpu_test_rows", "gpu_test_mixture", "gpu_test_recurrent", "gpu_test_attention", "gpu_test_products", "gpu_test_lora", "gpu_probe",
)  # fmt: skip
ORIGIN = "origin.json"
EXTENSION, PLUGIN = Path("csrc") / "_core.abi3.so", Path("cuda") / "libairpy_cuda.so"


class BuildError(Exception):
    """Why there is nothing to run."""


def build(folder: Path, architectures: str = "", jobs: int = 0) -> float:
    """Builds all of it for the GPUs here, or for the compute capabilities named; returns the seconds it took. Raises BuildError."""
    cmake, began = shutil.which("cmake"), time.monotonic()
    if not cmake:
        raise BuildError("cmake was not found; build the folder elsewhere and name it with --build FOLDER --prebuilt")
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DAIRPY_CUDA=on", "-DAIRPY_GPU_TESTS=ON", f"-DAIRPY_CUDA_ARCHITECTURES={architectures}"]
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    folder.mkdir(parents=True, exist_ok=True)
    parallel = str(jobs or os.cpu_count() or 1)
    configure = [cmake, *generator, "-S", str(ROOT), "-B", str(folder), *options]
    for command in (configure, [cmake, "--build", str(folder), "--parallel", parallel]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise BuildError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return time.monotonic() - began


def missing(folder: Path) -> list[str]:
    """What a prebuilt folder lacks."""
    wanted = [EXTENSION, PLUGIN, *(Path("gpu") / name for name in PROGRAMS)]
    return [str(path) for path in wanted if not (folder / path).exists()]


def origin(folder: Path) -> dict[str, str]:
    """Of what is in a folder: the CUDA version that built it, and the commit, which a packed one brings along."""
    packed = folder / ORIGIN
    if packed.exists():
        found: dict[str, str] = json.loads(packed.read_text())
        return found
    caches = [path.read_text() for path in folder.glob("CMakeFiles/*/CMakeCUDACompiler.cmake")]
    cuda = [match[1] for text in caches if (match := re.search(r'CMAKE_CUDA_COMPILER_VERSION "([^"]+)"', text))]
    return {"cuda": cuda[0] if cuda else "", "commit": common.commit() if (ROOT / ".git").exists() else ""}


def pack(folder: Path, to: Path) -> int:
    """Copies what running needs, and no more, to another folder, which --build FOLDER --prebuilt takes; returns its bytes. Symbols
    go, where there is a strip."""
    strip, total = shutil.which("strip"), 0
    for path in [EXTENSION, PLUGIN, *(Path("gpu") / name for name in PROGRAMS)]:
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(folder / path, to / path)
        if strip:
            subprocess.run([strip, str(to / path)], check=False)
        total += (to / path).stat().st_size
    (to / ORIGIN).write_text(json.dumps(origin(folder)) + "\n")
    return total


def package(folder: Path) -> Path:
    """A folder for PYTHONPATH with the tree's airpy and the extension and backend of the build: the tree itself stays as it is."""
    home = folder / "python"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(ROOT / "airpy", home / "airpy", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for path in (EXTENSION, PLUGIN):
        shutil.copy2(folder / path, home / "airpy")
    return home


def environment(home: Path | None, **more: str) -> dict[str, str]:
    """Of a child that imports airpy from `home` (None: from wherever this process does), and tests and tools from the tree."""
    folders = [str(home) if home else "", os.environ.get("PYTHONPATH", ""), str(ROOT)]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, folders)), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    if home:
        own["AIRPY_CUDA_PLUGIN"] = str(home / "airpy" / PLUGIN.name)
    return {**os.environ, **own, **more}


def python(module: str, *words: str) -> list[str]:
    return [sys.executable, "-m", module, *words]
