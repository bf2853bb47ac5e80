"""The tiny models that make_golden.py writes: one row each, and what each family's checkpoints keep in another way than GGUF does.

A row names the classes of transformers that compute the reference and the architecture that the file claims. Where transformers has no
class for an architecture, another one's mathematics are the same, as the row says (REFERENCE in docs/models.md).
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Tensors = Iterator[tuple[str, Floats]]


@dataclass(frozen=True)
class Variant:
    """A tiny model: the family's class names in transformers, its GGUF architecture, and what differs from BASE."""

    family: str                     # of transformers: <family>Config, <family>ForCausalLM
    arch: str                       # of GGUF
    config: dict[str, Any] = field(default_factory=dict)
    rope: dict[str, Any] = field(default_factory=dict)
    attention: str = ""             # of transformers: whose the reference has, where not the family's
    model: str = ""                 # where it is not <family>ForCausalLM
    layout: tuple[str, ...] = ()    # names of functions below, which change tensors one after the other
    keys: dict[str, Any] = field(default_factory=dict)  # beside those of all files: its name in the config, or a value
    eps: str = ""                   # of layer norms: where the config has it (1e-5 if it does not); "": RMS norms
    centred: bool = False           # weights of norms are around 0: what is computed with is 1 more
    rotated: bool = True            # whether the reference turns q and k
    quiet: float = 1.0              # by how much the embedding is drawn smaller, and the last norm larger, where the model scales it
    loud: dict[str, float] = field(default_factory=dict)  # parts of tensors' names: by how much those are drawn larger
    alibi: bool = False             # positions by ALiBi instead of rotation, added to the reference's scores


# Small and of odd widths: the files stay small, and kernels meet rows that are no multiple of their step.
VOCAB = 272
BASE = {"vocab_size": VOCAB, "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False}
LONG = {"hidden_size": 64, "num_hidden_layers": 1}      # heads of 32: frequencies for all parts of a long-context rule

# The original contexts of 32 are shorter than the prompt, so that every rule for long contexts is at work.
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "factor": 4.0}
LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": 32, "factor": 4.0,
            "short_factor": [1.0 + 0.05 * i for i in range(16)], "long_factor": [1.0 + 0.25 * i for i in range(16)]}
