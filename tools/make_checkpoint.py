#!/usr/bin/env python3
"""Write a large synthetic checkpoint of a named shape, as transformers has it, at the speed of the disk: config.json, tokenizer.json and
safetensors. The weights are random; use it to measure what converting costs.

    python make_checkpoint.py --shape 1b 1b                 2.2 GB in BF16
    python make_checkpoint.py --shape 7b --shard 2 7b       in files of about 2 GB

Needs numpy and tokenizers.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import make_gguf
import numpy as np

POOL = 1 << 22                      # random numbers, used over and over from different starts
DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
INDEX = "model.safetensors.index.json"


def config(shape: make_gguf.Shape) -> dict[str, object]:
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": shape.embd, "intermediate_size": shape.ff,
            "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head, "max_position_embeddings": shape.ctx, "rms_norm_eps": 1e-5, "rope_theta": shape.rope_base,
            "tie_word_embeddings": shape.tied, "vocab_size": shape.vocab, "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 2}


def tensors(shape: make_gguf.Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, as PyTorch has them."""
    wide, narrow = shape.heads * shape.head, shape.kv_heads * shape.head
    yield "model.embed_tokens.weight", (shape.vocab, shape.embd)
    for i in range(shape.layers):
        rows = {"self_attn.q_proj": (wide, shape.embd), "self_attn.k_proj": (narrow, shape.embd), "self_attn.v_proj": (narrow, shape.embd),
                "self_attn.o_proj": (shape.embd, wide), "mlp.gate_proj": (shape.ff, shape.embd), "mlp.up_proj": (shape.ff, shape.embd),
                "mlp.down_proj": (shape.embd, shape.ff), "input_layernorm": (shape.embd,), "post_attention_layernorm": (shape.embd,)}
        for name, sizes in rows.items():
            yield f"model.layers.{i}.{name}.weight", sizes
    yield "model.norm.weight", (shape.embd,)
    if not shape.tied:
        yield "lm_head.weight", (shape.vocab, shape.embd)


def shards(shape: make_gguf.Shape, dtype: str, most: int) -> list[list[tuple[str, tuple[int, ...]]]]:
    """Runs of neighbouring tensors of at most so many bytes each, where a tensor is no larger."""
    out: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, sizes in tensors(shape):
        more = int(np.prod(sizes)) * DTYPES[dtype]
        if out[-1] and size + more > most:
            out.append([])
            size = 0
        out[-1].append((name, sizes))
        size += more
    return out


def write_file(path: Path, own: list[tuple[str, tuple[int, ...]]], dtype: str, rng: np.random.Generator) -> None:
    header, at = {}, 0
    for name, sizes in own:
        size = int(np.prod(sizes)) * DTYPES[dtype]
        header[name] = {"dtype": dtype, "shape": list(sizes), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = rng.standard_normal(POOL, dtype=np.float32)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, sizes in own:
            left, start = int(np.prod(sizes)), int(rng.integers(POOL // 2))
            scale, mean = (np.float32(sizes[-1] ** -0.5), 0) if len(sizes) > 1 else (np.float32(0.05), 1)
            while left:
                count = min(left, POOL - start)
                file.write(as_dtype(noise[start : start + count] * scale + np.float32(mean), dtype))
                left, start = left - count, 0


def as_dtype(values: np.ndarray, dtype: str) -> bytes:
    if dtype == "BF16":
        return ((values.view(np.uint32) + np.uint32(0x8000)) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F32": np.float32, "F16": np.float16}[dtype]).tobytes()


def write(folder: Path, shape: str = "1b", dtype: str = "BF16", shard_gb: float = 5.0, seed: int = 0, **sizes: int) -> None:
    """The same arguments give the same bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    dims = make_gguf.dataclasses.replace(make_gguf.SHAPES[shape], **sizes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(dims)))
    texts, _, merges = make_gguf.vocabulary(dims.vocab)
    made = Tokenizer(models.BPE({text: i for i, text in enumerate(texts)}, [tuple(merge.split(" ")) for merge in merges]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in make_gguf.SPECIAL])
    made.save(str(folder / "tokenizer.json"))
    parts, rng = shards(dims, dtype, int(shard_gb * 1e9)), np.random.default_rng(seed)
    names = [f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))] if len(parts) > 1 else ["model.safetensors"]
    for name, own in zip(names, parts, strict=True):
        write_file(folder / name, own, dtype, rng)
    if len(parts) > 1:
        where = {tensor: name for name, own in zip(names, parts, strict=True) for tensor, _ in own}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("folder", type=Path)
    ap.add_argument("--shape", default="1b", choices=[name for name, shape in make_gguf.SHAPES.items() if not shape.experts])
    ap.add_argument("--dtype", default="BF16", choices=DTYPES)
    ap.add_argument("--shard", type=float, default=5.0, metavar="GB", help="most of a file; default: 5")
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    write(args.folder, args.shape, args.dtype, args.shard, args.seed)


if __name__ == "__main__":
    main()
