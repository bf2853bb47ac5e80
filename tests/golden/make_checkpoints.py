"""Logits of transformers for tiny checkpoints, by which tests hold the converter from safetensors to GGUF.

    pip install torch transformers accelerate tokenizers numpy
    PYTHONPATH=. python tests/golden/make_checkpoints.py [--only NAME]

For each variant of families.py it writes checkpoints/NAME.json, which checkpoints.py makes the files from, and NAME.npz with
    input_ids   int32 [36]              the prompt, longer than windows and original contexts
    logits      float32 [3, vocab]      after the tokens that checkpoints.ROWS numbers
transformers reads the same files from a folder, as the converter does. Where it has no class for a model, the checkpoint is in the names
and orders of the model's own code, and transformers reads it as the class that computes the same (OWN, below). Quantised checkpoints
(PACKED) transformers dequantises itself, but for compressed-tensors', where torch's float8_e4m3fn and a product do.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from checkpoints import FOLDER, PROMPT, ROWS, stored, stored_tensors, weights, write_checkpoint, write_safetensors
from families import VARIANTS, Variant
from make_golden import alibi_mask, config_of, no_rotation, replace_attention

Arrays = dict[str, np.ndarray]
DTYPES = ("F32", "BF16", "F16")


@dataclass(frozen=True)
class Own:
    """A model's own code: its class, names instead of another class's by parts, configuration instead of the other's, and what undoes
    the rest of the difference."""

    name: str
    names: tuple[tuple[str, str], ...] = ()
    config: dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]] = lambda config: {}
    fuse: tuple[str, ...] = ()                  # parts of the other class's names that are one tensor here, under the last
    split: Callable[[np.ndarray, Any], list[np.ndarray]] | None = None


def thirds(w: np.ndarray, config: Any) -> list[np.ndarray]:
    return np.split(w, 3)


def of_groups(w: np.ndarray, config: Any) -> list[np.ndarray]:
    """modeling_internlm2.py: rearrange(…, "b q (h gs d) -> b q h gs d", gs=2 + num_key_value_groups)."""
    heads, kv = config.num_attention_heads, config.num_key_value_heads
    groups = w.reshape(kv, heads // kv + 2, -1, *w.shape[1:])
    return [part.reshape(-1, *w.shape[1:]) for part in (groups[:, :-2], groups[:, -2], groups[:, -1])]


QKV = tuple(f"self_attn.{part}_proj" for part in "qkv")
LLAMA_KEYS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
              "max_position_embeddings", "rms_norm_eps", "vocab_size", "tie_word_embeddings")


def minicpm(config: dict[str, Any]) -> dict[str, Any]:
    return {"scale_emb": config["embedding_multiplier"], "scale_depth": config["residual_multiplier"] * config["num_hidden_layers"] ** 0.5,
            "dim_model_base": config["hidden_size"] / config["logits_scaling"]}


def deepseek(config: dict[str, Any]) -> dict[str, Any]:
    names = ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts", "first_k_dense_replace",
             "routed_scaling_factor")
    return {**{name: config[name] for name in names}, "norm_topk_prob": False, "scoring_func": "softmax", "moe_layer_freq": 1}


def ling(config: dict[str, Any]) -> dict[str, Any]:
    names = ("num_experts_per_tok", "moe_intermediate_size", "first_k_dense_replace")
    return {**{name: config[name] for name in names}, "num_experts": config["n_routed_experts"], "norm_topk_prob": False,
            "num_shared_experts": config["n_shared_experts"]}


def ling2(config: dict[str, Any]) -> dict[str, Any]:
    names = ("head_dim", "routed_scaling_factor", "n_group", "topk_group")
    return {**ling(config), **{name: config[name] for name in names}, "norm_topk_prob": True, "score_function": "sigmoid",
            "use_qk_norm": True, "moe_router_enable_expert_bias": True, "num_nextn_predict_layers": 0}


def below_each_other(w: np.ndarray, config: Any) -> list[np.ndarray]:
    size = w.shape[0] // (config.num_attention_heads + 2 * config.num_key_value_heads)
    return np.split(w, np.cumsum([size * config.num_attention_heads, size * config.num_key_value_heads]))


def exaone(config: dict[str, Any]) -> dict[str, Any]:
    rope = dict(config["rope_parameters"])
    return {"num_layers": config["num_hidden_layers"], "layer_norm_epsilon": config["rms_norm_eps"], "activation_function": "silu",
            "rope_theta": rope.pop("rope_theta"), "rope_scaling": rope, "num_hidden_layers": None, "rms_norm_eps": None}


OWN = {
    "baichuan-7b": Own("BaiChuanForCausalLM", fuse=(*QKV, "self_attn.W_pack"), split=thirds),
    "baichuan-13b": Own("BaichuanForCausalLM", fuse=(*QKV, "self_attn.W_pack"), split=thirds,
                        config=lambda config: {"model_max_length": config["max_position_embeddings"]}),
    "exaone": Own("ExaoneForCausalLM", (
        ("model.layers.", "transformer.h."), ("model.embed_tokens", "transformer.wte"), ("model.norm", "transformer.ln_f"),
        ("self_attn.o_proj", "attn.attention.out_proj"), ("self_attn.", "attn.attention."), ("mlp.gate_proj", "mlp.c_fc_0"),
        ("mlp.up_proj", "mlp.c_fc_1"), ("mlp.down_proj", "mlp.c_proj"), ("post_attention_layernorm", "ln_2"), ("input_layernorm", "ln_1")),
        config=exaone),
    "internlm2": Own("InternLM2ForCausalLM", (
        ("model.embed_tokens", "model.tok_embeddings"), ("lm_head", "output"), ("self_attn.o_proj", "attention.wo"),
        ("mlp.gate_proj", "feed_forward.w1"), ("mlp.up_proj", "feed_forward.w3"), ("mlp.down_proj", "feed_forward.w2"),
        ("input_layernorm", "attention_norm"), ("post_attention_layernorm", "ffn_norm")), fuse=(*QKV, "attention.wqkv"), split=of_groups),
    "bailingmoe": Own("BailingMoeForCausalLM", (
        ("model.embed_tokens", "model.word_embeddings"), ("self_attn.o_proj", "attention.dense")), fuse=(*QKV, "attention.query_key_value"),
        split=below_each_other, config=ling),
    "bailingmoe2": Own("BailingMoeV2ForCausalLM", (
        ("model.embed_tokens", "model.word_embeddings"), ("self_attn.o_proj", "attention.dense"),
        ("self_attn.q_norm", "attention.query_layernorm"), ("self_attn.k_norm", "attention.key_layernorm"),
        ("e_score_correction_bias", "expert_bias")), fuse=(*QKV, "attention.query_key_value"), split=below_each_other, config=ling2),
    "deepseek": Own("DeepseekForCausalLM", config=deepseek),
    "minicpm": Own("MiniCPMForCausalLM", config=minicpm),
    "orion": Own("OrionForCausalLM", config=lambda config: {"rms_norm_eps": config["layer_norm_eps"], "layer_norm_eps": None}),
    "xverse": Own("XverseForCausalLM"),
}
# What transformers has no switch for, as the file's own key is a switch of another of its classes; what is not converted.
LEFT_OUT = {"granite-nope", "qwen2vl", "qwen3vl", "qwen3vlmoe", "pangu-embedded"}
# Name: the variant, what differs, how its tensors are quantised (packing.py) if they are, and what its config.json says of it.
PACKED: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gpt-oss-mxfp4": ("gpt-oss", {"hidden_size": 64}, {"kind": "mxfp4"}, {"quant_method": "mxfp4"}),
    "deepseek2-v3-fp8": ("deepseek2-v3", {}, {"kind": "fp8", "block": [4, 4]}, {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [4, 4]}),
    "llama-fp8-whole": ("llama", {}, {"kind": "fp8-whole"}, {
        "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": None}),
    "llama-fp8-rows": ("llama-gqa", {}, {"kind": "fp8-rows"}, {
        "quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}}}),
    "granite-dense": ("granitehybrid", {"layer_types": ["attention"] * 3, "position_embedding_type": "rope"}, {}, {}),
}


def dequantised(description: dict[str, Any]) -> dict[str, Any]:
    """Its tensors in F32: torch's numbers, times the scales of rows."""
    made = stored_tensors(description)
    out = {}
    for name, (dtype, shape, data) in made.items():
        if dtype == "F8_E4M3":
            scales = torch.frombuffer(bytearray(made[f"{name}_scale"][2]), dtype=torch.float32)[:, None]
            whole = torch.frombuffer(bytearray(data), dtype=torch.float8_e4m3fn).reshape(shape).float() * scales
            dtype, data = "F32", whole.numpy().tobytes()
        if not name.endswith("_scale"):
            out[name] = (dtype, shape, data)
    return out


