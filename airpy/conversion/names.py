"""Names of tensors: those of checkpoints, as transformers' classes and models' own code spell them, and GGUF's.

Facts of gguf-py's tensor_mapping.py (ggml-org/llama.cpp), which tests hold against these. One table serves nearly all architectures;
what a family calls otherwise is in its row of families.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Names = Mapping[str, str]

_PREFIXES = ("model.", "transformer.", "gpt_neox.", "language_model.", "bert.", "roberta.", "encoder.", "backbone.")
_LAYER = re.compile(r"(?:layers|layer|h|blocks)\.(\d{1,5})\.(.+)")
_EXPERT = re.compile(r"(.+)\.experts\.(\d{1,5})\.(.+)")

WHOLE: Names = {
    "embed_tokens": "token_embd", "wte": "token_embd", "word_embeddings": "token_embd", "embed_in": "token_embd",
    "tok_embeddings": "token_embd", "word_embeddings_layernorm": "token_embd_norm", "wpe": "position_embd",
    "norm": "output_norm", "ln_f": "output_norm", "norm_f": "output_norm", "final_layernorm": "output_norm", "final_norm": "output_norm",
    "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
    "embeddings.tok_embeddings": "token_embd", "embeddings.norm": "token_embd_norm", "emb_ln": "token_embd_norm",
    "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm",
    "2_Dense/linear": "dense_2", "3_Dense/linear": "dense_3",  # in folders of their own
    "embeddings": "token_embd",
    "embedding_norm": "token_embd_norm", "final_layer_norm": "output_norm", "lm_head": "output", "embed_out": "output", "output": "output",
}  # fmt: skip

LAYER: Names = {
    # norms
    "operator_norm": "attn_norm",
    "input_layernorm": "attn_norm", "ln_1": "attn_norm", "norm_1": "attn_norm", "attention_norm": "attn_norm", "ln_mlp": "attn_norm",
    "ln_attn": "attn_norm_2", "post_attention_layernorm": "ffn_norm", "ln_2": "ffn_norm", "norm_2": "ffn_norm", "ffn_norm": "ffn_norm",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    "post_self_attn_layernorm": "post_attention_norm", "post_mlp_layernorm": "post_ffw_norm",
    "pre_mlp_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "self_attn.query_layernorm": "attn_q_norm",
    "self_attn.key_layernorm": "attn_k_norm", "self_attn.q_layernorm": "attn_q_norm", "self_attn.k_layernorm": "attn_k_norm",
    # attention
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.dense": "attn_output", "self_attn.qkv_proj": "attn_qkv", "self_attn.W_pack": "attn_qkv",
    "self_attention.query_key_value": "attn_qkv", "self_attention.dense": "attn_output",
    "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output", "attention.wqkv": "attn_qkv", "attention.wo": "attn_output",
    "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "attn.Wqkv": "attn_qkv", "attn.out_proj": "attn_output",
    "attn.attention.q_proj": "attn_q", "attn.attention.k_proj": "attn_k", "attn.attention.v_proj": "attn_v",
    "attn.attention.out_proj": "attn_output",
    "self_attn.gate_proj": "attn_gate",
    "self_attn.sinks": "attn_sinks", "self_attn.q_a_proj": "attn_q_a", "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b", "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.k_b_proj": "attn_k_b", "self_attn.v_b_proj": "attn_v_b", "self_attn.out_proj": "attn_output",
    "attention.query_layernorm": "attn_q_norm", "attention.key_layernorm": "attn_k_norm",
    "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm", "output.LayerNorm": "layer_output_norm",
    "attn_norm": "attn_norm", "attn.Wo": "attn_output", "norm1": "attn_output_norm", "norm2": "layer_output_norm",
    # the feed-forward
    "mlp_norm": "ffn_norm", "mlp.Wi": "ffn_up", "mlp.Wo": "ffn_down", "mlp.fc11": "ffn_up", "mlp.fc12": "ffn_gate",
    "intermediate.dense": "ffn_up", "output.dense": "ffn_down",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
    "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down", "ffn.up_proj": "ffn_up", "ffn.down_proj": "ffn_down",
    "mlp.c_fc_0": "ffn_gate", "mlp.c_fc_1": "ffn_up", "feed_forward.w1": "ffn_gate", "feed_forward.w3": "ffn_up",
    "feed_forward.w2": "ffn_down",
    "feed_forward.gate_proj": "ffn_gate", "feed_forward.up_proj": "ffn_up", "feed_forward.down_proj": "ffn_down",
    # layers with a state
    "conv.conv": "shortconv.conv", "conv.in_proj": "shortconv.in_proj", "conv.out_proj": "shortconv.out_proj",
    "mamba.in_proj": "ssm_in", "mamba.conv1d": "ssm_conv1d", "mamba.dt_proj": "ssm_dt", "mamba.norm": "ssm_norm",
    "mamba.out_proj": "ssm_out", "norm": "attn_norm",
    "mixer.in_proj": "ssm_in", "mixer.conv1d": "ssm_conv1d", "mixer.dt_proj": "ssm_dt", "mixer.norm": "ssm_norm",
    "mixer.out_proj": "ssm_out", "mixer.q_proj": "attn_q", "mixer.k_proj": "attn_k", "mixer.v_proj": "attn_v",
    "mixer.o_proj": "attn_output", "mixer.up_proj": "ffn_up", "mixer.down_proj": "ffn_down",
    "linear_attn.in_proj_qkv": "attn_qkv", "linear_attn.in_proj_z": "attn_gate", "linear_attn.in_proj_ba": "ssm_ba",
    "linear_attn.in_proj_b": "ssm_beta", "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.conv1d": "ssm_conv1d", "linear_attn.dt_proj": "ssm_dt", "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
    # mixtures of experts
    "mixer.gate": "ffn_gate_inp", "mixer.gate.e_score_correction": "exp_probs_b", "mixer.shared_experts.up_proj": "ffn_up_shexp",
    "mixer.shared_experts.down_proj": "ffn_down_shexp", "mixer.fc1_latent_proj": "ffn_latent_down",
    "mixer.fc2_latent_proj": "ffn_latent_up",
    "mlp.gate": "ffn_gate_inp", "mlp.gate.wg": "ffn_gate_inp", "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.router.layer": "ffn_gate_inp", "mlp.router": "ffn_gate_inp", "mlp.gate.e_score_correction": "exp_probs_b",
    "mlp.e_score_correction": "exp_probs_b", "mlp.router.gate": "ffn_gate_inp",
    "mlp.moe_statics.e_score_correction": "exp_probs_b", "block_sparse_moe.e_score_correction": "exp_probs_b",
    "feed_forward.router": "ffn_gate_inp", "feed_forward.gate": "ffn_gate_inp", "feed_forward.e_score_correction": "exp_probs_b",
    "feed_forward.shared_expert.gate_proj": "ffn_gate_shexp",
    "feed_forward.shared_expert.up_proj": "ffn_up_shexp", "feed_forward.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp", "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp", "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "mlp.shared_mlp.gate_proj": "ffn_gate_shexp", "mlp.shared_mlp.up_proj": "ffn_up_shexp",
    "mlp.shared_mlp.down_proj": "ffn_down_shexp",
}  # fmt: skip

# What is neither a weight nor a bias, or is not called one.
BARE: Names = {"pre_ff_layernorm.weight": "ffn_norm", "mamba.A_log": "ssm_a", "mamba.D": "ssm_d", "linear_attn.A_log": "ssm_a",
               "mixer.A_log": "ssm_a", "mixer.D": "ssm_d"}  # fmt: skip

# Biases that have names of their own, and what they are of.
_BIASES = {"e_score_correction_bias": "e_score_correction", "expert_bias": "e_score_correction", "dt_bias": "dt_proj"}

# Of one expert; the tensors of all of them become one.
EXPERT: Names = {
    "gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps",
    "w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps",
}  # fmt: skip

# Of buffers that follow from other numbers: rotary frequencies, masks.
_LEFT_OUT = re.compile(r"\.(inv_freq|masked_bias|attn\.bias|attention\.bias|position_ids)$")


def stem_of(name: str) -> tuple[int | None, str]:
    """A checkpoint's name as layer and rest, without what all names begin with: 3, "self_attn.q_proj.weight"."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    match = _LAYER.fullmatch(name)
    return (int(match[1]), match[2]) if match else (None, name)


def expert_of(rest: str) -> tuple[int, str] | None:
    """A layer's "mlp.experts.7.up_proj.weight" as 7, "up_proj.weight"; None for what is no expert's."""
    match = _EXPERT.fullmatch(rest)
    return (int(match[2]), match[3]) if match else None


def is_left_out(name: str) -> bool:
    """Whether GGUF has no place for it, as it follows from the configuration."""
    return _LEFT_OUT.search(name) is not None


def gguf_name(layer: int | None, rest: str, own: Names) -> str | None:
    """own: names that come before those of the tables. None for what nobody knows."""
    if layer is not None and rest in BARE:
        return f"blk.{layer}.{BARE[rest]}"
    stem, _, suffix = rest.rpartition(".")
    if suffix in _BIASES:
        stem, suffix = f"{stem}.{_BIASES[suffix]}", "bias"
    if suffix not in ("weight", "bias"):
        return None
    if layer is None:
        found = own.get(stem) or WHOLE.get(stem)
        return f"{found}.{suffix}" if found else None
    found = own.get(stem) or LAYER.get(stem)
    return f"blk.{layer}.{found}.{suffix}" if found else None
