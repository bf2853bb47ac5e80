#!/usr/bin/env python3
"""Write a large synthetic GGUF model of a named shape, at the speed of the disk.

The weights are random blocks of any GGML format with sane scales, so activations stay finite; the words mean nothing.
The vocabulary is a working byte-level BPE in which every text round trips. Use such files to measure speed and memory.

    python make_gguf.py --shape 7b --type Q4_K 7b-q4_k.gguf            about 3.9 GB, random weights
    python make_gguf.py --shape 70b --type Q4_K_M --sparse 70b.gguf    the right header over a hole: made at once
    python make_gguf.py --shape 1b --type Q8_0 --parts 3 1b.gguf       1b-00001-of-00003.gguf and so on
    python make_gguf.py --shape 3b --arch qwen3 --layers 4 --type BF16 short.gguf

Needs numpy alone. As a module: make_gguf.write(path, shape="tiny", type="Q4_K", seed=1) -> list of the files written.
"""
from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

ALIGNMENT = 32                      # of tensor data, GGUF's default
POOL_BYTES = 4 << 20                # random blocks made for each format and row length, then written over and over
WRITE_BYTES = 16 << 20
Bytes = npt.NDArray[np.uint8]


# ---- shapes ----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Shape:
    """The sizes of a model, in the terms of GGUF's keys."""

    layers: int
    embd: int
    ff: int
    heads: int
    kv_heads: int
    vocab: int
    ctx: int
    head_dim: int = 0               # 0: embd / heads
    tied: bool = False              # no output.weight: the embedding is the output matrix
    rope_base: float = 10000.0
    experts: int = 0                # of each layer's mixture, in place of its feed-forward
    used: int = 0                   # of them, that a token is sent to
    expert_ff: int = 0
    router_skew: float = 0.0        # the router's rows are made smaller, the i-th by (i + 1) ** -skew: the first are used most
    kv_rank: int = 0                # latent attention: elements of a position's state that keys and values are made of,
    q_rank: int = 0                 # of what queries are made of,
    rope_dim: int = 0               # of a head's key that are rotated,
    value_dim: int = 0              # and of its values

    @property
    def head(self) -> int:
        """Values of one attention head."""
        return self.head_dim or self.embd // self.heads

    def check(self) -> None:
        """Raises ValueError, naming the numbers, where the sizes do not go together."""
        sizes = (self.layers, self.embd, self.ff, self.heads, self.kv_heads, self.ctx)
        if min(sizes) < 1:
            raise ValueError(f"layers, embd, ff, heads, kv_heads and ctx must be positive, not {sizes}")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly")
        if not self.head_dim and self.embd % self.heads:
            raise ValueError(f"embd {self.embd} does not divide into {self.heads} heads; give head_dim")
        if self.experts and not (1 <= self.used <= self.experts and self.expert_ff > 0):
            raise ValueError(f"{self.experts} experts need used in 1 … {self.experts} and expert_ff, not {self.used} and {self.expert_ff}")
        latent = (self.kv_rank, self.q_rank, self.rope_dim, self.value_dim)
        if any(latent) and (min(latent) < 1 or self.rope_dim >= self.head or self.rope_dim % 2 or self.kv_heads != 1 or self.experts):
            raise ValueError(f"latent attention needs kv_rank, q_rank, rope_dim and value_dim, not {latent}, rope_dim even and less than "
                             f"head_dim {self.head}, kv_heads 1, not {self.kv_heads}, and here no experts")
        if self.head % 2:
            raise ValueError(f"head size {self.head} is odd, rope turns pairs")
        smallest = len(SPECIAL) + 256
        largest = smallest + 256 ** 2 + 256 ** 3
        if not smallest <= self.vocab <= largest:
            raise ValueError(f"vocab {self.vocab} is not in {smallest} … {largest}: special tokens, all bytes, merges")


