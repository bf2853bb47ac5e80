"""What a tokenizer's other files say: which ids begin and end a text, chat templates, and how the model's makers sample."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from airpy.conversion.config import Config
from airpy.conversion.jsons import read_json_if_any, read_text
from airpy.conversion.vocabulary import Vocab
from airpy.errors import FormatError
from airpy.gguf_writer import Entry
from airpy.tokenizer.vocab import PREFIX, Vocabulary

_U32, _BOOL, _F32, _STRING = ("u32", None), ("bool", None), ("f32", None), ("string", None)
_NAMES = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id",
          "sep": "seperator_token_id", "cls": "cls_token_id", "mask": "mask_token_id"}  # fmt: skip
_TEMPLATE = "tokenizer.chat_template"
# generation_config.json and GGUF's names of the same (gguf-py, Keys.General)
_SAMPLING = {"temperature": "temp", "top_p": "top_p", "min_p": "min_p", "repetition_penalty": "penalty_repeat"}
# Classes whose add_bos_token and add_eos_token come before what tokenizer.json puts around a text.
_OWN_FLAGS = tuple(f"{name}Tokenizer{kind}" for name in ("Llama", "CodeLlama", "Gemma") for kind in ("", "Fast"))


def tokenizer_entries(folder: str, vocab: Vocab, config: Config, templates: Mapping[str, str] | None = None) -> list[Entry]:
    """All of tokenizer.*. templates: by name, beside those that are there. Raises FormatError."""
    own = read_json_if_any(folder, "tokenizer_config.json")
    ids = _ids(folder, own, vocab, config)
    entries = vocab.entries()
    entries += [(PREFIX + _NAMES[name], _U32, i) for name, i in ids.items()]
    entries += [(PREFIX + name, _BOOL, value) for name, value in _flags(own, vocab, ids).items()]
    if config.first("type_vocab_size") is not None:
        entries.append((PREFIX + "token_type_count", _U32, config.integer("type_vocab_size")))
    entries += _more_ends(entries, _ends(folder, config), ids.get("eos"))
    return entries + _templates(folder, own, templates or {})


def sampling_entries(folder: str) -> list[Entry]:
    """How the makers would sample, which files keep for those who ask."""
    config = Config(read_json_if_any(folder, "generation_config.json"), os.path.join(folder, "generation_config.json"))
    out: list[Entry] = []
    for name, key in _SAMPLING.items():
        if config.first(name) is not None:
            out.append((f"general.sampling.{key}", _F32, config.number(name)))
    if config.first("top_k") is not None:
        out.append(("general.sampling.top_k", ("i32", None), config.integer("top_k", least=0)))
    return out


def _text_of(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _ids(folder: str, own: dict[str, Any], vocab: Vocab, config: Config) -> dict[str, int]:
    index, ids = vocab.index, dict[str, int]()
    for name in _NAMES:
        i = index.get(_text_of(own.get(f"{name}_token")) or "")
        if i is None and name in ("bos", "eos", "pad"):
            i = next(iter(_some_ids(config, f"{name}_token_id", len(vocab.tokens))), None)
        if i is not None:
            ids[name] = i
    if vocab.unk is not None:
        ids["unk"] = vocab.unk
    if vocab.prefix and len(vocab.prefix) == 1 and vocab.model != "bert":
        ids["bos"] = vocab.prefix[0]
    if vocab.suffix and len(vocab.suffix) == 1 and vocab.model != "bert":
        ids.setdefault("eos", vocab.suffix[0])
    if vocab.model == "bert" and vocab.prefix and vocab.suffix and len(vocab.prefix) == len(vocab.suffix) == 1:
        ids["cls"], ids["sep"] = vocab.prefix[0], vocab.suffix[0]
    return ids


def _some_ids(config: Config, name: str, n_vocab: int) -> list[int]:
    """One id or several; those of no token are left out, as configurations of small models have them."""
    value = config.first(name)
    values = value if isinstance(value, list) else [value]
    return [i for i in values if type(i) is int and 0 <= i < n_vocab]


def _flags(own: dict[str, Any], vocab: Vocab, ids: dict[str, int]) -> dict[str, bool]:
    """Whether a text is given a token before and behind it. GGUF knows one of each: what is put before it in several is left to
    templates."""
    first, last = ids.get("cls" if vocab.model == "bert" else "bos"), ids.get("sep" if vocab.model == "bert" else "eos")
    before = vocab.model in ("llama", "bert") if vocab.prefix is None else vocab.prefix == [first]
    behind = vocab.model in ("t5", "bert") if vocab.suffix is None else vocab.suffix == [last]
    if vocab.prefix is None or own.get("tokenizer_class") in _OWN_FLAGS:
        before = own["add_bos_token"] if isinstance(own.get("add_bos_token"), bool) else before
        behind = own["add_eos_token"] if isinstance(own.get("add_eos_token"), bool) else behind
    return {"add_bos_token": before, "add_sep_token" if vocab.model == "bert" else "add_eos_token": behind}


def _ends(folder: str, config: Config) -> list[Any]:
    generation = Config(read_json_if_any(folder, "generation_config.json"), "generation_config.json")
    return [value for source in (generation, config) for value in _some_ids(source, "eos_token_id", 1 << 22)]


def _more_ends(entries: list[Entry], ends: list[Any], eos: int | None) -> list[Entry]:
    """GGUF has one end of a text, one of a turn and one of a message: ids that end a generation, but are not known by their spelling."""
    vocabulary = Vocabulary.from_metadata({key: value for key, _, value in entries})
    more = [i for i in dict.fromkeys(ends) if i not in vocabulary.end_ids and i < len(vocabulary.tokens)]
    if eos is None and more:
        return [(PREFIX + "eos_token_id", _U32, more[0])]
    return [(PREFIX + name, _U32, i) for name, i in zip(("eot_token_id", "eom_token_id"), more, strict=False)]


def _templates(folder: str, own: dict[str, Any], more: Mapping[str, str]) -> list[Entry]:
    found: dict[str, str] = dict(more)
    given = own.get("chat_template") or read_json_if_any(folder, "chat_template.json").get("chat_template")
    if isinstance(given, str):
        found["default"] = given
    elif isinstance(given, list):
        for item in given:
            if not (isinstance(item, dict) and isinstance(item.get("name"), str) and isinstance(item.get("template"), str)):
                raise FormatError(f"{folder}: chat_template has {str(item)[:80]}; expected a name and a template")
            found[item["name"]] = item["template"]
    path = os.path.join(folder, "chat_template.jinja")
    if os.path.exists(path):
        found["default"] = read_text(path)
    others = [name for name in found if name != "default"]
    entries: list[Entry] = [(_TEMPLATE, _STRING, found["default"])] if "default" in found else []
    entries += [(f"{_TEMPLATE}.{name}", _STRING, found[name]) for name in others]
    return entries + ([("tokenizer.chat_templates", ("array", "string"), others)] if others else [])
