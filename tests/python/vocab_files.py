"""Where the tests find vocabularies: other people's files read in place, and the metadata of a GGUF file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(os.environ.get("AIRPY_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"
VOCAB_NAMES = ("deepseek-llm", "falcon", "gpt-2", "llama-spm", "starcoder")


def shared_vocab(name: str) -> Path:
    path = SHARED / "vocab" / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not here (AIRPY_SHARED names the folder that holds data/)")
    return path


def read_metadata(path: Path) -> dict[str, Any]:
    """The file's keys and values, by airpy's own reader where it is built, else by the gguf package's."""
    try:
        from airpy import _core
    except ImportError:
        import gguf

        # Part of gguf's reader loops in Python over every string; it is slow, not wrong.
        fields = gguf.GGUFReader(path).fields
        return {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}
    return dict(_core.GGUF(str(path)).metadata)


def vocab_cases(path: Path) -> list[tuple[str, list[int]]]:
    """llama.cpp's test texts and expected ids (tests/test-tokenizer-0: texts end with a line of __ggml_vocab_test__, ids
    stand one line per text and are those without special tokens)."""
    texts = Path(f"{path}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    rows = Path(f"{path}.out").read_text().split("\n")
    return [(text, [int(i) for i in row.split()]) for text, row in zip(texts, rows, strict=True)]


def tiny_metadata() -> dict[str, Any]:
    """A SentencePiece-style vocabulary of the test's own: bytes, a few letters, two words."""
    words = ["▁", "a", "b", "c", "ab", "▁ab", "▁c", "é"]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + words
    scores = [0.0] * 259 + [-float(n) for n in (9, 8, 7, 6, 2, 1, 3, 5)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(words),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def bert_metadata(**changes: Any) -> dict[str, Any]:
    """A WordPiece vocabulary of the test's own, as llama.cpp's converter writes them: what begins a word is marked."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, "▁un", "aff", "able", "▁ab", "▁a", "b", "▁,", "▁é", "▁e", "▁漢", "▁[", "▁X"]
    metadata = {
        "model": "bert",
        "tokens": tokens,
        "token_type": [3] * len(special) + [1] * (len(tokens) - len(special)),
        "padding_token_id": 0,
        "unknown_token_id": 1,
        "cls_token_id": 2,
        "seperator_token_id": 3,
        "mask_token_id": 4,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (metadata | changes).items()}


def unigram_metadata(**changes: Any) -> dict[str, Any]:
    """A Unigram vocabulary of the test's own, with T5's special tokens and one of the user's."""
    tokens = ["<pad>", "</s>", "<unk>", "▁", "a", "b", "ab", "▁a", "▁ab", "▁c", "c", "<x>"]
    metadata = {
        "model": "t5",
        "tokens": tokens,
        "scores": [0.0, 0.0, 0.0, -3.0, -4.0, -4.0, -5.0, -4.5, -5.5, -4.0, -5.0, -1000.0],
        "token_type": [3, 3, 2] + [1] * 8 + [4],
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (metadata | changes).items()}