SHAPES = {
    "tiny": Shape(2, 256, 512, 4, 2, 512, 512),
    "1b": Shape(22, 2048, 5632, 32, 4, 32000, 2048),                                      # TinyLlama 1.1B
    "3b": Shape(28, 3072, 8192, 24, 8, 128256, 131072, tied=True, rope_base=500000.0),    # Llama 3.2 3B
    "7b": Shape(32, 4096, 11008, 32, 32, 32000, 4096),                                    # Llama 2 7B
    "13b": Shape(40, 5120, 13824, 40, 40, 32000, 4096),                                   # Llama 2 13B
    "moe": Shape(48, 2048, 6144, 32, 4, 151936, 40960, head_dim=128, rope_base=1e6, experts=128, used=8, expert_ff=768),  # Qwen3 30B-A3B
    "mla": Shape(27, 2048, 10944, 16, 1, 102400, 163840, head_dim=192, kv_rank=512, q_rank=1536, rope_dim=64, value_dim=128),
    # DeepSeek V2 Lite's attention with V2's latent for queries, without which llama.cpp reads 26, 27 and 48 layers alone; no experts
    "70b": Shape(80, 8192, 28672, 64, 8, 32000, 4096),                                    # Llama 2 70B
}
ARCHS = ("llama", "qwen2", "qwen3", "qwen3moe", "deepseek2")


# ---- formats ---------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Format:
    """A GGML type. A block of random bytes, with `factor * d` put in as F16 at each of `scales`, decodes to values of mean
    about 0 and standard deviation `unit * d`; `unit` was measured on 20,000 such blocks with the gguf package."""

    id: int
    block: int                      # values of a block
    bytes: int                      # of a block
    file_type: int                  # llama.cpp's LLAMA_FTYPE for a file mostly of this
    unit: float = 0.0
    scales: tuple[tuple[int, float], ...] = ()
    patch: Callable[[Bytes, float, np.random.Generator], None] | None = None    # instead of `scales`: (blocks, d, rng)


def _patch_iq1_m(blocks: Bytes, d: float, rng: np.random.Generator) -> None:
    """IQ1_M keeps its F16 scale in the top four bits of each of its last four 16-bit words."""
    words = blocks[:, 48:].view("<u2")
    bits = _jittered(len(blocks), d, rng).view("<u2")
    for i in range(4):
        words[:, i] = (words[:, i] & 0x0FFF) | (((bits >> (4 * i)) & 0xF) << 12)


def _patch_tq2_0(blocks: Bytes, d: float, rng: np.random.Generator) -> None:
    """TQ2_0 has two bits for the values -1, 0, 1; the fourth code, 3, becomes 1 and is met in no real file either."""
    codes = blocks[:, :64]
    codes &= ~(codes & (codes << 1) & 0xAA)
    blocks[:, 64:] = _jittered(len(blocks), d, rng).view(np.uint8).reshape(-1, 2)


def _patch_mxfp4(blocks: Bytes, d: float, rng: np.random.Generator) -> None:
    """MXFP4's scale is a bare exponent, 2^(e - 127); the neighbours of the nearest one are drawn too."""
    exponent = round(float(np.log2(d))) + 127
    blocks[:, 0] = np.clip(exponent + rng.integers(-1, 1, len(blocks)), 1, 254)


def _patch_nvfp4(blocks: Bytes, d: float, rng: np.random.Generator) -> None:
    """NVFP4 has four UE4M3 scales (exponent bias 7) of 16 values each; drawn from the codes nearest d, never 0 or NaN."""
    codes = np.arange(1, 0x7F)
    exponent, mantissa = codes >> 3, codes & 7
    values = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0 ** -9)
    nearest = int(codes[np.abs(values - d).argmin()])
    blocks[:, :4] = np.clip(nearest + rng.integers(-1, 2, (len(blocks), 4)), 1, 0x7E)


