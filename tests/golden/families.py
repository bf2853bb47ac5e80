"""The tiny models that make_golden.py writes, one row each: the classes of transformers that compute the reference, and the architecture
that the file claims.

What checkpoints keep in another way than GGUF does, and which keys follow from a configuration, is the package's (airpy/conversion). Where
transformers has no class for an architecture, another one's mathematics are the same, as the row says (docs/models.md); its weights are
then converted by `instead`, a row of the converter for what the other class writes.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from airpy.conversion import layouts
from airpy.conversion.families import FAMILIES, LLAMA, Family

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Variant:
    """A tiny model: the family's class names in transformers, its GGUF architecture, and what differs from BASE."""

    family: str                     # of transformers: <family>Config, <family>ForCausalLM
    arch: str                       # of GGUF
    config: dict[str, Any] = field(default_factory=dict)
    rope: dict[str, Any] = field(default_factory=dict)
    attention: str = ""             # of transformers: whose the reference has, where not the family's
    model: str = ""                 # where it is not <family>ForCausalLM
    instead: Family | None = None   # what converts it, where the class is not the architecture's own
    keys: dict[str, Any] = field(default_factory=dict)  # instead of the converter's; None: left to what the architecture has without it
    transposed: bool = False        # matrices are inputs by outputs
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
LATENT = {"hidden_size": 40, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
          "q_lora_rank": 20, "kv_lora_rank": 24, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 10, "n_routed_experts": 8,
          "num_experts_per_tok": 3, "moe_intermediate_size": 24, "n_shared_experts": 2, "first_k_dense_replace": 1, "rms_norm_eps": 1e-6,
          "pad_token_id": None}
MOE = {**GROUPS, "num_experts": 8, "num_experts_per_tok": 3}

# GPT-2's and its relatives' names of the same.
GPT = {"n_embd": 40, "n_inner": 72, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_ctx": 128}

HYBRID = {"hidden_size": 24, "num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"], "mamba_d_state": 10, "mamba_d_head": 8,
          "mamba_expand": 2, "mamba_d_conv": 4, "mamba_chunk_size": 16, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
          "logits_scaling": 2.0, "attention_multiplier": 0.4}

BESIDE = {"hidden_size": 32, "intermediate_size": 40, "head_dim": 12, "mamba_d_ssm": 48, "mamba_n_heads": 6, "mamba_d_head": 8,
          "mamba_d_state": 10, "mamba_chunk_size": 16, "embedding_multiplier": 3.0, "lm_head_multiplier": 2.0, "key_multiplier": 0.7,
          "attention_in_multiplier": 0.9, "attention_out_multiplier": 1.25, "ssm_in_multiplier": 1.25, "ssm_out_multiplier": 0.8,
          "mlp_multipliers": [0.9, 0.6], "ssm_multipliers": [0.35, 0.5, 0.7, 0.9, 1.1], "pad_token_id": None}

ONE_BLOCK = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 12, "mamba_num_heads": 6, "mamba_head_dim": 8, "ssm_state_size": 10,
             "n_groups": 2, "chunk_size": 16, "time_step_min": 1e-9, "n_routed_experts": 6, "num_experts_per_tok": 3,
             "moe_intermediate_size": 20, "moe_shared_expert_intermediate_size": 28, "routed_scaling_factor": 1.5, "pad_token_id": None}

IN_TURN = {"hidden_size": 24, "num_hidden_layers": 4, "head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 6,
           "linear_key_head_dim": 12, "linear_value_head_dim": 12}
MROPE = {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}

SECTIONS = (("rope.dimension_sections", "integers", lambda config: [4, 3, 3, 0]),)

