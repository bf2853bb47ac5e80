"""What sentence-transformers keeps beside a model: how one vector is made of a text's, and matrices behind that
(sbert.net, "Structure of Sentence Transformer Models")."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

from airpy.conversion.config import Config
from airpy.conversion.jsons import read_json, read_text
from airpy.errors import FormatError, UnsupportedError

MODULES = "modules.json"
POOLING = "1_Pooling/config.json"
_KINDS = {"pooling_mode_mean_tokens": 1, "pooling_mode_cls_token": 2, "pooling_mode_lasttoken": 3}  # enum llama_pooling_type
_DENSE = ("2_Dense", "3_Dense")  # GGUF's dense_2 and dense_3


@dataclass(frozen=True)
class Dense:
    """A matrix behind the last norm, in a folder of its own. rows, columns: of what comes out, and goes in."""

    folder: str
    rows: int
    columns: int

    def entries(self) -> Iterator[tuple[str, str, int]]:
        """Keys without the architecture."""
        name = f"dense_{self.folder[0]}_feat"
        yield f"{name}_in", "u32", self.columns
        yield f"{name}_out", "u32", self.rows


def pooling(folder: str) -> int | None:
    """How one vector of a text is made; None where nothing says so. Raises UnsupportedError for ways that GGUF does not know."""
    path = os.path.join(folder, POOLING)
    if not os.path.exists(path):
        return None
    modes = Config(read_json(path), path)
    found = [kind for name, kind in _KINDS.items() if modes.flag(name, default=False)]
    if len(found) != 1:
        raise UnsupportedError(f"{path}: {len(found)} ways of pooling that GGUF knows; it has one of {', '.join(_KINDS)}")
    return found[0]


def dense(folder: str) -> list[Dense]:
    """Raises UnsupportedError for what GGUF has no place for, as a vector would be another one without it."""
    path = os.path.join(folder, MODULES)
    if not os.path.exists(path):
        return []
    out = []
    for module in _modules(path):
        if str(module.first("type")).rpartition(".")[2] != "Dense":
            continue
        name = str(module.first("path"))
        if name not in _DENSE:
            raise UnsupportedError(f"{path}: a dense module in {name[:80]!r}; GGUF has {' and '.join(_DENSE)}")
        config = Config(read_json(os.path.join(folder, name, "config.json")), os.path.join(folder, name, "config.json"))
        config.require("activation_function", "torch.nn.modules.linear.Identity")
        if config.flag("bias", default=True):
            raise UnsupportedError(f"{config.path}: bias is true, which GGUF has no place for")
        out.append(Dense(name, config.integer("out_features"), config.integer("in_features")))
    return out


def _modules(path: str) -> Iterator[Config]:
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is no JSON: {error}") from None
    if not (isinstance(found, list) and all(isinstance(module, dict) for module in found)):
        raise FormatError(f"{path} is no list of JSON objects")
    for module in found:
        yield Config(module, path)