FORMATS = {
    "F32": Format(0, 1, 4, 0),
    "F16": Format(1, 1, 2, 1),
    "BF16": Format(30, 1, 2, 32),
    "Q4_0": Format(2, 32, 18, 2, 4.61, ((0, 1),)),
    "Q4_1": Format(3, 32, 20, 3, 4.61, ((0, 1), (2, -7.5))),
    "Q5_0": Format(6, 32, 22, 8, 9.23, ((0, 1),)),
    "Q5_1": Format(7, 32, 24, 9, 9.23, ((0, 1), (2, -15.5))),
    "Q8_0": Format(8, 32, 34, 7, 74.0, ((0, 1),)),
    "Q2_K": Format(10, 256, 84, 10, 13.9, ((80, 1), (82, 1.5))),
    "Q3_K": Format(11, 256, 110, 11, 43.3, ((108, 1),)),
    "Q4_K": Format(12, 256, 144, 14, 258.0, ((0, 1), (2, 7.5))),
    "Q5_K": Format(13, 256, 176, 16, 527.0, ((0, 1), (2, 15.5))),
    "Q6_K": Format(14, 256, 210, 18, 1366.0, ((208, 1),)),
    "IQ1_S": Format(19, 256, 50, 24, 7.22, ((0, 1),)),
    "IQ1_M": Format(29, 256, 56, 31, 7.20, patch=_patch_iq1_m),
    "IQ2_XXS": Format(16, 256, 66, 19, 53.4, ((0, 1),)),
    "IQ2_XS": Format(17, 256, 74, 20, 55.8, ((0, 1),)),
    "IQ2_S": Format(22, 256, 82, 28, 56.4, ((0, 1),)),
    "IQ3_XXS": Format(18, 256, 98, 23, 142.0, ((0, 1),)),
    "IQ3_S": Format(21, 256, 110, 26, 140.0, ((0, 1),)),
    "IQ4_NL": Format(20, 32, 18, 25, 67.2, ((0, 1),)),
    "IQ4_XS": Format(23, 256, 136, 30, 1246.0, ((0, 1),)),
    "TQ1_0": Format(34, 256, 54, 36, 0.817, ((52, 1),)),
    "TQ2_0": Format(35, 256, 66, 37, 0.707, patch=_patch_tq2_0),
    "MXFP4": Format(39, 32, 17, 38, 2.2, patch=_patch_mxfp4),
    "NVFP4": Format(40, 64, 36, 39, 2.93, patch=_patch_nvfp4),
}


@dataclass(frozen=True)
class Mix:
    """A blend as llama.cpp's quantiser makes it: `base`, with `better` for half of attn_v and ffn_down, and an `output`."""

    base: str
    better: str
    output: str
    file_type: int


MIXES = {
    "Q3_K_M": Mix("Q3_K", "Q5_K", "Q6_K", 12),
    "Q4_K_M": Mix("Q4_K", "Q6_K", "Q6_K", 15),
    "Q5_K_M": Mix("Q5_K", "Q6_K", "Q6_K", 17),
}


def _jittered(n: int, d: float, rng: np.random.Generator) -> npt.NDArray[np.float16]:
    """n F16 scales within a quarter of d, of mean square d²."""
    return (d * rng.uniform(0.75, 1.25, n) / 1.0104).astype("<f2")


def random_blocks(fmt: Format, n: int, std: float, rng: np.random.Generator) -> Bytes:
    """n packed blocks, uint8 [n, fmt.bytes], that decode to finite values of mean about 0 and standard deviation `std`."""
    if not fmt.unit:
        return _random_floats(fmt, n, std, rng)
    blocks = rng.integers(0, 256, (n, fmt.bytes), dtype=np.uint8)
    d = std / fmt.unit
    if fmt.patch:
        fmt.patch(blocks, d, rng)
        return blocks
    scale = _jittered(n, d, rng)
    for at, factor in fmt.scales:
        blocks[:, at:at + 2] = (scale * np.float16(factor)).astype("<f2").view(np.uint8).reshape(n, 2)
    return blocks


