"""train.py's models -> GGUF files, and what PyTorch says about them, to hold against another engine.

Writes demo-f16, demo-q8_0, draft-f16 and draft-q8_0 (.gguf) to --out. Tensors keep their names and order: train.py's
RoPE turns adjacent pairs already, so q and k need no permutation; the output matrix is the embedding and is left out.
"""
from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from train import Llama, load

NOTES = ("Trained from scratch for airpy's demo and tests on public-domain English text (King James Bible, six novels by "
         "Jane Austen, the Jargon File 4.4.7, The Devil's Dictionary). No use beyond that.")


def add_metadata(w: gguf.GGUFWriter, model: Llama, tokenizer: dict[str, Any], matrix: gguf.GGMLQuantizationType) -> None:
    """The model's keys and its vocabulary. `tokenizer` is tokenizer.json, parsed."""
    c = model.config
    vocab, special = tokenizer["model"]["vocab"], {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    tokens, end = sorted(vocab, key=vocab.get), special["<|endoftext|>"]
    types = [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens]
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    keys: tuple[tuple[Callable[[Any], None], Any], ...] = (
        (w.add_name, "airpy demo" if c.layers > 1 else "airpy demo draft"), (w.add_description, NOTES),
        (w.add_license, "apache-2.0"),
        (w.add_file_type, gguf.LlamaFileType[f"MOSTLY_{matrix.name}"]),
        (w.add_quantization_version, gguf.GGML_QUANT_VERSION), (w.add_vocab_size, c.vocab),
        (w.add_context_length, c.context), (w.add_embedding_length, c.d), (w.add_block_count, c.layers),
        (w.add_feed_forward_length, c.ff), (w.add_head_count, c.heads), (w.add_head_count_kv, c.kv_heads),
        (w.add_rope_dimension_count, c.d // c.heads), (w.add_rope_freq_base, c.theta),
        (w.add_layer_norm_rms_eps, c.eps), (w.add_tokenizer_model, "gpt2"), (w.add_tokenizer_pre, "gpt-2"),
        (w.add_token_list, tokens), (w.add_token_types, types), (w.add_token_merges, merges),
        (w.add_bos_token_id, end), (w.add_eos_token_id, end), (w.add_add_bos_token, False))
    for add, value in keys:
        add(value)


def write(model: Llama, tokenizer: dict[str, Any], path: Path, matrix: gguf.GGMLQuantizationType) -> None:
    """One GGUF file: matrices as `matrix` says, norms in F32."""
    w = gguf.GGUFWriter(path, "llama")
    add_metadata(w, model, tokenizer, matrix)
    for name, tensor in model.state_dict().items():
        data = tensor.float().numpy()
        dtype = gguf.GGMLQuantizationType.F32 if data.ndim == 1 else matrix
        w.add_tensor(name, gguf.quants.quantize(data, dtype), raw_dtype=dtype)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


@torch.no_grad()
def perplexity(model: Llama, ids: npt.NDArray[np.uint16], t: int = 512) -> float:
    """As llama-perplexity -c t counts it: consecutive windows of t, the second half of each scored."""
    x = torch.from_numpy(ids[:len(ids) // t * t].astype(np.int64)).view(-1, t)
    loss = [F.cross_entropy(model(row[None])[0, t // 2:-1], row[t // 2 + 1:]) for row in x]
    return math.exp(float(torch.stack(loss).mean()))


@torch.no_grad()
def greedy(model: Llama, ids: list[int], n: int) -> list[int]:
    """The n tokens that follow `ids`, each the likeliest, the whole text computed anew for each."""
    for _ in range(n):
        ids = [*ids, int(model(torch.tensor([ids]))[0, -1].argmax())]
    return ids[-n:]


def arguments() -> argparse.Namespace:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, required=True, help="prepare.py's --out")
    ap.add_argument("--models", type=Path, required=True, help="train.py's --out")
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--prompt", action="append", default=[], help="also print PyTorch's greedy continuation of this")
    return ap.parse_args()


def main() -> None:
    args = arguments()
    tokenizer = Tokenizer.from_file(str(args.data / "tokenizer.json"))
    val = np.fromfile(args.data / "val.bin", np.uint16)
    parsed = json.loads((args.data / "tokenizer.json").read_text())
    for source, name in (("target", "demo"), ("draft", "draft")):
        model = load(args.models / f"{source}.pt")
        for matrix in (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.Q8_0):
            write(model, parsed, args.out / f"{name}-{matrix.name.lower()}.gguf", matrix)
        print(json.dumps({"model": name, "parameters": sum(p.numel() for p in model.parameters()),
                          "perplexity": perplexity(model, val), **{prompt: tokenizer.decode(
                              greedy(model, tokenizer.encode(prompt).ids, 48)) for prompt in args.prompt}}))


if __name__ == "__main__":
    main()
