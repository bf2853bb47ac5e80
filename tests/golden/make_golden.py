"""Golden logits and greedy tokens of tiny random models, from Hugging Face transformers in float32.

    pip install torch transformers gguf numpy
    python tests/golden/make_golden.py --out tests/golden

For each variant below it writes models/NAME.gguf (float32 weights, a working byte-level vocabulary) and NAME.npz with
    input_ids   int32 [48]                the prompt
    logits      float32 [48, vocab]       after each of its tokens
    greedy_ids  int32 [24]                what greedy decoding then chooses
    greedy_gap  float32                   the smallest lead of a chosen token's logit over the second best
The weights follow from a seed per variant, the prompt is the first that leaves greedy decoding no near tie.
check_llama_cpp.py, beside this, holds the files against llama.cpp.
"""
from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
import transformers
from families import BASE, LAYOUTS, VARIANTS, VOCAB, Floats, Tensors, Variant, alibi_slopes

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import make_gguf

PROMPT, NEW = 48, 24
LEAST_GAP = 0.02                    # of greedy choices; float32 engines differ by about 1e-5 here
LEAST_TOKENS = 12                   # different ones among the greedy choices: a loop would test little
EMBEDDINGS = ("lm_head", "model.embed", "embed_in", "embed_out", "wte", "word_embeddings.")
RECURRENT = {"conv", "linear_attention"}                # layers, as transformers calls them, that GGUF gives no heads of keys and values
LAST_NORMS = ("model.norm.weight", "model.embedding_norm.weight", "transformer.ln_f.weight")


# ---- transformers ----------------------------------------------------------------------------------------------------

def config_of(variant: Variant) -> Any:
    rope = variant.rope if "full_attention" in variant.rope else {"rope_type": "default", "rope_theta": 10000.0, **variant.rope}
    kind = getattr(transformers, f"{variant.family}Config")
    given = {**BASE, **variant.config}
    if variant.family in ("GPT2", "GPTBigCode", "Bloom", "Mpt"):        # positions without rope, and names of their own
        own = {"vocab_size": VOCAB, **variant.config}
        config = kind(**own)
    else:
        config = kind(**given, rope_parameters=rope)
    config._attn_implementation = "eager"
    return config


def build(variant: Variant, seed: int) -> Any:
    """The model in float32, its weights drawn from `seed`: sharp attention, and logits that spread over a few units."""
    config = config_of(variant)
    model = getattr(transformers, variant.model or f"{variant.family}ForCausalLM")(config).float().eval()
    if variant.attention:
        replace_attention(model, variant.attention)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape)
            if name.endswith("A_log"):
                p.copy_(0.5 * noise - 1.5)      # what is seen is remembered for some ten positions
            elif name.endswith("bias"):
                p.copy_(0.1 * noise)
            elif p.ndim == 1 or "norm" in name:
                size = variant.quiet if name in LAST_NORMS else 1 / variant.quiet if "embeddings_layernorm" in name else 1
                p.copy_(size * (1 + 0.2 * noise) - float(variant.centred))
            else:
                inputs = p.shape[0] if "transposed" in variant.layout and ".c_" in name else p.shape[-1]
                gain = 2.5 / variant.quiet if any(part in name for part in EMBEDDINGS) else 1.5
                gain *= next((more for part, more in variant.loud.items() if part in name), 1)
                p.copy_(noise * (gain / inputs ** 0.5))
        for name, p in model.named_buffers():
            if "correction" in name:
                p.copy_(0.1 * torch.randn(p.shape))
    if variant.alibi or not variant.rotated:
        no_rotation(model)
    return model


def replace_attention(model: Any, family: str) -> None:
    """Another family's attention, over keys and values, and its ropes."""
    kinds = vars(__import__(f"transformers.models.{family.lower()}.modeling_{family.lower()}", fromlist=["*"]))
    model.config.kv_lora_rank = 0
    model.model.rotary_emb = kinds[f"{family}RotaryEmbedding"](model.config)
    for i, layer in enumerate(model.model.layers):
        layer.self_attn = kinds[f"{family}Attention"](model.config, i).float().eval()


def no_rotation(model: Any) -> None:
    rotary = model.model.rotary_emb
    forward = rotary.forward
    rotary.forward = lambda *args, **kwargs: tuple(torch.full_like(x, i == 0) for i, x in enumerate(forward(*args, **kwargs)))


def alibi_mask(model: Any, n: int) -> torch.Tensor:
    """What is added to scores [heads, n, n]: the slopes times the distance, and nothing of what comes later."""
    slopes = torch.from_numpy(alibi_slopes(model.config.num_attention_heads))
    distance = torch.arange(n)[None] - torch.arange(n)[:, None]
    return (slopes[:, None, None] * distance + torch.full((n, n), -math.inf).triu(1))[None]