def _random_floats(fmt: Format, n: int, std: float, rng: np.random.Generator) -> Bytes:
    values = (rng.standard_normal(n, dtype=np.float32) * np.float32(std)).astype("<f4")
    if fmt is FORMATS["BF16"]:
        return (values.view("<u4") >> 16).astype("<u2").view(np.uint8).reshape(n, 2)
    if fmt is FORMATS["F16"]:
        return values.astype("<f2").view(np.uint8).reshape(n, 2)
    return values.view(np.uint8).reshape(n, 4)


# ---- tensors ---------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Tensor:
    """One tensor of the file; `shape` in GGML's order, the row length first. A vector holds `mean` plus a little noise."""

    name: str
    shape: tuple[int, ...]
    type: str
    mean: float = 0.0
    skew: float = 0.0               # of a router
    std: float = 0.0                # of a matrix's values; 0: what keeps a product as large as its input

    @property
    def bytes(self) -> int:
        """Bytes of its data, before padding."""
        fmt = FORMATS[self.type]
        return int(np.prod(self.shape, dtype=np.int64)) // fmt.block * fmt.bytes


def tensors_of(shape: Shape, arch: str, type: str) -> list[Tensor]:
    """Every tensor of the model, in the order of the file: embedding, layers, final norm, output. Raises ValueError where
    a row is not a whole number of the format's blocks."""
    mix = MIXES.get(type, Mix(type, type, type, 0))
    wide, narrow = shape.heads * shape.head, shape.kv_heads * shape.head
    # Beside what layers add, the token itself must count: else all tokens are sent to the same experts.
    std = 2.0 if shape.experts else 0.0
    out = [Tensor("token_embd.weight", (shape.embd, shape.vocab), mix.output if shape.tied else mix.base, std=std)]
    for i in range(shape.layers):
        better = mix.better if _is_sensitive(i, shape.layers) else mix.base
        rows = [("attn_norm", (shape.embd,), "F32", 1.0)]
        if shape.kv_rank:
            rows += _latent_rows(shape, mix.base)
        else:
            rows += [("attn_q", (shape.embd, wide), mix.base, 0.0), ("attn_k", (shape.embd, narrow), mix.base, 0.0),
                     ("attn_v", (shape.embd, narrow), better, 0.0), ("attn_output", (wide, shape.embd), mix.base, 0.0)]
        rows.append(("ffn_norm", (shape.embd,), "F32", 1.0))
        if shape.experts:
            n, ff = shape.experts, shape.expert_ff
            rows += [("ffn_gate_exps", (shape.embd, ff, n), mix.base, 0.0), ("ffn_up_exps", (shape.embd, ff, n), mix.base, 0.0),
                     ("ffn_down_exps", (ff, shape.embd, n), better, 0.0)]
            out.append(Tensor(f"blk.{i}.ffn_gate_inp.weight", (shape.embd, n), "F32", skew=shape.router_skew))
        else:
            rows += [("ffn_gate", (shape.embd, shape.ff), mix.base, 0.0), ("ffn_up", (shape.embd, shape.ff), mix.base, 0.0),
                     ("ffn_down", (shape.ff, shape.embd), better, 0.0)]
        if arch in ("qwen3", "qwen3moe"):
            rows += [("attn_q_norm", (shape.head,), "F32", 1.0), ("attn_k_norm", (shape.head,), "F32", 1.0)]
        out += [Tensor(f"blk.{i}.{name}.weight", dims, kind, mean) for name, dims, kind, mean in rows]
        if arch == "qwen2":
            biases = (("attn_q", wide), ("attn_k", narrow), ("attn_v", narrow))
            out += [Tensor(f"blk.{i}.{name}.bias", (n,), "F32") for name, n in biases]
    out.append(Tensor("output_norm.weight", (shape.embd,), "F32", 1.0))
    if not shape.tied:
        out.append(Tensor("output.weight", (shape.embd, shape.vocab), mix.output))
    for t in out:
        if t.shape[0] % FORMATS[t.type].block:
            raise ValueError(f"{t.name} has rows of {t.shape[0]}, not a multiple of {t.type}'s block of "
                             f"{FORMATS[t.type].block}")
    return out


