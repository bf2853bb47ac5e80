"""Unigram, SentencePiece's other kind (T5, XLM-RoBERTa): of all ways to spell a text by tokens, the one whose scores add up highest."""

from __future__ import annotations

import re

import numpy as np
from tokenizers import NormalizedString, Regex, Tokenizer, models, normalizers, pre_tokenizers

from airpy.tokenizer.vocab import BYTE, NORMAL, SPACE, Vocabulary, is_utf8

_SPACES = re.compile("  +")
_WHOLE = Regex(r"(?m:\A.+\z)")


def build_unigram(vocab: Vocabulary) -> models.Unigram:
    """The table. Tokens that no text becomes are spelt with a space, which no normalised text has; their scores are the lowest of
    others, for `tokenizers` ranks unknown characters below the lowest of all."""
    assert vocab.scores is not None
    normal = vocab.types == NORMAL
    scores = np.where(normal, vocab.scores, vocab.scores[normal].min() if normal.any() else 0.0).tolist()
    byte_fallback = has_bytes(vocab)
    spelt = normal | (vocab.types == BYTE) if byte_fallback else normal
    table = [
        (token if here and is_utf8(token) else f" {i}", score)
        for i, (token, score, here) in enumerate(zip(vocab.tokens, scores, spelt.tolist(), strict=True))
    ]
    return models.Unigram(table, unk_id=vocab.ids["unk"], byte_fallback=byte_fallback)


def set_unigram_front(front: Tokenizer, vocab: Vocabulary) -> None:
    front.normalizer = normalizers.Normalizer.custom(_Normalizer(vocab))
    if has_bytes(vocab):
        # A byte's token stands for the byte, not for the text "<0x41>": cut in two, that finds no token.
        front.pre_tokenizer = pre_tokenizers.Split(Regex("<(?=0x[0-9A-F]{2}>)"), "merged_with_previous")


def has_bytes(vocab: Vocabulary) -> bool:
    """Whether characters without a token are spelt by their bytes, as SentencePiece does where the vocabulary has all of them."""
    return all(vocab.types[vocab.index[token]] == BYTE for token in _BYTES) if vocab.index.keys() >= _BYTES else False


_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))


class _Normalizer:
    """sentencepiece's normalizer.cc, called by `tokenizers` for each stretch of text between special tokens. Offsets are not kept."""

    def __init__(self, vocab: Vocabulary) -> None:
        self._fold, self._merge, self._prefix = vocab.charsmap, vocab.merge_spaces, vocab.add_space_prefix

    def normalize(self, text: NormalizedString) -> None:
        before = text.normalized
        after = self.spell(before)
        if after != before:
            text.replace(_WHOLE, after)

    def spell(self, text: str) -> str:
        if self._fold is not None:
            text = self._fold(text)
        if self._merge:
            text = _SPACES.sub(" ", text.lstrip(" "))
        if self._prefix and text:
            text = " " + text
        text = text.replace(" ", SPACE)
        return text.rstrip(SPACE) if self._merge else text  # U+2581 of the text itself goes as well, at its end alone
