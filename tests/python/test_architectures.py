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
    "experts without a number of those used": ({"llama.expert_count": 8}, {}, "FormatError", r"no llama.expert_used_count"),
    "no layers": ({"llama.block_count": None}, {}, "FormatError", r"no llama.block_count"),
    "zero layers": ({"llama.block_count": 0}, {}, "FormatError", r"llama.block_count.* 0"),
    "too many layers": ({"llama.block_count": 100000}, {}, "FormatError", r"llama.block_count.*100000"),
    "no heads": ({"llama.attention.head_count": None}, {}, "FormatError", r"no llama.attention.head_count"),
    "heads that do not divide": (
        {"llama.attention.head_count_kv": 3}, {}, "FormatError", r"head_count \d+ is not a multiple of head_count_kv 3"),
    "heads of other layers than there are": (
        {"llama.attention.head_count_kv": [2, 4]}, {}, "FormatError", r"llama.attention.head_count_kv has 2 numbers for 3 layers"),
    "heads that differ by layer and do not divide": (
        {"llama.attention.head_count_kv": [2, 2, 3]}, {}, "FormatError", r"head_count 4 is not a multiple of head_count_kv 3"),
    "heads that differ by layer, tensors that do not": (
        {"llama.attention.head_count_kv": [2, 4, 2]}, {}, "ModelError", r"blk.1.attn_k.weight is \[48, 24, 1, 1\], but needs \[48, 48\]"),
    "a layer without heads": ({"llama.attention.head_count": [4, 0, 4]}, {}, "FormatError", r"head_count of layer 1 is 0"),
    "heads as text": ({"llama.attention.head_count": ["4"] * 3}, {}, "FormatError", r"head_count is an array, but not of 32-bit integers"),
    "odd rope": ({"llama.rope.dimension_count": 7}, {}, "FormatError", r"rope.dimension_count 7"),
    "rope wider than a head": ({"llama.rope.dimension_count": 4000}, {}, "FormatError", r"rope.dimension_count 4000"),
    "unknown rope scaling": ({"llama.rope.scaling.type": "dynamic"}, {}, "UnsupportedError", r"rope.scaling.type is \"dynamic\""),
    "one set of longrope's factors": (
        {}, {"rope_factors_long.weight": np.ones(6, np.float32)}, "ModelError", r"no tensor rope_factors_short.weight, which llama needs"),
    "a clamp of less than nothing": ({"llama.attention.clamp_kqv": -8.0}, {}, "FormatError", r"llama.attention.clamp_kqv is -8"),
    "only layers that foretell": ({"llama.nextn_predict_layers": 3}, {}, "FormatError", r"llama.nextn_predict_layers is 3"),
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


