"""Checkpoints whose matrices are integers or NVFP4 with a scale for each group: the numbers that compressed-tensors, modelopt and autoawq
read out of what they store (tests/golden/make_packed.py), whole models, and what such tensors may claim."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from models import GOLDEN, load

import airpy
from airpy import errors
from airpy.conversion.config import Config
from airpy.conversion.packed import weights
from airpy.conversion.safetensors import Checkpoint

sys.path.insert(0, str(GOLDEN))
import checkpoints

gguf = pytest.importorskip("gguf")

NAMES = sorted(path.stem for path in (GOLDEN / "packed").glob("*.npz"))
rng = np.random.default_rng


def matrices(folder, config):
    """Of a checkpoint in a folder: a function that reads rows, of each matrix, and its shape."""
    with Checkpoint(str(folder)) as files:
        for part in weights(Config(config, str(folder / "config.json")), files):
            yield part, lambda rows, part=part: np.frombuffer(part.read(files, rows), np.float32).reshape(-1, part.shape[1])


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_that_the_library_reads(name, tmp_path):
    """To the bit, all rows and some of them."""
    shutil.copy(GOLDEN / "packed" / f"{name}.safetensors", tmp_path / "model.safetensors")
    data, seen = np.load(GOLDEN / "packed" / f"{name}.npz"), []
    for part, read in matrices(tmp_path, json.loads(str(data["config"]))):
        want = data[part.name]
        seen.append(part.name)
        assert part.shape == want.shape and part.type == "F32" and part.plain in ("F16", "BF16")
        np.testing.assert_array_equal(read(range(part.shape[0])), want)
        for rows in (range(3, 11), np.array([17, 2, 8, 8, 23])):
            np.testing.assert_array_equal(read(rows), want[np.asarray(rows)])
    assert seen == ["a.weight", "b.weight"]


def test_modelopt_may_say_so_in_a_file_of_its_own(tmp_path):
    """As its checkpoints did before config.json had it."""
    shutil.copy(GOLDEN / "packed" / "nvfp4-modelopt.safetensors", tmp_path / "model.safetensors")
    said = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(said))
    assert [part.shape for part, _ in matrices(tmp_path, {})] == [(24, 64), (40, 96)]


# ---- whole models ------------------------------------------------------------------------------------------------------------------


def words(values, bits, axis):
    """Integers below 2**bits, packed along an axis from the lowest bits of a word on."""
    values = np.moveaxis(values.astype(np.uint32), axis, -1)
    values = np.pad(values, [(0, 0), (0, -values.shape[1] % (32 // bits))]).reshape(len(values), -1, 32 // bits)
    packed = (values << np.arange(0, 32, bits, dtype=np.uint32)).sum(-1, dtype=np.uint32)
    return np.ascontiguousarray(np.moveaxis(packed, -1, axis))


def stored(array, dtype):
    return dtype, array.shape, array.tobytes()


def gptq(stem, shape, seed, order=True, bits=4):
    """Two groups, of inputs in any order."""
    draw, (outputs, inputs) = rng(seed), shape
    values, zeros = draw.integers(0, 1 << bits, (inputs, outputs)), draw.integers(1, 1 << bits, (2, outputs))
    scales = draw.uniform(0.002, 0.02, (2, outputs)).astype(np.float16)
    groups = draw.permutation(np.arange(inputs) % 2) if order else np.arange(inputs) // (inputs // 2)
    whole = (values - zeros[groups]).astype(np.float32) * scales.astype(np.float32)[groups]
    yield "whole", whole.T
    yield f"{stem}.qweight", stored(words(values, bits, 0), "I32")
    yield f"{stem}.qzeros", stored(words(zeros - 1, bits, 1), "I32")
    yield f"{stem}.scales", stored(scales, "F16")
    yield f"{stem}.g_idx", stored(groups.astype(np.int32), "I32")


def int4(stem, shape, seed):
    """Groups of columns in any order, with zeros, as compressed-tensors packs them."""
    draw, (rows, columns) = rng(seed), shape
    values, zeros = draw.integers(0, 16, shape), draw.integers(0, 16, (rows, 4))
    scales = draw.uniform(0.002, 0.02, (rows, 4)).astype(np.float32)
    groups = draw.permutation(np.arange(columns) % 4)
    yield "whole", (values - zeros[:, groups]).astype(np.float32) * scales[:, groups]
    yield f"{stem}.weight_packed", stored(words(values, 4, 1), "I32")
    yield f"{stem}.weight_zero_point", stored(words(zeros, 4, 0), "I32")
    yield f"{stem}.weight_scale", stored(scales, "F32")
    yield f"{stem}.weight_shape", stored(np.array(shape, np.int64), "I64")
    yield f"{stem}.weight_g_idx", stored(groups.astype(np.int32), "I32")


def int8(stem, shape, seed):
    draw = rng(seed)
    values = draw.integers(-128, 128, shape).astype(np.int8)
    scales = draw.uniform(0.0001, 0.001, (shape[0], 3)).astype(np.float32)
    yield "whole", values.astype(np.float32) * np.repeat(scales, shape[1] // 3, axis=1)
    yield f"{stem}.weight", stored(values, "I8")
    yield f"{stem}.weight_scale", stored(scales, "F32")


COMPRESSED = {"quant_method": "compressed-tensors", "format": "pack-quantized",
              "config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 4}}}}  # fmt: skip
HOW = {
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 24, "desc_act": True}),
    "int4": (int4, COMPRESSED),
    "int8": (int8, {**COMPRESSED, "format": "int-quantized", "config_groups": {"all": {"weights": {"type": "int", "num_bits": 8}}}}),
}


def write(folder, how, change=lambda tensors: None, config=None):
    """A model whose matrices of attention are packed, after change(tensors), and beside it one that has their numbers."""
    description = checkpoints.describe("llama-gqa")
    plain, packed = checkpoints.stored_tensors(description), {}
    pack, said = HOW[how]
    for seed, (name, tensor) in enumerate(list(plain.items())):
        if "self_attn" in name and name.endswith("proj.weight"):
            (_, whole), *parts = pack(name.removesuffix(".weight"), tensor[1], seed)
            plain[name] = stored(np.ascontiguousarray(whole), "F32")
            packed |= dict(parts)
        else:
            packed[name] = tensor
    change(packed)
    for where, tensors in (("plain", plain), ("packed", packed)):
        checkpoints.write_checkpoint(folder / where, description)
        checkpoints.write_safetensors(folder / where / "model.safetensors", tensors)
    path = folder / "packed" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {**said, **(config or {})}}))


@pytest.mark.parametrize("how", HOW)
def test_a_model_is_that_of_its_numbers(how, tmp_path):
    """Rows of q and k in GGUF's order, in pieces and in 16 bits."""
    write(tmp_path, how)
    files = [airpy.convert(tmp_path / name, tmp_path / f"{name}.gguf", "F32", progress=False) for name in ("plain", "packed")]
    first, second = ({t.name: t.data for t in gguf.GGUFReader(file).tensors} for file in files)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    path = airpy.convert(tmp_path / "packed", progress=False)
    with load(path) as model:
        assert np.isfinite(model([1, 2, 3]).logits).all()


