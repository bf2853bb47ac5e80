"""Checkpoints that are quantised already: what becomes of FP8 and of MXFP4, and what their tensors may claim. Logits are held against
transformers' in test_convert_logits.py."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from models import GOLDEN, load

import airpy
from airpy import errors
from airpy.conversion.safetensors import Checkpoint

sys.path.insert(0, str(GOLDEN))
import checkpoints
from packing import fp8, numbers_of_e4m3

gguf = pytest.importorskip("gguf")


def tensors_of(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def numbers(tensor):
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def write(folder, name, change=lambda tensors: None, block=None):
    """The checkpoint, in one file, after change(tensors)."""
    description = checkpoints.describe(name)
    if block is not None:
        description["packed"]["block"] = block
        description["config"]["quantization_config"]["weight_block_size"] = block
    checkpoints.write_checkpoint(folder, description)
    tensors = checkpoints.stored_tensors(description)
    change(tensors)
    checkpoints.write_safetensors(folder / "model.safetensors", tensors)
    return tensors


def test_mxfp4_stays_to_the_bit(tmp_path):
    """Two numbers a byte in order, as gpt-oss has them, against what the gguf package reads out of GGUF's blocks."""
    stored = write(tmp_path / "m", "gpt-oss-mxfp4")
    path = airpy.convert(tmp_path / "m", progress=False)
    assert path.endswith("m-MXFP4.gguf")
    found = tensors_of(path)
    _, shape, data = stored["model.layers.1.mlp.experts.gate_up_proj_blocks"]
    bits = np.frombuffer(data, np.uint8).reshape(-1, 16)
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    exponents = np.frombuffer(stored["model.layers.1.mlp.experts.gate_up_proj_scales"][2], np.uint8).astype(np.int32) - 127
    want = np.ldexp(table[np.stack([bits & 15, bits >> 4], -1)].reshape(-1, 32), exponents[:, None]).reshape(*shape[:2], -1)
    for i, name in enumerate(("gate", "up")):
        tensor = found[f"blk.1.ffn_{name}_exps.weight"]
        assert tensor.tensor_type.name == "MXFP4"
        np.testing.assert_array_equal(numbers(tensor).reshape(shape[0], -1, want.shape[-1]), want[:, i::2])
    assert found["blk.1.attn_q.weight"].tensor_type.name == "BF16"
    with load(path) as model:
        assert np.isfinite(model([1, 2, 3]).logits).all()


@pytest.mark.parametrize(("type", "becomes"), [("4bit", "MXFP4"), ("Q8_0", "MXFP4"), ("Q3_K_S", "Q4_0"), ("BF16", "BF16"), ("F32", "F32")])
def test_more_bits_say_no_more_than_mxfp4(type, becomes, tmp_path):
    write(tmp_path / "m", "gpt-oss-mxfp4")
    path = airpy.convert(tmp_path / "m", tmp_path / "m.gguf", type, progress=False)
    assert tensors_of(path)["blk.0.ffn_down_exps.weight"].tensor_type.name == becomes


def test_a_type_for_some_tensors_is_theirs_in_mxfp4_as_well(tmp_path):
    write(tmp_path / "m", "gpt-oss-mxfp4")
    path = airpy.convert(tmp_path / "m", tmp_path / "m.gguf", "4bit", tensor_types=[("ffn_down_exps", "Q8_0")], progress=False)
    found = tensors_of(path)
    assert found["blk.0.ffn_down_exps.weight"].tensor_type.name == "Q8_0" and found["blk.0.ffn_up_exps.weight"].tensor_type.name == "MXFP4"


def test_fp8_becomes_bf16_unless_a_type_is_given(tmp_path):
    write(tmp_path / "m", "deepseek2-v3-fp8")
    path = airpy.convert(tmp_path / "m", progress=False)
    assert path.endswith("m-BF16.gguf")
    exact = tensors_of(airpy.convert(tmp_path / "m", tmp_path / "exact.gguf", "F32", progress=False))
    for name, tensor in tensors_of(path).items():
        if name.endswith("_exps.weight"):
            assert tensor.tensor_type.name == "BF16"
            want = gguf.quants.quantize(np.array(exact[name].data), gguf.GGMLQuantizationType.BF16)
            np.testing.assert_array_equal(tensor.data, want)


