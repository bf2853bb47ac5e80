"""Small models of the shapes that mixes look at: many layers, 80 of them, eight experts, rows that are no whole blocks, a tied output.
For check_llama_cpp_files.py, which records what llama.cpp makes of their tensors, and tests/python/test_quantize.py."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import make_gguf

SMALL = {"embd": 256, "ff": 256, "vocab": 320, "ctx": 64}
DENSE: dict[str, dict[str, Any]] = {
    "30 layers": {"layers": 30, "heads": 4, "kv_heads": 4, **SMALL},
    "80 layers": {"layers": 80, "heads": 8, "kv_heads": 1, **SMALL},
    "tied": {"layers": 5, "heads": 4, "kv_heads": 1, "tied": True, **SMALL},
    "narrow": {"layers": 4, "heads": 4, "kv_heads": 1, **SMALL, "embd": 288, "ff": 320},
}
SHAPES = (*DENSE, "experts")
LETTERS = {  # one for each type, so that a kind's layers are a short text
    "F32": "f", "F16": "h", "BF16": "b", "Q8_0": "8", "Q6_K": "6", "Q5_K": "5", "Q4_K": "4", "Q3_K": "3", "Q2_K": "2", "Q4_0": "a",
    "Q4_1": "c", "Q5_0": "d", "Q5_1": "e",
}  # fmt: skip


def write(path: Path, shape: str) -> Path:
    """With weights in F16, all zero."""
    if shape in DENSE:
        make_gguf.write(path, type="F16", sparse=True, **DENSE[shape])
    else:
        _write_experts(path)
    return path


def _write_experts(path: Path, layers: int = 9, experts: int = 8) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_context_length, 64), (writer.add_embedding_length, 256), (writer.add_block_count, layers),
        (writer.add_feed_forward_length, 256), (writer.add_head_count, 8), (writer.add_head_count_kv, 2),
        (writer.add_expert_count, experts), (writer.add_expert_used_count, 2),
        (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_vocab_size, 320), (writer.add_rope_dimension_count, 32),
    ):  # fmt: skip
        add(value)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (320, 256), "output_norm": (256,), "output": (320, 256)}
    for i in range(layers):
        shapes |= {f"blk.{i}.{name}": shape for name, shape in {
            "attn_norm": (256,), "ffn_norm": (256,), "attn_q": (256, 256), "attn_k": (64, 256), "attn_v": (64, 256),
            "attn_output": (256, 256), "ffn_gate_inp": (experts, 256), "ffn_gate_exps": (experts, 256, 256),
            "ffn_up_exps": (experts, 256, 256), "ffn_down_exps": (experts, 256, 256),
        }.items()}  # fmt: skip
    for name, size in shapes.items():
        plain = len(size) == 1 or name.endswith("gate_inp")
        writer.add_tensor(f"{name}.weight", np.zeros(size, np.float32 if plain else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def summary(types: Mapping[str, str]) -> dict[str, str]:
    """Tensor types as a letter for each layer, by kind; one letter where all are alike."""
    kinds: dict[str, list[tuple[int, str]]] = {}
    for name, type in types.items():
        layer, kind = (int(name.split(".")[1]), name.split(".", 2)[2]) if name.startswith("blk.") else (0, name)
        kinds.setdefault(kind.removesuffix(".weight"), []).append((layer, LETTERS[type]))
    texts = {kind: "".join(letter for _, letter in sorted(found)) for kind, found in kinds.items()}
    return {kind: text[0] if len(set(text)) == 1 else text for kind, text in sorted(texts.items())}
