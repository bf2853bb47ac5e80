"""The models that can be converted: one row for each class that a config.json names.

A row says which architecture of GGUF it is, what its checkpoints keep in another order or under other names (layouts.py, names.py), and
what of its configuration the file must hold beside what all have (hparams.py). What a row does not allow is refused: a model that would
compute something else is worse than none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airpy.conversion import layouts
from airpy.conversion.config import Config
from airpy.conversion.layouts import Joint, Layout
from airpy.conversion.names import Names
from airpy.errors import FormatError, UnsupportedError

Value = Callable[[Config], Any]  # None: the key is left out
Keys = tuple[tuple[str, str, Value], ...]


@dataclass(frozen=True)
class Family:
    """arch: GGUF's name. layer_norm: norms with a mean; else RMS norms. keys: of GGUF, without the architecture: how its value follows
    from the configuration. allowed: values of keys of the configuration, where they matter and are there. activations: names of the
    feed-forward's function. tied: whether the output is the embedding where the configuration does not say. windows: whether the
    architecture knows layers that see a window. ignored: beginnings of names of tensors that are not about text. check: raises
    UnsupportedError for other configurations that would compute something else. defaults: of keys that configurations leave out.
    attends: whether it has attention at all.
    instead: another row, where a configuration of the class is one of another architecture."""

    arch: str
    layouts: tuple[Layout, ...] = ()
    joint: Joint | None = None
    names: Names | None = None
    layer_norm: bool = False
    rotated: bool = True
    attends: bool = True
    keys: Keys = ()
    allowed: tuple[tuple[Any, ...], ...] = ()
    activations: tuple[str, ...] = ("silu", "swish")
    tied: bool = False
    windows: bool = False
    ignored: tuple[str, ...] = ()
    check: Callable[[Config], None] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    instead: Callable[[Config], Family | None] | None = None


def _number(name: str, default: float | None = None) -> Value:
    return lambda config: config.number(name, default=default)


def _number_or_none(name: str) -> Value:
    return lambda config: None if config.first(name) is None else config.number(name)


def _integer(name: str, default: int | None = None) -> Value:
    return lambda config: config.integer(name, default=default, least=0)


_GELU = ("gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast")  # GGUF has no key for which: the architecture has one, within 5e-4
_SANDWICH = {"post_attention_layernorm": "post_attention_norm"}
_GRANITE = (
    ("embedding_scale", "f32", _number("embedding_multiplier", 1.0)), ("residual_scale", "f32", _number("residual_multiplier", 1.0)),
    ("logit_scale", "f32", _number("logits_scaling", 1.0)), ("attention.scale", "f32", _number("attention_multiplier", 1.0)),
)  # fmt: skip
_ROUTED = (
    ("leading_dense_block_count", "u32", _integer("first_k_dense_replace", 0)),
    ("expert_shared_count", "u32", _integer("n_shared_experts", 0)),
    ("expert_weights_scale", "f32", _number("routed_scaling_factor", 1.0)),
    ("expert_weights_norm", "bool", lambda config: config.flag("norm_topk_prob", default=False)),
    ("expert_gating_func", "u32", lambda config: 2),  # sigmoid
)  # fmt: skip
_GROUPS = (
    ("expert_group_count", "u32", lambda config: groups if (groups := config.integer("n_group", default=1)) > 1 else None),
    ("expert_group_used_count", "u32", lambda config: config.integer("topk_group") if config.integer("n_group", default=1) > 1 else None),
)
_LATENT = (
    ("attention.head_count_kv", "u32", lambda config: 1),
    ("attention.key_length", "u32", lambda config: config.integer("kv_lora_rank") + config.integer("qk_rope_head_dim")),
    ("attention.value_length", "u32", _integer("kv_lora_rank")),
    ("attention.key_length_mla", "u32", lambda config: config.integer("qk_nope_head_dim") + config.integer("qk_rope_head_dim")),
    ("attention.value_length_mla", "u32", _integer("v_head_dim")), ("attention.kv_lora_rank", "u32", _integer("kv_lora_rank")),
    ("attention.q_lora_rank", "u32", lambda config: config.integer_or_none("q_lora_rank")),
)  # fmt: skip
_NORM_TOPK = (("expert_weights_norm", "bool", lambda config: config.flag("norm_topk_prob", default=False)),)
_LOGIT_SCALE = (("logit_scale", "f32", _number("logit_scale", 0.0625)),)
_CLAMP = (("attention.clamp_kqv", "f32", _number_or_none("clip_qkv")),)
_SPARSE: tuple[tuple[Any, ...], ...] = (("decoder_sparse_step", 1), ("mlp_only_layers", []))  # of Qwen's mixtures: every layer is one


def _gating(config: Config) -> int:
    """DeepSeek V2's configuration may leave out that it is a softmax; V3 has no other than the sigmoid."""
    return 2 if config.first("scoring_func") == "sigmoid" else 1