@torch.no_grad()
def greedy(model: Any, prompt: npt.NDArray[np.int32], alibi: bool) -> tuple[npt.NDArray[np.int32], Floats, float]:
    """Greedy tokens after `prompt`, the prompt's logits, the smallest lead. Each step computes the whole text anew, so that
    no cache is trusted."""
    ids, gap = torch.from_numpy(prompt.astype(np.int64))[None], math.inf
    first: Floats | None = None
    for _ in range(NEW):
        mask = {"attention_mask": alibi_mask(model, ids.shape[1])} if alibi else {}
        logits = model(ids, use_cache=False, **mask).logits[0].float()
        first = logits.numpy() if first is None else first
        best = logits[-1].topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        ids = torch.cat((ids, best.indices[None, :1]), 1)
    assert first is not None
    return ids[0, len(prompt):].numpy().astype(np.int32), first, gap


def golden(model: Any, seed: int, alibi: bool) -> dict[str, Any]:
    """The arrays of NAME.npz, for the first prompt without a near tie or a loop."""
    rng = np.random.default_rng(seed)
    for _ in range(200):
        prompt = rng.integers(len(make_gguf.SPECIAL), VOCAB, PROMPT).astype(np.int32)
        ids, logits, gap = greedy(model, prompt, alibi)
        special = ids.min() < len(make_gguf.SPECIAL)            # would end the text before the last token
        if gap > LEAST_GAP and len(set(ids.tolist())) >= LEAST_TOKENS and not special:
            return {"input_ids": prompt, "logits": logits, "greedy_ids": ids, "greedy_gap": np.float32(gap)}
    raise RuntimeError(f"no prompt of 200 keeps {LEAST_TOKENS} greedy choices {LEAST_GAP} apart")


# ---- GGUF ------------------------------------------------------------------------------------------------------------

def tensors(model: Any, variant: Variant) -> Tensors:
    """The model's tensors under GGUF's names."""
    config = model.config
    tied = config.tie_word_embeddings
    names = gguf.get_tensor_name_map(next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == variant.arch), config.num_hidden_layers)
    found: Tensors = ((name, p.numpy()) for name, p in model.state_dict().items()
                      if not (tied and name.startswith(("lm_head", "embed_out"))) and not name.endswith((".attn.bias", "masked_bias")))
    for layout in variant.layout or (("interleaved",) if variant.arch == "llama" else ()):
        found = LAYOUTS[layout](found, config)
    suffixes = (".weight", ".bias")
    for name, w in found:
        known = names.get_name(name, suffixes) or names.get_name(name.removeprefix("transformer."), suffixes)
        if known is None:
            raise ValueError(f"{variant.arch} has no name for {name}")
        yield known, w


def llama3_factors(rope: dict[str, Any], head: int) -> Floats:
    """What GGUF's rope_freqs.weight holds, [head / 2]: each pair's frequency is divided by it (Llama 3.1's rule)."""
    wavelength = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, head, 2) / head)
    turns = rope["original_max_position_embeddings"] / wavelength
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    factors: Floats = (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)
    return factors


def first_of(config: Any, *names: str) -> Any:
    return next((getattr(config, name) for name in names if getattr(config, name, None) is not None), None)


def rope_of(variant: Variant, config: Any) -> dict[str, Any]:
    """Of the layers that see all; {} where positions are not rotated."""
    rope = getattr(config, "rope_parameters", None) or {}
    return {} if variant.alibi else dict(rope.get("full_attention", rope))