# ---- what is refused ---------------------------------------------------------------------------------------------------------------

Q = "model.layers.0.self_attn.q_proj"


def put(name, array, dtype="I32"):
    return lambda tensors: tensors.update({f"{Q}.{name}": stored(np.asarray(array), dtype)})


def drop(name):
    return lambda tensors: tensors.pop(f"{Q}.{name}")


I32 = np.int32
WRONG = {  # how, change, configuration, error, what it says
    "no zeros": ("gptq", drop("qzeros"), {}, "ModelError", r"q_proj.qweight is I32 \[6, 48\], but there is no .*qzeros"),
    "zeros of nothing": ("gptq", drop("qweight"), {}, "ModelError", r"is there, but not .*q_proj.qweight"),
    "words of another width": ("gptq", put("qweight", np.zeros((6, 47), I32)), {}, "ModelError", r"\[6, 47\], beside scales"),
    "too few zeros": ("gptq", put("qzeros", np.zeros((1, 6), I32)), {}, "ModelError", r"qzeros is \[1, 6\]; 4 bits for each scale"),
    "groups that are not there": ("gptq", put("g_idx", np.full(48, 2, I32)), {},
                                  "ModelError", "groups from 2 to 2, but there are scales of 2"),
    "groups below 0": ("gptq", put("g_idx", np.full(48, -1, I32)), {}, "ModelError", "groups from -1 to -1"),
    "groups of other inputs": ("gptq", put("g_idx", np.zeros(47, I32)), {}, "ModelError", "expected a group for each of 48 inputs"),
    "no order": ("gptq", drop("g_idx"), {}, "ModelError", r"groups in another order \(desc_act\), but there is no"),
    "scales without rows": ("gptq", put("scales", np.zeros((0, 48), np.float16), "F16"), {}, "ModelError", "expected matrices"),
    "scales in a row": ("gptq", put("scales", np.zeros(96, np.float16), "F16"), {}, "ModelError", "expected matrices"),
    "three bits": ("gptq", lambda t: None, {"bits": 3}, "UnsupportedError", "3 bits of gptq; convert the model"),
    "no bits": ("gptq", lambda t: None, {"bits": None}, "FormatError", "bits is None; expected an integer"),
    "another order of words": ("gptq", lambda t: None, {"checkpoint_format": "marlin"},
                               "UnsupportedError", "checkpoint_format is 'marlin'"),
    "layers of other bits": ("gptq", lambda t: None, {"dynamic": {"+:.*down": {"bits": 8}}}, "UnsupportedError", "is quantised otherwise"),
    "another kernel's words": ("gptq", lambda t: None, {"quant_method": "awq", "version": "gemv", "desc_act": None}, "UnsupportedError",
                               "version is 'gemv'"),
    "no shape": ("int4", drop("weight_shape"), {}, "ModelError", r"I32 \[48, 6\], but there is no .*weight_shape"),
    "a shape of three": ("int4", put("weight_shape", np.ones(3, np.int64), "I64"), {}, "ModelError", "expected rows and columns"),
    "a shape below nothing": ("int4", put("weight_shape", np.array([48, -48], np.int64), "I64"), {},
                              "ModelError", r"no \[48, -48\] of 2, 4"),
    "a shape of other words": ("int4", put("weight_shape", np.array([48, 480], np.int64), "I64"), {}, "ModelError", r"no \[48, 480\]"),
    "a shape beyond all files": ("int4", put("weight_shape", np.array([1 << 60, 48], np.int64), "I64"), {}, "ModelError", "of 2, 4 or 8"),
    "scales of no groups": ("int4", put("weight_scale", np.zeros((48, 0), np.float32), "F32"), {},
                            "ModelError", "no scale for equal groups"),
    "scales for other rows": ("int4", put("weight_scale", np.zeros((47, 4), np.float32), "F32"), {}, "ModelError", "no scale for equal"),
    "zeros for other rows": ("int4", put("weight_zero_point", np.zeros((5, 4), I32)), {},
                             "ModelError", r"\[5, 4\], beside scales \[48, 4\]"),
    "no matrix of integers": ("int8", put("weight", np.zeros(48, np.int8), "I8"), {}, "ModelError", r"is I8 \[48\]; what can be"),
    "zeros of bytes": ("int8", put("weight_zero_point", np.zeros(3, np.int8), "I8"), {}, "ModelError", r"is I8 \[3\], beside"),
    "five bits": ("int4", lambda t: None, {"config_groups": {"a": {"weights": {"type": "int", "num_bits": 5}}}}, "UnsupportedError",
                  "int of 5 bits; what can be converted are float of 8"),
    "another format": ("int4", lambda t: None, {"format": "marlin-24"}, "UnsupportedError", r"\(compressed-tensors, marlin-24\)"),
    "zeros left out": ("int4", lambda t: None, {"sparsity_config": {"format": "sparse-24-bitmask"}},
                       "UnsupportedError", "sparse-24-bitmask"),
    "turned inputs": ("int4", lambda t: None, {"transform_config": {"config_groups": {"R1": {"type": "hadamard"}}}}, "UnsupportedError",
                      "transform_config turns what goes into a layer"),
    "modelopt's AWQ": ("int8", lambda t: None, {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, "UnsupportedError",
                       r"quantised \(modelopt, W4A16_AWQ\)"),
    "scaled inputs": ("int8", put("pre_quant_scale", np.ones(48, np.float32), "F32"), {"quant_method": "modelopt", "quant_algo": "NVFP4"},
                      "UnsupportedError", "pre_quant_scale scales what goes into a layer"),
    "no scale of scales": ("int8", put("weight_packed", np.zeros((48, 24), np.uint8), "U8"), {}, "ModelError", "no .*weight_global_scale"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_together_or_is_not_known_is_refused(name, tmp_path):
    how, change, config, error, message = WRONG[name]
    write(tmp_path, how, change, config)
    with pytest.raises(getattr(errors, error), match=message):
        airpy.convert(tmp_path / "packed", tmp_path / "m.gguf", progress=False)
    assert not (tmp_path / "m.gguf").exists()


def test_nvfp4_has_a_scale_for_each_sixteen(tmp_path):
    shutil.copy(GOLDEN / "packed" / "nvfp4-modelopt.safetensors", tmp_path / "model.safetensors")
    with Checkpoint(str(tmp_path)) as files:
        tensors = {t.name: (t.dtype, t.shape, files.read(t, 0, t.bytes)) for t in files.tensors.values()}
    tensors["a.weight_scale"] = ("F8_E4M3", (24, 3), bytes(72))
    checkpoints.write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(errors.ModelError, match=r"a.weight is U8 \[24, 32\], with scales F8_E4M3 \[24, 3\]"):
        list(matrices(tmp_path, {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}))
