"""Trains small tokenizers with Hugging Face's `tokenizers` and describes them as a GGUF file would.

    python tests/golden/make_tokenizers.py FOLDER

writes <name>.gguf (a vocabulary only) and <name>.json (texts and Hugging Face's own ids) for each. The tests import train_all()
and compare in memory. The text to train on is made here, from a seed; the front ends are put together from Hugging Face's own
parts as the models' tokenizer.json files have them, not from airpy's table.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPACE = "\u2581"
SCRIPTS = ["abcdefghijklmnoprstuvwy", "ABCDEFGHIJKLM", "àâçéèêëîïôùûü", "абвгдежзиклмнопрстуы", "αβγδεζηικλμνοπρστ",
           "的一是不了人我在有他这中大来上", "あいうえおかきくけこさし", "0123456789", "نيسلاموتب", "กขคงจชดตน"]  # fmt: skip
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTION + "?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTION + "?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _byte_level(use_regex: bool = True) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


# tokenizer.ggml.pre → the pre_tokenizer of the model it is named after
FRONTS = {
    "gpt-2": lambda: _byte_level(),
    "starcoder": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()]),
    "falcon": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation("contiguous"), _byte_level(), pre_tokenizers.Digits(), _split("[0-9][0-9][0-9]")]
    ),
    "llama-bpe": lambda: pre_tokenizers.Sequence([_split(LLAMA3), _byte_level(False)]),
    "qwen2": lambda: pre_tokenizers.Sequence([_split(LLAMA3.replace("{1,3}", "")), _byte_level(False)]),
    "gpt-4o": lambda: pre_tokenizers.Sequence([_split(O200K), _byte_level(False)]),
    "tiny_aya": lambda: pre_tokenizers.Sequence(
        [_split(r"\d{1,3}(?=(?:\d{3})*\b)"), _split(O200K), _byte_level(False)]
    ),
}


def made_text(seed: int = 1, lines: int = 3000) -> Iterator[str]:
    """Lines of made-up words in several scripts, some of them again and again, with numbers, contractions and code."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(rng.choice(SCRIPTS), k=rng.randint(1, 7))) for _ in range(600)]
    words += [
        "don't",
        "we'll",
        "IT'S",
        "def f(x):",
        "    return",
        "==",
        "...",
        "https://",
        "camelCase",
        "1234567",
        "\t",
        "  ",
    ]
    for _ in range(lines):
        yield " ".join(rng.choices(words, weights=range(len(words), 0, -1), k=rng.randint(1, 12)))


def train_byte_level(pre: str) -> tuple[Tokenizer, dict[str, Any]]:
    """A byte-level BPE tokenizer with that model's front, and its metadata."""
    special = ["<|endoftext|>", "<|im_end|>"]
    hf = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    hf.pre_tokenizer = FRONTS[pre]()
    hf.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    hf.train_from_iterator(made_text(), trainer)
    tokens = sorted(hf.get_vocab(), key=hf.get_vocab().__getitem__)
    merges = json.loads(hf.to_str())["model"]["merges"]
    return hf, {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
    }


def train_sentencepiece() -> tuple[Tokenizer, dict[str, Any]]:
    """A BPE vocabulary with scores and byte tokens, as SentencePiece writes them, in the tokenizer transformers makes of one."""
    normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizer
    raw.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=1800, special_tokens=special, show_progress=False)
    raw.train_from_iterator(made_text(2), trainer)
    vocab = raw.get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    scores = [0.0 if i < 259 else -float(i - 259) for i in range(len(tokens))]

    # transformers.convert_slow_tokenizer.generate_merges
    merges = []
    for token in tokens[259:]:
        cuts = [(token[:k], token[k:]) for k in range(1, len(token)) if token[:k] in vocab and token[k:] in vocab]
        merges += sorted(cuts, key=lambda cut: (vocab[cut[0]], vocab[cut[1]]))
    hf = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    hf.normalizer = normalizer
    hf.add_special_tokens(special[:3])
    hf.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return hf, {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
    }


def train_wordpiece() -> tuple[Tokenizer, dict[str, Any]]:
    """A WordPiece vocabulary in BERT's tokenizer; the file marks what begins a word, as llama.cpp's converter writes it."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    hf = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    hf.normalizer = normalizers.BertNormalizer(lowercase=True)
    hf.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    hf.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=special, show_progress=False)
    hf.train_from_iterator(made_text(5), trainer)
    tokens = sorted(hf.get_vocab(), key=hf.get_vocab().__getitem__)
    marked = [token if token in special else token[2:] if token.startswith("##") else SPACE + token for token in tokens]
    hf.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return hf, {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": marked,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.mask_token_id": 4,
    }


def train_unigram() -> tuple[Tokenizer, dict[str, Any]]:
    """A Unigram vocabulary, whose text is normalised as SentencePiece does it by default, but for the map of characters."""
    special = ["<pad>", "</s>", "<unk>"]
    hf = Tokenizer(models.Unigram())
    cuts = [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    hf.normalizer = normalizers.Sequence([*cuts, normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE),
                                           normalizers.Replace(Regex(SPACE + r"+\z"), "")])  # fmt: skip
    hf.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    hf.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=1500, special_tokens=special, unk_token="<unk>", show_progress=False)
    hf.train_from_iterator(made_text(6), trainer)
    table = json.loads(hf.to_str())["model"]["vocab"]
    hf.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return hf, {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": [token for token, _ in table],
        "tokenizer.ggml.scores": [score for _, score in table],
        "tokenizer.ggml.token_type": [3, 3, 2] + [1] * (len(table) - 3),
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
    }


TRAINERS = {"sentencepiece": train_sentencepiece, "wordpiece": train_wordpiece, "unigram": train_unigram}


def train_all() -> dict[str, tuple[Tokenizer, dict[str, Any]]]:
    return {name: train() for name, train in TRAINERS.items()} | {pre: train_byte_level(pre) for pre in FRONTS}


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
    from tokenizer_fixtures import write_gguf

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    texts = list(made_text(3, 50))
    for name, (hf, metadata) in train_all().items():
        write_gguf(folder / f"{name}.gguf", metadata)
        rows = [{"text": text, "ids": hf.encode(text, add_special_tokens=False).ids} for text in texts]
        (folder / f"{name}.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
