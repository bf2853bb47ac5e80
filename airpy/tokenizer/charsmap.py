"""How SentencePiece rewrites text before it looks for tokens: tokenizer.ggml.precompiled_charsmap, checked and applied.

The map says what replaces which strings. The strings are kept as a double array (a trie in which the children of a node lie at one
base, XOR their byte) of 32-bit units, then come the replacements, each ended by a NUL (sentencepiece's normalizer.cc, darts-clone's
darts.h):

    bytes of the array, u32 | units, u32 each | replacements

At each place of a text the longest of the strings that stand there is replaced; where none does, a character stays as it is.
`tokenizers` has a normalizer for such maps as well; it takes the shortest string of a whole grapheme, and trusts the file's indices.
"""

from __future__ import annotations

import re
from array import array

import numpy as np

from airpy.errors import FormatError

_KEY = "tokenizer.ggml.precompiled_charsmap"
# A unit: bit 31 says that it is a value; else bits 10 to 30 are the distance of its children's base, in units or, where bit 9 is set,
# in 256 of them; bit 8 says that a string ends here, its value lying at the base itself; bits 0 to 7 are the byte that leads here.
_VALUE, _FAR, _ENDS = 1 << 31, 1 << 9, 1 << 8
_PRINTABLE = [chr(c) for c in range(0x20, 0x7F)]
_LONGEST = 64  # characters of a string; NFKC's have 18 at most. An array that leads back into itself would match whole texts

_Node = tuple[int, str | None]  # where the children lie, and what replaces the string that ends here


class Charsmap:
    """A checked map; applying it raises nothing. Threads may share it: what it keeps on the way is only ever added to.

    Raises FormatError for bytes that are no such map."""

    def __init__(self, data: bytes) -> None:
        size = int.from_bytes(data[:4], "little")
        if size % 4 or not 4 <= size < len(data) - 4:
            raise FormatError(f"{_KEY} has {len(data)} bytes; it says that its array takes {size}, a multiple of 4, and texts follow")
        self._units, self._texts = array("I", np.frombuffer(data, "<u4", size // 4, 4).tolist()), data[4 + size :]
        self._check()
        self._root = self._base(0, self._units[0])
        self._firsts: dict[str, _Node | None] = {}
        self._places = re.compile(self._interesting())

    def __call__(self, text: str) -> str:
        parts: list[str] = []
        done = 0
        for place in self._places.finditer(text):
            at = place.start()
            if at < done:
                continue
            end, replacement = self._longest(text, at)
            if replacement is not None:
                parts += (text[done:at], replacement)
                done = end
        return "".join((*parts, text[done:])) if parts else text

    def _check(self) -> None:
        """Every value that a unit may lead to is one, and tells where a replacement begins."""
        texts = np.frombuffer(self._texts, np.uint8)
        try:
            self._texts.decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{_KEY}: its replacements are not UTF-8: {error}") from None
        if texts[-1] != 0:
            raise FormatError(f"{_KEY}: its last replacement is not ended by a NUL")
        units = np.frombuffer(self._units, np.uint32).astype(np.int64)
        values = np.flatnonzero(units & _VALUE)
        at = units[values] & ~_VALUE
        wrong = np.flatnonzero((at >= len(texts)) | ((texts[np.minimum(at, len(texts) - 1)] & 0xC0) == 0x80))
        if wrong.size:
            raise FormatError(f"{_KEY}: unit {values[wrong[0]]} names a replacement at {at[wrong[0]]}, where none begins; the "
                              f"replacements have {len(texts)} bytes")  # fmt: skip
        ends = np.flatnonzero(((units & _VALUE) == 0) & ((units & _ENDS) != 0))
        leaves = ends ^ ((units[ends] >> 10) << np.where(units[ends] & _FAR, 8, 0))
        wrong = np.flatnonzero((leaves >= len(units)) | ((units[np.minimum(leaves, len(units) - 1)] & _VALUE) == 0))
        if wrong.size:
            raise FormatError(f"{_KEY}: unit {ends[wrong[0]]} has its value at unit {leaves[wrong[0]]}, which is none; there are "
                              f"{len(units)}")  # fmt: skip

    def _interesting(self) -> str:
        """An expression for the characters at which a replaced string may begin. It passes over printable ASCII at the speed of an
        expression, for most text is that: such a letter matters where the map names it, else before an accent if it takes one."""
        alone, accented = "", ""
        for character in _PRINTABLE:
            node = self._first(character)
            if node is None:
                continue
            if node[1] is not None or any(self._step(node[0], byte) is not None for byte in range(1, 0x80)):
                alone += re.escape(character)
            else:
                accented += re.escape(character)
        return r"[^ -~]" + (f"|[{alone}]" if alone else "") + (rf"|[{accented}](?=[^\0-\x7f])" if accented else "")

    def _longest(self, text: str, at: int) -> tuple[int, str | None]:
        """Where the longest replaced string that begins at `at` ends, and its replacement; None where there is no such string."""
        end = at + 1
        node = self._first(text[at])
        found = None if node is None else node[1]
        here, last = end, min(len(text), at + _LONGEST)
        while node is not None and here < last:
            node = self._follow(node[0], text[here].encode())
            here += 1
            if node is not None and node[1] is not None:
                end, found = here, node[1]
        return end, found

    def _first(self, character: str) -> _Node | None:
        try:
            return self._firsts[character]
        except KeyError:
            node = self._firsts[character] = self._follow(self._root, character.encode())
            return node

    def _follow(self, base: int, character: bytes) -> _Node | None:
        """The node that one character leads to from the node whose children lie at base."""
        unit = None
        for byte in character:
            unit = self._step(base, byte)
            if unit is None:
                return None
            base = self._base(unit, self._units[unit])
        assert unit is not None
        if not self._units[unit] & _ENDS:
            return base, None
        start = self._units[base] & ~_VALUE
        return base, self._texts[start : self._texts.index(b"\0", start)].decode()

    def _step(self, base: int, byte: int) -> int | None:
        unit = base ^ byte
        return unit if byte and unit < len(self._units) and self._units[unit] & (_VALUE | 0xFF) == byte else None

    @staticmethod
    def _base(place: int, unit: int) -> int:
        return place ^ ((unit >> 10) << (8 if unit & _FAR else 0))