def _check_deepseek(config: Config) -> None:
    config.require("moe_layer_freq", 1)
    config.require("rope_interleave", True)


def _check_mpt(config: Config) -> None:
    config.part("attn_config").require("alibi", True)
    config.part("attn_config").require("qk_ln", False)


def _check_llama4(config: Config) -> None:
    """Three layers that rotate, one that does not; norms on q and k in all but the model of 128 experts."""
    given = config.first("no_rope_layers") or []
    if given and given != [int(i % 4 != 3) for i in range(config.layers)]:
        raise UnsupportedError(f"{config.path}: no_rope_layers is {str(given)[:80]}; only every fourth layer without rotation is known")
    config.require("use_qk_norm", config.experts != 128)


def _nemotron_kinds(config: Config) -> list[str]:
    """Of layers: state, attention, dense or experts; a letter each in older files."""
    known = {"M": "state", "*": "attention", "-": "dense", "E": "experts", "mamba": "state", "linear_attention": "state",
             "attention": "attention", "full_attention": "attention", "mlp": "dense", "moe": "experts"}  # fmt: skip
    given = config.first("layers_block_type") or list(str(config.first("hybrid_override_pattern") or ""))
    if not isinstance(given, list) or len(given) != config.layers or not all(isinstance(kind, str) and kind in known for kind in given):
        raise UnsupportedError(f"{config.path}: the layers are {str(given)[:80]}; expected {config.layers} of {', '.join(known)}")
    return [known[kind] for kind in given]


def _nemotron_feed_forward(config: Config) -> list[int]:
    sizes = {"state": 0, "attention": 0, "dense": config.feed_forward, "experts": config.expert_feed_forward}
    return [sizes[kind] for kind in _nemotron_kinds(config)]


def _check_mamba2(config: Config) -> None:
    heads, head = config.integer("mamba_n_heads"), config.first("mamba_d_head")
    if head not in (None, "auto") and heads * config.integer("mamba_d_head") != _inner(config):
        raise UnsupportedError(f"{config.path}: {heads} mamba_n_heads of {head} are not {_inner(config)}, mamba_expand times hidden_size")
    limits = config.first("time_step_limit") or [0.0, math.inf]
    if limits not in ([0.0, math.inf], [0.0, {"__float__": "Infinity"}]):
        raise UnsupportedError(f"{config.path}: time_step_limit is {str(limits)[:80]}; GGUF has none")


def _check_falcon_h1(config: Config) -> None:
    """A norm of what the gate has been applied to; the embedding and the output by the same factor where they are one matrix."""
    _check_mamba2(config)
    if config.flag("mamba_rms_norm", default=False) and config.flag("mamba_norm_before_gate", default=True):
        raise UnsupportedError(f"{config.path}: mamba_norm_before_gate is true; the model can be converted only with false")
    factors = [config.number(f"{name}_multiplier", default=1.0) for name in ("embedding", "lm_head")]
    if config.flag("tie_word_embeddings", default=False) and factors[0] != factors[1]:
        raise UnsupportedError(f"{config.path}: embedding_multiplier {factors[0]:g} is not lm_head_multiplier {factors[1]:g}, but "
                               "tie_word_embeddings is true: GGUF has one matrix then, with either in it")  # fmt: skip


def _check_modern_bert(config: Config) -> None:
    """Every third layer sees all, from the first on."""
    kinds = config.list_of("layer_types", str, config.layers)
    if kinds is not None and any((kind == "full_attention") != (i % 3 == 0) for i, kind in enumerate(kinds)):
        raise UnsupportedError(f"{config.path}: layer_types is {str(kinds)[:80]}; only every third layer full is known")


def _needed(config: Config, name: str) -> None:
    if config.first(name) is not True:
        raise UnsupportedError(f"{config.path}: {name} is {str(config.first(name))[:40]}; the model can be converted only with true")


def _labels(config: Config) -> list[str]:
    """A classifier's, which llama.cpp asks for; where nothing is said, the two that transformers takes."""
    if config.first("id2label") is None:
        return ["LABEL_0", "LABEL_1"]
    given = config.part("id2label")
    names = [given.first(str(i)) for i in range(len(given.values))]
    if not names or not all(isinstance(name, str) for name in names):
        raise FormatError(f"{given.path} is {str(given.values)[:80]}; expected texts by number, from 0 on")
    return names


def _check_phimoe(config: Config) -> None:
    rope = _rope(config)
    if rope.first("long_mscale") != rope.first("short_mscale"):
        raise UnsupportedError(f"{rope.path}: long_mscale is not short_mscale, which GGUF has one number for")


def _rope(config: Config) -> Config:
    return config.part("rope_parameters" if config.first("rope_parameters") is not None else "rope_scaling")