def _latent_rows(shape: Shape, type: str) -> list[tuple[str, tuple[int, ...], str, float]]:
    """Of a layer's attention: name, shape, type and mean of each tensor."""
    plain = shape.head - shape.rope_dim
    return [("attn_q_a", (shape.embd, shape.q_rank), type, 0.0), ("attn_q_a_norm", (shape.q_rank,), "F32", 1.0),
            ("attn_q_b", (shape.q_rank, shape.heads * shape.head), type, 0.0),
            ("attn_kv_a_mqa", (shape.embd, shape.kv_rank + shape.rope_dim), type, 0.0), ("attn_kv_a_norm", (shape.kv_rank,), "F32", 1.0),
            ("attn_k_b", (plain, shape.kv_rank, shape.heads), type, 0.0),
            ("attn_v_b", (shape.kv_rank, shape.value_dim, shape.heads), type, 0.0),
            ("attn_output", (shape.heads * shape.value_dim, shape.embd), type, 0.0)]


def _is_sensitive(layer: int, layers: int) -> bool:
    """The layers whose attn_v and ffn_down get more bits, as llama.cpp's use_more_bits has them."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


# ---- metadata --------------------------------------------------------------------------------------------------------

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
                 "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
COMMON = " etaoinsrhldcumfpgwybvkxjqz.,'-\nTAISWHCBMPDLNREFGOJKUVYQZX0123456789"


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte 0 … 255 (bytes_to_unicode in openai/gpt-2's encoder.py)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    stand_in = {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    return [stand_in[b] for b in range(256)]


def vocabulary(size: int) -> tuple[list[str], list[int], list[str]]:
    """Tokens, their GGUF types and the merges: special tokens, 256 bytes, then pairs and triples, common letters first."""
    alphabet = byte_alphabet()
    tokens, types = [*SPECIAL, *alphabet], [3] * len(SPECIAL) + [1] * 256       # 3 control, 1 normal
    first = dict.fromkeys(COMMON.encode())
    letters = [alphabet[b] for b in (*first, *(b for b in range(256) if b not in first))]
    pairs = itertools.product(letters, repeat=2)
    triples = ((a + b, c) for a, b, c in itertools.product(letters, repeat=3))
    merges = list(itertools.islice(itertools.chain(pairs, triples), size - len(tokens)))
    tokens += [a + b for a, b in merges]
    return tokens, types + [1] * len(merges), [f"{a} {b}" for a, b in merges]


def metadata(shape: Shape, arch: str, type: str, name: str) -> dict[str, object]:
    """The file's key-value pairs; int is written as u32, float as f32."""
    tokens, types, merges = vocabulary(shape.vocab)
    kv: dict[str, object] = {
        "general.architecture": arch,
        "general.name": name,
        "general.description": "Random weights for measuring speed and memory; what it writes means nothing.",
        "general.quantization_version": 2,
        "general.file_type": MIXES[type].file_type if type in MIXES else FORMATS[type].file_type,
        f"{arch}.block_count": shape.layers,
        f"{arch}.context_length": shape.ctx,
        f"{arch}.embedding_length": shape.embd,
        f"{arch}.feed_forward_length": shape.ff,
        f"{arch}.attention.head_count": shape.heads,
        f"{arch}.attention.head_count_kv": shape.kv_heads,
        f"{arch}.attention.key_length": shape.head,
        f"{arch}.attention.value_length": shape.head,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.freq_base": shape.rope_base,
        f"{arch}.rope.dimension_count": shape.head,
        f"{arch}.vocab_size": shape.vocab,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": SPECIAL.index("<|endoftext|>"),
        "tokenizer.ggml.eos_token_id": SPECIAL.index("<|im_end|>"),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
    if shape.experts:
        kv |= {f"{arch}.expert_count": shape.experts, f"{arch}.expert_used_count": shape.used,
               f"{arch}.expert_feed_forward_length": shape.expert_ff}
    if shape.kv_rank:
        kv |= {f"{arch}.attention.key_length": shape.kv_rank + shape.rope_dim, f"{arch}.attention.value_length": shape.kv_rank,
               f"{arch}.attention.key_length_mla": shape.head, f"{arch}.attention.value_length_mla": shape.value_dim,
               f"{arch}.attention.kv_lora_rank": shape.kv_rank, f"{arch}.attention.q_lora_rank": shape.q_rank,
               f"{arch}.rope.dimension_count": shape.rope_dim, f"{arch}.leading_dense_block_count": shape.layers,
               f"{arch}.expert_shared_count": 0, f"{arch}.expert_feed_forward_length": shape.ff}
    return kv


# ---- the file --------------------------------------------------------------------------------------------------------

_U16, _U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 2, 4, 5, 6, 7, 8, 9            # GGUF's metadata value types


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: object) -> bytes:
    """A metadata value with its type before it."""
    if isinstance(value, bool):
        return struct.pack("<IB", _BOOL, value)
    if isinstance(value, np.uint16):
        return struct.pack("<IH", _U16, value)
    if isinstance(value, np.int32):
        return struct.pack("<Ii", _I32, value)
    if isinstance(value, int):
        return struct.pack("<II", _U32, value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
    if isinstance(value, list):
        return struct.pack("<IIQ", _ARRAY, _I32, len(value)) + np.array(value, "<i4").tobytes()
    raise TypeError(f"no GGUF type for {value!r}")


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def header(kv: dict[str, object], tensors: Sequence[Tensor]) -> bytes:
    """Everything before the tensor data, padded to the alignment (GGUF version 3, little endian)."""
    out = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(kv))]
    out += [_string(key) + _value(value) for key, value in kv.items()]
    offset = 0
    for t in tensors:
        dims = struct.pack(f"<I{len(t.shape)}Q", len(t.shape), *t.shape)
        out.append(_string(t.name) + dims + struct.pack("<IQ", FORMATS[t.type].id, offset))
        offset += _padded(t.bytes)
    raw = b"".join(out)
    return raw.ljust(_padded(len(raw)), b"\0")


