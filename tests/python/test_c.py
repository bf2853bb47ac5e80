"""The C tests, each a test here: built once with CMake, run one executable at a time.

AIRPY_C_TESTS names a folder with executables built already (the sanitizers' run); otherwise they are built in build/c_tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("tests/c/test_*.c"), *ROOT.glob("tests/kernels/test_*.c")])


def tool(name: str) -> str | None:
    """A program beside this Python, or on the path."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


@pytest.fixture(scope="session")
def executables() -> Path:
    given = os.environ.get("AIRPY_C_TESTS")
    if given:
        return Path(given)
    cmake, compiler = tool("cmake"), tool(os.environ.get("CC", "cc"))
    if not cmake or not compiler:
        pytest.skip("the C tests need cmake and a C compiler")
    folder = ROOT / "build" / "c_tests"
    configure = [cmake, "-S", str(ROOT), "-B", str(folder), "-DAIRPY_PYTHON=OFF", "-DAIRPY_TESTS=ON", "-DCMAKE_BUILD_TYPE=Release"]
    for command in (configure, [cmake, "--build", str(folder), "--parallel", str(os.cpu_count() or 1)]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "tests"


@pytest.mark.timeout(900)  # the first one builds
@pytest.mark.parametrize("name", [source.stem for source in SOURCES])
def test_c(executables, name):
    done = subprocess.run([executables / name], capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_golden_logits_of_the_c_tests_are_those_of_the_files():
    script = ROOT / "tests" / "golden" / "make_c_header.py"
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "tests" / "c" / "golden_logits.h").read_text()


def test_there_are_c_tests_to_run():
    assert len(SOURCES) >= 5
