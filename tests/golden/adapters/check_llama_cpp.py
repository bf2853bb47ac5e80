"""Adapters as llama.cpp computes them: python tests/golden/adapters/check_llama_cpp.py, with a Python that has llama-cpp-python and airpy.

Writes the llama cases as GGUF adapters, runs the golden model with them through llama.cpp, and prints the squared error of the last
token's logits over the squared logits: of llama.cpp's against PEFT's, and of airpy's with the same file.
"""
from __future__ import annotations

import ctypes
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))
from airpy import AutoModel  # noqa: E402
from airpy.adapters.peft import read_peft  # noqa: E402

SILENCE = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)  # as long as anything is logged
MODEL, TOKENS = HERE.parent / "models" / "llama.gguf", 24


def write(path: Path, case: str, heads: tuple[int, int]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 0.0)
    for matrix in read_peft(str(HERE / case), "llama", heads):
        a, b = matrix.read()
        writer.add_tensor(f"{matrix.name}.lora_a", a)
        writer.add_tensor(f"{matrix.name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def of_llama_cpp(adapter: Path, ids: list[int]) -> Any:
    model = llama_cpp.Llama(str(MODEL), lora_path=str(adapter), logits_all=True, n_ctx=64, verbose=False, n_threads=1)
    model.eval(ids)
    return model.scores[len(ids) - 1]


def error(got: Any, want: Any) -> float:
    return float(np.square(got - want).sum() / np.square(want).sum())


def main() -> None:
    llama_cpp.llama_log_set(SILENCE, ctypes.c_void_p(0))
    ids = np.load(HERE.parent / "llama.npz")["input_ids"][:TOKENS].tolist()
    with AutoModel.from_pretrained(MODEL, kv_dtype="f32", progress=False) as model, tempfile.TemporaryDirectory() as folder:
        heads = (model.config.num_attention_heads, model.config.num_key_value_heads)
        for case in ("llama-all", "llama-attention", "llama-patterns"):
            file = Path(folder) / f"{case}.gguf"
            write(file, case, heads)
            model.load_adapter(file, case)
            want = np.load(HERE / f"{case}.npz")["logits"][-1]
            print(f"{case}: llama.cpp {error(of_llama_cpp(file, ids), want):.1e}, airpy {error(model([ids]).logits[0, -1], want):.1e}")


if __name__ == "__main__":
    main()
