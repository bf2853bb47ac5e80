"""Small vocabularies the tests make, and writing them as GGUF files that hold nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_PRINTABLE = [b for b in range(256) if 0x21 <= b <= 0x7E or (0xA1 <= b <= 0xFF and b != 0xAD)]
_OTHERS = [b for b in range(256) if b not in _PRINTABLE]
_LETTERS = {b: chr(b) for b in _PRINTABLE} | {b: chr(256 + n) for n, b in enumerate(_OTHERS)}


def gpt2_spelling(data: bytes) -> str:
    """GPT-2's printable spelling of bytes, written down apart from airpy's own."""
    return "".join(_LETTERS[b] for b in data)


def write_gguf(path: Path, metadata: dict[str, Any]) -> None:
    """A vocabulary-only file, by the gguf package."""
    import gguf

    writer = gguf.GGUFWriter(path, str(metadata.get("general.architecture", "llama")))
    for key, value in metadata.items():
        if key == "general.architecture":
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value if isinstance(value, list) else np.asarray(value).tolist())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
