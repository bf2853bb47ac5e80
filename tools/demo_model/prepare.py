"""Public-domain English text from installed Debian packages -> tokenizer, token files, held-out text.

Reads bible-kjv, bible-kjv-text, r-cran-janeaustenr, jargon-text and dict-devil under --root and writes to --out
tokenizer.json (byte-level BPE, 4096 tokens), train.bin and val.bin (uint16 ids), val.txt, corpus.json (sizes).
"""
from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

EOT = "<|endoftext|>"
VAL_BYTES = 198_000                # the held-out text is a fixture of the tests; what is over is trained on
ASCII = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "—": "--", "–": "-", "…": "...", "\u00a0": " "})


def unwrap(text: str, indent: int) -> str:
    """Paragraphs on one line each, a blank line between; blocks indented throughout (verse, code) keep their lines."""
    out, deep = [], " " * indent
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.split("\n") if line.strip()]
        verse = len(lines) > 1 and all(line.startswith(deep) for line in lines)
        out.append("".join(("\n" if verse else "\n\n" if line.startswith(deep) else " ") + " ".join(line.split())
                           for line in lines).strip())
    return "\n\n".join(filter(None, out))


def kjv(root: Path) -> list[str]:
    """King James Bible, one document per chapter: its title, then a verse per line without numbers."""
    text = subprocess.run([root / "usr/bin/bible", "-p", f"{root / 'usr/lib'}/", "-l9999", "gen1:1-rev22:21"],
                          check=True, capture_output=True, text=True).stdout
    parts = re.split(r"(?m)^([1-3]? ?[A-Z][A-Za-z ]+ \d+)\n", text)[1:]
    return [title + "\n\n" + "\n".join(re.sub(r"^\s*\d+\s+", "", verse) for verse in verses.split("\n") if verse.strip())
            for title, verses in zip(parts[::2], parts[1::2], strict=True)]


def r_strings(raw: bytes) -> list[str]:
    """The elements of a character vector in R's XDR serialization (version 3)."""
    at = 18 + struct.unpack_from(">i", raw, 14)[0]
    kind, count = struct.unpack_from(">ii", raw, at)
    if kind & 0xFF != 16:
        raise ValueError(f"expected a character vector, found R type {kind & 0xFF}")
    at, out = at + 8, []
    for _ in range(count):
        size = struct.unpack_from(">i", raw, at + 4)[0]
        out.append(raw[at + 8:at + 8 + size].decode())
        at += 8 + size
    return out


def austen(root: Path) -> list[str]:
    """Jane Austen's six novels, one document per chapter."""
    data = (root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    documents: list[str] = []
    while data:                                   # one zlib stream per novel, after four bytes of its unpacked size
        stream = zlib.decompressobj()
        novel = "\n".join(r_strings(stream.decompress(data[4:])))
        data = stream.unused_data
        documents += [unwrap(part, 99) for part in re.split(r"(?mi)^(?=chapter [0-9ivxl]+\b)", novel) if len(part) > 500]
    return documents


def jargon(root: Path) -> list[str]:
    """The Jargon File: one document per entry of the lexicon, and the folklore appendix by section."""
    text = gzip.decompress((root / "usr/share/doc/jargon-text/jargon.txt.gz").read_bytes()).decode()
    text = re.sub(r"(?m)^ {3}", "", text.translate(ASCII))
    start, middle = text.index(":(TM): //"), text.index("Part III. Appendices")
    lexicon = re.split(r"(?m)^(?=:[^\n]{1,80}:)", text[start:middle])
    tale, end = text.index("Appendix A. Hacker Folklore"), text.rindex("Bibliography")
    documents = (unwrap(part, 3) for part in (*lexicon, *text[tale:end].split("\n\n\n")))
    return [document for document in documents if len(document) > 60 and "═" not in document]


def devil(root: Path) -> list[str]:
    """The Devil's Dictionary, one document per entry."""
    text = gzip.decompress((root / "usr/share/dictd/devil.dict.dz").read_bytes()).decode()
    return [unwrap(entry, 4) for entry in re.split(r"(?m)^(?=[A-Z][A-Z' -]+, )", text)[1:] if len(entry) > 30]


def hold_out(documents: list[str]) -> tuple[list[str], list[str]]:
    """Documents -> (to train on, held out). Every 50th run of neighbours, 6000 characters or more each, is held out: a
    split by single chapters would let the model learn a held-out chapter's names from the one before it."""
    runs: list[list[str]] = [[]]
    for document in documents:
        if sum(map(len, runs[-1])) >= 6000:
            runs.append([])
        runs[-1].append(document)
    held = set(range(25, len(runs), 50)) or {len(runs) // 2}
    train, val = ([d for i, run in enumerate(runs) for d in run if (i in held) == want] for want in (False, True))
    return train, val


def train_tokenizer(documents: list[str]) -> Tokenizer:
    """Byte-level BPE of 4096 tokens with GPT-2's splitting rule."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(documents, trainers.BpeTrainer(vocab_size=4096, special_tokens=[EOT],
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tok


def arguments() -> argparse.Namespace:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--root", type=Path, default=Path("/"), help="where the packages are installed or unpacked")
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--seed", type=int, default=1, help="of the order of the documents")
    return ap.parse_args()


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    train: list[str] = []
    val: list[str] = []
    sizes = {}
    for source in (austen, kjv, jargon, devil):
        documents = [document.translate(ASCII).strip() for document in source(args.root)]
        for part, more in zip((train, val), hold_out(documents), strict=True):
            part += more
        sizes[source.__name__] = {"documents": len(documents), "bytes": sum(len(d.encode()) for d in documents)}
    while sum(len(document.encode()) + 2 for document in val) > VAL_BYTES:
        train.append(val.pop(len(val) // 2))
    random.Random(args.seed).shuffle(train)
    held_out = "\n\n".join(val) + "\n"
    (args.out / "val.txt").write_text(held_out)

    tok = train_tokenizer(train)
    tok.save(str(args.out / "tokenizer.json"))
    ids = np.array([i for enc in tok.encode_batch(train) for i in (*enc.ids, tok.token_to_id(EOT))], np.uint16)
    val_ids = np.array(tok.encode(held_out).ids, np.uint16)
    ids.tofile(args.out / "train.bin")
    val_ids.tofile(args.out / "val.bin")
    stats = {"sources": sizes, "train_bytes": sum(len(d.encode()) for d in train), "train_tokens": len(ids),
             "val_bytes": len(held_out.encode()), "val_tokens": len(val_ids), "vocab": tok.get_vocab_size()}
    (args.out / "corpus.json").write_text(json.dumps(stats, indent=1) + "\n")


if __name__ == "__main__":
    main()