def head_of(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def feed_forward_of(config: Any) -> int:
    given = first_of(config, "intermediate_size_mlp", "intermediate_size", "ffn_hidden_size", "n_inner")
    return int(given or config.hidden_size * getattr(config, "expansion_ratio", 4))


def key_value_heads_of(config: Any) -> int | list[int]:
    """Of all layers; one by one where some have no attention."""
    if getattr(config, "kv_lora_rank", None):
        return 1
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        return 1
    heads = int(first_of(config, "num_kv_heads", "num_key_value_heads") or config.num_attention_heads)
    if hasattr(config, "linear_num_key_heads"):     # its files say instead how many layers there are to one with attention
        return heads
    kinds = getattr(config, "layer_types", None) or []
    return [0 if kind in RECURRENT else heads for kind in kinds] if set(kinds) & RECURRENT else heads


def lengths_of_heads(w: gguf.GGUFWriter, config: Any, head: int) -> list[tuple[Callable[[Any], None], Any]]:
    """Of the state's, and where that is compressed, of what is made of it."""
    rank = getattr(config, "kv_lora_rank", None)
    if not rank:
        return [(w.add_key_length, head), (w.add_value_length, head)]
    return [(w.add_key_length, rank + config.qk_rope_head_dim), (w.add_value_length, rank),
            (w.add_key_length_mla, config.qk_nope_head_dim + config.qk_rope_head_dim)]


def add_metadata(w: gguf.GGUFWriter, name: str, variant: Variant, config: Any) -> None:
    """The model's keys and a vocabulary of bytes and a few pairs."""
    rope, head = rope_of(variant, config), head_of(config)
    tokens, types, merges = make_gguf.vocabulary(config.vocab_size)
    end = make_gguf.SPECIAL.index("<|endoftext|>")
    keys: list[tuple[Callable[[Any], None], Any]] = [
        (w.add_name, f"golden {name}"), (w.add_file_type, gguf.LlamaFileType.ALL_F32),
        (w.add_context_length, first_of(config, "max_position_embeddings", "max_seq_len", "seq_length")),
        (w.add_embedding_length, config.hidden_size), (w.add_block_count, config.num_hidden_layers),
        (w.add_feed_forward_length, feed_forward_of(config)), (w.add_head_count, config.num_attention_heads),
        (w.add_head_count_kv, key_value_heads_of(config)), *lengths_of_heads(w, config, head)]
    if rope:
        part = rope.get("partial_rotary_factor") or 1.0
        keys += [(w.add_rope_dimension_count, getattr(config, "qk_rope_head_dim", None) or int(part * head)),
                 (w.add_rope_freq_base, rope["rope_theta"])]
    if variant.eps:
        keys.append((w.add_layer_norm_eps, getattr(config, variant.eps, 1e-5)))
    else:
        keys.append((w.add_layer_norm_rms_eps, config.rms_norm_eps))
    keys += [(w.add_vocab_size, config.vocab_size), (w.add_tokenizer_model, "gpt2"), (w.add_tokenizer_pre, "gpt-2"),
             (w.add_token_list, tokens), (w.add_token_types, types), (w.add_token_merges, merges),
             (w.add_bos_token_id, end), (w.add_eos_token_id, end), (w.add_add_bos_token, False)]
    for add, value in keys:
        add(value)
    add_scaling(w, rope)
    add_experts(w, variant, config)
    for key, attribute in variant.keys.items():
        value = attribute if isinstance(attribute, (bool, float, int)) else getattr(config, attribute or key)
        add = w.add_bool if isinstance(value, bool) else w.add_float32 if isinstance(value, float) else w.add_uint32
        add(f"{variant.arch}.{'attention.' if key == 'sliding_window' else ''}{key}", value)


def add_scaling(w: gguf.GGUFWriter, rope: dict[str, Any]) -> None:
    kind = rope.get("rope_type")
    if kind in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType(kind))
        w.add_rope_scaling_factor(rope["factor"])
    if "mscale_all_dim" in rope:
        w.add_rope_scaling_yarn_log_mul((0.1 if w.arch == "deepseek2" else 1.0) * rope["mscale_all_dim"])
    if kind in ("yarn", "longrope"):
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if kind == "longrope":                                      # by how much queries and keys grow (arXiv 2402.13753)
        w.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(rope["factor"]) / math.log(rope["original_max_position_embeddings"])))


def add_experts(w: gguf.GGUFWriter, variant: Variant, config: Any) -> None:
    names = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    n = next((getattr(config, name) for name in names if getattr(config, name, 0)), 0)
    if not n:
        return
    ff = getattr(config, "moe_intermediate_size", config.intermediate_size)
    w.add_expert_count(n)
    w.add_expert_used_count(first_of(config, "num_experts_per_tok", "moe_k", "moe_topk"))
    w.add_expert_feed_forward_length(ff)
    shared = getattr(config, "shared_expert_intermediate_size", 0) or getattr(config, "moe_num_shared_experts", 0) * ff
    if variant.arch == "hunyuan-moe":
        shared = config.intermediate_size
    if shared:
        w.add_expert_shared_feed_forward_length(shared)


def factors(rope: dict[str, Any], head: int) -> Tensors:
    if rope.get("rope_type") == "llama3":
        yield "rope_freqs.weight", llama3_factors(rope, head)
    if rope.get("rope_type") == "longrope":
        yield "rope_factors_long.weight", np.array(rope["long_factor"], np.float32)
        yield "rope_factors_short.weight", np.array(rope["short_factor"], np.float32)


def write(path: Path, name: str, variant: Variant, model: Any) -> None:
    """NAME.gguf, everything in F32."""
    w = gguf.GGUFWriter(path, variant.arch)
    add_metadata(w, name, variant, model.config)
    for tensor, data in factors(rope_of(variant, model.config), head_of(model.config)):
        w.add_tensor(tensor, data)
    for tensor, data in tensors(model, variant):
        w.add_tensor(tensor, np.ascontiguousarray(data))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=Path(__file__).parent)
    ap.add_argument("--only", choices=VARIANTS, action="append", help="this variant; may be given again")
    args = ap.parse_args()
    torch.set_num_threads(1)        # the same sums in the same order on every machine of a kind
    (args.out / "models").mkdir(parents=True, exist_ok=True)
    for seed, (name, variant) in enumerate(VARIANTS.items()):
        if args.only and name not in args.only:
            continue
        model = build(variant, seed)
        write(args.out / "models" / f"{name}.gguf", name, variant, model)
        arrays = golden(model, seed, variant.alibi)
        np.savez_compressed(args.out / f"{name}.npz", **arrays)
        print(f"{name:16} logits spread over {arrays['logits'].std():.2f}, greedy choices {arrays['greedy_gap']:.3f} apart")


if __name__ == "__main__":
    main()
