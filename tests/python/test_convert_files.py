"""What a checkpoint's files may claim: headers of safetensors, the index, configurations and tensors, each wrong in one way."""

from __future__ import annotations

import json
import os
import struct
import sys

import numpy as np
import pytest
from models import GOLDEN

import airpy
from airpy import errors
from airpy.conversion.names import LAYER, WHOLE, gguf_name, stem_of
from airpy.conversion.safetensors import Checkpoint

sys.path.insert(0, str(GOLDEN))
import checkpoints


@pytest.fixture
def llama(tmp_path):
    """A folder with a small checkpoint in two files."""
    checkpoints.write_checkpoint(tmp_path / "model", checkpoints.describe("llama"), shards=2)
    return tmp_path / "model"


def file(folder, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def tensor(dtype="F32", shape=(2, 2), begin=0, end=16):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def nested(depth):
    return b'{"a":' * depth + b"1" + b"}" * depth


HEADERS = {  # header, data, what the error says
    "empty": (None, b"", "has 0 bytes"),
    "no JSON": (b"{nonsense", b"", "no JSON"),
    "not UTF-8": (b'{"\xff":1}', b"", "no JSON"),
    "a list": ([1], b"", "no JSON object"),
    "deep": (nested(100_000), b"", "no JSON"),
    "a name twice": (b'{"a":{},"a":{}}', b"", "a name twice"),
    "no object": ({"a": 3}, b"", "'a' is no JSON object"),
    "no dtype": ({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"1234", "dtype 'None'"),
    "an unknown dtype": ({"a": tensor("F31")}, bytes(16), "dtype 'F31'; known are F64, F32"),
    "a list as dtype": ({"a": tensor(["F32"])}, bytes(16), "dtype"),
    "a negative axis": ({"a": tensor(shape=(-2, -2))}, bytes(16), "has the shape"),
    "an axis that is no integer": ({"a": tensor(shape=(2.0, 2))}, bytes(16), "has the shape"),
    "an axis that is a bool": ({"a": tensor(shape=(True, 4))}, bytes(16), "has the shape"),
    "many axes": ({"a": tensor(shape=[1] * 40 + [4])}, bytes(16), "has the shape"),
    "a shape whose product is huge": ({"a": tensor(shape=(1 << 40, 1 << 40))}, bytes(16), "but has 16 in the file"),
    "another size": ({"a": tensor(shape=(2, 3))}, bytes(16), r"24 bytes, but has 16"),
    "offsets backwards": ({"a": tensor(begin=16, end=0)}, bytes(16), "data_offsets"),
    "one offset": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4]}}, bytes(4), "data_offsets"),
    "overlapping": ({"a": tensor(), "b": tensor(begin=8, end=24)}, bytes(24), "b overlaps the one before it"),
    "a hole": ({"a": tensor(), "b": tensor(begin=20, end=36)}, bytes(36), "b leaves 4 bytes before it to nobody"),
    "cut short": ({"a": tensor()}, bytes(15), "cut short"),
    "bytes behind": ({"a": tensor()}, bytes(17), r"\(-1 bytes\)"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_is_wrong_is_refused(name, tmp_path):
    header, data, message = HEADERS[name]
    if header is None:
        (tmp_path / "model.safetensors").write_bytes(b"")
    else:
        file(tmp_path, header, data)
    with pytest.raises((errors.FormatError, errors.UnsupportedError), match=message):
        Checkpoint(str(tmp_path))


@pytest.mark.parametrize("length", [0, 1, 1 << 20, (1 << 64) - 1])
def test_a_header_longer_than_its_file_is_refused(length, tmp_path):
    file(tmp_path, {"a": tensor()}, bytes(16), length)
    with pytest.raises(errors.FormatError, match=f"a header of {length} bytes does not fit"):
        Checkpoint(str(tmp_path))


def test_what_is_read_is_what_was_stored(llama):
    description = checkpoints.describe("llama")
    with Checkpoint(str(llama)) as found:
        for name, values in checkpoints.weights(description):
            stored = found.tensors[name]
            assert (stored.dtype, stored.shape) == ("F32", values.shape)
            np.testing.assert_array_equal(np.frombuffer(found.read(stored, 0, stored.bytes), np.float32), values.ravel())
        assert len(found.tensors) == len(description["tensors"])


def index(folder, change):
    path = folder / "model.safetensors.index.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "weights.bin", "..", 3, None])
def test_an_index_names_safetensors_beside_it(name, llama):
    index(llama, lambda values: values["weight_map"].update({"model.norm.weight": name}))
    with pytest.raises(errors.FormatError, match="which is no name of a safetensors file beside it"):
        Checkpoint(str(llama))


def test_a_file_of_several_that_is_missing_is_named(llama):
    os.unlink(llama / "model-00002-of-00002.safetensors")
    with pytest.raises(errors.MissingFileError, match=r"1 of 2 files.*model-00002-of-00002.safetensors"):
        Checkpoint(str(llama))


def test_a_tensor_that_is_in_none_of_its_files_is_named(llama):
    index(llama, lambda values: values["weight_map"].update({"model.extra.weight": "model-00001-of-00002.safetensors"}))
    with pytest.raises(errors.FormatError, match=r"'model.extra.weight' in model-00001-of-00002.safetensors, which does not hold it"):
        Checkpoint(str(llama))


def test_a_tensor_in_two_files_is_named(llama):
    os.unlink(llama / "model.safetensors.index.json")
    first = (llama / "model-00001-of-00002.safetensors").read_bytes()
    (llama / "model-00002-of-00002.safetensors").write_bytes(first)
    with pytest.raises(errors.FormatError, match=r"is in .*00001.* and in .*00002"):
        Checkpoint(str(llama))


def test_pickles_are_never_opened(llama):
    for name in os.listdir(llama):
        if "safetensors" in name:
            os.unlink(llama / name)
    (llama / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    with pytest.raises(errors.UnsupportedError, match=r"pytorch_model.bin.*airpy loads no pickles.*save_pretrained"):
        airpy.convert(llama)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(llama, tmp_path):
    from airpy.conversion import plan_convert

    with plan_convert(llama, tmp_path / "m.gguf") as plan:
        for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
            os.truncate(llama / name, 4000)
        with pytest.raises(errors.FileChangedError, match="ends within"):
            plan.write(progress=False)
    assert not (tmp_path / "m.gguf").exists()


def config(folder, **changes):
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value != "gone"}))


