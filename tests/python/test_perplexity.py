"""The bundled models' perplexity on held-out text is the one llama.cpp and PyTorch measured (tools/demo_model/README.md)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import airpy
from airpy import _core

ROOT = Path(__file__).resolve().parents[2]
ASSETS = Path(airpy.__file__).parent / "assets"
WINDOW = 512


def log_probability(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Of each id under its row, natural logarithm, in double."""
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x[np.arange(len(ids)), ids] - np.log(np.exp(x).sum(-1))


def perplexity(path: Path, windows: int | None = None, kv_dtype: str = "f16") -> float:
    """As llama-perplexity counts it: windows of 512, the second half of each scored, no BOS."""
    ids = np.array(airpy.Tokenizer.from_gguf(path).encode((ROOT / "tests/golden/demo_val.txt").read_text()), np.int32)
    engine = _core.Engine(_core.GGUF(os.fspath(path)), max_ram=256 << 20, kv_dtype=kv_dtype)
    total, count = 0.0, 0
    sequence = engine.sequence()
    for at in range(0, len(ids) - WINDOW + 1, WINDOW)[:windows]:
        window = ids[at : at + WINDOW]
        sequence.truncate(0)
        rows = np.asarray(engine.run([(sequence, window, WINDOW // 2, None, 0)], logits=True).logits)
        total += log_probability(rows[:-1], window[WINDOW // 2 + 1 :]).sum()
        count += len(rows) - 1
    sequence.close()
    engine.close()
    return float(np.exp(-total / count))


@pytest.mark.parametrize(("name", "want"), [("demo-q8_0", 30.1689), ("draft-q8_0", 39.8814)])
def test_perplexity_is_that_of_the_other_implementations(name, want):
    assert perplexity(ASSETS / f"{name}.gguf") == pytest.approx(want, rel=2e-3)


@pytest.mark.parametrize(("kv_dtype", "rel"), [("q8_0", 5e-3), ("q4_0", 5e-3)])
def test_perplexity_with_quantised_state_is_near_that_in_f16(kv_dtype, rel):
    path = ASSETS / "demo-q8_0.gguf"
    got, want = perplexity(path, 8, kv_dtype), perplexity(path, 8)
    print(f"{kv_dtype}: {got:.4f}, f16 {want:.4f}")
    assert got == pytest.approx(want, rel=rel)
