"""Which files become a model and how the others are refused: architecture, hyperparameters, tensors, each by name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from airpy import _core

gguf = pytest.importorskip("gguf", reason="these tests rewrite files with the gguf package")

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"
Q = "blk.1.attn_q.weight"
EMBEDDING = next(t.data.shape for t in gguf.GGUFReader(MODELS / "llama-gqa.gguf").tensors if t.name == "token_embd.weight")


def rewrite(source: Path, out: Path, keys: dict | None = None, tensors: dict | None = None) -> Path:
    """A copy with some keys set (None: dropped) and some tensors replaced (None: dropped)."""
    keys, tensors = dict(keys or {}), dict(tensors or {})
    reader = gguf.GGUFReader(source)
    fields = {k: f for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    arch = keys.pop("general.architecture", fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(out, arch)
    for name, field in fields.items():
        if name == "general.architecture" or name in keys:
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        else:
            writer.add_key_value(name, field.contents(), field.types[0])
    for name, value in keys.items():
        if isinstance(value, list):
            writer.add_array(name, value)
        elif value is not None:
            kinds = {str: gguf.GGUFValueType.STRING, int: gguf.GGUFValueType.UINT32, float: gguf.GGUFValueType.FLOAT32}
            writer.add_key_value(name, value, kinds[type(value)])
    for tensor in reader.tensors:
        data = tensors.pop(tensor.name, tensor.data)
        if data is not None:
            writer.add_tensor(tensor.name, data)
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def open_model(path: Path) -> _core.Engine:
    return _core.Engine(_core.GGUF(os.fspath(path)), max_ram=64 << 20)


def logits(path: Path, ids: np.ndarray) -> np.ndarray:
    engine = open_model(path)
    out = np.array(engine.run([(engine.sequence(), ids, 1, None, 0)], logits=True).logits)
    engine.close()
    return out


REFUSED = {  # keys, tensors, exception, what its message says
    "unknown architecture": ({"general.architecture": "mamba"}, {}, "UnsupportedError", r'"mamba" is unsupported.*llama, qwen2, qwen3'),
    "experts": ({"llama.expert_count": 8}, {}, "UnsupportedError", r"llama.expert_count is 8: mixtures of experts"),
    "no layers": ({"llama.block_count": None}, {}, "FormatError", r"no llama.block_count"),
    "zero layers": ({"llama.block_count": 0}, {}, "FormatError", r"llama.block_count.* 0"),
    "too many layers": ({"llama.block_count": 100000}, {}, "FormatError", r"llama.block_count.*100000"),
    "no heads": ({"llama.attention.head_count": None}, {}, "FormatError", r"no llama.attention.head_count"),
    "heads that do not divide": (
        {"llama.attention.head_count_kv": 3}, {}, "FormatError", r"head_count \d+ is not a multiple of head_count_kv 3"),
    "heads that differ by layer": (
        {"llama.attention.head_count_kv": [2, 4]}, {}, "UnsupportedError", r"llama.attention.head_count_kv differs between layers"),
    "odd rope": ({"llama.rope.dimension_count": 7}, {}, "FormatError", r"rope.dimension_count 7"),
    "rope wider than a head": ({"llama.rope.dimension_count": 4000}, {}, "FormatError", r"rope.dimension_count 4000"),
    "unknown rope scaling": ({"llama.rope.scaling.type": "longrope"}, {}, "UnsupportedError", r"rope.scaling.type is \"longrope\""),
    "rope base that is not finite": ({"llama.rope.freq_base": float("inf")}, {}, "FormatError", r"llama.rope.freq_base"),
    "no epsilon": ({"llama.attention.layer_norm_rms_epsilon": None}, {}, "FormatError", r"layer_norm_rms_epsilon"),
    "key of another type": ({"llama.embedding_length": "wide"}, {}, "FormatError", r"llama.embedding_length"),
    "missing tensor": ({}, {Q: None}, "ModelError", rf"no tensor {Q}, which llama needs"),
    "missing embedding": ({}, {"token_embd.weight": None}, "ModelError", r"token_embd.weight"),
    "mis-shaped tensor": (
        {}, {Q: np.zeros((3, 5), np.float32)}, "ModelError", rf"{Q} is \[5, 3, 1, 1\], but needs \[\d+, \d+\] \(head_count x head size"),
    "norm of another length": ({}, {"output_norm.weight": np.zeros(7, np.float32)}, "ModelError", r"output_norm.weight is \[7, 1, 1, 1\]"),
    "integers as a matrix": (
        {}, {"token_embd.weight": np.zeros(EMBEDDING, np.int32)}, "UnsupportedError", r"of type I32, which cannot be a matrix"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_no_model_of_ours_is_refused_by_name(tmp_path, name):
    keys, tensors, exception, message = REFUSED[name]
    path = rewrite(MODELS / "llama-gqa.gguf", tmp_path / "m.gguf", keys, tensors)
    with pytest.raises(getattr(_core, exception), match=message):
        open_model(path)


def test_a_file_with_only_a_vocabulary_says_so(tmp_path):
    reader = gguf.GGUFReader(MODELS / "llama.gguf")
    path = rewrite(MODELS / "llama.gguf", tmp_path / "m.gguf", {}, {t.name: None for t in reader.tensors})
    with pytest.raises(_core.ModelError, match="no tensors, only metadata"):
        open_model(path)


def test_required_biases_are_asked_for(tmp_path):
    path = rewrite(MODELS / "qwen2.gguf", tmp_path / "m.gguf", {}, {"blk.0.attn_k.bias": None})
    with pytest.raises(_core.ModelError, match=r"no tensor blk.0.attn_k.bias, which qwen2 needs"):
        open_model(path)


def test_a_rewritten_file_is_the_same_model(tmp_path):
    """The oracle of this file: what changes nothing is accepted, an unknown tensor included."""
    ids = np.arange(40, dtype=np.int32)
    path = rewrite(MODELS / "llama-gqa.gguf", tmp_path / "m.gguf", {}, {"extra.weight": np.zeros(3, np.float32)})
    np.testing.assert_array_equal(logits(path, ids), logits(MODELS / "llama-gqa.gguf", ids))


def test_equal_numbers_for_every_layer_are_one_number(tmp_path):
    ids = np.arange(40, dtype=np.int32)
    source = MODELS / "llama-gqa.gguf"
    kv = gguf.GGUFReader(source).fields["llama.attention.head_count_kv"].contents()
    layers = gguf.GGUFReader(source).fields["llama.block_count"].contents()
    path = rewrite(source, tmp_path / "m.gguf", {"llama.attention.head_count_kv": [kv] * layers})
    np.testing.assert_array_equal(logits(path, ids), logits(source, ids))
