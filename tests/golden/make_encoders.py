"""Golden hidden states of tiny random encoders, and of decoders that make embeddings, from Hugging Face transformers in float32.

    pip install torch transformers gguf numpy
    PYTHONPATH=. python tests/golden/make_encoders.py --out tests/golden/encoders

For each variant of encoder_families.py it writes NAME.gguf (float32 weights, a vocabulary; keys, names and orders by the package's
converter), unless there is one that says the same, and NAME.npz with, of a few texts,
    input_ids   int32 [tokens of all]         one text after the other
    lengths     int32 [texts]                 their tokens
    firsts      int32 [texts]                 tokens of the first text of a pair; 0: it is one
    hidden      float32 [tokens of all, n]    the last hidden states
    scores      float32 [texts, labels]       of a classifier
Every text is computed by itself. The weights follow from a seed per variant, its place in the list.
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import own_encoders
import torch
import transformers
from encoder_families import BASE, LENGTHS, VARIANTS, WORDS, Variant
from make_golden import add_entry, converted, write_if_other

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import make_gguf

Floats = npt.NDArray[np.float32]

def build(variant: Variant, seed: int) -> Any:
    """In float32, its weights drawn from `seed`: sharp attention."""
    kind = getattr(own_encoders if hasattr(own_encoders, variant.model) else transformers, variant.model)
    config = kind.config_class(**{**BASE, **variant.config})
    config._attn_implementation = "eager"
    model = kind(config).float().eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape)
            if name.endswith("bias"):
                p.copy_(0.1 * noise)
            elif p.ndim == 1:
                p.copy_(1 + 0.2 * noise - float(variant.centred))
            else:
                p.copy_(noise * (1.5 / p.shape[-1] ** 0.5))
    return model


@torch.no_grad()
def golden(model: Any, variant: Variant, dense: list[Floats], seed: int) -> dict[str, Any]:
    """The arrays of NAME.npz."""
    rng = np.random.default_rng(seed)
    texts, hidden, scores, firsts = [], [], [], []
    for length in LENGTHS[1:] if variant.pairs else LENGTHS:
        ids = rng.integers(5, model.config.vocab_size, length).astype(np.int32)
        first = length // 3 if variant.pairs else 0
        types = {"token_type_ids": torch.from_numpy(np.arange(length) >= first).long()[None]} if first else {}
        out = model(input_ids=torch.from_numpy(ids).long()[None], output_hidden_states=True, **types)
        last = (out.last_hidden_state if hasattr(out, "last_hidden_state") else out.hidden_states[-1])[0].numpy()
        for matrix in dense:
            last = last @ matrix.T
        texts.append(ids)
        hidden.append(last)
        firsts.append(first)
        if hasattr(out, "logits"):
            scores.append(out.logits[0].numpy())
    found = {"input_ids": np.concatenate(texts), "lengths": np.array([len(t) for t in texts], np.int32),
             "firsts": np.array(firsts, np.int32), "hidden": np.concatenate(hidden).astype(np.float32)}
    return {**found, "scores": np.stack(scores)} if scores else found


def add_vocabulary(w: gguf.GGUFWriter, variant: Variant, size: int) -> None:
    if variant.words:
        spelt = [t if t.startswith("[") else t[2:] if t.startswith("##") else f"\u2581{t}" for t in WORDS]
        w.add_tokenizer_model("bert")
        w.add_token_list(spelt)
        w.add_token_types([3 if t.startswith("[") else 1 for t in WORDS])
        w.add_token_type_count(2)
        for add, token in ((w.add_pad_token_id, "[PAD]"), (w.add_unk_token_id, "[UNK]"), (w.add_bos_token_id, "[CLS]"),
                           (w.add_sep_token_id, "[SEP]"), (w.add_mask_token_id, "[MASK]")):
            add(WORDS.index(token))
        return
    tokens, types, merges = make_gguf.vocabulary(size)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(merges)
    w.add_bos_token_id(0)
    w.add_eos_token_id(0)
    w.add_add_bos_token(False)
    if variant.arch == "bert":
        w.add_token_type_count(1)


def write(path: Path, variant: Variant, model: Any, dense: list[Floats]) -> None:
    """NAME.gguf, everything in F32."""
    w = gguf.GGUFWriter(path, variant.arch)
    w.add_name(f"golden {path.stem}")
    add_vocabulary(w, variant, model.config.vocab_size)
    entries, tensors = converted(model, variant)
    for entry in entries.values():
        add_entry(w, entry)
    for name, data in [*tensors, *((f"dense_{i}.weight", matrix) for i, matrix in enumerate(dense, 2))]:
        w.add_tensor(name, data)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=Path(__file__).parent / "encoders")
    ap.add_argument("--only", choices=VARIANTS, action="append", help="this variant; may be given again")
    args = ap.parse_args()
    torch.set_num_threads(1)        # the same sums in the same order on every machine of a kind
    args.out.mkdir(parents=True, exist_ok=True)
    for seed, (name, variant) in enumerate(VARIANTS.items()):
        if args.only and name not in args.only:
            continue
        model = build(variant, seed)
        rng = np.random.default_rng(seed)
        width = model.config.hidden_size
        shapes = [(3 * width, width), (width, 3 * width)] if variant.arch == "gemma-embedding" else []
        dense = [(rng.standard_normal(shape) / shape[1] ** 0.5).astype(np.float32) for shape in shapes]
        changed = write_if_other(args.out / f"{name}.gguf", lambda path, v=variant, m=model, d=dense: write(path, v, m, d))
        arrays = golden(model, variant, dense, seed)
        np.savez_compressed(args.out / f"{name}.npz", **arrays)
        print(f"{name:16} hidden states spread over {arrays['hidden'].std():.2f}{', a new file' * changed}")


if __name__ == "__main__":
    main()
