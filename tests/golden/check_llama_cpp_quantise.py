"""llama.cpp's quantisers on the tensors of quantise_tensors.py: writes quantise_errors.json, which the tests hold airpy's against, and
prints airpy's errors beside them.

    pip install . llama-cpp-python numpy gguf
    PYTHONPATH=tests/golden python tests/golden/check_llama_cpp_quantise.py           exit code 1 if airpy is worse anywhere
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
from quantise_tensors import Floats, errors, tensors

import airpy
from airpy import _core

HERE = Path(__file__).parent
MODEL = Path(airpy.__file__).parent / "assets" / "demo-q8_0.gguf"
FORMATS = ("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K")


def weights(name: str) -> Floats:
    tensor = next(t for t in gguf.GGUFReader(MODEL).tensors if t.name == name)
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


def library() -> ctypes.CDLL:
    base = next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*"))
    ggml = ctypes.CDLL(str(base))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    return ggml


def their_blocks(ggml: ctypes.CDLL, name: str, x: Floats) -> npt.NDArray[np.uint8]:
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros(x.size // block * size, np.uint8)
    rows, columns = x.shape
    ggml.ggml_quantize_chunk(int(kind), x.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    return out


def main() -> int:
    ggml, found, worse = library(), {}, 0
    print("| format | plain error over llama.cpp's | with weights x² | million weights/s, one thread | llama.cpp |\n|---|---|---|---|---|")
    given = {name: np.ascontiguousarray(x) for name, x in tensors(weights).items()}
    for name in FORMATS:
        seconds, ratios = [0.0, 0.0], []
        for tensor, x in given.items():
            start = time.perf_counter()
            ours = _core.convert("F32", name, x)
            between = time.perf_counter()
            theirs = their_blocks(ggml, name, x)
            seconds[0] += between - start
            seconds[1] += time.perf_counter() - between
            ours_error, theirs_error = (errors(x, np.asarray(_core.dequantize(name, blocks))) for blocks in (ours, theirs))
            found.setdefault(tensor, {})[name] = [float(f"{e:.6g}") for e in theirs_error]
            ratios.append([a / b if b else float(a > 0) + 1 for a, b in zip(ours_error, theirs_error, strict=True)])  # 0: as they were
        worse += sum(ratio > 1 for pair in ratios for ratio in pair)
        low, high = np.min(ratios, 0), np.max(ratios, 0)
        speeds = [f"{sum(x.size for x in given.values()) / s / 1e6:.0f}" for s in seconds]
        print(f"| {name} | {low[0]:.3f} to {high[0]:.3f} | {low[1]:.3f} to {high[1]:.3f} | {speeds[0]} | {speeds[1]} |")
    lines = ",\n".join(f" {json.dumps(tensor)}: {json.dumps(row)}" for tensor, row in found.items())
    (HERE / "quantise_errors.json").write_text(f"{{\n{lines}\n}}\n")
    return int(worse > 0)


if __name__ == "__main__":
    sys.exit(main())
