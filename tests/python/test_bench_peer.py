"""tests/bench/peer_llama_cpp.py: the peer of the benchmarks runs the same model on the same tokens.

Needs a Python with llama-cpp-python or ik-llama-cpp-python: this one, or the one that AIRPY_PEER_PYTHON names."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TESTS = Path(__file__).parents[1]
PYTHON = os.environ.get("AIRPY_PEER_PYTHON", sys.executable)


def has(module: str) -> bool:
    return subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True).returncode == 0


@pytest.fixture(scope="module", autouse=True)
def llama_cpp_is_there() -> None:
    if not any(has(module) for module in ("llama_cpp", "ik_llama_cpp")):
        pytest.skip(f"{PYTHON} has no llama-cpp-python; AIRPY_PEER_PYTHON may name one that has")


def run_peer(model: str, *options: str) -> subprocess.CompletedProcess[str]:
    script, file = TESTS / "bench" / "peer_llama_cpp.py", TESTS / "golden" / "models" / f"{model}.gguf"
    command = [PYTHON, str(script), str(file), *options]
    return subprocess.run(command, capture_output=True, text=True)


def peer(model: str, *options: str) -> dict[str, Any]:
    run = run_peer(model, *options)
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout)
    return result


@pytest.mark.parametrize("load", ["mmap", "none", "direct"])
def test_the_peer_chooses_the_golden_tokens(load: str) -> None:
    if load == "direct" and not has("llama_cpp"):
        pytest.skip("the fork has no such way to open a file")
    golden = np.load(TESTS / "golden" / "llama-gqa.npz")
    ids, new = ",".join(map(str, golden["input_ids"])), len(golden["greedy_ids"])
    got = peer("llama-gqa", "--ids", ids, "--new", str(new), "--load", load, "--warm", "2", "--threads", "1")
    assert got["ids"] == [golden["greedy_ids"].tolist()]
    assert len(got["pass_s"]) == new - 1
    assert got["decode_tok_s"] == pytest.approx(1 / np.median(got["pass_s"]))
    assert got["prefill_tok_s"] == pytest.approx(len(golden["input_ids"]) / got["prefill_s"])


def test_sequences_decoded_together_choose_what_each_chooses_alone() -> None:
    golden = np.load(TESTS / "golden" / "llama.npz")
    got = peer("llama", "--ids", ",".join(map(str, golden["input_ids"])), "--new", "8", "--sequences", "3", "--threads", "1",
               "--batch", "50")
    assert got["ids"] == [golden["greedy_ids"][:8].tolist()] * 3
    assert got["decode_tok_s"] == pytest.approx(3 / np.median(got["pass_s"]))


def test_a_context_too_small_is_one_line_and_a_failure() -> None:
    run = run_peer("llama", "--prompt", "300", "--ctx", "256", "--threads", "1")
    assert run.returncode == 1
    assert run.stderr.startswith("peer: llama_decode returned")
    assert run.stdout == "" and run.stderr.count("\n") == 1
