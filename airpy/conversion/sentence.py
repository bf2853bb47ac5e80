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
_KINDS = {"mean": 1, "cls": 2, "lasttoken": 3}  # enum llama_pooling_type, by sentence-transformers' names
_FLAGS = {  # before sentence-transformers 6, which has pooling_mode
    "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max", "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}  # fmt: skip
_PLAIN = ("Transformer", "Pooling", "Normalize", "Dropout")  # modules that are in the file, or in embed()
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
    given = modes.first("pooling_mode")
    if given is None:
        given = [mode for name, mode in _FLAGS.items() if modes.flag(name, default=False)] or "mean"
    ways = given if isinstance(given, list) else [given]
    if len(ways) != 1 or not isinstance(ways[0], str) or ways[0] not in _KINDS:
        raise UnsupportedError(f"{path}: vectors are made by {str(given)[:80]}; GGUF knows one of {', '.join(_KINDS)}")
    return _KINDS[ways[0]]


def dense(folder: str) -> list[Dense]:
    """Raises UnsupportedError for what GGUF has no place for, as a vector would be another one without it."""
    path = os.path.join(folder, MODULES)
    if not os.path.exists(path):
        return []
    out = []
    for module in _modules(path):
        kind = str(module.first("type")).rpartition(".")[2]
        if kind in _PLAIN:
            continue
        if kind != "Dense":
            raise UnsupportedError(f"{path}: a module {kind[:80]!r}; known are {', '.join(_PLAIN)} and Dense")
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