OTHERS = {  # source, keys, tensors, exception, what its message says: what only some architectures need
    "layer norms have an epsilon of their own": (
        "phi2", {"phi2.attention.layer_norm_epsilon": None}, {}, "FormatError", r"no phi2.attention.layer_norm_epsilon"),
    "a bias of a norm": ("phi2", {}, {"blk.0.attn_norm.bias": None}, "ModelError", r"no tensor blk.0.attn_norm.bias, which phi2 needs"),
    "a bias of the output": ("phi2", {}, {"output.bias": None}, "ModelError", r"no tensor output.bias"),
    "fused queries, keys and values": (
        "phi3", {}, {"blk.0.attn_qkv.weight": np.zeros((3, 5), np.float32)}, "ModelError",
        r"attn_qkv.weight is \[5, 3, 1, 1\], but needs \[40, 80\] \(head_count and head_count_kv x head sizes"),
    "fused gate and up": (
        "phi3", {}, {"blk.0.ffn_up.weight": np.zeros((72, 40), np.float32)}, "ModelError",
        r"ffn_up.weight is \[40, 72, 1, 1\], but needs \[40, 144\] \(gate and up"),
    "fused biases": (
        "gpt2", {}, {"blk.1.attn_qkv.bias": np.zeros(7, np.float32)}, "ModelError",
        r"attn_qkv.bias is \[7, 1, 1, 1\], but needs \[120, 1\]"),
    "norms of every head": (
        "stablelm-12b", {}, {"blk.0.attn_q_norm.weight": np.zeros((4, 5), np.float32)}, "ModelError",
        r"attn_q_norm.weight is \[5, 4, 1, 1\], but needs \[12, 4\]"),
    "a norm of all heads": ("olmo2", {}, {"blk.0.attn_k_norm.weight": None}, "ModelError", r"no tensor blk.0.attn_k_norm.weight"),
    "a norm behind a block": (
        "gemma2", {}, {"blk.1.post_ffw_norm.weight": None}, "ModelError", r"no tensor blk.1.post_ffw_norm.weight, which gemma2 needs"),
    "heads of no size": (
        "gpt2", {"gpt2.attention.head_count": 64, "gpt2.attention.head_count_kv": 64, "gpt2.attention.key_length": None}, {}, "FormatError",
        r"gpt2.embedding_length 40 is less than head_count 64"),
    "learned positions": ("gpt2", {}, {"position_embd.weight": None}, "ModelError", r"no tensor position_embd.weight, which gpt2 needs"),
    "fewer positions than the context": (
        "gpt2", {"gpt2.context_length": 256}, {}, "ModelError",
        r"position_embd.weight is \[40, 128, 1, 1\], but needs \[40, 256\] \(embedding_length, context_length\)"),
    "the order of a layer": (
        "gptneox", {"gptneox.use_parallel_residual": None}, {}, "FormatError", r"no gptneox.use_parallel_residual"),
    "an order that is no bool": (
        "gptneox", {"gptneox.use_parallel_residual": 1}, {}, "FormatError", r"gptneox.use_parallel_residual is not a bool"),
    "a window of no positions": (
        "gemma3", {"gemma3.attention.sliding_window": "wide"}, {}, "FormatError", r"gemma3.attention.sliding_window"),
    "a pattern of other layers": (
        "gemma3", {"gemma3.attention.sliding_window_pattern": [True, False]}, {}, "FormatError", r"not an array of a bool for each of 6"),
    "a pattern of no layers": (
        "gemma3", {"gemma3.attention.sliding_window_pattern": 0}, {}, "FormatError", r"sliding_window_pattern is 0"),
    "a logit scale that divides by nothing": (
        "granite", {"granite.logit_scale": 0.0}, {}, "FormatError", r"granite.logit_scale is 0"),
    "other positions than ALiBi's": (
        "mpt", {"mpt.attention.max_alibi_bias": None}, {}, "UnsupportedError",
        r"no mpt.attention.max_alibi_bias: mpt models without ALiBi"),
    "attention sinks": ("gpt-oss", {}, {"blk.1.attn_sinks.weight": None}, "ModelError", r"no tensor blk.1.attn_sinks.weight"),
    "a sink for every head": (
        "gpt-oss", {}, {"blk.0.attn_sinks.weight": np.zeros(3, np.float32)}, "ModelError",
        r"attn_sinks.weight is \[3, 1, 1, 1\], but needs \[4, 1\] \(head_count"),
    "a bias of the router": ("gpt-oss", {}, {"blk.0.ffn_gate_inp.bias": None}, "ModelError", r"no tensor blk.0.ffn_gate_inp.bias"),
    "biases of experts": ("gpt-oss", {}, {"blk.0.ffn_up_exps.bias": None}, "ModelError", r"no tensor blk.0.ffn_up_exps.bias"),
    "a bias for every expert": (
        "gpt-oss", {}, {"blk.1.ffn_down_exps.bias": np.zeros((7, 32), np.float32)}, "ModelError",
        r"ffn_down_exps.bias is \[32, 7, 1, 1\], but needs \[32, 6\] \(the rows of its weight, expert_count"),
    "the rank of a compressed state": (
        "deepseek2-v3", {"deepseek2.attention.kv_lora_rank": None}, {}, "FormatError", r"no deepseek2.attention.kv_lora_rank"),
    "keys and values apart": (
        "deepseek2-v3", {"deepseek2.attention.key_length_mla": None}, {}, "UnsupportedError", r"no .*key_length_mla: .* anew"),
    "a state that is the rank and what is rotated": (
        "deepseek2-v3", {"deepseek2.attention.key_length": 40}, {}, "FormatError", r"key_length 40, .* are not kv_lora_rank 24 \+"),
    "one state for all heads": (
        "deepseek2-v3", {"deepseek2.attention.head_count_kv": 4}, {}, "FormatError", r"head_count_kv 4 are not kv_lora_rank 24"),
    "heads with more than what is rotated": (
        "deepseek2-v3", {"deepseek2.attention.key_length_mla": 8}, {}, "FormatError", r"key_length_mla 8 has room for rotated"),
    "a rank of queries": (
        "deepseek2-v3", {"deepseek2.attention.q_lora_rank": 21}, {}, "ModelError",
        r"attn_q_a.weight is \[40, 20, 1, 1\], but needs \[40, 21\]"),
    "the norm of a compressed state": (
        "deepseek2-v3", {}, {"blk.0.attn_kv_a_norm.weight": None}, "ModelError", r"no tensor blk.0.attn_kv_a_norm.weight"),
    "the context that scores are tempered by": (
        "mistral3", {"mistral3.rope.scaling.original_context_length": None}, {}, "FormatError",
        r"no mistral3.rope.scaling.original_context_length"),
    "an expert for all rows": ("llama4", {}, {"blk.1.ffn_up_shexp.weight": None}, "ModelError", r"no tensor blk.1.ffn_up_shexp.weight"),
    "layer norms' epsilon under the key of RMS norms": (
        "phimoe", {"phimoe.attention.layer_norm_rms_epsilon": None}, {}, "FormatError", r"no phimoe.attention.layer_norm_rms_epsilon"),
    "matrices of every head": (
        "deepseek2-v3", {}, {"blk.1.attn_v_b.weight": np.zeros((3, 10, 24), np.float32)}, "ModelError",
        r"attn_v_b.weight is \[24, 10, 3, 1\], but needs \[24, 10, 4\] \(attention.kv_lora_rank, attention.value_length_mla, head_count"),
    "a state of no size": ("granitehybrid", {"granitehybrid.ssm.state_size": None}, {}, "FormatError", r"no granitehybrid.ssm.state_size"),
    "heads that do not share groups of keys": (
        "granitehybrid", {"granitehybrid.ssm.group_count": 4}, {}, "FormatError",
        r"ssm.inner_size 48 is not divided by ssm.time_step_rank 6, or that not by ssm.group_count 4"),
    "a state of other keys": (
        "granitehybrid", {"granitehybrid.ssm.state_size": 12}, {}, "ModelError",
        r"blk.0.ssm_in.weight is \[24, 142, 1, 1\], but needs \[24, 150\]"),
    "a layer without its rates": ("granitehybrid", {}, {"blk.2.ssm_a": None}, "ModelError", r"no tensor blk.2.ssm_a, which granitehybrid"),
    "a norm that may be called a weight or not": (
        "falcon-h1", {}, {"blk.1.ffn_norm": None}, "ModelError", r"no tensor blk.1.ffn_norm.weight, which falcon-h1 needs"),
    "a state beside attention": (
        "falcon-h1", {}, {"blk.1.ssm_in.weight": None}, "ModelError", r"no tensor blk.1.ssm_in.weight, which falcon-h1 needs"),
    "a layer that is a feed-forward": ("nemotron-h", {}, {"blk.1.ffn_up.weight": None}, "ModelError", r"no tensor blk.1.ffn_up.weight"),
    "a layer that is no feed-forward": (
        "nemotron-h", {"nemotron_h.feed_forward_length": [0, 0, 0, 0]}, {}, "ModelError", r"no tensor blk.1.ssm_a, which nemotron_h"),
    "experts' way back from what they read": (
        "nemotron-h-latent", {}, {"blk.1.ffn_latent_up.weight": None}, "ModelError", r"no tensor blk.1.ffn_latent_up.weight"),
    "experts that read what they are given": (
        "nemotron-h-latent", {"nemotron_h_moe.moe_latent_size": 24}, {}, "ModelError",
        r"blk.1.ffn_up_exps.weight is \[20, 20, 6, 1\], but needs \[24, 20, 6\]"),
    "experts that read more than a layer has": (
        "nemotron-h-moe", {"nemotron_h_moe.moe_latent_size": 640},
        {f"blk.{i}.ffn_{kind}_exps.weight": np.zeros((6, *shape), np.float32) for i in (1, 3) for kind, shape in
         (("up", (20, 640)), ("down", (640, 20)))}, "ModelError",
        r"moe_latent_size 640 is not embedding_length 32, but there is no blk.1.ffn_latent_down.weight"),
    "queries without their gates": (
        "qwen3next", {}, {"blk.3.attn_q.weight": np.zeros((64, 24), np.float32)}, "ModelError",
        r"blk.3.attn_q.weight is \[24, 64, 1, 1\], but needs \[24, 128\] \(twice head_count"),
    "steps of two matrices": ("qwen35", {}, {"blk.0.ssm_alpha.weight": None}, "ModelError", r"no tensor blk.0.ssm_alpha.weight"),
    "a gate of what is attended": ("afmoe", {}, {"blk.1.attn_gate.weight": None}, "ModelError", r"no tensor blk.1.attn_gate.weight"),
    "attention in other layers": (
        "qwen3next", {"qwen3next.full_attention_interval": 2}, {}, "ModelError", r"blk.1.attn_qkv.weight is .* but needs"),
    "a convolution of one tap": ("lfm2", {"lfm2.shortconv.l_cache": 1}, {}, "FormatError", r"lfm2.shortconv.l_cache is 1"),
    "a convolution of no known length": ("lfm2", {"lfm2.shortconv.l_cache": None}, {}, "FormatError", r"no lfm2.shortconv.l_cache"),
    "a convolution of other taps": (
        "lfm2", {"lfm2.shortconv.l_cache": 4}, {}, "ModelError",
        r"blk.0.shortconv.conv.weight is \[3, 40, 1, 1\], but needs \[4, 40\] \(shortconv.l_cache, embedding_length\)"),
    "a layer without its convolution": (
        "lfm2", {}, {"blk.0.shortconv.in_proj.weight": None}, "ModelError", r"no tensor blk.0.shortconv.in_proj.weight, which lfm2 needs"),
    "no heads of keys where there is nothing else": (
        "llama-gqa", {"llama.attention.head_count_kv": [2, 0, 2]}, {}, "FormatError", r"head_count_kv of layer 1 is 0, outside of 1 to"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_an_architecture_needs_is_asked_for(tmp_path, name):
    source, keys, tensors, exception, message = OTHERS[name]
    path = rewrite(MODELS / f"{source}.gguf", tmp_path / "m.gguf", keys, tensors)
    with pytest.raises(getattr(_core, exception), match=message):
        open_model(path)


def test_experts_of_four_bits_give_what_their_values_do(tmp_path):
    """MXFP4, as gpt-oss' files have them, beside the same values in F32."""
    kind = gguf.GGMLQuantizationType.MXFP4
    source, ids = MODELS / "gpt-oss.gguf", np.arange(40, dtype=np.int32)
    writer = gguf.GGUFWriter(tmp_path / "packed.gguf", "gpt-oss")
    reader, values = gguf.GGUFReader(source), {}
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        else:
            writer.add_key_value(name, field.contents(), field.types[0])
    for tensor in reader.tensors:
        if not tensor.name.endswith("_exps.weight"):
            writer.add_tensor(tensor.name, tensor.data)
            continue
        packed = gguf.quantize(np.array(tensor.data), kind)
        values[tensor.name] = gguf.dequantize(packed, kind)
        writer.add_tensor(tensor.name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert len(values) == 6
    want = logits(rewrite(source, tmp_path / "values.gguf", {}, values), ids)
    got = logits(tmp_path / "packed.gguf", ids)
    assert 0 < np.square(got - want).sum() / np.square(want).sum() < 1e-3


@pytest.mark.parametrize("kv_dtype", ["f32", "f16", "q8_0", "q4_0"])
def test_heads_that_share_a_compressed_state_are_shared_out_among_threads_bit_for_bit(kv_dtype):
    ids, got = np.arange(70, dtype=np.int32), []
    for threads in (1, 2, 7):
        engine = _core.Engine(_core.GGUF(os.fspath(MODELS / "deepseek2-v3.gguf")), max_ram=64 << 20, threads=threads, kv_dtype=kv_dtype)
        sequence = engine.sequence()
        rows = [engine.run([(sequence, part, len(part), None, 0)], logits=True).logits for part in (ids[:66], ids[66:67], ids[67:])]
        got.append(np.concatenate([np.array(r) for r in rows]))
        engine.close()
    np.testing.assert_array_equal(got[0], got[1])
    np.testing.assert_array_equal(got[0], got[2])


def test_layers_may_have_heads_and_feed_forwards_of_their_own(tmp_path):
    """A layer with more heads of keys and values is one whose groups share equal ones; a wider feed-forward, one of more zeros."""
    ids = np.arange(40, dtype=np.int32)
    source = MODELS / "llama-gqa.gguf"
    tensors = {t.name: np.array(t.data) for t in gguf.GGUFReader(source).tensors}
    wide = {}
    for part in "kv":
        heads = tensors[f"blk.1.attn_{part}.weight"].reshape(2, 12, 48)
        wide[f"blk.1.attn_{part}.weight"] = np.repeat(heads, 2, 0).reshape(48, 48)
    for part in ("gate", "up"):
        wide[f"blk.2.ffn_{part}.weight"] = np.concatenate([tensors[f"blk.2.ffn_{part}.weight"], np.ones((8, 48), np.float32)])
    wide["blk.2.ffn_down.weight"] = np.concatenate([tensors["blk.2.ffn_down.weight"], np.zeros((48, 8), np.float32)], 1)
    keys = {"llama.attention.head_count_kv": [2, 4, 2], "llama.feed_forward_length": [72, 72, 80]}
    got = logits(rewrite(source, tmp_path / "m.gguf", keys, wide), ids)
    np.testing.assert_allclose(got, logits(source, ids), rtol=1e-4, atol=1e-5)


def test_longrope_has_factors_for_contexts_within_and_beyond_its_original(tmp_path):
    """Of 32 positions, and one more; the model whose sets of factors are exchanged is the same in the other case."""
    ids, source = np.arange(20, dtype=np.int32), MODELS / "phi3-longrope.gguf"
    tensors = {t.name: np.array(t.data) for t in gguf.GGUFReader(source).tensors}
    both = [f"rope_factors_{kind}.weight" for kind in ("short", "long")]
    other = rewrite(source, tmp_path / "m.gguf", {}, dict(zip(both, (tensors[name] for name in reversed(both)), strict=True)))

    def run(path, n_ctx):
        engine = _core.Engine(_core.GGUF(os.fspath(path)), max_ram=64 << 20, n_ctx=n_ctx)
        out = np.array(engine.run([(engine.sequence(), ids, 1, None, 0)], logits=True).logits)
        engine.close()
        return out

    np.testing.assert_array_equal(run(source, 32), run(other, 33))
    np.testing.assert_array_equal(run(source, 33), run(other, 32))
    assert np.abs(run(source, 32) - run(source, 33)).max() > 1e-3


def test_windows_may_be_given_layer_by_layer(tmp_path):
    ids, source = np.arange(40, dtype=np.int32), MODELS / "gemma3.gguf"
    key = "gemma3.attention.sliding_window_pattern"
    same = {"flags": [True] * 5 + [False], "period": 6}
    for name, value in same.items():
        np.testing.assert_array_equal(logits(rewrite(source, tmp_path / f"{name}.gguf", {key: value}), ids), logits(source, ids))
    other = rewrite(source, tmp_path / "other.gguf", {key: [True, False] * 3})
    assert np.abs(logits(other, ids) - logits(source, ids)).max() > 1e-3


def test_layers_that_foretell_a_second_token_are_left_alone(tmp_path):
    ids, source = np.arange(40, dtype=np.int32), MODELS / "llama-gqa.gguf"
    two = logits(rewrite(source, tmp_path / "two.gguf", {"llama.block_count": 2}), ids)
    keys = {"llama.nextn_predict_layers": 1, "llama.attention.head_count_kv": [2, 2, 2]}
    np.testing.assert_array_equal(logits(rewrite(source, tmp_path / "m.gguf", keys), ids), two)


def test_learned_positions_end(tmp_path):
    with pytest.raises(_core.ArgumentError, match="n_ctx is 129, but the model has learned 128 positions"):
        _core.Engine(_core.GGUF(os.fspath(MODELS / "gpt2.gguf")), max_ram=64 << 20, n_ctx=129)


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
