"""The tensors that quantisers are compared on: of known distributions, by seed, and weights of the bundled model. For
check_llama_cpp_quantise.py, which measures llama.cpp's, and tests/python/test_quantise_formats.py, which measures ours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
ROWS, COLUMNS = 64, 1024
WEIGHTS = ("token_embd.weight", "blk.0.attn_q.weight", "blk.2.attn_v.weight", "blk.3.ffn_down.weight", "blk.5.ffn_up.weight")


def seeded() -> dict[str, Floats]:
    """By name, [ROWS, COLUMNS]. RandomState's streams are frozen, whatever the version of NumPy."""
    r = np.random.RandomState(20261)
    shape = (ROWS, COLUMNS)
    tensors = {
        "normal": 0.02 * r.standard_normal(shape),
        "laplace": 0.02 * r.laplace(size=shape),
        "heavy tails": 0.02 * r.standard_t(4, shape),
        "uniform": r.uniform(-1, 1, shape),
        "off zero": 0.02 * r.standard_normal(shape) + 0.03,
        "scaled columns": r.standard_normal(shape) * np.exp(r.standard_normal((1, COLUMNS))),
    }
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def tensors(weights: Callable[[str], Floats]) -> dict[str, Floats]:
    """All of them. weights: the bundled model's, decoded."""
    return seeded() | {name: weights(name) for name in WEIGHTS}


def errors(x: Floats, decoded: Floats) -> tuple[float, float]:
    """Root of the squared error over the squared weights: plain, and with weights x²."""
    x64 = x.astype(np.float64).ravel()
    square = (decoded.astype(np.float64).ravel() - x64) ** 2
    return float(np.sqrt(square.sum() / (x64**2).sum())), float(np.sqrt((square * x64**2).sum() / (x64**4).sum()))