PHI_MSCALE = math.sqrt(1 + math.log(4) / math.log(32))
GROUPS = {"num_attention_heads": 4, "num_key_value_heads": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}
WINDOW = {"sliding_window": 16}                         # a third of the prompt
# As many layers as the models have by whose number they are known.
NARROW = {"hidden_size": 12, "intermediate_size": 16, "num_attention_heads": 3, "num_key_value_heads": 3}
HALF = {"partial_rotary_factor": 0.5}
ROUTED = {"head_dim": 16, "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "n_shared_experts": 2,
          "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}
ROUTED_KEYS = {"leading_dense_block_count": "first_k_dense_replace", "expert_shared_count": "n_shared_experts",
               "expert_weights_scale": "routed_scaling_factor", "expert_weights_norm": "norm_topk_prob"}
LATENT = {"hidden_size": 40, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
          "q_lora_rank": 20, "kv_lora_rank": 24, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 10, "n_routed_experts": 8,
          "num_experts_per_tok": 3, "moe_intermediate_size": 24, "n_shared_experts": 2, "first_k_dense_replace": 1, "rms_norm_eps": 1e-6,
          "pad_token_id": None}
LATENT_KEYS = {"leading_dense_block_count": "first_k_dense_replace", "expert_shared_count": "n_shared_experts",
               "expert_weights_scale": "routed_scaling_factor", "attention.kv_lora_rank": "kv_lora_rank",
               "attention.value_length_mla": "v_head_dim"}
GROUP_KEYS = {"expert_group_count": "n_group", "expert_group_used_count": "topk_group", "attention.q_lora_rank": "q_lora_rank"}
MOE = {**GROUPS, "num_experts": 8, "num_experts_per_tok": 3}

# GPT-2's and its relatives' names of the same.
GPT = {"n_embd": 40, "n_inner": 72, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_ctx": 128}

HYBRID = {"hidden_size": 24, "num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"], "mamba_d_state": 10, "mamba_d_head": 8,
          "mamba_expand": 2, "mamba_d_conv": 4, "mamba_chunk_size": 16, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
          "logits_scaling": 2.0, "attention_multiplier": 0.4}
HYBRID_KEYS = {"embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier", "logit_scale": "logits_scaling",
               "attention.scale": "attention_multiplier", "rope.scaling.finetuned": False, "ssm.conv_kernel": "mamba_d_conv",
               "ssm.inner_size": 48, "ssm.state_size": "mamba_d_state", "ssm.time_step_rank": "mamba_n_heads",
               "ssm.group_count": "mamba_n_groups"}

VARIANTS = {
    "llama": Variant("Llama", "llama", {**UNTIED, "num_key_value_heads": 2}),
    "llama-gqa": Variant("Llama", "llama", {**GROUPS, "hidden_size": 48, "num_hidden_layers": 3}, {"rope_theta": 500000.0}),
    "llama-bias": Variant("Llama", "llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": Variant("Llama", "llama", {**GROUPS, "head_dim": 24}),
    "llama-linear": Variant("Llama", "llama", {}, LINEAR),
    "llama-yarn": Variant("Llama", "llama", LONG, YARN),
    "llama-llama3": Variant("Llama", "llama", LONG, LLAMA3),
    "mistral": Variant("Mistral", "llama", {**UNTIED, **GROUPS, "sliding_window": None}),
    "qwen2": Variant("Qwen2", "qwen2", UNTIED, {"rope_theta": 1000000.0}),
    "qwen2-tied": Variant("Qwen2", "qwen2", {"num_key_value_heads": 2}),
    "qwen2-yarn": Variant("Qwen2", "qwen2", LONG, YARN),
    "qwen3": Variant("Qwen3", "qwen3", {"head_dim": 32}, {"rope_theta": 1000000.0}),
    "qwen3-untied": Variant("Qwen3", "qwen3", {**UNTIED, **GROUPS, "head_dim": 16}),
    "arcee": Variant("Arcee", "arcee", {**UNTIED, **GROUPS}, layout=("interleaved",)),
    "baichuan-7b": Variant("Llama", "baichuan", {**UNTIED, **NARROW, "num_hidden_layers": 32}, layout=("interleaved",)),
    "baichuan-13b": Variant("Llama", "baichuan", {**UNTIED, **NARROW, "num_hidden_layers": 40}, alibi=True),
    "bloom": Variant("Bloom", "bloom", {"hidden_size": 48, "n_layer": 2, "n_head": 6, "seq_length": 128}, layout=("by_head",),
                     eps="layer_norm_epsilon", quiet=4.0),
    "chatglm": Variant("Glm", "chatglm", {**UNTIED, **GROUPS, "attention_bias": True, "hidden_size": 48, "head_dim": 12,
                                          "pad_token_id": None}, HALF, layout=("fused",)),
    "command-r": Variant("Cohere", "command-r", {**GROUPS, "logit_scale": 0.5, "layer_norm_eps": 1e-5}, keys={"logit_scale": None},
                         eps="layer_norm_eps"),
    "command-r-norms": Variant("Cohere", "command-r", {**GROUPS, "logit_scale": 0.25, "layer_norm_eps": 1e-5, "use_qk_norm": True},
                               keys={"logit_scale": None}, eps="layer_norm_eps"),
    "cohere2": Variant("Cohere2", "cohere2", {**GROUPS, **WINDOW, "hidden_size": 32, "num_hidden_layers": 4, "logit_scale": 0.5,
                                              "layer_norm_eps": 1e-5}, keys={"logit_scale": None, "sliding_window": None},
                       eps="layer_norm_eps"),
    "ernie4-5": Variant("Ernie4_5", "ernie4_5", {**GROUPS, "head_dim": 16, "use_bias": False}),
    "exaone": Variant("Llama", "exaone", {**UNTIED, **GROUPS, **LONG}, LLAMA3),
    "falcon-7b": Variant("Falcon", "falcon", {"num_attention_heads": 4, "num_kv_heads": 1, "multi_query": True, "parallel_attn": True,
                                              "new_decoder_architecture": False, "bias": False, "ffn_hidden_size": 72},
                         layout=("by_group",), eps="layer_norm_epsilon"),
    "falcon-40b": Variant("Falcon", "falcon", {"num_attention_heads": 4, "num_kv_heads": 2, "new_decoder_architecture": True, **UNTIED,
                                               "bias": False, "ffn_hidden_size": 72}, layout=("by_group",), eps="layer_norm_epsilon"),
    "gemma": Variant("Gemma", "gemma", {**GROUPS, "head_dim": 16}, layout=("one_more",), centred=True, quiet=40 ** 0.5),
    "gemma2": Variant("Gemma2", "gemma2", {**GROUPS, **WINDOW, "head_dim": 16, "num_hidden_layers": 3, "query_pre_attn_scalar": 16,
                                           "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}, layout=("one_more",),
                      keys={"sliding_window": None, "attn_logit_softcapping": None, "final_logit_softcapping": None}, centred=True,
                      quiet=40 ** 0.5),
    "gemma3": Variant("Gemma3Text", "gemma3", {**GROUPS, **WINDOW, "hidden_size": 24, "intermediate_size": 40, "head_dim": 16,
                                               "num_hidden_layers": 6, "query_pre_attn_scalar": 16},
                      {"full_attention": {**LINEAR, "rope_theta": 1000000.0}, "sliding_attention": {"rope_type": "default",
                                                                                                    "rope_theta": 10000.0}},
                      model="Gemma3ForCausalLM", layout=("one_more",), keys={"sliding_window": None}, centred=True, quiet=24 ** 0.5),
    "glm4": Variant("Glm4", "glm4", {**UNTIED, **GROUPS, "attention_bias": True, "head_dim": 16, "pad_token_id": None}, HALF),
    "gpt2": Variant("GPT2", "gpt2", GPT, model="GPT2LMHeadModel", layout=("transposed",), eps="layer_norm_epsilon"),
    "gptneox": Variant("GPTNeoX", "gptneox", {**UNTIED, **HEADS, "use_parallel_residual": True},
                       {"partial_rotary_factor": 0.6}, layout=("by_head",), keys={"use_parallel_residual": None}, eps="layer_norm_eps"),
    "gptneox-in-turn": Variant("GPTNeoX", "gptneox", {**UNTIED, "num_key_value_heads": 2, "use_parallel_residual": False},
                               {"partial_rotary_factor": 1.0}, layout=("by_head",), keys={"use_parallel_residual": None},
                               eps="layer_norm_eps"),
    "granite": Variant("Granite", "granite", {**GROUPS, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0,
                                              "attention_multiplier": 0.4}, layout=("interleaved",),
                       keys={"embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier",
                             "logit_scale": "logits_scaling", "attention.scale": "attention_multiplier"}, quiet=3.0),
    "internlm2": Variant("Llama", "internlm2", {**UNTIED, **GROUPS}, {"rope_theta": 1000000.0}, layout=("interleaved",)),
    "minicpm": Variant("Granite", "minicpm", {**GROUPS, "embedding_multiplier": 12.0, "residual_multiplier": 1.4 / 2 ** 0.5,
                                              "logits_scaling": 2.5, "attention_multiplier": 10 ** -0.5}, layout=("interleaved",),
                       keys={"embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier",
                             "logit_scale": "logits_scaling"}, quiet=12.0),
    "mpt": Variant("Mpt", "mpt", {"d_model": 36, "n_layers": 2, "n_heads": 6, "max_seq_len": 128},
                   keys={"attention.max_alibi_bias": 8.0}, eps="layer_norm_epsilon"),
    "nemotron": Variant("Nemotron", "nemotron", {**UNTIED, **GROUPS, "hidden_size": 48, "norm_eps": 1e-5, "head_dim": 12}, HALF,
                        layout=("one_more",),
                        centred=True, eps="norm_eps"),
    "olmo": Variant("Olmo", "olmo", {**GROUPS}, layout=("interleaved",), eps="none"),
    "olmo2": Variant("Olmo2", "olmo2", {**UNTIED, **GROUPS}, {"rope_theta": 500000.0}),
    "olmo3": Variant("Olmo3", "olmo2", {**UNTIED, **GROUPS, **WINDOW, "num_attention_heads": 2, "num_key_value_heads": 1,
                                  "num_hidden_layers": 4, "intermediate_size": 40}, YARN, keys={"sliding_window": None}),
    "phi2": Variant("Phi", "phi2", {**UNTIED, **HEADS, "hidden_size": 48, "layer_norm_eps": 1e-5}, HALF, eps="layer_norm_eps"),
    "phi3": Variant("Phi3", "phi3", {**UNTIED, **GROUPS, **WINDOW, "num_attention_heads": 2, "num_key_value_heads": 1,
                                     "pad_token_id": 0}, keys={"sliding_window": None}),
    "phi3-longrope": Variant("Phi3", "phi3", {**UNTIED, **LONG, "pad_token_id": 0, "sliding_window": None,
                                              "original_max_position_embeddings": 32}, LONGROPE),
    "seed-oss": Variant("SeedOss", "seed_oss", {**UNTIED, **GROUPS, "head_dim": 16, "attention_bias": True}),
    "smollm3": Variant("SmolLM3", "smollm3", {**GROUPS, "num_hidden_layers": 4, "pad_token_id": None}, layout=("interleaved",)),
    "stablelm": Variant("StableLm", "stablelm", {**UNTIED, **HEADS, "use_qkv_bias": True, "hidden_size": 48}, HALF, eps="layer_norm_eps"),
    "stablelm-12b": Variant("StableLm", "stablelm", {**UNTIED, **GROUPS, "qk_layernorm": True, "use_parallel_residual": True,
                                                     "hidden_size": 48}, HALF, layout=("stacked_norms",), eps="layer_norm_eps"),
    "starcoder": Variant("GPTBigCode", "starcoder", {**GPT, "multi_query": True}, eps="layer_norm_epsilon"),
    "starcoder2": Variant("Starcoder2", "starcoder2", {**GROUPS, "use_bias": True, "norm_epsilon": 1e-5, "sliding_window": None},
                          eps="norm_epsilon"),
    "exaone4": Variant("Exaone4", "exaone4", {**UNTIED, **GROUPS, **WINDOW, "hidden_size": 32, "num_hidden_layers": 4,
                                              "sliding_window_pattern": 4}, keys={"sliding_window": None}),
    "exaone4-llama3": Variant("Exaone4", "exaone4", {**GROUPS, **LONG, "num_hidden_layers": 2, "intermediate_size": 40,
                                                     "sliding_window": None, "layer_types": ["full_attention"] * 2}, LLAMA3),
    "hunyuan-dense": Variant("HunYuanDenseV1", "hunyuan-dense", {**GROUPS, "head_dim": 16, "attention_bias": False}),
    "orion": Variant("StableLm", "orion", {**UNTIED, **HEADS}, {"partial_rotary_factor": 1.0}, eps="layer_norm_eps"),
    "xverse": Variant("Llama", "xverse", {**UNTIED, **HEADS}, layout=("interleaved",)),
    "mixtral": Variant("Mixtral", "llama", {**UNTIED, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
                       layout=("interleaved", "experts")),
    "olmoe": Variant("Olmoe", "olmoe", {**MOE, "intermediate_size": 24, "pad_token_id": None, "eos_token_id": None}, layout=("experts",)),
    "qwen2moe": Variant("Qwen2Moe", "qwen2moe", {**MOE, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
                        layout=("experts",)),
    "qwen3moe": Variant("Qwen3Moe", "qwen3moe", {**MOE, "head_dim": 16, "norm_topk_prob": True, "moe_intermediate_size": 24},
                        layout=("experts",)),
    "dots1": Variant("Dots1", "dots1", {**UNTIED, **GROUPS, **ROUTED, "num_hidden_layers": 3, "routed_scaling_factor": 1.5,
                                        "norm_topk_prob": True}, layout=("experts",), keys=ROUTED_KEYS),
    "glm4moe": Variant("Glm4Moe", "glm4moe", {**UNTIED, **GROUPS, **ROUTED, "num_hidden_layers": 3, "attention_bias": True,
                                              "use_qk_norm": True, "pad_token_id": None}, HALF, layout=("experts",), keys=ROUTED_KEYS),
    "glm4moe-air": Variant("Glm4Moe", "glm4moe", {**UNTIED, **GROUPS, **ROUTED, "num_hidden_layers": 2, "attention_bias": True,
                                                  "use_qk_norm": False, "pad_token_id": None}, HALF, layout=("experts",),
                           keys=ROUTED_KEYS),
    "granitemoe": Variant("GraniteMoe", "granitemoe", {**GROUPS, "num_local_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 24,
                                                       "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0,
                                                       "attention_multiplier": 0.4}, layout=("interleaved", "experts"),
                          keys={"embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier",
                                "logit_scale": "logits_scaling", "attention.scale": "attention_multiplier"}, quiet=3.0),
    "ernie4-5-moe": Variant("Ernie4_5_Moe", "ernie4_5-moe", {**GROUPS, "num_hidden_layers": 3, "moe_num_experts": 8, "moe_k": 3,
                                                             "moe_intermediate_size": 24, "moe_num_shared_experts": 2,
                                                             "moe_layer_start_index": 1, "use_bias": False, "pad_token_id": None},
                            layout=("experts",), keys={"leading_dense_block_count": "moe_layer_start_index"}),
    "hunyuan-moe": Variant("HunYuanMoEV1", "hunyuan-moe", {**GROUPS, "head_dim": 16, "num_experts": 8, "moe_topk": 3,
                                                           "intermediate_size": 24, "pad_token_id": None}, layout=("experts",)),
    "olmo-clamped": Variant("Olmo", "olmo", {**GROUPS, "clip_qkv": 0.75}, layout=("interleaved",), eps="none",
                            keys={"attention.clamp_kqv": "clip_qkv"}),
    "granite-nope": Variant("Granite", "granite", {**GROUPS, "embedding_multiplier": 3.0, "logits_scaling": 2.0,
                                                   "attention_multiplier": 0.3}, layout=("interleaved",), rotated=False, quiet=3.0,
                            keys={"embedding_scale": "embedding_multiplier", "logit_scale": "logits_scaling",
                                  "attention.scale": "attention_multiplier", "rope.scaling.finetuned": False}),
    "gpt-oss": Variant("GptOss", "gpt-oss", {**UNTIED, **GROUPS, **WINDOW, "hidden_size": 32, "intermediate_size": 32, "head_dim": 16,
                                             "num_local_experts": 6, "num_experts_per_tok": 3, "swiglu_limit": 7.0, "pad_token_id": None},
                       {**YARN, "truncate": False, "beta_fast": 32.0, "beta_slow": 1.0}, layout=("gates_in_turn",),
                       loud={"gate_up_proj": 3.0, "k_proj": 0.5, "router": 0.5}, keys={"sliding_window": None}),
    "deepseek2-lite": Variant("DeepseekV2", "deepseek2", {**UNTIED, **LATENT, "q_lora_rank": None, "n_shared_experts": 1, "n_group": 1,
                                                          "topk_group": 1, "topk_method": "greedy", "routed_scaling_factor": 1.0},
                              {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}, layout=("experts", "latent"), keys=LATENT_KEYS),
    "deepseek2-v2": Variant("DeepseekV2", "deepseek2", {**UNTIED, **LATENT, "n_group": 4, "topk_group": 2,
                                                        "topk_method": "group_limited_greedy", "routed_scaling_factor": 4.0},
                            layout=("experts", "latent"), keys={**LATENT_KEYS, **GROUP_KEYS}),
    "deepseek2-v3": Variant("DeepseekV3", "deepseek2", {**UNTIED, **LATENT, "n_group": 4, "topk_group": 2, "norm_topk_prob": True,
                                                        "routed_scaling_factor": 2.5}, {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
                            layout=("experts", "latent"),
                            keys={**LATENT_KEYS, **GROUP_KEYS, "expert_gating_func": 2, "expert_weights_norm": "norm_topk_prob"}),
    "deepseek": Variant("DeepseekV2", "deepseek", {**UNTIED, **LATENT, "qk_rope_head_dim": 10, "n_group": 1, "topk_group": 1,
                                                   "topk_method": "greedy", "routed_scaling_factor": 1.0}, LINEAR, attention="Llama",
                        layout=("interleaved", "experts"), keys={k: v for k, v in LATENT_KEYS.items() if "attention" not in k}),
    "llama4": Variant("Llama4Text", "llama4", {**UNTIED, **GROUPS, "hidden_size": 32, "head_dim": 16, "intermediate_size": 24,
                                               "intermediate_size_mlp": 40, "num_hidden_layers": 4, "num_local_experts": 3,
                                               "num_experts_per_tok": 2, "interleave_moe_layer_step": 2, "attention_chunk_size": 16,
                                               "floor_scale": 16, "attn_scale": 0.5, "pad_token_id": None}, LLAMA3,
                      model="Llama4ForCausalLM", layout=("turned_experts", "experts"),
                      keys={"sliding_window": "attention_chunk_size", "attention.temperature_scale": "attn_scale",
                            "attention.temperature_length": "floor_scale"}),
    "mistral3": Variant("Ministral3", "mistral3", {**UNTIED, **LONG, "head_dim": 32},
                        {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.5}, layout=("interleaved",),
                        keys={"attention.temperature_scale": 0.5}),
    "minimax-m2": Variant("MiniMaxM2", "minimax-m2", {**UNTIED, **GROUPS, "head_dim": 16, "num_local_experts": 6, "num_experts_per_tok": 3,
                                                      "intermediate_size": 24, "pad_token_id": None}, HALF, layout=("experts",),
                          keys={"expert_gating_func": 2}),
    "phimoe": Variant("Phimoe", "phimoe", {**UNTIED, **LONG, "intermediate_size": 24, "num_local_experts": 4, "attention_bias": True,
                                           "lm_head_bias": True, "sliding_window": None, "pad_token_id": None,
                                           "original_max_position_embeddings": 32},
                      {**LONGROPE, "short_factor": LONGROPE["long_factor"], "short_mscale": PHI_MSCALE, "long_mscale": PHI_MSCALE},
                      layout=("experts",)),                     # whose class computes with the short ones whatever the length
    "deepseek2-glm": Variant("Glm4MoeLite", "deepseek2", {**UNTIED, **LATENT, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
                                                          "routed_scaling_factor": 1.8}, layout=("experts", "latent"),
                             keys={**LATENT_KEYS, **GROUP_KEYS, "expert_gating_func": 2, "expert_weights_norm": "norm_topk_prob"}),
    "lfm2": Variant("Lfm2", "lfm2", {**GROUPS, "num_hidden_layers": 4, "block_auto_adjust_ff_dim": False, "pad_token_id": None,
                                     "layer_types": ["conv", "conv", "full_attention", "conv"]}, {"rope_theta": 1000000.0},
                    layout=("convolutions",), keys={"shortconv.l_cache": "conv_L_cache"}),
    "bailingmoe": Variant("DeepseekV2", "bailingmoe", {**UNTIED, **LATENT, "qk_rope_head_dim": 10, "n_group": 1, "topk_group": 1,
                                                       "first_k_dense_replace": 0, "n_routed_experts": 6, "moe_intermediate_size": 16,
                                                       "topk_method": "greedy", "routed_scaling_factor": 1.0}, attention="Llama",
                          layout=("interleaved", "experts"), keys={k: v for k, v in LATENT_KEYS.items() if "attention" not in k}),
    "bailingmoe2": Variant("Glm4Moe", "bailingmoe2", {**UNTIED, **GROUPS, **ROUTED, "n_group": 4, "topk_group": 2, "num_hidden_layers": 2,
                                                      "attention_bias": False, "use_qk_norm": True, "routed_scaling_factor": 2.5,
                                                      "n_shared_experts": 1, "pad_token_id": None}, HALF, layout=("fused", "experts"),
                           keys={**ROUTED_KEYS, "expert_group_count": "n_group", "expert_group_used_count": "topk_group",
                                 "expert_gating_func": 2}),
    "granitehybrid": Variant("GraniteMoeHybrid", "granitehybrid", {**GROUPS, **HYBRID, "mamba_n_groups": 2, "mamba_n_heads": 6,
                                                                   "num_local_experts": 0, "shared_intermediate_size": 72},
                             layout=("interleaved", "mamba2", "convolutions"), keys=HYBRID_KEYS, quiet=3.0),
    "granitehybrid-moe": Variant("GraniteMoeHybrid", "granitehybrid", {**GROUPS, **HYBRID, "mamba_n_groups": 1, "mamba_n_heads": 6,
                                                                       "num_local_experts": 4, "num_experts_per_tok": 2,
                                                                       "intermediate_size": 24, "shared_intermediate_size": 40},
                                 layout=("interleaved", "mamba2", "convolutions", "experts"),
                                 keys={**HYBRID_KEYS, "expert_shared_feed_forward_length": "shared_intermediate_size"}, quiet=3.0),
    "qwen3next": Variant("Qwen3Next", "qwen3next", {**MOE, "hidden_size": 24, "num_hidden_layers": 4, "head_dim": 16, "num_experts": 4,
                                                    "num_experts_per_tok": 2, "norm_topk_prob": True, "moe_intermediate_size": 16,
                                                    "shared_expert_intermediate_size": 24, "linear_num_key_heads": 2,
                                                    "linear_num_value_heads": 4, "linear_key_head_dim": 12, "linear_value_head_dim": 12},
                         {"partial_rotary_factor": 0.25}, layout=("delta_net", "convolutions", "experts"), centred=True,
                         keys={"ssm.conv_kernel": "linear_conv_kernel_dim", "ssm.inner_size": 48, "ssm.state_size": "linear_key_head_dim",
                               "ssm.time_step_rank": "linear_num_value_heads", "ssm.group_count": "linear_num_key_heads",
                               "full_attention_interval": 4}),
}


# ---- how checkpoints keep what GGUF keeps otherwise --------------------------------------------------------------------

def interleave(w: Floats, heads: int) -> Floats:
    """transformers turns pairs (i, i + half) of a head, some of GGUF's architectures adjacent ones: rows reordered as llama.cpp's
    convert_hf_to_gguf.py does for q and k. w [heads * size, …] or [heads * size]."""
    halves = w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(w.shape))


def interleaved(tensors: Tensors, config: Any) -> Tensors:
    for name, w in tensors:
        if ".q_proj." in name:
            w = interleave(w, config.num_attention_heads)
        if ".k_proj." in name:
            w = interleave(w, config.num_key_value_heads)
        yield name, w


def one_more(tensors: Tensors, config: Any) -> Tensors:
    """Norms that multiply by 1 + weight."""
    for name, w in tensors:
        yield name, w + 1 if name.endswith("norm.weight") else w


def transposed(tensors: Tensors, config: Any) -> Tensors:
    """GPT-2's matrices are inputs by outputs."""
    for name, w in tensors:
        yield name, np.ascontiguousarray(w.T) if ".c_" in name and w.ndim == 2 else w


def by_head(tensors: Tensors, config: Any) -> Tensors:
    """q, k and v of a head side by side: GGUF has all of q, then k, then v."""
    heads = config.num_attention_heads
    for name, w in tensors:
        if "query_key_value" in name:
            w = np.ascontiguousarray(w.reshape(heads, 3, -1, *w.shape[1:]).swapaxes(0, 1).reshape(w.shape))
        yield name, w


def by_group(tensors: Tensors, config: Any) -> Tensors:
    """Falcon: the queries that share a head of keys and values, and these."""
    kv = config.num_kv_heads
    for name, w in tensors:
        if "query_key_value" in name:
            groups = w.reshape(kv, config.num_attention_heads // kv + 2, -1, *w.shape[1:])
            w = np.concatenate([part.reshape(-1, *w.shape[1:]) for part in (groups[:, :-2], groups[:, -2:-1], groups[:, -1:])])
        yield name, w


def fused(tensors: Tensors, config: Any) -> Tensors:
    """q, k and v in one tensor, as the files of ChatGLM have them."""
    parts: list[Floats] = []
    for name, w in tensors:
        if any(f".{p}_proj." in name for p in "qkv"):
            parts.append(w)
            continue
        yield name, w
    per_layer = len(parts) // config.num_hidden_layers
    kinds = ["weight", "bias"] if per_layer == 6 else ["weight"]
    for layer in range(config.num_hidden_layers):
        for i, kind in enumerate(kinds):
            of_layer = parts[layer * per_layer:(layer + 1) * per_layer]
            yield f"transformer.encoder.layers.{layer}.self_attention.query_key_value.{kind}", np.concatenate(of_layer[i::len(kinds)])


def stacked_norms(tensors: Tensors, config: Any) -> Tensors:
    """StableLM keeps each head's norm by itself."""
    stacks: dict[str, list[Floats]] = {}
    for name, w in tensors:
        stem, found, _ = name.partition("_layernorm.norms.")
        if found:
            stacks.setdefault(f"{stem}_layernorm.weight", []).append(w)
        else:
            yield name, w
    for name, parts in stacks.items():
        yield name, np.stack(parts)


def experts(tensors: Tensors, config: Any) -> Tensors:
    """transformers keeps gate and up of all experts in one tensor, [experts, rows of both, columns]."""
    for name, w in tensors:
        name = name.replace("block_sparse_moe.router", "mlp.gate").replace("block_sparse_moe.", "mlp.")
        name = name.replace("e_score_correction_bias", "e_score_correction.bias").replace("gate.moe_statics", "moe_statics")
        if name.endswith("gate_up_proj"):
            for part, half in zip(("gate", "up"), np.split(w, 2, axis=1), strict=True):
                yield name.replace("gate_up_proj", f"{part}_proj.weight"), half
        else:
            name = name.replace("experts.down_proj", "experts.down_proj.weight") if w.ndim == 3 else name
            yield name, w.reshape(-1) if "correction" in name else w


def turned_experts(tensors: Tensors, config: Any) -> Tensors:
    """Llama 4: experts' matrices are inputs by outputs."""
    for name, w in tensors:
        yield name, w.swapaxes(1, 2) if ".experts." in name else w


def gates_in_turn(tensors: Tensors, config: Any) -> Tensors:
    """gpt-oss: experts' matrices are inputs by outputs, and of gate and up each other row is one's."""
    for name, w in tensors:
        stem, kind = (name.removesuffix("_bias"), "bias") if name.endswith("_bias") else (name, "weight")
        w = w.swapaxes(1, 2) if ".experts." in name and kind == "weight" else w
        if stem.endswith("gate_up_proj"):
            for i, part in enumerate(("gate", "up")):
                yield f"{stem.replace('gate_up', part)}.{kind}", w[:, i::2]
        elif ".experts." in name or name.endswith("sinks"):
            yield f"{stem}.{kind}", w
        else:
            yield name, w


def latent(tensors: Tensors, config: Any) -> Tensors:
    """DeepSeek: what makes a head's keys and values of the compressed state, side by side: GGUF has them apart, keys' transposed."""
    for name, w in tensors:
        if not name.endswith("kv_b_proj.weight"):
            yield name, w
            continue
        heads = w.reshape(config.num_attention_heads, -1, config.kv_lora_rank)
        yield name.replace("kv_b_proj", "k_b_proj"), heads[:, :config.qk_nope_head_dim].swapaxes(1, 2)
        yield name.replace("kv_b_proj", "v_b_proj"), heads[:, config.qk_nope_head_dim:]


def mamba2(tensors: Tensors, config: Any) -> Tensors:
    """Mamba-2's vectors as columns, the rate itself instead of its logarithm; Granite's feed-forward for all rows in its parts."""
    for name, w in tensors:
        name = name.replace("dt_bias", "dt_proj.bias")
        if name.endswith(("A_log", ".D")):
            w = (-np.exp(w) if name.endswith("A_log") else w)[:, None]
        if name.endswith("mamba.norm.weight"):
            w = w.reshape(config.mamba_n_groups, -1)
        stem, _, kind = name.partition("shared_mlp.")
        of = "mlp.shared_expert" if config.num_local_experts else "mlp"
        if kind == "input_linear.weight":
            for part, half in zip(("gate", "up"), np.split(w, 2), strict=True):
                yield f"{stem}{of}.{part}_proj.weight", half
        else:
            yield f"{stem}{of}.down_proj.weight" if kind else name, w


def delta_net(tensors: Tensors, config: Any) -> Tensors:
    """Qwen3-Next: q, k, v and the gate of a head of keys side by side, GGUF has each of all heads; the rate itself, norms by 1 + weight."""
    heads, dim = config.linear_num_key_heads, config.linear_key_head_dim
    values = config.linear_num_value_heads // heads * config.linear_value_head_dim
    for name, w in tensors:
        name = name.replace("dt_bias", "dt_proj.bias")
        if name.endswith("A_log"):
            w = -np.exp(w)
        if name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
            w = w + 1
        if name.endswith("in_proj_qkvz.weight"):
            parts = np.split(w.reshape(heads, -1, w.shape[1]), np.cumsum([dim, dim, values]), axis=1)
            q, k, v, z = (part.reshape(-1, w.shape[1]) for part in parts)
            yield name.replace("qkvz", "qkv"), np.concatenate([q, k, v])
            yield name.replace("qkvz", "z"), z
        else:
            yield name, w


def convolutions(tensors: Tensors, config: Any) -> Tensors:
    """Weights of a convolution of single channels: channels by taps."""
    for name, w in tensors:
        yield name, w[:, 0] if w.ndim == 3 and "conv" in name else w


LAYOUTS: dict[str, Callable[[Tensors, Any], Tensors]] = {
    f.__name__: f for f in (interleaved, one_more, transposed, by_head, by_group, fused, stacked_norms, experts, gates_in_turn,
                                  turned_experts, latent, mamba2, delta_net, convolutions)}


# ---- ALiBi, for a reference that has it not ----------------------------------------------------------------------------

def alibi_slopes(heads: int) -> Floats:
    """As the paper's authors compute them (arXiv 2108.12409)."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
    return np.array(slopes, np.float32)
