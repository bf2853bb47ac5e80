"""Hidden states and scores of transformers for tiny encoders' checkpoints, by which tests hold the converter, as make_checkpoints.py does
with models that generate.

    pip install torch transformers tokenizers numpy
    PYTHONPATH=. python tests/golden/make_encoder_checkpoints.py [--only NAME]

For each of VARIANTS it writes checkpoints/encoders/NAME.json and NAME.npz, with the arrays that make_encoders.py describes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import encoder_families
import numpy as np
import torch
import transformers
from checkpoints import ENCODERS, dense_of, write_checkpoint
from encoder_families import BASE, Variant

LENGTHS = (1, 9, 40)
SEED = 2000
# sentence-transformers' word for the pooling_type of files.
POOLING = {1: "mean_tokens", 2: "cls_token", 3: "lasttoken"}
RANK = encoder_families.VARIANTS["roberta"]
MORE = {
    "roberta-rank": replace(RANK, model="XLMRobertaForSequenceClassification", config={**RANK.config, "num_labels": 1}, keys={}),
}
SEEDS = {name: SEED + i for i, name in enumerate(encoder_families.VARIANTS)} | {name: 2 * SEED + i for i, name in enumerate(MORE)}
VARIANTS = {name: variant for name, variant in encoder_families.VARIANTS.items() if not variant.instead} | MORE


def description_of(variant: Variant, seed: int) -> dict[str, Any]:
    kind = getattr(transformers, variant.model)
    with tempfile.TemporaryDirectory() as folder:
        kind(kind.config_class(**{**BASE, **variant.config})).save_pretrained(folder)
        values = json.loads((Path(folder) / "config.json").read_text())
        data = (Path(folder) / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    shapes = {tensor: entry["shape"] for tensor, entry in header.items() if tensor != "__metadata__"}
    values.pop("transformers_version", None)
    width = values["hidden_size"]
    return {"config": values, "dtype": ("F32", "BF16", "F16")[seed % 3], "seed": seed, "quiet": 1.0, "centred": variant.centred,
            "transposed": False, "words": variant.words, "pooling": POOLING.get(variant.keys.get("pooling_type", 0), ""), "tensors": shapes,
            "dense": [[3 * width, width], [width, 3 * width]] if variant.arch == "gemma-embedding" else []}


@torch.no_grad()
def arrays_of(variant: Variant, description: dict[str, Any]) -> dict[str, Any]:
    kind = getattr(transformers, variant.model)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), description)
        model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, attn_implementation="eager")
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    model.eval()
    rng = np.random.default_rng(description["seed"])
    texts, hidden, scores, firsts = [], [], [], []
    for length in LENGTHS[1:] if variant.pairs else LENGTHS:
        ids = rng.integers(5, model.config.vocab_size, length).astype(np.int32)
        first = length // 3 if variant.pairs else 0
        types = {"token_type_ids": torch.from_numpy(np.arange(length) >= first).long()[None]} if first else {}
        out = model(input_ids=torch.from_numpy(ids).long()[None], output_hidden_states=True, **types)
        last = (out.last_hidden_state if hasattr(out, "last_hidden_state") else out.hidden_states[-1])[0].numpy()
        for matrix in dense_of(description):
            last = last @ matrix.T
        texts, hidden, firsts = [*texts, ids], [*hidden, last], [*firsts, first]
        if hasattr(out, "logits"):
            scores.append(out.logits[0].numpy())
    found = {"input_ids": np.concatenate(texts), "lengths": np.array([len(t) for t in texts], np.int32),
             "firsts": np.array(firsts, np.int32), "hidden": np.concatenate(hidden).astype(np.float32)}
    return {**found, "scores": np.stack(scores)} if scores else found


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", choices=VARIANTS, action="append", help="this variant; may be given again")
    args = ap.parse_args()
    torch.set_num_threads(1)
    ENCODERS.mkdir(exist_ok=True)
    for name, variant in VARIANTS.items():
        if args.only and name not in args.only:
            continue
        description = description_of(variant, SEEDS[name])
        arrays = arrays_of(variant, description)
        (ENCODERS / f"{name}.json").write_text(json.dumps(description, separators=(",", ":")) + "\n")
        np.savez_compressed(ENCODERS / f"{name}.npz", **arrays)
        print(f"{name:16} {description['dtype']:4} hidden states spread over {arrays['hidden'].std():.2f}", flush=True)


if __name__ == "__main__":
    main()