def class_of(variant: Variant) -> Any:
    """The one whose from_pretrained() reads the files."""
    kind = getattr(transformers, variant.model or f"{variant.family}ForCausalLM")
    if not variant.attention:
        return kind

    def init(self: Any, config: Any) -> None:
        kind.__init__(self, config)
        replace_attention(self, variant.attention)

    return type(kind.__name__, (kind,), {"__init__": init})


def own_tensors(own: Own, shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for name, shape in shapes.items():
        fused = next((part for part in own.fuse[:-1] if part in name), None)
        if fused:
            whole = name.replace(fused, own.fuse[-1])
            out[whole] = [out.get(whole, [0])[0] + shape[0], *shape[1:]]
        else:
            for theirs, ours in own.names:
                name = name.replace(theirs, ours)
            out[name] = shape
    return out


def as_other(own: Own, arrays: Arrays, config: Any) -> Arrays:
    """Back to the names and orders of the class that transformers has."""
    out: Arrays = {}
    for name, w in arrays.items():
        if own.fuse and own.fuse[-1] in name:
            assert own.split
            parts = zip(own.fuse[:-1], own.split(w, config), strict=True)
            out |= {name.replace(own.fuse[-1], part): array for part, array in parts}
            continue
        for theirs, ours in own.names:
            name = name.replace(ours, theirs)
        out[name] = w
    return out


def description_of(name: str, variant: Variant, seed: int) -> tuple[dict[str, Any], Any]:
    """What NAME.json says, and the class's configuration."""
    config = config_of(variant)
    kind = class_of(variant)
    with tempfile.TemporaryDirectory() as folder:
        kind(config).save_pretrained(folder)
        values = json.loads((Path(folder) / "config.json").read_text())
        data = (Path(folder) / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    shapes = {tensor: entry["shape"] for tensor, entry in header.items() if tensor != "__metadata__"}
    own = OWN.get(name)
    if own:
        shapes = own_tensors(own, shapes)
        changes = own.config(values) if callable(own.config) else own.config
        kept = (*LLAMA_KEYS, "rope_parameters") if own.name != "ExaoneForCausalLM" else LLAMA_KEYS
        values = {**{key: values[key] for key in kept if key in values}, **changes, "architectures": [own.name]}
        values = {key: value for key, value in values.items() if value is not None}
    values.pop("transformers_version", None)
    return {"config": values, "dtype": DTYPES[seed % 3], "seed": seed,
            "quiet": variant.quiet, "centred": variant.centred, "transposed": variant.transposed, "tensors": shapes}, config


def logits_of(name: str, variant: Variant, description: dict[str, Any], config: Any) -> dict[str, Any]:
    own = OWN.get(name)
    kind = class_of(variant)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), description)
        if own:
            config.save_pretrained(folder)
            arrays = as_other(own, dict(weights(description)), config)
            dtype = description["dtype"]
            write_safetensors(Path(folder) / "model.safetensors", {n: (dtype, w.shape, stored(w, dtype)) for n, w in arrays.items()})
        if description.get("packed", {}).get("kind") == "fp8-rows":
            plain = {key: value for key, value in description["config"].items() if key != "quantization_config"}
            write_checkpoint(Path(folder), {**description, "config": plain})
            write_safetensors(Path(folder) / "model.safetensors", dequantised(description))
        model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, attn_implementation="eager")
    missing = [key for key in info["missing_keys"] if "lm_head" not in key and "embed_out" not in key]
    assert not missing and not info["unexpected_keys"] and not info["mismatched_keys"], (name, info)
    model.eval()
    if variant.alibi:
        no_rotation(model)
    ids = np.random.default_rng(description["seed"]).integers(3, config.vocab_size, PROMPT).astype(np.int32)
    mask = {"attention_mask": alibi_mask(model, PROMPT)} if variant.alibi else {}
    with torch.no_grad():
        logits = model(torch.from_numpy(ids.astype(np.int64))[None], use_cache=False, **mask).logits[0].float().numpy()
    return {"input_ids": ids, "logits": logits[list(ROWS)]}


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [(name, variant, seed, {}, {}) for seed, (name, variant) in enumerate(VARIANTS.items())]
    for seed, (name, (base, changes, how, config)) in enumerate(PACKED.items(), 1000):
        variant = VARIANTS[base]
        variant = replace(variant, config={**variant.config, **changes})
        every.append((name, variant, seed, {"packed": how} if how else {}, {"quantization_config": config} if config else {}))
    ap.add_argument("--only", choices=[name for name, *_ in every], action="append", help="this variant; may be given again")
    args = ap.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name, variant, seed, more, says in every:
        if name in LEFT_OUT or (args.only and name not in args.only):
            continue
        description, config = description_of(name, variant, seed)
        description = {**description, **more, "config": {**description["config"], **says}}
        arrays = logits_of(name, variant, description, config)
        (FOLDER / f"{name}.json").write_text(json.dumps(description, separators=(",", ":")) + "\n")
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
        print(f"{name:16} {description['dtype']:4} logits spread over {arrays['logits'].std():.2f}", flush=True)


if __name__ == "__main__":
    main()
