"""Mistakes planted in the order of the CUDA backend's copies and kernels are caught by its tests on the emulation."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from models import tool

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "mutations"))
import cuda  # noqa: E402


def test_every_mistake_applies_and_has_a_test_to_catch_it():
    assert len(cuda.MUTATIONS) >= 30
    assert len({m.name for m in cuda.MUTATIONS}) == len(cuda.MUTATIONS)
    for m in cuda.MUTATIONS:
        assert cuda.mutated(m) != (ROOT / "cuda" / m.file).read_text(), m.name
        tests = (ROOT / "tests" / "cuda_emu" / f"{m.killer}.cu").read_text()
        assert any(m.test in line for line in tests.splitlines() if line.startswith("TEST(")), m.name


@pytest.mark.timeout(900)  # the first one builds
def test_each_mistake_is_caught(executables, tmp_path):
    build = executables.parent
    if not tool(os.environ.get("CXX", "c++")) or not (executables / "test_stream_faults").exists():
        pytest.skip("needs a C++ compiler")
    if any("-fsanitize" in word for word in cuda.compile_command(build, "weights.cu")[0]):
        pytest.skip("a build without sanitizers is enough")
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        fates = list(workers.map(lambda i: cuda.fate(build, cuda.MUTATIONS[i], tmp_path / str(i)), range(len(cuda.MUTATIONS))))
    for m, became in zip(cuda.MUTATIONS, fates, strict=True):
        print(f"{became:8}  {m.file}: {m.name}")
    assert set(fates) == {"caught"}