def _shared(config: Config) -> int:
    return config.integer("shared_intermediate_size")


def _inner(config: Config) -> int:
    return config.integer("mamba_d_ssm", default=config.integer("mamba_expand", default=2) * config.hidden)


def _kinds(config: Config) -> list[str]:
    """Of layers, of which some have a state instead of attention."""
    known = {"conv": "", "mamba": "", "linear_attention": "", "attention": "full", "full_attention": "full"}
    given = config.list_of("layer_types", str, config.layers)
    if given is None:  # as LFM2's first files have it
        full = config.first("full_attn_idxs")
        given = ["attention" if i in full else "conv" for i in range(config.layers)] if isinstance(full, list) else ["none"]
    if odd := set(given) - set(known):
        raise UnsupportedError(f"{config.path}: layer_types has {odd.pop()[:40]!r}; known are {', '.join(known)}")
    return [known[kind] for kind in given]


def _kv_heads_by_layer(config: Config) -> list[int]:
    return [config.kv_heads if kind == "full" else 0 for kind in _kinds(config)]


def _every(config: Config) -> int:
    """Of how many layers of Qwen3-Next's the last has attention."""
    if config.first("layer_types") is None:
        return config.integer("full_attention_interval", default=4)
    kinds = _kinds(config)
    every = kinds.index("full") + 1 if "full" in kinds else 0
    if not every or any((kind == "full") != ((i + 1) % every == 0) for i, kind in enumerate(kinds)):
        raise UnsupportedError(f"{config.path}: layer_types has no period; the model can be converted only with attention in every n-th")
    return every


def _sections(config: Config) -> list[int]:
    """Pairs of heads that turn by time, height and width, which of a text are the same: llama.cpp asks for them."""
    given = _rope(config).list_of("mrope_section", int, 3) or [11, 11, 10]
    return [*given, 0]