class Pools:
    """Random blocks, made once for each format and row length; a tensor is a cyclic run of them from a random start."""

    def __init__(self, seed: int, most_rows: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._most_rows = most_rows
        self._pools: dict[tuple[str, int, float], memoryview] = {}

    def chunks(self, t: Tensor) -> Iterator[memoryview]:
        """The tensor's data, piece by piece."""
        if len(t.shape) == 1:
            values = t.mean + 0.05 * self._rng.standard_normal(t.shape[0], dtype=np.float32)
            yield memoryview(values.astype("<f4").tobytes())
            return
        if t.skew:
            rows = self._rng.standard_normal((t.shape[1], t.shape[0]), dtype=np.float32) * np.float32(4 * t.shape[0] ** -0.5)
            yield memoryview((rows * np.arange(1, t.shape[1] + 1)[:, None] ** -t.skew).astype("<f4").tobytes())
            return
        pool = self._pool(t.type, t.shape[0], t.std or t.shape[0] ** -0.5)
        at = int(self._rng.integers(len(pool) // FORMATS[t.type].bytes)) * FORMATS[t.type].bytes
        left = t.bytes
        while left:
            piece = pool[at:at + min(left, WRITE_BYTES)]
            yield piece
            left -= len(piece)
            at = (at + len(piece)) % len(pool)

    def _pool(self, type: str, columns: int, std: float) -> memoryview:
        if (type, columns, std) not in self._pools:
            fmt = FORMATS[type]
            # A prime number of blocks, more than there are rows: no two rows of a tensor start at the same block, so none
            # are equal and no two logits tie. Variance 1 / columns keeps a product as large as its input.
            n = _next_prime(max(POOL_BYTES // fmt.bytes, self._most_rows, columns // fmt.block + 1))
            blocks = random_blocks(fmt, n, std, self._rng)
            self._pools[type, columns, std] = memoryview(blocks.tobytes())
        return self._pools[type, columns, std]


def _next_prime(n: int) -> int:
    while any(n % d == 0 for d in range(2, int(n ** 0.5) + 1)):
        n += 1
    return n


class Progress:
    """A bar on standard error, once the writing has taken two seconds; a line with the speed at the end."""

    def __init__(self, total: int, shown: bool) -> None:
        self._total, self._shown, self._done = total, shown, 0
        self._start = self._last = time.monotonic()

    def add(self, n: int) -> None:
        """n more bytes are written."""
        self._done += n
        now = time.monotonic()
        if self._shown and sys.stderr.isatty() and now - self._start > 2 and now - self._last > 0.2:
            self._last = now
            share, rate = self._done / self._total, self._done / (now - self._start)
            bar = ("#" * round(30 * share)).ljust(30)
            print(f"\r[{bar}] {share:4.0%}  {rate / 1e9:.2f} GB/s  {(self._total - self._done) / rate:3.0f} s left ",
                  end="", file=sys.stderr, flush=True)

    def finish(self, names: Sequence[Path]) -> None:
        """Everything is on the disk."""
        if self._shown:
            seconds = max(time.monotonic() - self._start, 1e-9)
            clear = "\r\033[K" if sys.stderr.isatty() else ""
            print(f"{clear}{names[0]}{' …' * (len(names) > 1)}: {self._done / 1e9:.3g} GB in {seconds:.1f} s, "
                  f"{self._done / seconds / 1e9:.2g} GB/s", file=sys.stderr)


def _write_part(f: BinaryIO, head: bytes, tensors: Sequence[Tensor], pools: Pools | None, progress: Progress) -> None:
    """One file: the header, then the data of each tensor, or a hole where there are no pools."""
    f.write(head)
    data = sum(_padded(t.bytes) for t in tensors)
    if pools is None:
        f.truncate(len(head) + data)
        progress.add(len(head) + data)
        return
    for t in tensors:
        for chunk in pools.chunks(t):
            f.write(chunk)
            progress.add(len(chunk))
        f.write(bytes(_padded(t.bytes) - t.bytes))
    f.flush()
    os.fsync(f.fileno())            # so that the speed reported is the disk's, and a benchmark starts with nothing to write


def _parts(tensors: Sequence[Tensor], count: int) -> list[list[Tensor]]:
    """Runs of neighbouring tensors of about equal size."""
    total, done = sum(t.bytes for t in tensors), 0
    out: list[list[Tensor]] = [[] for _ in range(count)]
    for i, t in enumerate(tensors):
        # By size, yet never so late that a part after this one would be left without a tensor, nor leaving one out.
        first, last = max(0, count - (len(tensors) - i)), min(i, count - 1)
        out[min(max(done * count // total, first), last)].append(t)
        done += t.bytes
    return out


def part_paths(path: Path, count: int) -> list[Path]:
    """NAME-00001-of-0000N.gguf and so on, as llama.cpp names the parts; the path itself where there is one."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]


def write(path: str | os.PathLike[str], *, shape: str = "tiny", type: str = "Q8_0", arch: str = "llama", seed: int = 0,
          parts: int = 1, sparse: bool = False, progress: bool = False, **sizes: int | float | bool | None) -> list[Path]:
    """Write a model and return its files. `sizes` replaces fields of the named shape: layers, embd, ff, heads, kv_heads,
    vocab, ctx, head_dim, tied, rope_base, experts, used, expert_ff, router_skew, kv_rank, q_rank, rope_dim, value_dim; None keeps
    the shape's. The same arguments give the same bytes.
    Raises ValueError where shape, type or arch is unknown or the sizes do not go together."""
    for what, name, known in (("shape", shape, SHAPES), ("type", type, (*FORMATS, *MIXES)), ("arch", arch, ARCHS)):
        if name not in known:
            raise ValueError(f"no {what} {name!r}; there are {', '.join(known)}")
    dims = dataclasses.replace(SHAPES[shape], **{k: v for k, v in sizes.items() if v is not None})  # type: ignore[arg-type]
    dims.check()
    if (arch == "qwen3moe") != bool(dims.experts):
        raise ValueError(f"shape {shape} with arch {arch}: shape moe goes with arch qwen3moe")
    if (arch == "deepseek2") != bool(dims.kv_rank):
        raise ValueError(f"shape {shape} with arch {arch}: shape mla goes with arch deepseek2")
    tensors = tensors_of(dims, arch, type)
    if not 1 <= parts <= len(tensors):
        raise ValueError(f"{parts} parts cannot be made of {len(tensors)} tensors")
    files, pools = part_paths(Path(path), parts), None if sparse else Pools(seed, max(dims.vocab, dims.ff))
    kv = metadata(dims, arch, type, f"synthetic {shape} {type}")
    bar = Progress(sum(t.bytes for t in tensors), progress and not sparse)
    for no, (file, own) in enumerate(zip(files, _parts(tensors, parts), strict=True)):
        split = {"split.no": np.uint16(no), "split.count": np.uint16(parts), "split.tensors.count": np.int32(len(tensors))}
        keys = {**(kv if no == 0 else {}), **(split if parts > 1 else {})}      # the first part holds all that is not split.*
        with open(file, "wb") as f:
            _write_part(f, header(keys, own), own, pools, bar)
    bar.finish(files)
    return files


# ---- command line ----------------------------------------------------------------------------------------------------

def _parser() -> argparse.ArgumentParser:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("path", type=Path, help="the file to write; with --parts, the name that the parts' names begin with")
    ap.add_argument("--shape", default="7b", choices=SHAPES,
                    help="; ".join(f"{k}: {s.layers} layers of {s.embd}, ff {s.ff}, heads {s.heads}/{s.kv_heads}"
                                   for k, s in SHAPES.items()))
    ap.add_argument("--type", default="Q4_K", choices=(*FORMATS, *MIXES), metavar="TYPE",
                    help=f"format of the matrices: {', '.join(FORMATS)}; or a mix: {', '.join(MIXES)}; norms are F32")
    ap.add_argument("--arch", default="llama", choices=ARCHS, help="qwen2 has biases on q, k and v, qwen3 and qwen3moe norms on q and k")
    ap.add_argument("--seed", type=int, default=0, help="the same seed and sizes give the same file")
    ap.add_argument("--parts", type=int, default=1, metavar="N", help="split into N files, as llama.cpp's gguf-split does")
    ap.add_argument("--sparse", "--header-only", action="store_true",
                    help="leave the data a hole: takes no time and no space, reads as zeros")
    own = ap.add_argument_group("instead of the shape's own")
    for name, what in (("layers", "layers"), ("embd", "width"), ("ff", "width of the feed-forward"), ("heads", "heads"),
                       ("kv-heads", "key-value heads"), ("head-dim", "size of a head"), ("vocab", "tokens"),
                       ("ctx", "trained context"), ("experts", "experts of a layer"), ("used", "of them, those of a token"),
                       ("expert-ff", "width of an expert"), ("kv-rank", "of latent attention: elements that keys and values are made of"),
                       ("q-rank", "those that queries are made of"), ("rope-dim", "those of a key that are rotated"),
                       ("value-dim", "those of a value")):
        own.add_argument(f"--{name}", type=int, metavar="N", help=what)
    own.add_argument("--router-skew", type=float, metavar="X", help="0: all experts are used alike; 1: the first far more")
    own.add_argument("--tied", action=argparse.BooleanOptionalAction, help="the embedding is the output matrix")
    return ap


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = vars(_parser().parse_args(argv))
    try:
        write(args.pop("path"), progress=True, **args)
    except (ValueError, OSError) as error:
        print(f"make_gguf: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