def test_blocks_at_the_ends_of_a_matrix_are_smaller(tmp_path):
    """128 divides few of DeepSeek's heads: 576 rows have five scales. Here blocks of 16 by 12 in rows of 40, and rows in another order."""
    stored = write(tmp_path / "m", "deepseek2-v3-fp8", block=[16, 12])
    found = tensors_of(airpy.convert(tmp_path / "m", tmp_path / "m.gguf", "F32", progress=False))
    of_bits = np.concatenate([numbers_of_e4m3(), [np.nan], -numbers_of_e4m3(), [np.nan]]).astype(np.float32)

    def whole(name):
        _, shape, data = stored[name]
        scales = np.frombuffer(stored[f"{name}_scale_inv"][2], np.float32).reshape(-(-shape[0] // 16), -(-shape[1] // 12))
        spread = np.kron(scales, np.ones((16, 12), np.float32))[: shape[0], : shape[1]]
        return of_bits[np.frombuffer(data, np.uint8)].reshape(shape) * spread

    np.testing.assert_array_equal(found["blk.0.attn_kv_a_mqa.weight"].data, whole("model.layers.0.self_attn.kv_a_proj_with_mqa.weight"))
    np.testing.assert_array_equal(found["blk.0.attn_q_a.weight"].data, whole("model.layers.0.self_attn.q_a_proj.weight"))
    heads = whole("model.layers.1.self_attn.kv_b_proj.weight").reshape(4, 22, 24)
    np.testing.assert_array_equal(found["blk.1.attn_v_b.weight"].data, heads[:, 12:])
    np.testing.assert_array_equal(found["blk.1.attn_k_b.weight"].data, heads[:, :12].swapaxes(1, 2))
    experts = np.stack([whole(f"model.layers.1.mlp.experts.{i}.down_proj.weight") for i in range(8)])
    np.testing.assert_array_equal(found["blk.1.ffn_down_exps.weight"].data, experts)


def test_scales_of_activations_are_left_out(tmp_path):
    def change(tensors):
        tensors["model.layers.0.self_attn.q_proj.input_scale"] = ("F32", (1,), bytes(4))
        tensors["model.layers.0.self_attn.o_proj.activation_scale"] = ("F32", (), bytes(4))

    write(tmp_path / "plain", "llama-fp8-whole")
    write(tmp_path / "m", "llama-fp8-whole", change)
    files = [airpy.convert(tmp_path / name, tmp_path / f"{name}.gguf", progress=False) for name in ("plain", "m")]
    first, second = ({name: tensor.data.tobytes() for name, tensor in tensors_of(file).items()} for file in files)
    assert first == second


Q = "model.layers.0.self_attn.q_proj.weight"
DOWN = "model.layers.0.mlp.experts.down_proj"


def cut(name, shape, size):
    return lambda tensors: tensors.update({name: (tensors[name][0], shape, tensors[name][2][:size])})


WRONG = {  # checkpoint, change, error, what it says
    "no scale": ("llama-fp8-rows", lambda t: t.pop(f"{Q}_scale"), "ModelError", r"q_proj.weight is F8_E4M3 \[48, 48\]; what can .* beside"),
    "a scale of nothing": ("llama-fp8-rows", lambda t: t.pop(Q), "ModelError", r"q_proj.weight_scale is there, but not .*q_proj.weight"),
    "too few scales": ("llama-fp8-rows", cut(f"{Q}_scale", (47, 1), 188), "ModelError", r"\[47, 1\], which is one scale neither for all"),
    "other blocks": ("deepseek2-v3-fp8", cut("model.layers.0.self_attn.o_proj.weight_scale_inv", (5, 10), 200), "ModelError",
                     r"nor for each block of \[4, 4\]"),
    "scales that are no numbers": ("llama-fp8-rows", lambda t: t.update({f"{Q}_scale": ("I32", (48, 1), bytes(192))}), "UnsupportedError",
                                   "q_proj.weight_scale has dtype I32"),
    "scales that are not finite": ("llama-fp8-rows", lambda t: t.update({f"{Q}_scale": ("F32", (48, 1), b"\xff" * 192)}), "NumericError",
                                   "attn_q.weight: element 0 is NaN"),
    "no number": ("llama-fp8-rows", lambda t: t.update({Q: ("F8_E4M3", (48, 48), b"\x7f" * 2304)}), "NumericError", "element 0 is NaN"),
    "blocks without scales": ("gpt-oss-mxfp4", lambda t: t.pop(f"{DOWN}_scales"), "ModelError", "there is no .*down_proj_scales"),
    "scales without blocks": ("gpt-oss-mxfp4", lambda t: t.pop(f"{DOWN}_blocks"), "ModelError", "but not .*down_proj_blocks"),
    "blocks of another size": ("gpt-oss-mxfp4", lambda t: t.update({f"{DOWN}_blocks": ("U8", (6, 64, 1, 8), bytes(3072))}), "ModelError",
                               r"down_proj_blocks is U8 \[6, 64, 1, 8\], but .*down_proj_scales is U8 \[6, 64, 1\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_tensors_that_do_not_fit_together_are_refused(name, tmp_path):
    base, change, error, message = WRONG[name]
    write(tmp_path / "m", base, change)
    with pytest.raises(getattr(errors, error), match=message):
        airpy.convert(tmp_path / "m", tmp_path / "m.gguf", progress=False)
    assert not (tmp_path / "m.gguf").exists()


def test_a_row_is_read_with_its_own_scale(tmp_path):
    """Pieces that begin within a matrix, and rows far apart."""
    from airpy.conversion.packed import Scaled

    rng = np.random.default_rng(5)
    bits, scales = fp8(rng.standard_normal((300, 70)).astype(np.float32), 32, 16)
    tensors = {"w": ("F8_E4M3", bits.shape, bits.tobytes()), "s": ("F32", scales.shape, scales.tobytes())}
    checkpoints.write_safetensors(tmp_path / "model.safetensors", tensors)
    with Checkpoint(str(tmp_path)) as files:
        whole = Scaled(files.tensors["w"], files.tensors["s"], (32, 16))
        every = np.frombuffer(whole.read(files, range(300)), np.float32).reshape(300, 70)
        for rows in (range(31, 65), np.array([299, 3, 64, 0, 299])):
            np.testing.assert_array_equal(np.frombuffer(whole.read(files, rows), np.float32).reshape(-1, 70), every[np.asarray(rows)])
