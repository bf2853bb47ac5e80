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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import make_gguf

PROMPT, NEW, VOCAB = 48, 24, 272
LEAST_GAP = 0.02                    # of greedy choices; float32 engines differ by about 1e-5 here
LEAST_TOKENS = 12                   # different ones among the greedy choices: a loop would test little
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Variant:
    """A tiny model: the family's class names in transformers, its GGUF architecture, and what differs from BASE."""

    family: str                     # of transformers: <family>Config, <family>ForCausalLM
    arch: str                       # of GGUF
    config: dict[str, Any] = field(default_factory=dict)
    rope: dict[str, Any] = field(default_factory=dict)


# Small and of odd widths: the files stay small, and kernels meet rows that are no multiple of their step.
BASE = {"vocab_size": VOCAB, "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False}
LONG = {"hidden_size": 64, "num_hidden_layers": 1}      # heads of 32: frequencies for all parts of a long-context rule

# The original contexts of 32 are shorter than the prompt, so that every rule for long contexts is at work.
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
GROUPS = {"num_attention_heads": 4, "num_key_value_heads": 2}

VARIANTS = {
    "llama": Variant("Llama", "llama", {**UNTIED, "num_key_value_heads": 2}),
    "llama-gqa": Variant("Llama", "llama", {**GROUPS, "hidden_size": 48, "num_hidden_layers": 3}, {"rope_theta": 500000.0}),
    "llama-bias": Variant("Llama", "llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": Variant("Llama", "llama", {**GROUPS, "head_dim": 24}),
    "llama-linear": Variant("Llama", "llama", {}, {"rope_type": "linear", "factor": 4.0}),
    "llama-yarn": Variant("Llama", "llama", LONG, YARN),
    "llama-llama3": Variant("Llama", "llama", LONG, LLAMA3),
    "mistral": Variant("Mistral", "llama", {**UNTIED, **GROUPS, "sliding_window": None}),
    "qwen2": Variant("Qwen2", "qwen2", UNTIED, {"rope_theta": 1000000.0}),
    "qwen2-tied": Variant("Qwen2", "qwen2", {"num_key_value_heads": 2}),
    "qwen2-yarn": Variant("Qwen2", "qwen2", LONG, YARN),
    "qwen3": Variant("Qwen3", "qwen3", {"head_dim": 32}, {"rope_theta": 1000000.0}),
    "qwen3-untied": Variant("Qwen3", "qwen3", {**UNTIED, **GROUPS, "head_dim": 16}),
}

# transformers' names of the parts of a layer, and GGUF's.
PARTS = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
         "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


# ---- transformers ----------------------------------------------------------------------------------------------------

def build(variant: Variant, seed: int) -> Any:
    """The model in float32, its weights drawn from `seed`: sharp attention, and logits that spread over a few units."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, **variant.rope}
    config = getattr(transformers, f"{variant.family}Config")(**{**BASE, **variant.config}, rope_parameters=rope)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{variant.family}ForCausalLM")(config).float().eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape)
            if name.endswith("bias"):
                p.copy_(0.1 * noise)
            elif p.ndim == 1:
                p.copy_(1 + 0.2 * noise)
            else:
                gain = 2.5 if name.startswith(("lm_head", "model.embed")) else 1.5
                p.copy_(noise * (gain / p.shape[1] ** 0.5))
    return model


@torch.no_grad()
def greedy(model: Any, prompt: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int32], Floats, float]:
    """Greedy tokens after `prompt`, the prompt's logits, the smallest lead. Each step computes the whole text anew, so that
    no cache is trusted."""
    ids, gap = torch.from_numpy(prompt.astype(np.int64))[None], math.inf
    first: Floats | None = None
    for _ in range(NEW):
        logits = model(ids, use_cache=False).logits[0].float()
        first = logits.numpy() if first is None else first
        best = logits[-1].topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        ids = torch.cat((ids, best.indices[None, :1]), 1)
    assert first is not None
    return ids[0, len(prompt):].numpy().astype(np.int32), first, gap


def golden(model: Any, seed: int) -> dict[str, Any]:
    """The arrays of NAME.npz, for the first prompt without a near tie or a loop."""
    rng = np.random.default_rng(seed)
    for _ in range(200):
        prompt = rng.integers(len(make_gguf.SPECIAL), VOCAB, PROMPT).astype(np.int32)
        ids, logits, gap = greedy(model, prompt)
        special = ids.min() < len(make_gguf.SPECIAL)            # would end the text before the last token
        if gap > LEAST_GAP and len(set(ids.tolist())) >= LEAST_TOKENS and not special:
            return {"input_ids": prompt, "logits": logits, "greedy_ids": ids, "greedy_gap": np.float32(gap)}
    raise RuntimeError(f"no prompt of 200 keeps {LEAST_TOKENS} greedy choices {LEAST_GAP} apart")


# ---- GGUF ------------------------------------------------------------------------------------------------------------

def interleaved(w: Floats, heads: int) -> Floats:
    """transformers turns pairs (i, i + half) of a head, GGUF's "llama" adjacent ones: rows reordered as llama.cpp's
    convert_hf_to_gguf.py does for q and k. w [heads * size, …] or [heads * size]."""
    halves = w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(w.shape))


def tensors(model: Any, arch: str) -> Iterator[tuple[str, Floats]]:
    """The model's tensors under GGUF's names."""
    config, tied = model.config, model.config.tie_word_embeddings
    for name, p in model.state_dict().items():
        if tied and name.startswith("lm_head"):
            continue
        stem, kind = name.rsplit(".", 1)
        w = p.numpy()
        if stem in OUTER:
            yield f"{OUTER[stem]}.{kind}", w
            continue
        layer, part = stem.removeprefix("model.layers.").split(".", 1)
        if arch == "llama" and PARTS[part] in ("attn_q", "attn_k"):
            w = interleaved(w, config.num_attention_heads if part.endswith("q_proj") else config.num_key_value_heads)
        yield f"blk.{layer}.{PARTS[part]}.{kind}", w


def llama3_factors(rope: dict[str, Any], head: int) -> Floats:
    """What GGUF's rope_freqs.weight holds, [head / 2]: each pair's frequency is divided by it (Llama 3.1's rule)."""
    wavelength = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, head, 2) / head)
    turns = rope["original_max_position_embeddings"] / wavelength
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    factors: Floats = (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)
    return factors


def add_metadata(w: gguf.GGUFWriter, name: str, config: Any) -> None:
    """The model's keys and a vocabulary of bytes and a few pairs."""
    rope = config.rope_parameters
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    tokens, types, merges = make_gguf.vocabulary(config.vocab_size)
    end = make_gguf.SPECIAL.index("<|endoftext|>")
    keys: list[tuple[Callable[[Any], None], Any]] = [
        (w.add_name, f"golden {name}"), (w.add_file_type, gguf.LlamaFileType.ALL_F32),
        (w.add_context_length, config.max_position_embeddings), (w.add_embedding_length, config.hidden_size),
        (w.add_block_count, config.num_hidden_layers), (w.add_feed_forward_length, config.intermediate_size),
        (w.add_head_count, config.num_attention_heads), (w.add_head_count_kv, config.num_key_value_heads),
        (w.add_key_length, head), (w.add_value_length, head), (w.add_rope_dimension_count, head),
        (w.add_rope_freq_base, rope["rope_theta"]), (w.add_layer_norm_rms_eps, config.rms_norm_eps),
        (w.add_vocab_size, config.vocab_size), (w.add_tokenizer_model, "gpt2"), (w.add_tokenizer_pre, "gpt-2"),
        (w.add_token_list, tokens), (w.add_token_types, types), (w.add_token_merges, merges),
        (w.add_bos_token_id, end), (w.add_eos_token_id, end), (w.add_add_bos_token, False)]
    if rope["rope_type"] in ("linear", "yarn"):
        keys += [(w.add_rope_scaling_type, gguf.RopeScalingType(rope["rope_type"])),
                 (w.add_rope_scaling_factor, rope["factor"])]
    if rope["rope_type"] == "yarn":
        keys.append((w.add_rope_scaling_orig_ctx_len, rope["original_max_position_embeddings"]))
    for add, value in keys:
        add(value)


def write(path: Path, name: str, arch: str, model: Any) -> None:
    """NAME.gguf, everything in F32."""
    w = gguf.GGUFWriter(path, arch)
    add_metadata(w, name, model.config)
    rope = model.config.rope_parameters
    if rope["rope_type"] == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(rope, model.config.head_dim))
    for tensor, data in tensors(model, arch):
        w.add_tensor(tensor, data)
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
        write(args.out / "models" / f"{name}.gguf", name, variant.arch, model)
        arrays = golden(model, seed)
        np.savez_compressed(args.out / f"{name}.npz", **arrays)
        print(f"{name:16} logits spread over {arrays['logits'].std():.2f}, greedy choices {arrays['greedy_gap']:.3f} apart")


if __name__ == "__main__":
    main()
