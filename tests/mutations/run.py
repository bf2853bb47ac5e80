"""Plants each mistake of table.py in a copy of the sources, builds, and runs the C test that must fail.

    python tests/mutations/run.py [--slice N/M] [--only TEXT] [--build FOLDER]

A survivor is an untested line. Prints a line per mutation; exit status 1 if one survives, does not apply or does not compile.
--slice 1/3 runs every third from the first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from table import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]
TEST_SECONDS = 60  # a mistake may hang a test: that is a failure too


def tool(name: str) -> str:
    """A program beside this Python, or on the path."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}") or name


def copy_changed(a: str, b: str) -> None:
    """A file that is the same keeps its time: a second run builds little, and never trusts an object of a mistake."""
    if not Path(b).exists() or Path(a).read_bytes() != Path(b).read_bytes():
        shutil.copy(a, b)


def make_copy(source: Path) -> None:
    """What the C build reads."""
    for folder in ("csrc", "tests/c", "tests/kernels"):
        shutil.copytree(ROOT / folder, source / folder, dirs_exist_ok=True, copy_function=copy_changed)
    for file in ("CMakeLists.txt", "pyproject.toml", "tests/CMakeLists.txt"):
        copy_changed(str(ROOT / file), str(source / file))
    golden = source / "tests" / "golden"
    if not golden.is_symlink():
        golden.symlink_to(ROOT / "tests" / "golden")


def configure(source: Path, build: Path) -> None:
    generator = ["-G", "Ninja"] if shutil.which(tool("ninja")) else []
    options = ["-DAIRPY_PYTHON=OFF", "-DAIRPY_CUDA=off", "-DAIRPY_CUDA_EMU=OFF", "-DAIRPY_TESTS=ON"]
    options += ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_C_FLAGS=-O1 -g0"]
    subprocess.run([tool("cmake"), "-S", source, "-B", build, *generator, *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        [sys.executable, ROOT / "tests" / "golden" / "make_malformed.py", build / "malformed"],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def compile_targets(build: Path, *targets: str) -> subprocess.CompletedProcess[str]:
    command = [tool("cmake"), "--build", str(build), "--parallel", str(os.cpu_count() or 1), "--target", *targets]
    return subprocess.run(command, capture_output=True, text=True)


def run_test(build: Path, m: Mutation) -> tuple[bool, str]:
    """Whether it passed, and its output."""
    command, env = [build / "tests" / m.killer, m.test], {**os.environ, "AIRPY_MALFORMED": str(build / "malformed")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TEST_SECONDS, env=env)
    except subprocess.TimeoutExpired:
        return False, "timed out"
    return done.returncode == 0, done.stdout


def plant(source: Path, build: Path, m: Mutation) -> str:
    """What became of it: "caught", or why not. The copy is as before afterwards."""
    file = source / "csrc" / m.file
    text = file.read_text()
    if text.count(m.old) != 1:
        return f"does not apply: its text is there {text.count(m.old)} times"
    try:
        file.write_text(text.replace(m.old, m.new))
        built = compile_targets(build, m.killer)
        if built.returncode:
            return "does not compile: " + built.stdout[-2000:]
        passed, output = run_test(build, m)
        return f"SURVIVED {m.killer} {m.test}" if passed or "no test matches" in output else "caught"
    finally:
        file.write_text(text)


def chosen(arguments: argparse.Namespace) -> list[Mutation]:
    part, parts = map(int, arguments.slice.split("/"))
    if not 1 <= part <= parts:
        raise SystemExit(f"--slice {arguments.slice}: the first number is 1 to the second")
    return [m for i, m in enumerate(MUTATIONS) if i % parts == part - 1 and arguments.only in m.name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slice", default="1/1", help="N/M: every M-th mutation from the N-th")
    parser.add_argument("--only", default="", help="those whose name contains this")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "mutations", help="folder of the copy and its build")
    arguments = parser.parse_args()
    source, build = arguments.build / "source", arguments.build / "build"
    make_copy(source)
    configure(source, build)
    mutations, began = chosen(arguments), time.monotonic()
    sound = compile_targets(build, *sorted({m.killer for m in mutations}))
    if sound.returncode:
        print(sound.stdout[-4000:], sound.stderr)
        return 1
    killers = {(m.killer, m.test): m for m in mutations}
    unsound = [f"{m.killer} {m.test}" for m in killers.values() if not run_test(build, m)[0]]
    if unsound:
        print("these fail without any mistake:", *unsound, sep="\n  ")
        return 1
    survivors = 0
    for m in mutations:
        fate = plant(source, build, m)
        survivors += fate != "caught"
        print(f"{time.monotonic() - began:6.1f} s  {fate:8}  {m.file}: {m.name}", flush=True)
    print(f"{len(mutations)} mutations, {survivors} not caught")
    return 1 if survivors or not mutations else 0


if __name__ == "__main__":
    sys.exit(main())
