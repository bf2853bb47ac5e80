"""The C tests, and those of CUDA sources on the emulation, each a test here: built once with CMake (conftest.py), run one executable at
a time."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from models import tool

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("tests/c/test_*.c"), *ROOT.glob("tests/kernels/test_*.c")])
CUDA_SOURCES = sorted(ROOT.glob("tests/cuda_emu/test_*.cu"))


@pytest.mark.timeout(900)  # the first one builds
@pytest.mark.parametrize("name", [source.stem for source in SOURCES])
def test_c(executables, name):
    done = subprocess.run([executables / name], capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [source.stem for source in CUDA_SOURCES])
def test_cuda_sources_on_an_emulation(executables, name):
    if not (executables / name).exists() and not tool(os.environ.get("CXX", "c++")):
        pytest.skip("needs a C++ compiler")
    test_c(executables, name)


@pytest.mark.timeout(900)
def test_the_bench_finds_products_in_any_case_and_says_where_there_is_none(executables):
    found, missed = (
        subprocess.run([executables / "test_kernels", "--bench", part], capture_output=True, text=True) for part in ("ref f32", "q99")
    )
    assert found.returncode == 0 and re.search(r"^ref +F32 +1 +L2 ", found.stdout, re.M)
    assert missed.returncode == 1 and 'no kernel matches "q99"' in missed.stdout


@pytest.mark.timeout(900)
def test_only_kernel_files_need_more_than_any_x86_64_has(executables):
    """VEX and EVEX (names with v) and the newer bit instructions stand in files that dispatch chooses at run time."""
    objdump = tool("objdump")
    if platform.machine() != "x86_64" or not objdump:
        pytest.skip("needs x86-64 and objdump")
    objects = executables.parent / "csrc" / "CMakeFiles" / "air.dir"
    newer = r"\t(v(?!er[rw])[a-z]\w*|(?:pdep|pext|sarx|shlx|shrx|rorx|andn|mulx|popcnt)\b)"
    wide = {}
    for path in objects.rglob("*.o"):
        listing = subprocess.run([objdump, "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True).stdout
        wide[str(path.relative_to(objects))] = set(re.findall(newer, listing))
    assert len(wide) > 40
    assert any("x86/avx512" in name and found for name, found in wide.items())
    assert not {name: found for name, found in wide.items() if found and "kernels/x86/" not in name}


def test_the_golden_logits_of_the_c_tests_are_those_of_the_files():
    script = ROOT / "tests" / "golden" / "make_c_header.py"
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "tests" / "c" / "golden_logits.h").read_text()


def test_there_are_c_tests_to_run():
    assert len(SOURCES) >= 5
