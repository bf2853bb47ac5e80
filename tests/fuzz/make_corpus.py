#!/usr/bin/env python3
"""Writes the seed corpus and the dictionary of fuzz_gguf: make_corpus.py DIR

DIR/corpus holds sound files and every small malformed one of tests/golden/make_malformed.py; DIR/gguf.dict the words
that a mutation would hardly find by itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "golden"))
import make_malformed as m

LARGEST = 16384


def sound() -> dict[str, m.File]:
    version_2 = m.valid()
    version_2.version = 2
    aligned = m.valid()
    aligned.entries.append(m.scalar(b"general.alignment", m.U32, 64))
    aligned.tensors = [
        m.tensor(b"t%d" % i, [256, 2], type_, i << 13) for i, type_ in enumerate((0, 1, 8, 10, 12, 14, 16, 29, 30, 34))
    ]
    vocabulary = m.array(m.STRING, 200, b"".join(m.string(b"token%d" % i) for i in range(200)))
    deep = m.array(m.ARRAY, 1, b"") * 3 + m.array(m.I8, 4, b"\0\1\2\3")
    return {
        "valid": m.valid(),
        "version_2": version_2,
        "aligned": aligned,
        "vocabulary": m.File([m.entry(b"tokenizer.ggml.tokens", m.ARRAY, vocabulary)]),
        "deep": m.File([m.entry(b"deep", m.ARRAY, deep)]),
        "nothing": m.File(),
    } | {f"part_{name}": file for name, file in m.split().items()}


def words() -> list[bytes]:
    numbers = [m.u32(t) for t in range(1, 43)] + [m.u64(1 << n) for n in (5, 16, 24, 31, 32, 61, 63)] + [m.u64(2**64 - 1)]
    return [b"GGUF\3\0\0\0", b"GGUF\2\0\0\0", m.string(b"general.alignment") + m.u32(m.U32), m.array(m.ARRAY, 2, b""), *numbers]


def main() -> None:
    directory = Path(sys.argv[1])
    corpus = directory / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    files = sound()
    for c in m.CASES:
        files |= {f"{c.name}_{name}": file for name, file in c.files.items()}
    count = 0
    for name, file in files.items():
        data = file.to_bytes()
        if len(data) <= LARGEST:
            (corpus / name).write_bytes(data)
            count += 1
    quoted = ['"' + "".join(f"\\x{b:02x}" for b in word) + '"\n' for word in words()]
    (directory / "gguf.dict").write_text("".join(quoted), encoding="ascii")
    print(f"{count} seeds, {len(quoted)} words in {directory}")


if __name__ == "__main__":
    main()
