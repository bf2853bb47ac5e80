"""Llama's forward pass in float64 with numpy, over weights the gguf package dequantised: an oracle that shares no code with airpy."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]


def _load(path: Path) -> tuple[dict[str, Float], dict[str, float]]:
    reader = gguf.GGUFReader(path)
    weights = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}
    numbers = {k.split(".", 1)[1]: f.contents() for k, f in reader.fields.items() if k.startswith("llama.")}
    return weights, numbers


def _rms_norm(x: Float, weight: Float, eps: float) -> Float:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def _rope(x: Float, base: float) -> Float:
    """x [tokens, heads, head]: adjacent pairs turn by position * base^(-2i/head)."""
    n, _, head = x.shape
    angle = np.arange(n)[:, None, None] * base ** (-np.arange(0, head, 2) / head)
    even, odd = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2] = even * np.cos(angle) - odd * np.sin(angle)
    out[..., 1::2] = even * np.sin(angle) + odd * np.cos(angle)
    return out


def _attention(q: Float, k: Float, v: Float) -> Float:
    """Causal; q [tokens, heads, head], k and v with fewer heads that groups of queries share."""
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[2])
    scores += np.triu(np.full(scores.shape[1:], -np.inf), 1)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hqk,khd->qhd", p / p.sum(-1, keepdims=True), v).reshape(len(q), -1)


def logits(path: Path, ids: npt.NDArray[np.int32]) -> Float:
    """[tokens, vocabulary] for a dense llama file without biases or rope scaling."""
    w, hp = _load(path)
    eps, heads, kv_heads = hp["attention.layer_norm_rms_epsilon"], int(hp["attention.head_count"]), int(hp["attention.head_count_kv"])
    x, n = w["token_embd.weight"][ids], len(ids)
    for i in range(int(hp["block_count"])):
        b = f"blk.{i}."
        h = _rms_norm(x, w[b + "attn_norm.weight"], eps)
        q, k, v = ((h @ w[b + f"attn_{name}.weight"].T).reshape(n, count, -1)
                   for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)))
        base = hp.get("rope.freq_base", 10000.0)
        x = x + _attention(_rope(q, base), _rope(k, base), v) @ w[b + "attn_output.weight"].T
        h = _rms_norm(x, w[b + "ffn_norm.weight"], eps)
        gate = h @ w[b + "ffn_gate.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[b + "ffn_up.weight"].T)) @ w[b + "ffn_down.weight"].T
    return _rms_norm(x, w["output_norm.weight"], eps) @ w.get("output.weight", w["token_embd.weight"]).T