CONFIGS = {  # changes, error, what it says
    "no class": ({"architectures": []}, "FormatError", "architectures is"),
    "a class without a converter": (
        {"architectures": ["NobodysLM"]}, "UnsupportedError", "'NobodysLM' cannot be converted; what can is LlamaForCausalLM, "),
    "QuIP": ({"quantization_config": {"quant_method": "quip"}}, "UnsupportedError", r"quantised \(quip\); convert the model"),
    "bitsandbytes": ({"quantization_config": {"quant_method": "bitsandbytes"}}, "UnsupportedError", r"model.dequantize\(\)"),
    "another way to quantise": ({"quantization_config": {"quant_method": "abc"}}, "UnsupportedError", r"\(abc\); convert the model"),
    "a way without a name": ({"quantization_config": {"bits": 4}}, "UnsupportedError", r"quantised \(unknown\)"),
    "other integers": ({"quantization_config": {"quant_method": "compressed-tensors", "format": "marlin-24"}}, "UnsupportedError",
                        r"quantised \(compressed-tensors, marlin-24\)"),
    "floats of six bits": (
        {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {
            "group_0": {"weights": {"type": "float", "num_bits": 6}}}}}, "UnsupportedError", "float of 6 bits; what can be converted are"),
    "quantised by a text": ({"quantization_config": "fp8"}, "FormatError", "quantization_config is str"),
    "blocks of three sizes": ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [1, 2, 3]}}, "FormatError",
                              "weight_block_size is .*; expected a list of 2 int"),
    "no layers": ({"num_hidden_layers": 0}, "FormatError", "num_hidden_layers is 0; expected an integer of 1 to 4096"),
    "as many layers as nobody waits for": ({"num_hidden_layers": 1 << 30}, "FormatError", "num_hidden_layers is 1073741824; expected"),
    "a number that no float is": ({"rms_norm_eps": 10**400}, "FormatError", "rms_norm_eps is 10000.*; expected a finite number"),
    "layers as text": ({"num_hidden_layers": "2"}, "FormatError", "num_hidden_layers is 2; expected"),
    "a huge number": ({"num_attention_heads": 1 << 40}, "FormatError", "num_attention_heads is 1099511627776"),
    "more layers than tensors": ({"num_hidden_layers": 3}, "ModelError", "3 layers, but no tensor is of layer 2"),
    "fewer layers than tensors": ({"num_hidden_layers": 1}, "ModelError", "is of layer 1, but the configuration has 1"),
    "heads that rows do not divide into": ({"num_attention_heads": 7}, "ModelError", "heads do not divide"),
    "an infinite epsilon": ({"rms_norm_eps": 1e400}, "FormatError", "rms_norm_eps is inf"),
    "a width that no tensor has": ({"hidden_size": 48}, "ModelError", r"do not go together: token_embd.weight is \[40, .* needs \[48, "),
    "another feed-forward's width": ({"intermediate_size": 7}, "ModelError", "do not go together: blk.0.ffn_gate.weight is .* needs"),
    "an epsilon of another size": ({"rms_norm_eps": 1.5}, "ModelError", "do not go together: .*rms_epsilon is 1.5, outside of 0 to 1"),
    "another activation": ({"hidden_act": "gelu"}, "UnsupportedError", "the activation is 'gelu'; llama has 'silu'"),
    "a rope that GGUF does not know": (
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "UnsupportedError", "rope_type is 'dynamic', without alpha"),
    "a rope that nobody knows": ({"rope_parameters": {"rope_type": "spiral"}}, "UnsupportedError", "rope_type is 'spiral'"),
    "a rope that is no object": ({"rope_parameters": None, "rope_scaling": 4}, "FormatError", "rope_scaling is int"),
    "yarn without a factor": ({"rope_parameters": {"rope_type": "yarn"}}, "FormatError", "factor is None"),
    "longrope of other heads": (
        {"rope_parameters": {"rope_type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}}, "FormatError",
        "long_factor is not a list of 10"),
    "llama 3's rope, upside down": (
        {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}}, "FormatError",
        "low_freq_factor is 4.0"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_that_is_wrong_is_refused(name, llama, tmp_path):
    changes, error, message = CONFIGS[name]
    config(llama, **changes)
    with pytest.raises(getattr(errors, error), match=message):
        airpy.convert(llama, tmp_path / "m.gguf")
    assert not list(tmp_path.glob("m.gguf*"))


OTHERS = {  # checkpoint, changes of its configuration, what the error says
    "Llama 4 with other layers unrotated": ("llama4", {"no_rope_layers": [1, 0, 1, 0]}, "no_rope_layers is"),
    "Llama 4 without its norms": ("llama4", {"use_qk_norm": False}, "use_qk_norm is 'False'"),
    "Llama 4 without tempering": ("llama4", {"attn_temperature_tuning": False}, "attn_temperature_tuning is 'False'"),
    "Phi with two factors": ("phimoe", {"rope_parameters": {"rope_type": "longrope", "long_mscale": 1.5, "short_mscale": 1.0}},
                             "long_mscale is not short_mscale"),
    "Granite of other heads": ("granitehybrid", {"mamba_d_head": 4}, "6 mamba_n_heads of 4 are not 48"),
    "Granite with limits": ("granitehybrid", {"time_step_limit": [0.0, 0.1]}, "time_step_limit is"),
    "Falcon-H1 that norms before its gate": ("falcon-h1", {"mamba_norm_before_gate": True}, "mamba_norm_before_gate is true"),
    "Falcon-H1 with one matrix by two factors": (
        "falcon-h1", {"tie_word_embeddings": True}, "embedding_multiplier 3 is not lm_head_multiplier 2"),
    "Nemotron with other layers": ("nemotron-h", {"layers_block_type": ["mlp", "sparse"]}, r"the layers are \['mlp', 'sparse'\]"),
    "Nemotron whose layers are lists": ("nemotron-h", {"layers_block_type": [["mlp"]] * 4}, r"the layers are \[\['mlp'\]"),
    "LFM2 with other layers": ("lfm2", {"layer_types": ["conv", "sparse", "conv", "conv"]}, "layer_types has 'sparse'; known are conv"),
    "LFM2 that says nothing of layers": ("lfm2", {"layer_types": "gone"}, "layer_types has 'none'"),
    "Qwen3-Next without a period": (
        "qwen3next", {"layer_types": ["full_attention", *["linear_attention"] * 2, "full_attention"]}, "layer_types has no period"),
    "Ling with a normalised output": ("bailingmoe", {"norm_head": True}, "norm_head is 'True'"),
}  # fmt: skip


@pytest.mark.parametrize("changes", [{"linear_num_value_heads": 5}, {"linear_num_key_heads": 1 << 30}, {"linear_value_head_dim": 1 << 30}])
def test_heads_that_share_keys_are_those_that_the_tensors_have(changes, tmp_path):
    """Nothing is made of such numbers before they are compared."""
    checkpoints.write_checkpoint(tmp_path / "model", checkpoints.describe("qwen35"))
    config(tmp_path / "model", **changes)
    with pytest.raises(errors.ModelError, match=r"linear_attn\..* is \[.*\], which is not \d+ linear_num_value_heads of \d+ "):
        airpy.convert(tmp_path / "model", tmp_path / "m.gguf")


@pytest.mark.parametrize("name", OTHERS)
def test_a_configuration_that_would_compute_something_else_is_refused(name, tmp_path):
    base, changes, message = OTHERS[name]
    checkpoints.write_checkpoint(tmp_path / "model", checkpoints.describe(base))
    config(tmp_path / "model", **changes)
    with pytest.raises(errors.UnsupportedError, match=message):
        airpy.convert(tmp_path / "model", tmp_path / "m.gguf")


def test_no_configuration_is_a_missing_file(llama):
    os.unlink(llama / "config.json")
    with pytest.raises(errors.MissingFileError, match=r"config.json"):
        airpy.convert(llama)


def rewritten(folder, change):
    """The checkpoint in one file, after change(tensors)."""
    description = checkpoints.describe("llama")
    tensors = {name: ("F32", w.shape, checkpoints.stored(w, "F32")) for name, w in checkpoints.weights(description)}
    change(tensors)
    for name in os.listdir(folder):
        if "safetensors" in name:
            os.unlink(folder / name)
    checkpoints.write_safetensors(folder / "model.safetensors", tensors)


def f8(tensors):
    tensors["model.norm.weight"] = ("F8_E4M3", (40,), bytes(40))


TENSORS = {  # change, error, what it says
    "one that is unknown": (lambda t: t.update({"model.layers.0.mixer.weight": ("F32", (1,), bytes(4))}), "ModelError",
                            r"model.layers.0.mixer.weight has no place in a file of llama"),
    "one twice": (lambda t: t.update({"layers.0.input_layernorm.weight": ("F32", (40,), bytes(160))}), "ModelError", "same tensor by name"),
    "no embedding": (lambda t: t.pop("model.embed_tokens.weight"), "ModelError", "no embedding"),
    "an embedding that is no matrix": (lambda t: t.update({"model.embed_tokens.weight": ("F32", (272,), bytes(1088))}), "ModelError",
                                       r"embedding of the shape \[272\]; expected a matrix"),
    "eight bits that nothing scales": (f8, "UnsupportedError",
                                       r"model.norm.weight has dtype F8_E4M3; weights that can be converted are F64, F32"),
    "nothing in it": (lambda t: t.update({"model.norm.weight": ("F32", (0,), b"")}), "ModelError", "without anything in it"),
    "a number without an axis": (lambda t: t.update({"model.norm.weight": ("F32", (), bytes(4))}), "ModelError", "without anything in it"),
    "not finite": (lambda t: t.update({"model.layers.0.self_attn.o_proj.weight": ("F32", (40, 40), bytes([255] * 6400))}),
                   "NumericError", r"blk.0.attn_output.weight: element 0 is NaN"),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_wrong_are_refused(name, llama, tmp_path):
    change, error, message = TENSORS[name]
    rewritten(llama, change)
    with pytest.raises(getattr(errors, error), match=message):
        airpy.convert(llama, tmp_path / "m.gguf", type="Q8_0", progress=False)
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize(("base", "name", "shape"), [
    ("mistral4", "model.layers.1.mlp.experts.gate_up_proj", [32]),
    ("granitehybrid-moe", "model.layers.0.block_sparse_moe.input_linear.weight", [4, 47, 24]),
    ("llama4", "model.layers.1.feed_forward.experts.down_proj", [32]),
])  # fmt: skip
def test_stacked_experts_are_matrices(base, name, shape, tmp_path):
    description = checkpoints.describe(base)
    checkpoints.write_checkpoint(tmp_path / "model", {**description, "tensors": {**description["tensors"], name: shape}})
    with pytest.raises(errors.ModelError, match=rf"{name} is \[.*\]; expected (a matrix of gate and up|matrices)"):
        airpy.convert(tmp_path / "model", tmp_path / "m.gguf")


def test_an_expert_that_is_missing_is_named(tmp_path):
    description = checkpoints.describe("mixtral")
    checkpoints.write_checkpoint(tmp_path / "model", description)
    tensors = {n: ("F32", w.shape, checkpoints.stored(w, "F32")) for n, w in checkpoints.weights(description) if "experts.1.w2" not in n}
    checkpoints.write_safetensors(tmp_path / "model" / "model.safetensors", tensors)
    with pytest.raises(errors.ModelError, match=r"expert 1 is not there, but 3 of its kind are"):
        airpy.convert(tmp_path / "model")


def test_names_are_the_gguf_packages():
    """Every name of our tables that its map of an architecture has leads to the same one."""
    gguf = pytest.importorskip("gguf")
    theirs: dict[str, set[str]] = {}
    for arch in gguf.MODEL_ARCH_NAMES:
        for name, (_, mapped) in gguf.get_tensor_name_map(arch, 2).mapping.items():
            layer, rest = stem_of(name)
            if layer in (None, 0):
                theirs.setdefault(rest, set()).add(mapped)
    known = 0
    for table, layer in ((WHOLE, None), (LAYER, 0)):
        for name in table:
            found = theirs.get(name, set())
            ours = gguf_name(layer, f"{name}.weight", {})
            known += bool(found)
            assert not found or ours.removesuffix(".weight") in found, (name, ours, found)
    assert known > 70
