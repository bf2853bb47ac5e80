"""Ids back to bytes and text, whole or as they come."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable

from airpy.errors import ArgumentError
from airpy.tokenizer.vocab import BYTE, CONTROL, SPACE, UNKNOWN, USER_DEFINED, Vocabulary

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _gpt2_alphabet() -> dict[str, int]:
    """GPT-2 spells bytes as printable characters: those that are printable in Latin-1 as themselves, the others counted up
    from U+0100 (openai/gpt-2 src/encoder.py, bytes_to_unicode)."""
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(itself)]
    return {chr(b): b for b in itself} | {chr(0x100 + n): b for n, b in enumerate(others)}


_GPT2_BYTES = _gpt2_alphabet()


class Decoder:
    """The bytes of each id, spelt out on first use. Safe to share between threads: entries are only ever added."""

    def __init__(self, vocab: Vocabulary) -> None:
        self._vocab = vocab
        self._known: dict[int, bytes] = {}
        self._special = frozenset(vocab.special)
        # Text after one of these was given a space by encode; decode takes it back. WordPiece's tokens that begin a word all spell the
        # space before it, and only the text's first has none.
        self._breaks = self._special | frozenset(vocab.user_defined) if vocab.add_space_prefix else frozenset()
        if vocab.is_unigram:
            self._breaks -= {vocab.ids["unk"]}  # stands for characters of a text
        self._strips = vocab.add_space_prefix or vocab.is_wordpiece

    def bytes_of(self, i: int) -> bytes:
        """The bytes one id stands for. Raises ArgumentError if there is no such id."""
        piece = self._known.get(i)
        if piece is None:
            if not 0 <= i < len(self._vocab.tokens):
                raise ArgumentError(f"token id {i} is out of range: the vocabulary has {len(self._vocab.tokens)}")
            piece = self._known[i] = self._spell(self._vocab.tokens[i], int(self._vocab.types[i]))
        return piece

    def _spell(self, token: str, kind: int) -> bytes:
        raw = token.encode("utf-8", "surrogateescape")
        if self._vocab.is_wordpiece:
            word = token if kind not in (CONTROL, UNKNOWN) else SPACE + token
            return (" " + word[1:] if len(word) > 1 and word[0] == SPACE else word).encode("utf-8", "surrogateescape")
        if kind in (CONTROL, UNKNOWN, USER_DEFINED):
            return raw
        pre = self._vocab.pre
        if pre is not None and pre.byte_level:
            try:
                return bytes(map(_GPT2_BYTES.__getitem__, token))
            except KeyError:  # not spelt in GPT-2's alphabet: it stands for itself, as in Hugging Face's ByteLevel
                return raw
        match = _BYTE_TOKEN.fullmatch(token)
        if match and (kind == BYTE or pre is not None):
            return bytes.fromhex(match[1])
        return token.replace(SPACE, " ").encode("utf-8", "surrogateescape") if self._vocab.escape_spaces else raw

    def walk(self, ids: Iterable[int], skip_special: bool, fresh: bool) -> tuple[bytes, bool]:
        """The bytes of ids in a row. `fresh`: whether text begins here, so that the space encode put before it goes; returned
        as it stands after the last id."""
        parts: list[bytes] = []
        strips = self._strips
        for i in ids:
            piece = self.bytes_of(i)
            if skip_special and i in self._special:
                fresh = fresh or i in self._breaks
                continue
            if strips:
                if i in self._breaks:
                    fresh = True
                elif fresh:
                    piece, fresh = piece.removeprefix(b" "), False
            parts.append(piece)
        return b"".join(parts), fresh


class StreamDecoder:
    """Text as its tokens come: what the pushes and the flush return, joined, is decode(prompt + ids) less decode(prompt).
    A character whose bytes come in several tokens is returned whole with the last of them. One thread at a time."""

    def __init__(self, decoder: Decoder, prompt: Iterable[int] = (), *, skip_special_tokens: bool = True) -> None:
        self._decoder = decoder
        self._skip = skip_special_tokens
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        data, self._fresh = decoder.walk(prompt, skip_special_tokens, True)
        self._characters.decode(data)  # a character the prompt leaves open is completed by the first push

    def push(self, ids: int | Iterable[int]) -> str:
        """The text these ids complete, perhaps "". Raises ArgumentError for an id out of range."""
        row = ids if isinstance(ids, (list, Iterable)) else [ids]  # list first: asking Iterable takes longer than decoding
        data, self._fresh = self._decoder.walk(row, self._skip, self._fresh)
        return self._characters.decode(data)

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that never was completed."""
        return self._characters.decode(b"", True)
