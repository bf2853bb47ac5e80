"""SentencePiece's tokenizer.model: the few fields of its protocol buffer that a vocabulary consists of.

Fields and numbers of google/sentencepiece's sentencepiece_model.proto; the wire format of protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from airpy.errors import FormatError

UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType
_VARINT, _I64, _BYTES, _I32 = 0, 1, 2, 5


@dataclass(frozen=True)
class SentencePieceModel:
    """types: as GGUF numbers them, which took these. charsmap: SentencePiece's map of characters, "" for none."""

    pieces: list[str]
    scores: list[float]
    types: list[int]
    kind: int
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    charsmap: bytes


def parse(data: bytes, path: str) -> SentencePieceModel:
    """Raises FormatError."""
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    kind, prefix, extra, charsmap = UNIGRAM, True, True, b""
    for number, value in _fields(data, path):
        if number == 1:
            piece, score, type = _piece(_as_bytes(value, path), path)
            pieces.append(piece)
            scores.append(score)
            types.append(type)
        elif number == 2:
            kind = dict(_fields(_as_bytes(value, path), path)).get(3, kind)  # type: ignore[assignment]
        elif number == 3:
            found = dict(_fields(_as_bytes(value, path), path))
            prefix, extra = bool(found.get(3, prefix)), bool(found.get(4, extra))
            charsmap = _as_bytes(found.get(2, b""), path)
    if not pieces:
        raise FormatError(f"{path} holds no pieces; it is no model of SentencePiece")
    return SentencePieceModel(pieces, scores, types, kind, prefix, extra, charsmap)


def _piece(data: bytes, path: str) -> tuple[str, float, int]:
    text, score, type = "", 0.0, 1
    for number, value in _fields(data, path):
        if number == 1:
            text = _as_bytes(value, path).decode("utf-8", "surrogateescape")
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            type = value
    return text, score, type


def _as_bytes(value: int | float | bytes, path: str) -> bytes:
    if not isinstance(value, bytes):
        raise FormatError(f"{path} is no model of SentencePiece: a field is a number where text or a message belongs")
    return value


def _fields(data: bytes, path: str) -> Iterator[tuple[int, int | float | bytes]]:
    """Number and value, in order; a float for 32 bits."""
    at, end = 0, len(data)

    def short() -> FormatError:
        return FormatError(f"{path} is no model of SentencePiece, or cut short (at byte {at} of {end} of a message)")

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= end or shift > 63:
                raise short()
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while at < end:
        tag = varint()
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            yield number, varint()
            continue
        if wire not in (_I64, _BYTES, _I32):
            raise short()
        size = varint() if wire == _BYTES else 8 if wire == _I64 else 4
        if size > end - at:
            raise short()
        part, at = data[at : at + size], at + size
        yield number, struct.unpack("<f", part)[0] if wire == _I32 else part