def _lfm2_feed_forward(config: Config) -> int:
    """Of its blocks: two thirds of what the configuration says, rounded up, where it says that (modeling_lfm2.py)."""
    size = config.integer("block_ff_dim", "intermediate_size")
    if config.flag("block_auto_adjust_ff_dim", default=True):
        multiple = config.integer("block_multiple_of", default=256)
        size = int(config.number("block_ffn_dim_multiplier", default=1.0) * int(2 * size / 3))
        size = multiple * ((size + multiple - 1) // multiple)
    return size


def _check_smollm3(config: Config) -> None:
    """SmolLM 3: of four layers the last is not rotated, which is all that the architecture knows."""
    given = config.list_of("no_rope_layers", int, config.layers)
    if given is not None and given != [int(i % 4 != 3) for i in range(config.layers)]:
        raise UnsupportedError(f"{config.path}: no_rope_layers is {given}; the model can be converted only with every fourth layer")


_GPT = Family("starcoder", (layouts.by_head,), activations=_GELU, layer_norm=True, tied=True, rotated=False)
LLAMA = Family("llama", (layouts.interleaved,))
QWEN3 = Family("qwen3")
_INTERNLM2 = Family("internlm2", (layouts.wqkv,))
_GEMMA = Family("gemma", (layouts.one_more,), activations=_GELU, tied=True)
_GEMMA_SCALE: Keys = (("attention.scale", "f32", lambda c: None if c.first("query_pre_attn_scalar") is None else c.integer(
    "query_pre_attn_scalar") ** -0.5),)  # fmt: skip
_GEMMA3 = replace(_GEMMA, arch="gemma3", names=_SANDWICH, windows=True, ignored=("vision_tower.", "multi_modal_projector."),
                 keys=_GEMMA_SCALE, defaults={  # of transformers' Gemma3TextConfig, which the larger models' files leave out
                     "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072,
                     "rope_theta": 1e6, "rope_local_base_freq": 1e4, "rms_norm_eps": 1e-6},
                 allowed=(("attn_logit_softcapping", None), ("final_logit_softcapping", None)))  # fmt: skip
_BAICHUAN = Family("baichuan", (layouts.w_pack,))
_FALCON = Family("falcon", (layouts.by_group,), layer_norm=True, tied=True, activations=_GELU,
                 allowed=(("alibi", False), ("parallel_attn", True), ("bias", False)))  # fmt: skip
_MPT = Family("mpt", layer_norm=True, rotated=False, tied=True, activations=(),
              keys=(("attention.max_alibi_bias", "f32", lambda c: float(c.part("attn_config").number("alibi_bias_max", default=8.0))),
                    ("attention.clamp_kqv", "f32", lambda c: _CLAMP[0][2](c.part("attn_config")))),
              check=_check_mpt,
              allowed=(("no_bias", True), ("logit_scale", None), ("norm_type", "low_precision_layernorm")))  # fmt: skip

_DEEPSEEK3 = Family("deepseek2", (layouts.latent,), check=_check_deepseek, keys=(*_ROUTED, *_GROUPS, *_LATENT))
_MISTRAL4 = Family(
    "mistral4", (layouts.latent, layouts.stacked_gate_and_up), ignored=("vision_tower.", "multi_modal_projector."), check=_check_deepseek,
    keys=(*_ROUTED[:4], ("expert_gating_func", "u32", lambda config: 1), *_GROUPS, *_LATENT,
          ("attention.temperature_scale", "f32", lambda config: _number_or_none("llama_4_scaling_beta")(_rope(config))),
          ("attention.temperature_length", "u32", lambda config: _rope(config).integer_or_none("original_max_position_embeddings"))),
    allowed=(("n_group", 1),))  # fmt: skip
_LLAMA4 = Family(
    "llama4", (layouts.turned_experts,), check=_check_llama4, ignored=("vision_model.", "multi_modal_projector."),
    keys=(("expert_feed_forward_length", "u32", _integer("intermediate_size")),
          ("attention.sliding_window", "u32", _integer("attention_chunk_size", 8192)),
          ("interleave_moe_layer_step", "u32", _integer("interleave_moe_layer_step", 1)),  # llama.cpp asks for it; airpy sees the tensors
          ("attention.temperature_scale", "f32", _number("attn_scale", 0.1)),
          ("attention.temperature_length", "u32", lambda config: int(config.number("floor_scale", default=8192)))),
    allowed=(("attn_temperature_tuning", True, 4), ("no_rope_layer_interval", 4)))  # fmt: skip
_MINISTRAL = Family(
    "mistral3", (layouts.interleaved,), ignored=("vision_tower.", "multi_modal_projector."),
    instead=lambda config: _MISTRAL4 if config.first("model_type") == "mistral4" else None, keys=(
        ("rope.scaling.yarn_log_multiplier", "f32", lambda config: _number_or_none("mscale_all_dim")(_rope(config))),
        ("attention.temperature_scale", "f32", lambda config: _number_or_none("llama_4_scaling_beta")(_rope(config)))))  # fmt: skip
_PHIMOE = Family("phimoe", check=_check_phimoe, keys=(
    ("rope.scaling.attn_factor", "f32", lambda config: _number_or_none("long_mscale")(_rope(config))),))  # fmt: skip
_SSM: Keys = (
    ("attention.head_count_kv", "integers", _kv_heads_by_layer), ("ssm.conv_kernel", "u32", _integer("mamba_d_conv", 4)),
    ("ssm.inner_size", "u32", _inner), ("ssm.state_size", "u32", _integer("mamba_d_state", 256)),
    ("ssm.time_step_rank", "u32", _integer("mamba_n_heads")), ("ssm.group_count", "u32", _integer("mamba_n_groups", 1)),
)  # fmt: skip
_GRANITE_ROPE: Keys = (("rope.scaling.finetuned", "bool", lambda config: config.first("position_embedding_type") == "rope"),)
_GRANITE_DENSE = Family("granite", (layouts.interleaved, layouts.shared_in_one), tied=True, keys=(
    *_GRANITE, *_GRANITE_ROPE, ("feed_forward_length", "u32", _shared)))  # fmt: skip
_GRANITE_HYBRID = Family(
    "granitehybrid", (layouts.interleaved, layouts.shared_in_one, layouts.gate_and_up, layouts.mamba2, layouts.convolutions), tied=True,
    keys=(*_GRANITE, *_SSM, *_GRANITE_ROPE,
          ("feed_forward_length", "u32", lambda config: config.feed_forward if config.experts else _shared(config)),
          ("expert_shared_feed_forward_length", "u32", lambda config: _shared(config) if config.experts else None)),
    check=_check_mamba2, instead=lambda config: None if config.experts or "" in _kinds(config) else _GRANITE_DENSE,
    allowed=(("mamba_conv_bias", True), ("mamba_proj_bias", False)))  # fmt: skip
_MAMBA2_KEYS: Keys = (
    ("attention.layer_norm_rms_epsilon", "f32", _number("layer_norm_epsilon", 1e-5)),
    ("ssm.conv_kernel", "u32", _integer("conv_kernel", 4)), ("ssm.group_count", "u32", _integer("n_groups", 8)),
)
_MAMBA2 = Family(
    "mamba2", (layouts.mamba2, layouts.convolutions), rotated=False, attends=False, keys=(
        *_MAMBA2_KEYS, ("ssm.state_size", "u32", _integer("state_size", 128)),
        ("ssm.inner_size", "u32", lambda config: config.integer("num_heads") * config.integer("head_dim", default=64)),
        ("ssm.time_step_rank", "u32", _integer("num_heads")), ("feed_forward_length", "u32", lambda config: 0),
        ("context_length", "u32", lambda config: 1 << 20)),  # as llama.cpp's converter has it: there is no length that it is made for
    allowed=(("use_bias", False), ("use_conv_bias", True), ("time_step_limit", [0.0, math.inf], [0.0, {"__float__": "Infinity"}])))
_NEMOTRON_H_KEYS: Keys = (
    ("attention.head_count_kv", "integers",
     lambda config: [config.kv_heads if kind == "attention" else 0 for kind in _nemotron_kinds(config)]),
    ("feed_forward_length", "integers", _nemotron_feed_forward),
    *_MAMBA2_KEYS, ("attention.layer_norm_epsilon", "f32", _number("layer_norm_epsilon", 1e-5)),  # llama.cpp asks for this one
    ("ssm.state_size", "u32", _integer("ssm_state_size", 128)),
    ("ssm.inner_size", "u32", lambda config: config.integer("mamba_num_heads") * config.integer("mamba_head_dim")),
    ("ssm.time_step_rank", "u32", _integer("mamba_num_heads")),
)
_NEMOTRON_H = Family(
    "nemotron_h", (layouts.mamba2, layouts.convolutions), rotated=False, activations=(), ignored=("mtp.",), keys=(
        *_NEMOTRON_H_KEYS, ("expert_count", "u32", lambda config: None), ("expert_used_count", "u32", lambda config: None),
        ("expert_feed_forward_length", "u32", lambda config: None)),
    allowed=(("mlp_hidden_act", "relu2"), ("mamba_hidden_act", "silu"), ("use_bias", False), ("mamba_proj_bias", False),
             ("use_conv_bias", True), ("moe_latent_size", None)))  # fmt: skip
_NEMOTRON_H_MOE = replace(_NEMOTRON_H, arch="nemotron_h_moe", allowed=_NEMOTRON_H.allowed[:-1], keys=(
    *_NEMOTRON_H_KEYS, *_GROUPS, *_ROUTED[1:4], ("moe_latent_size", "u32", lambda config: config.integer_or_none("moe_latent_size")),
    ("expert_shared_feed_forward_length", "u32", _integer("moe_shared_expert_intermediate_size"))))
_NEMOTRON_H = replace(_NEMOTRON_H, instead=lambda config: _NEMOTRON_H_MOE if "experts" in _nemotron_kinds(config) else None)
_FALCON_H1 = Family(
    "falcon-h1", (layouts.mamba2, layouts.convolutions, layouts.falcon_h1), keys=_SSM[1:], check=_check_falcon_h1, allowed=(
        ("mamba_conv_bias", True), ("mamba_proj_bias", False), ("projectors_bias", False), ("attention_bias", False), ("mlp_bias", False)))
_LFM2 = Family(
    "lfm2", (layouts.convolutions,), tied=True, allowed=(("conv_bias", False),), activations=(), keys=(
        ("attention.head_count_kv", "integers", _kv_heads_by_layer), ("shortconv.l_cache", "u32", _integer("conv_L_cache", 3)),
        ("feed_forward_length", "u32", _lfm2_feed_forward)))  # fmt: skip
_LFM2_MOE = Family(
    "lfm2moe", (layouts.convolutions,), tied=True, activations=(), keys=(
        *_LFM2.keys[:2], ("leading_dense_block_count", "u32", _integer("num_dense_layers", 2)),
        ("expert_weights_scale", "f32", _number("routed_scaling_factor", 1.0)), ("expert_gating_func", "u32", lambda config: 2)),
    allowed=(("conv_bias", False), ("norm_topk_prob", True)))  # fmt: skip
_QWEN3NEXT = Family(
    "qwen3next", (layouts.delta_net, layouts.convolutions), names=_SANDWICH, ignored=("mtp.",), keys=(
        ("ssm.conv_kernel", "u32", _integer("linear_conv_kernel_dim", 4)), ("ssm.state_size", "u32", _integer("linear_key_head_dim")),
        ("ssm.inner_size", "u32", lambda config: config.integer("linear_num_value_heads") * config.integer("linear_value_head_dim")),
        ("ssm.time_step_rank", "u32", _integer("linear_num_value_heads")), ("ssm.group_count", "u32", _integer("linear_num_key_heads")),
        ("full_attention_interval", "u32", _every)), allowed=(*_SPARSE, ("norm_topk_prob", True)))  # fmt: skip
_QWEN35 = replace(
    _QWEN3NEXT, arch="qwen35", layouts=(layouts.convolutions, layouts.values_in_turn, layouts.delta_net), ignored=("mtp.", "visual."),
    keys=(*_QWEN3NEXT.keys, ("rope.dimension_sections", "integers", _sections)), allowed=(("attention_bias", False),))
_MINIMAX_M2 = Family("minimax-m2", keys=(("expert_gating_func", "u32", lambda config: 2),), allowed=(
    ("use_qk_norm", True), ("qk_norm_type", "per_layer"), ("scoring_func", "sigmoid"), ("shared_intermediate_size", 0)))  # fmt: skip
_LING: Keys = (
    ("leading_dense_block_count", "u32", _integer("first_k_dense_replace", 0)),
    ("expert_shared_count", "u32", _integer("num_shared_experts", 0)), *_NORM_TOPK,
)  # fmt: skip
_AFMOE = Family(
    "afmoe", names=_SANDWICH, windows=True, check=lambda config: _needed(config, "mup_enabled"), keys=(
        ("leading_dense_block_count", "u32", _integer("num_dense_layers", 1)),
        ("expert_shared_count", "u32", _integer("num_shared_experts", 0)),
        ("expert_weights_scale", "f32", _number("route_scale", 1.0)), ("expert_weights_norm", "bool", lambda config: True), _ROUTED[4]),
    allowed=(("route_norm", True), ("score_func", "sigmoid"), ("n_group", 1)))  # fmt: skip
_EXAONE_MOE = Family("exaone-moe", windows=True, ignored=("mtp.",), keys=(*_LING, _ROUTED[2], _ROUTED[4], *_GROUPS))
_LING2 = Family("bailingmoe2", keys=(*_LING, _ROUTED[2], _ROUTED[4], *_GROUPS), allowed=(
    ("use_qk_norm", True), ("score_function", "sigmoid"), ("use_qkv_bias", False), ("norm_head", False)))  # fmt: skip

# Encoders, without the heads that they were trained with, but for those of classifiers.
_BOTH_WAYS: Keys = (("attention.causal", "bool", lambda config: False),)
_SCORES: Keys = (("pooling_type", "u32", lambda config: 4), ("classifier.output_labels", "strings", _labels))
_BERT = Family("bert", layer_norm=True, rotated=False, activations=("gelu",), ignored=("pooler.", "cls.", "bert.pooler."),
               keys=_BOTH_WAYS, allowed=(("position_embedding_type", "absolute"), ("is_decoder", False)))  # fmt: skip
_BERT_SCORES = replace(_BERT, ignored=(), names={"pooler.dense": "cls", "classifier": "cls.output"}, keys=_BOTH_WAYS + _SCORES)
_ROBERTA = replace(_BERT, layouts=(layouts.from_second_position,), ignored=("pooler.", "lm_head.", "roberta.pooler."), keys=(
    *_BOTH_WAYS, ("context_length", "u32", lambda config: config.integer("max_position_embeddings", least=3) - config.integer(
        "pad_token_id", default=1, least=0) - 1)))  # fmt: skip
_ROBERTA_SCORES = replace(
    _ROBERTA, ignored=(), names={"classifier.dense": "cls", "classifier.out_proj": "cls.output"}, keys=_ROBERTA.keys + _SCORES
)
_NOMIC_BERT = Family("nomic-bert", layer_norm=True, activations=("silu", "swiglu", "swish"), keys=_BOTH_WAYS, allowed=(
    ("prenorm", False), ("parallel_block", False), ("use_rms_norm", False), ("rotary_emb_interleaved", False),
    ("rotary_scaling_factor", None), ("rotary_emb_scale_base", None),
    ("moe_every_n_layers", 0), ("num_experts", 0)), defaults={"rotary_emb_base": 1000.0})  # fmt: skip
_MODERN_BERT = Family(
    "modern-bert", layer_norm=True, activations=("gelu", "silu"), ignored=("head.", "decoder."), check=_check_modern_bert,
    keys=(*_BOTH_WAYS, ("attention.sliding_window", "u32", _integer("local_attention", 128)),
          ("hidden_activation", "string", lambda config: config.first("hidden_activation") or "gelu")),
    allowed=(("attention_bias", False), ("mlp_bias", False), ("norm_bias", False), ("global_attn_every_n_layers", 3)),
    defaults={"global_rope_theta": 160000.0, "local_rope_theta": 10000.0})  # fmt: skip
_EUROBERT = Family("eurobert", ignored=("lm_head.",), keys=_BOTH_WAYS, allowed=(("attention_bias", False), ("mlp_bias", False)))
_GEMMA_EMBEDDING = replace(_GEMMA3, arch="gemma-embedding", check=lambda config: _needed(config, "use_bidirectional_attention"))
_QWEN3_SCORES = Family("qwen3", names={"score": "cls.output"}, keys=_SCORES)

# fmt: off
FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": LLAMA,
    "LLaMAForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA,
    "InternLM3ForCausalLM": LLAMA,
    "MixtralForCausalLM": LLAMA,
    "Qwen2ForCausalLM": Family("qwen2"),
    "Qwen3ForCausalLM": QWEN3,
    "Qwen2MoeForCausalLM": Family("qwen2moe", keys=_NORM_TOPK, allowed=_SPARSE),
    "Qwen3MoeForCausalLM": Family("qwen3moe", keys=_NORM_TOPK, allowed=_SPARSE),
    "AfmoeForCausalLM": _AFMOE,
    "ArceeForCausalLM": Family("arcee", (layouts.interleaved,), activations=("relu2",)),
    "BaichuanForCausalLM": _BAICHUAN,
    "BaiChuanForCausalLM": _BAICHUAN,
    "BertModel": _BERT,
    "BertForMaskedLM": _BERT,
    "BertForSequenceClassification": _BERT_SCORES,
    "RobertaModel": _ROBERTA,
    "RobertaForSequenceClassification": _ROBERTA_SCORES,
    "XLMRobertaModel": _ROBERTA,
    "XLMRobertaForSequenceClassification": _ROBERTA_SCORES,
    "EuroBertModel": _EUROBERT,
    "EuroBertForMaskedLM": _EUROBERT,
    "Gemma3TextModel": _GEMMA_EMBEDDING,
    "ModernBertModel": _MODERN_BERT,
    "ModernBertForMaskedLM": _MODERN_BERT,
    "NomicBertModel": _NOMIC_BERT,
    "Qwen3Model": QWEN3,
    "Qwen3ForSequenceClassification": _QWEN3_SCORES,
    "MistralModel": LLAMA,
    "BailingMoeForCausalLM": Family("bailingmoe", (layouts.side_by_side,), keys=_LING, allowed=(
        ("norm_head", False), ("use_qkv_bias", False), ("use_bias", False))),
    "BailingMoeV2ForCausalLM": _LING2,
    "BloomForCausalLM": Family("bloom", (layouts.by_head,), layer_norm=True, rotated=False, tied=True, activations=(),
                               allowed=(("apply_residual_connection_post_layernorm", False),)),
    "GlmForCausalLM": Family("chatglm", joint=layouts.fused),
    "CohereForCausalLM": Family("command-r", layer_norm=True, tied=True, keys=_LOGIT_SCALE),
    "Cohere2ForCausalLM": Family("cohere2", layer_norm=True, tied=True, windows=True, keys=_LOGIT_SCALE),
    "Dots1ForCausalLM": Family("dots1", keys=_ROUTED + _GROUPS),
    "DeepseekForCausalLM": Family("deepseek", (layouts.interleaved,), check=_check_deepseek, keys=(
        *_ROUTED[:4], ("expert_gating_func", "u32", _gating))),
    "DeepseekV2ForCausalLM": Family("deepseek2", (layouts.latent,), check=_check_deepseek, keys=(
        *_ROUTED[:4], ("expert_gating_func", "u32", _gating), *_GROUPS, *_LATENT)),
    "DeepseekV3ForCausalLM": _DEEPSEEK3,
    "GptOssForCausalLM": Family("gpt-oss", (layouts.gates_in_turn,), names=_SANDWICH, windows=True, allowed=(
        ("swiglu_alpha", 1.702), ("swiglu_limit", 7.0))),
    "Ernie4_5ForCausalLM": Family("ernie4_5", tied=True),
    "Ernie4_5_ForCausalLM": Family("ernie4_5", tied=True),
    "Ernie4_5_MoeForCausalLM": Family("ernie4_5-moe", (layouts.flat_correction,), tied=True, keys=(
        ("leading_dense_block_count", "u32", _integer("moe_layer_start_index", 0)),
        ("interleave_moe_layer_step", "u32", _integer("moe_layer_interval", 1))), allowed=(("moe_layer_interval", 1),)),
    "ExaoneForCausalLM": Family("exaone"),
    "Exaone4ForCausalLM": Family("exaone4", names=_SANDWICH, windows=True),
    "ExaoneMoeForCausalLM": _EXAONE_MOE,
    "ExaoneMoEForCausalLM": _EXAONE_MOE,
    "FalconForCausalLM": _FALCON,
    "FalconH1ForCausalLM": _FALCON_H1,
    "RWForCausalLM": _FALCON,
    "GemmaForCausalLM": _GEMMA,
    "Gemma2ForCausalLM": replace(_GEMMA, arch="gemma2", names=_SANDWICH, windows=True, keys=(
        *_GEMMA_SCALE, ("attn_logit_softcapping", "f32", _number("attn_logit_softcapping", 50.0)),
        ("final_logit_softcapping", "f32", _number("final_logit_softcapping", 30.0)))),
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": _GEMMA3,
    "Glm4ForCausalLM": Family("glm4"),
    "Glm4MoeLiteForCausalLM": _DEEPSEEK3,
    "Glm4MoeForCausalLM": Family("glm4moe", names=_SANDWICH, keys=_ROUTED + _GROUPS),
    "GPT2LMHeadModel": replace(_GPT, arch="gpt2", layouts=(layouts.transposed,), allowed=(
        ("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False), ("add_cross_attention", False))),
    "GPTBigCodeForCausalLM": _GPT,
    "GPTNeoXForCausalLM": Family("gptneox", (layouts.by_head,), layer_norm=True, activations=_GELU, keys=(
        ("use_parallel_residual", "bool", lambda config: config.flag("use_parallel_residual", default=True)),)),
    "GraniteForCausalLM": Family("granite", (layouts.interleaved,), keys=_GRANITE),
    "GraniteMoeForCausalLM": Family("granitemoe", (layouts.interleaved, layouts.gate_and_up), keys=_GRANITE),
    "GraniteMoeHybridForCausalLM": _GRANITE_HYBRID,
    "HunYuanDenseV1ForCausalLM": Family("hunyuan-dense", tied=True),
    "HunYuanMoEV1ForCausalLM": Family("hunyuan-moe", tied=True),
    "InternLM2ForCausalLM": _INTERNLM2,
    "Jais2ForCausalLM": Family("jais2", layer_norm=True, activations=("relu2",)),
    "Lfm2ForCausalLM": _LFM2,
    "Lfm2MoeForCausalLM": _LFM2_MOE,
    "Llama4ForCausalLM": _LLAMA4,
    "Llama4ForConditionalGeneration": _LLAMA4,
    "Mamba2ForCausalLM": _MAMBA2,
    "MiniMaxM2ForCausalLM": _MINIMAX_M2,
    "Ministral3ForCausalLM": _MINISTRAL,
    "Mistral3ForConditionalGeneration": _MINISTRAL,
    "Mistral4ForCausalLM": _MISTRAL4,
    "MiniCPMForCausalLM": Family("minicpm", (layouts.interleaved,), tied=True, keys=(
        ("embedding_scale", "f32", _number("scale_emb")),
        ("residual_scale", "f32", lambda config: config.number("scale_depth") / config.layers**0.5),
        ("logit_scale", "f32", lambda config: config.hidden / config.number("dim_model_base")))),
    "MptForCausalLM": _MPT,
    "MPTForCausalLM": _MPT,
    "NemotronForCausalLM": Family("nemotron", (layouts.one_more,), layer_norm=True, activations=("relu2",)),
    "NemotronHForCausalLM": _NEMOTRON_H,
    "OlmoForCausalLM": Family("olmo", (layouts.interleaved,), layer_norm=True, keys=_CLAMP),
    "Olmo2ForCausalLM": Family("olmo2", names=_SANDWICH),
    "Olmo3ForCausalLM": Family("olmo2", names=_SANDWICH, windows=True),
    "OlmoeForCausalLM": Family("olmoe", keys=_NORM_TOPK + _CLAMP),
    "OrionForCausalLM": Family("orion", layer_norm=True),
    "PhiForCausalLM": Family("phi2", layer_norm=True, activations=_GELU, allowed=(("qk_layernorm", False),)),
    "Phi3ForCausalLM": Family("phi3", windows=True),
    "PhimoeForCausalLM": _PHIMOE,
    "PhiMoEForCausalLM": _PHIMOE,
    "Qwen3NextForCausalLM": _QWEN3NEXT,
    "Qwen3_5ForCausalLM": _QWEN35,
    "Qwen3_5ForConditionalGeneration": _QWEN35,
    "Qwen3_5MoeForCausalLM": replace(_QWEN35, arch="qwen35moe"),
    "Qwen3_5MoeForConditionalGeneration": replace(_QWEN35, arch="qwen35moe"),
    "SeedOssForCausalLM": Family("seed_oss", names=_SANDWICH),
    "SmolLM3ForCausalLM": Family("smollm3", (layouts.interleaved,), tied=True, check=_check_smollm3),
    "StableLmForCausalLM": Family("stablelm", joint=layouts.stacked_norms, layer_norm=True),
    "Starcoder2ForCausalLM": Family("starcoder2", layer_norm=True, activations=_GELU, tied=True),
    "XverseForCausalLM": Family("xverse", (layouts.interleaved,)),
}
# fmt: on


def find_family(config: Config) -> tuple[Family, Config]:
    """The row, and the configuration with its defaults. Raises UnsupportedError where there is none, or a value is one that it does not
    know."""
    name = config.architecture
    family = FAMILIES.get(name)
    if family is None:
        raise UnsupportedError(f"{config.path}: {name[:80]!r} cannot be converted; what can is {', '.join(FAMILIES)}")
    family = (family.instead(config) if family.instead else None) or family
    for key, *values in family.allowed:
        config.require(key, *values)
    activation = config.first("hidden_activation", "hidden_act", "activation_function", "activation")
    if family.activations and activation is not None and activation not in family.activations:
        raise UnsupportedError(f"{config.path}: the activation is {str(activation)[:40]!r}; {family.arch} has {family.activations[0]!r}")
    config = Config({**family.defaults, **config.values}, config.path)
    if family.check is not None:
        family.check(config)
    return family, config