# Keys that files in the wild leave out: what an architecture has without them is at work.
UNTOLD_WINDOWS = {"attention.sliding_window_pattern": None}
UNTOLD_STEP = {"interleave_moe_layer_step": None}
UNTOLD_GATING = {"expert_gating_func": None, "expert_weights_norm": None}

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
    "arcee": Variant("Arcee", "arcee", {**UNTIED, **GROUPS}),
    "baichuan-7b": Variant("Llama", "baichuan", {**UNTIED, **NARROW, "num_hidden_layers": 32}, instead=replace(LLAMA, arch="baichuan")),
    "baichuan-13b": Variant("Llama", "baichuan", {**UNTIED, **NARROW, "num_hidden_layers": 40}, alibi=True,
                            instead=Family("baichuan", rotated=False)),
    "bloom": Variant("Bloom", "bloom", {"hidden_size": 48, "n_layer": 2, "n_head": 6, "seq_length": 128}, quiet=4.0),
    "chatglm": Variant("Glm", "chatglm", {**UNTIED, **GROUPS, "attention_bias": True, "hidden_size": 48, "head_dim": 12,
                       "pad_token_id": None}, HALF),
    "command-r": Variant("Cohere", "command-r", {**GROUPS, "logit_scale": 0.5, "layer_norm_eps": 1e-5}),
    "command-r-norms": Variant("Cohere", "command-r", {**GROUPS, "logit_scale": 0.25, "layer_norm_eps": 1e-5, "use_qk_norm": True}),
    "cohere2": Variant("Cohere2", "cohere2", {**GROUPS, **WINDOW, "hidden_size": 32, "num_hidden_layers": 4, "logit_scale": 0.5,
                       "layer_norm_eps": 1e-5}, keys=UNTOLD_WINDOWS),
    "ernie4-5": Variant("Ernie4_5", "ernie4_5", {**GROUPS, "head_dim": 16, "use_bias": False}),
    "exaone": Variant("Llama", "exaone", {**UNTIED, **GROUPS, **LONG}, LLAMA3, instead=Family("exaone")),
    "falcon-7b": Variant("Falcon", "falcon", {"num_attention_heads": 4, "num_kv_heads": 1, "multi_query": True, "parallel_attn": True,
                         "new_decoder_architecture": False, "bias": False, "ffn_hidden_size": 72}),
    "falcon-40b": Variant("Falcon", "falcon", {"num_attention_heads": 4, "num_kv_heads": 2, "new_decoder_architecture": True, **UNTIED,
                          "bias": False, "ffn_hidden_size": 72}),
    "gemma": Variant("Gemma", "gemma", {**GROUPS, "head_dim": 16}, centred=True, quiet=40 ** 0.5),
    "gemma2": Variant("Gemma2", "gemma2", {**GROUPS, **WINDOW, "head_dim": 16, "num_hidden_layers": 3, "query_pre_attn_scalar": 16,
                      "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}, centred=True, quiet=40 ** 0.5,
                      keys={**UNTOLD_WINDOWS, "attention.scale": None}),
    "gemma3": Variant("Gemma3Text", "gemma3", {**GROUPS, **WINDOW, "hidden_size": 24, "intermediate_size": 40, "head_dim": 16,
                      "num_hidden_layers": 6, "query_pre_attn_scalar": 16},
                     {"full_attention": {**LINEAR, "rope_theta": 1000000.0},
                      "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}, model="Gemma3ForCausalLM", centred=True,
                      quiet=24 ** 0.5, keys={**UNTOLD_WINDOWS, "attention.scale": None, "rope.freq_base_swa": None}),
    "glm4": Variant("Glm4", "glm4", {**UNTIED, **GROUPS, "attention_bias": True, "head_dim": 16, "pad_token_id": None}, HALF),
    "gpt2": Variant("GPT2", "gpt2", GPT, model="GPT2LMHeadModel", transposed=True),
    "gptneox": Variant("GPTNeoX", "gptneox", {**UNTIED, **HEADS, "use_parallel_residual": True}, {"partial_rotary_factor": 0.6}),
    "gptneox-in-turn": Variant("GPTNeoX", "gptneox", {**UNTIED, "num_key_value_heads": 2, "use_parallel_residual": False},
                               {"partial_rotary_factor": 1.0}),
    "granite": Variant("Granite", "granite", {**GROUPS, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0,
                       "attention_multiplier": 0.4}, quiet=3.0),
    "internlm2": Variant("Llama", "internlm2", {**UNTIED, **GROUPS}, {"rope_theta": 1000000.0}, instead=replace(LLAMA, arch="internlm2")),
    "minicpm": Variant("Granite", "minicpm", {**GROUPS, "embedding_multiplier": 12.0, "residual_multiplier": 1.4 / 2 ** 0.5,
                       "logits_scaling": 2.5, "attention_multiplier": 10 ** -0.5}, quiet=12.0,
                       instead=replace(FAMILIES["GraniteForCausalLM"], arch="minicpm"), keys={"attention.scale": None}),
    "mpt": Variant("Mpt", "mpt", {"d_model": 36, "n_layers": 2, "n_heads": 6, "max_seq_len": 128}),
    "nemotron": Variant("Nemotron", "nemotron", {**UNTIED, **GROUPS, "hidden_size": 48, "norm_eps": 1e-5, "head_dim": 12}, HALF,
                        centred=True),
    "olmo": Variant("Olmo", "olmo", {**GROUPS}),
    "olmo2": Variant("Olmo2", "olmo2", {**UNTIED, **GROUPS}, {"rope_theta": 500000.0}),
    "olmo3": Variant("Olmo3", "olmo2", {**UNTIED, **GROUPS, **WINDOW, "num_attention_heads": 2, "num_key_value_heads": 1,
                     "num_hidden_layers": 4, "intermediate_size": 40}, YARN, keys={**UNTOLD_WINDOWS, "rope.freq_base_swa": None}),
    "phi2": Variant("Phi", "phi2", {**UNTIED, **HEADS, "hidden_size": 48, "layer_norm_eps": 1e-5}, HALF),
    "phi3": Variant("Phi3", "phi3", {**UNTIED, **GROUPS, **WINDOW, "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0}),
    "phi3-longrope": Variant("Phi3", "phi3", {**UNTIED, **LONG, "pad_token_id": 0, "sliding_window": None,
                             "original_max_position_embeddings": 32}, LONGROPE),
    "seed-oss": Variant("SeedOss", "seed_oss", {**UNTIED, **GROUPS, "head_dim": 16, "attention_bias": True}),
    "smollm3": Variant("SmolLM3", "smollm3", {**GROUPS, "num_hidden_layers": 4, "pad_token_id": None}),
    "stablelm": Variant("StableLm", "stablelm", {**UNTIED, **HEADS, "use_qkv_bias": True, "hidden_size": 48}, HALF),
    "stablelm-12b": Variant("StableLm", "stablelm", {**UNTIED, **GROUPS, "qk_layernorm": True, "use_parallel_residual": True,
                            "hidden_size": 48}, HALF),
    "starcoder": Variant("GPTBigCode", "starcoder", {**GPT, "multi_query": True}),
    "starcoder2": Variant("Starcoder2", "starcoder2", {**GROUPS, "use_bias": True, "norm_epsilon": 1e-5, "sliding_window": None}),
    "exaone4": Variant("Exaone4", "exaone4", {**UNTIED, **GROUPS, **WINDOW, "hidden_size": 32, "num_hidden_layers": 4,
                       "sliding_window_pattern": 4}, keys=UNTOLD_WINDOWS),
    "exaone4-llama3": Variant("Exaone4", "exaone4", {**GROUPS, **LONG, "num_hidden_layers": 2, "intermediate_size": 40,
                              "sliding_window": None, "layer_types": ["full_attention"] * 2}, LLAMA3),
    "hunyuan-dense": Variant("HunYuanDenseV1", "hunyuan-dense", {**GROUPS, "head_dim": 16, "attention_bias": False}),
    "orion": Variant("StableLm", "orion", {**UNTIED, **HEADS}, {"partial_rotary_factor": 1.0},
                     instead=replace(FAMILIES["StableLmForCausalLM"], arch="orion")),
    "xverse": Variant("Llama", "xverse", {**UNTIED, **HEADS}, instead=replace(LLAMA, arch="xverse")),
    "mixtral": Variant("Mixtral", "llama", {**UNTIED, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmoe": Variant("Olmoe", "olmoe", {**MOE, "intermediate_size": 24, "pad_token_id": None, "eos_token_id": None},
                     keys={"expert_weights_norm": None}),
    "qwen2moe": Variant("Qwen2Moe", "qwen2moe", {**MOE, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
                        keys={"expert_weights_norm": None}),
    "qwen3moe": Variant("Qwen3Moe", "qwen3moe", {**MOE, "head_dim": 16, "norm_topk_prob": True, "moe_intermediate_size": 24},
                        keys={"expert_weights_norm": None}),
    "dots1": Variant("Dots1", "dots1", {**UNTIED, **GROUPS, **ROUTED, "num_hidden_layers": 3, "routed_scaling_factor": 1.5,
                     "norm_topk_prob": True}, keys={"expert_gating_func": None}),
    "glm4moe": Variant("Glm4Moe", "glm4moe", {**UNTIED, **GROUPS, **ROUTED, "num_hidden_layers": 3, "attention_bias": True,
                       "use_qk_norm": True, "pad_token_id": None}, HALF, keys={"expert_gating_func": None}),
    "glm4moe-air": Variant("Glm4Moe", "glm4moe", {**UNTIED, **GROUPS, **ROUTED, "num_hidden_layers": 2, "attention_bias": True,
                           "use_qk_norm": False, "pad_token_id": None}, HALF, keys={"expert_gating_func": None}),
    "granitemoe": Variant("GraniteMoe", "granitemoe", {**GROUPS, "num_local_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 24,
                          "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0, "attention_multiplier": 0.4},
                          quiet=3.0),
    "ernie4-5-moe": Variant("Ernie4_5_Moe", "ernie4_5-moe", {**GROUPS, "num_hidden_layers": 3, "moe_num_experts": 8, "moe_k": 3,
                            "moe_intermediate_size": 24, "moe_num_shared_experts": 2, "moe_layer_start_index": 1, "use_bias": False,
                            "pad_token_id": None}, keys=UNTOLD_STEP),
    "hunyuan-moe": Variant("HunYuanMoEV1", "hunyuan-moe", {**GROUPS, "head_dim": 16, "num_experts": 8, "moe_topk": 3,
                           "intermediate_size": 24, "pad_token_id": None}),
    "olmo-clamped": Variant("Olmo", "olmo", {**GROUPS, "clip_qkv": 0.75}),
    "granite-nope": Variant("Granite", "granite", {**GROUPS, "embedding_multiplier": 3.0, "logits_scaling": 2.0,
                            "attention_multiplier": 0.3}, rotated=False, quiet=3.0,
                            keys={"residual_scale": None, "rope.scaling.finetuned": False}),
    "gpt-oss": Variant("GptOss", "gpt-oss", {**UNTIED, **GROUPS, **WINDOW, "hidden_size": 32, "intermediate_size": 32, "head_dim": 16,
                       "num_local_experts": 6, "num_experts_per_tok": 3, "swiglu_limit": 7.0, "pad_token_id": None},
                       {**YARN, "truncate": False, "beta_fast": 32.0, "beta_slow": 1.0},
                       loud={"gate_up_proj": 3.0, "k_proj": 0.5, "router": 0.5},
                       keys={**UNTOLD_WINDOWS, "rope.scaling.yarn_beta_fast": None, "rope.scaling.yarn_beta_slow": None}),
    "deepseek2-lite": Variant("DeepseekV2", "deepseek2", {**UNTIED, **LATENT, "q_lora_rank": None, "n_shared_experts": 1, "n_group": 1,
                              "topk_group": 1, "topk_method": "greedy", "routed_scaling_factor": 1.0},
                              {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}, keys=UNTOLD_GATING),
    "deepseek2-v2": Variant("DeepseekV2", "deepseek2", {**UNTIED, **LATENT, "n_group": 4, "topk_group": 2,
                            "topk_method": "group_limited_greedy", "routed_scaling_factor": 4.0}, keys=UNTOLD_GATING),
    "deepseek2-v3": Variant("DeepseekV3", "deepseek2", {**UNTIED, **LATENT, "n_group": 4, "topk_group": 2, "norm_topk_prob": True,
                            "routed_scaling_factor": 2.5}, {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}),
    "deepseek": Variant("DeepseekV2", "deepseek", {**UNTIED, **LATENT, "qk_rope_head_dim": 10, "n_group": 1, "topk_group": 1,
                        "topk_method": "greedy", "routed_scaling_factor": 1.0}, LINEAR, attention="Llama",
                        instead=FAMILIES["DeepseekForCausalLM"], keys=UNTOLD_GATING),
    "llama4": Variant("Llama4Text", "llama4", {**UNTIED, **GROUPS, "hidden_size": 32, "head_dim": 16, "intermediate_size": 24,
                      "intermediate_size_mlp": 40, "num_hidden_layers": 4, "num_local_experts": 3, "num_experts_per_tok": 2,
                      "interleave_moe_layer_step": 2, "attention_chunk_size": 16, "floor_scale": 16, "attn_scale": 0.5,
                      "pad_token_id": None}, LLAMA3, model="Llama4ForCausalLM", keys=UNTOLD_STEP),
    "mistral3": Variant("Ministral3", "mistral3", {**UNTIED, **LONG, "head_dim": 32},
                        {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.5}),
    "minimax-m2": Variant("MiniMaxM2", "minimax-m2", {**UNTIED, **GROUPS, "head_dim": 16, "num_local_experts": 6, "num_experts_per_tok": 3,
                          "intermediate_size": 24, "pad_token_id": None}, HALF),
    # the class computes with the short ones whatever the length
    "phimoe": Variant("Phimoe", "phimoe", {**UNTIED, **LONG, "intermediate_size": 24, "num_local_experts": 4, "attention_bias": True,
                      "lm_head_bias": True, "sliding_window": None, "pad_token_id": None, "original_max_position_embeddings": 32},
                      {**LONGROPE, "short_factor": LONGROPE["long_factor"], "short_mscale": PHI_MSCALE, "long_mscale": PHI_MSCALE}),
    "deepseek2-glm": Variant("Glm4MoeLite", "deepseek2", {**UNTIED, **LATENT, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
                             "routed_scaling_factor": 1.8}, keys={"expert_group_count": 1, "expert_group_used_count": 1}),
    "lfm2": Variant("Lfm2", "lfm2", {**GROUPS, "num_hidden_layers": 4, "block_auto_adjust_ff_dim": False, "pad_token_id": None,
                    "layer_types": ["conv", "conv", "full_attention", "conv"]}, {"rope_theta": 1000000.0}),
    "bailingmoe": Variant("DeepseekV2", "bailingmoe", {**UNTIED, **LATENT, "qk_rope_head_dim": 10, "n_group": 1, "topk_group": 1,
                          "first_k_dense_replace": 0, "n_routed_experts": 6, "moe_intermediate_size": 16, "topk_method": "greedy",
                          "routed_scaling_factor": 1.0}, attention="Llama",
                          instead=replace(FAMILIES["DeepseekForCausalLM"], arch="bailingmoe"), keys=UNTOLD_GATING),
    "bailingmoe2": Variant("Glm4Moe", "bailingmoe2", {**UNTIED, **GROUPS, **ROUTED, "n_group": 4, "topk_group": 2, "num_hidden_layers": 2,
                           "attention_bias": False, "use_qk_norm": True, "routed_scaling_factor": 2.5, "n_shared_experts": 1,
                           "pad_token_id": None}, HALF,
                           instead=replace(FAMILIES["Glm4MoeForCausalLM"], arch="bailingmoe2", joint=layouts.fused, names=None)),
    "granitehybrid": Variant("GraniteMoeHybrid", "granitehybrid", {**GROUPS, **HYBRID, "mamba_n_groups": 2, "mamba_n_heads": 6,
                             "num_local_experts": 0, "shared_intermediate_size": 72}, quiet=3.0),
    "granitehybrid-moe": Variant("GraniteMoeHybrid", "granitehybrid", {**GROUPS, **HYBRID, "mamba_n_groups": 1, "mamba_n_heads": 6,
                                 "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 24,
                                 "shared_intermediate_size": 40}, quiet=3.0),
    "qwen3next": Variant("Qwen3Next", "qwen3next", {**MOE, "hidden_size": 24, "num_hidden_layers": 4, "head_dim": 16, "num_experts": 4,
                         "num_experts_per_tok": 2, "norm_topk_prob": True, "moe_intermediate_size": 16,
                         "shared_expert_intermediate_size": 24, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
                         "linear_key_head_dim": 12, "linear_value_head_dim": 12}, {"partial_rotary_factor": 0.25}, centred=True),
    "lfm2moe": Variant("Lfm2Moe", "lfm2moe", {**MOE, "num_hidden_layers": 4, "num_experts": 5, "num_dense_layers": 1, "hidden_size": 32,
                       "intermediate_size": 40, "moe_intermediate_size": 16, "routed_scaling_factor": 1.5, "pad_token_id": None,
                       "layer_types": ["conv", "conv", "full_attention", "conv"]}, {"rope_theta": 1000000.0}, keys=UNTOLD_GATING),
    "falcon-h1": Variant("FalconH1", "falcon-h1", {**UNTIED, **GROUPS, **BESIDE, "mamba_n_groups": 2, "mamba_rms_norm": True,
                         "mamba_norm_before_gate": False}, {"rope_theta": 1e11}, quiet=3.0, keys={"rope.dimension_count": None}),
    "falcon-h1-plain": Variant("FalconH1", "falcon-h1", {**UNTIED, **GROUPS, **BESIDE, "num_hidden_layers": 1, "mamba_n_groups": 1},
                               {"rope_theta": 1e11}, quiet=3.0),
    "nemotron-h": Variant("NemotronH", "nemotron_h", {**UNTIED, **GROUPS, **ONE_BLOCK, "layers_block_type": [
                          "linear_attention", "mlp", "full_attention", "linear_attention"]},
                          keys={"attention.layer_norm_rms_epsilon": None, "attention.layer_norm_epsilon": 1e-5}),
    "nemotron-h-moe": Variant("NemotronH", "nemotron_h_moe", {**UNTIED, **GROUPS, **ONE_BLOCK, "n_group": 2, "topk_group": 1,
                              "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"]},
                              keys={"expert_weights_norm": None}),
    "nemotron-h-latent": Variant("NemotronH", "nemotron_h_moe", {**UNTIED, **GROUPS, **ONE_BLOCK, "moe_latent_size": 20,
                                 "layers_block_type": ["full_attention", "moe", "linear_attention"]}),
    "mamba2": Variant("Mamba2", "mamba2", {**UNTIED, "hidden_size": 24, "num_hidden_layers": 3, "num_heads": 6, "head_dim": 8, "expand": 2,
                      "state_size": 10, "n_groups": 2, "conv_kernel": 4, "chunk_size": 16, "pad_token_id": None}),
    "qwen35": Variant("Qwen3_5Text", "qwen35", {**GROUPS, **IN_TURN, "intermediate_size": 32, "linear_value_head_dim": 8}, MROPE,
                      model="Qwen3_5ForCausalLM", centred=True),
    "qwen35moe": Variant("Qwen3_5MoeText", "qwen35moe", {**MOE, **IN_TURN, "num_experts": 4, "num_experts_per_tok": 2,
                         "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24}, MROPE, model="Qwen3_5MoeForCausalLM",
                         centred=True),
    "qwen2vl": Variant("Qwen2", "qwen2vl", {**UNTIED, "num_key_value_heads": 2}, {"rope_theta": 1000000.0},
                       instead=Family("qwen2vl", keys=SECTIONS)),
    "qwen3vl": Variant("Qwen3", "qwen3vl", {**GROUPS, "head_dim": 20}, {"rope_theta": 5000000.0}, instead=Family("qwen3vl", keys=SECTIONS)),
    "qwen3vlmoe": Variant("Qwen3Moe", "qwen3vlmoe", {**UNTIED, **MOE, "head_dim": 20, "hidden_size": 32, "num_experts": 5,
                          "norm_topk_prob": True, "moe_intermediate_size": 16}, {"rope_theta": 5000000.0},
                          instead=Family("qwen3vlmoe", keys=SECTIONS)),
    "jais2": Variant("Jais2", "jais2", {**UNTIED, **GROUPS, "layer_norm_eps": 1e-5, "hidden_act": "relu2"}),
    "pangu-embedded": Variant("Llama", "pangu-embedded", {**UNTIED, **GROUPS, "attention_bias": True}, instead=Family("pangu-embedded")),
    "mistral4": Variant("Mistral4", "mistral4", {**UNTIED, **LATENT, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
                        "n_routed_experts": 6, "moe_intermediate_size": 16}, {
                            **YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.5}),
    "exaone-moe": Variant("ExaoneMoe", "exaone-moe", {**UNTIED, **GROUPS, **WINDOW, "hidden_size": 32, "num_hidden_layers": 4,
                          "intermediate_size": 40, "head_dim": 12, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
                          "sliding_window_pattern": 4}, keys={**UNTOLD_WINDOWS, **UNTOLD_GATING}),
    "afmoe": Variant("Afmoe", "afmoe", {**UNTIED, **GROUPS, **WINDOW, "hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 40,
                     "head_dim": 12, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "num_shared_experts": 1,
                     "num_dense_layers": 1, "route_scale": 1.5, "mup_enabled": True}, quiet=32 ** 0.5,
                     keys={**UNTOLD_WINDOWS, **UNTOLD_GATING}),
}


# ---- ALiBi, for a reference that has it not ----------------------------------------------------------------------------

def alibi_slopes(heads: int) -> Floats:
    """As the paper's authors compute them (arXiv 2108.12409)."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
    return np.array(slopes, np.float32)
