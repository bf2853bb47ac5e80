"""A model's tokenizer as GGUF keeps one: tokenizer.json, or SentencePiece's tokenizer.model, or vocab.json and merges.txt.

Four kinds, as tokenizer/vocab.py knows them. What comes out is held against the tokenizer that the file describes, as Hugging Face's
library computes it, on texts in many scripts: a vocabulary that would give other ids is refused here.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Any

import tokenizers

from airpy.conversion import sentencepiece
from airpy.conversion.jsons import json_object, read_json, read_json_if_any, read_text
from airpy.conversion.pretokenizer import find_pre_name, probes
from airpy.errors import AirpyError, FormatError, ModelError, UnsupportedError, system_errors
from airpy.gguf_writer import Entry
from airpy.tokenizer import Tokenizer
from airpy.tokenizer.vocab import BYTE, CONTROL, NORMAL, PREFIX, SPACE, UNKNOWN, UNUSED, USER_DEFINED

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_NO_SCORE = -10000.0  # of a place without a token
_ADDED_SCORE = -1000.0  # of a token that is found as a whole, before any are joined
_MOST_TOKENS = 1 << 22


@dataclass
class Vocab:
    """What becomes tokenizer.ggml.*, by ids. prefix, suffix: ids that stand before and behind a text, None where nothing says."""

    model: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None
    merges: list[str] | None = None
    pre: str = ""
    flags: dict[str, bool] = field(default_factory=dict)
    charsmap: bytes = b""
    unk: int | None = None
    prefix: list[int] | None = None
    suffix: list[int] | None = None
    oracle: tokenizers.Tokenizer | None = None
    normal_form: str = ""  # that text takes first: "NFC", …

    @property
    def index(self) -> dict[str, int]:
        return dict(zip(self.tokens, range(len(self.tokens)), strict=True))

    def entries(self) -> list[Entry]:
        out: list[Entry] = [(PREFIX + "model", ("string", None), self.model)]
        if self.pre:
            out.append((PREFIX + "pre", ("string", None), self.pre))
        out.append((PREFIX + "tokens", ("array", "string"), self.tokens))
        if self.scores is not None:
            out.append((PREFIX + "scores", ("array", "f32"), self.scores))
        out.append((PREFIX + "token_type", ("array", "i32"), self.types))
        if self.merges is not None:
            out.append((PREFIX + "merges", ("array", "string"), self.merges))
        if self.charsmap:
            out.append((PREFIX + "precompiled_charsmap", ("array", "u8"), list(self.charsmap)))
        out += [(PREFIX + name, ("bool", None), value) for name, value in self.flags.items()]
        return out


def read_vocab(folder: str, n_vocab: int) -> Vocab:
    """Of exactly n_vocab tokens, the model's rows: places without a token are unused ones. Raises UnsupportedError for tokenizers that
    GGUF or airpy has no like of, FormatError for damaged files, ModelError where there is none."""
    path = os.path.join(folder, "tokenizer.json")
    if os.path.exists(path):
        vocab = _of_json(read_text(path), path, folder)
    elif os.path.exists(path := os.path.join(folder, "tokenizer.model")):
        vocab = _of_sentencepiece(path, folder)
    elif os.path.exists(path := os.path.join(folder, "vocab.json")) and os.path.exists(os.path.join(folder, "merges.txt")):
        vocab = _of_json(_json_of_gpt2(folder), path, folder)
    else:
        raise ModelError(f"{folder} has no tokenizer that airpy reads: tokenizer.json, tokenizer.model, or vocab.json and merges.txt")
    _fit(vocab, n_vocab, path)
    return vocab


def check_ids(vocab: Vocab, entries: list[Entry], path: str) -> None:
    """Raises UnsupportedError where the tokenizer that entries describe gives other ids than the file's own."""
    if vocab.oracle is None:
        return
    ours = Tokenizer.from_metadata({key: value for key, _, value in entries})
    for text in probes(vocab.oracle):
        text = unicodedata.normalize(vocab.normal_form, text) if vocab.normal_form else text  # type: ignore[arg-type]
        want, got = vocab.oracle.encode(text, add_special_tokens=False).ids, ours.encode(text, add_special_tokens=False)
        tie = vocab.model == "t5" and sorted(want) == sorted(got)  # "0" and "00", or the reverse: equal scores but for rounding
        if want != got and not tie:
            at = next((i for i, pair in enumerate(zip(want, got, strict=False)) if pair[0] != pair[1]), min(len(want), len(got)))
            raise UnsupportedError(
                f"{path}: GGUF has no tokenizer that is like this one: of {text[:60]!r} id number {at} would be {got[at : at + 3]}, but is "
                f"{want[at : at + 3]}"
            )


def _fit(vocab: Vocab, n_vocab: int, path: str) -> None:
    """As many tokens as the embedding has rows. Tokens that were added behind them have no weights."""
    for i in range(len(vocab.tokens) - 1, n_vocab - 1, -1):
        if vocab.types[i] not in (CONTROL, USER_DEFINED, UNUSED):
            raise ModelError(f"{path} has {len(vocab.tokens)} tokens, but the model has {n_vocab}")
    del vocab.tokens[n_vocab:], vocab.types[n_vocab:]
    if vocab.scores is not None:
        del vocab.scores[n_vocab:]
        vocab.scores += [_NO_SCORE] * (n_vocab - len(vocab.scores))
    vocab.types += [UNUSED] * (n_vocab - len(vocab.types))
    vocab.tokens += [f"[PAD{i}]" for i in range(len(vocab.tokens), n_vocab)]


# ---- tokenizer.json ----------------------------------------------------------------------------------------------------


def _of_json(text: str, path: str, folder: str) -> Vocab:
    try:
        values = json.loads(text)
        oracle = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # of the library: a plain Exception, whatever is wrong
        raise FormatError(f"{path} is no tokenizer: {error}") from None
    values = json_object(values, path, "the file")
    model = json_object(values.get("model"), path, "model")
    kind = model.get("type") or ("BPE" if "merges" in model else "")
    parts = json.dumps([values.get(name) for name in ("pre_tokenizer", "decoder", "post_processor")])
    if kind == "BPE" and '"ByteLevel"' in parts:
        vocab = _byte_level(oracle, values, model, path)
    elif kind == "BPE" and model.get("byte_fallback"):
        vocab = _with_scores(values, model, path, folder)
    elif kind == "Unigram":
        vocab = _unigram(values, model, path)
    elif kind == "WordPiece":
        vocab = _wordpiece(values, model, path)
    else:
        raise UnsupportedError(f"{path}: a tokenizer of type {str(kind)[:40]!r}, without bytes; GGUF has no like of it")
    _add(vocab, [(t.get("id"), t.get("content"), t.get("special")) for t in _list(values, "added_tokens", path)], path)
    vocab.oracle = oracle
    vocab.normal_form = next((form for form in ("NFKC", "NFC") if f'"{form}"' in json.dumps(values.get("normalizer"))), "")
    vocab.prefix, vocab.suffix = _around(oracle)
    return vocab


def _list(values: dict[str, Any], name: str, path: str) -> list[dict[str, Any]]:
    items = values.get(name) or []
    if not isinstance(items, list):
        raise FormatError(f"{path}: {name} is {type(items).__name__}; expected a list")
    return [json_object(item, path, name) for item in items]


def _around(oracle: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """What it puts before and behind a text."""
    bare, whole = oracle.encode("a", add_special_tokens=False).ids, oracle.encode("a").ids
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []


def _by_ids(found: Any, path: str) -> list[str]:
    """Tokens of a vocabulary of text to id; "" where there is none."""
    table = json_object(found, path, "vocab")
    if not all(type(i) is int and 0 <= i < _MOST_TOKENS for i in table.values()):
        raise FormatError(f"{path}: a token's id is no integer of 0 to {_MOST_TOKENS}")
    tokens = [""] * (max(table.values(), default=-1) + 1)
    for text, i in table.items():
        tokens[i] = text
    return tokens


def _holes_named(tokens: list[str]) -> tuple[list[str], list[int]]:
    types = [NORMAL if token else UNUSED for token in tokens]
    return [token or f"[PAD{i}]" for i, token in enumerate(tokens)], types


def _merges(model: dict[str, Any], path: str) -> list[str]:
    """ "a b" each, as GGUF has them; newer files have pairs."""
    given = model.get("merges")
    if not isinstance(given, list):
        raise FormatError(f"{path}: merges is {type(given).__name__}; expected a list")
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in given]


def _byte_level(oracle: tokenizers.Tokenizer, values: dict[str, Any], model: dict[str, Any], path: str) -> Vocab:
    tokens, types = _holes_named(_by_ids(model.get("vocab"), path))
    pre = find_pre_name(oracle, model, values.get("pre_tokenizer"), path)
    return Vocab("gpt2", tokens, types, merges=_merges(model, path), pre=pre)


def _with_scores(values: dict[str, Any], model: dict[str, Any], path: str, folder: str) -> Vocab:
    """SentencePiece's BPE, whose merges follow from scores: those of tokenizer.model where it is there, else the order of merges."""
    tokens, types = _holes_named(_by_ids(model.get("vocab"), path))
    types = [BYTE if _BYTE.fullmatch(token) else kind for token, kind in zip(tokens, types, strict=True)]
    rank: dict[str, int] = {}
    for i, merge in enumerate(_merges(model, path)):
        left, _, right = merge.partition(" ")
        rank.setdefault(left + right, i)
    scores = [-float(rank[token]) if token in rank else 0.0 for token in tokens]
    original = os.path.join(folder, "tokenizer.model")
    if os.path.exists(original):
        given = _read_sentencepiece(original)
        if given.kind == sentencepiece.BPE and given.pieces == tokens[: len(given.pieces)]:
            scores[: len(given.scores)] = given.scores
    vocab = Vocab("llama", tokens, types, scores=scores, flags={"add_space_prefix": _has_prefix(values)})
    vocab.unk = _unknown(vocab, model.get("unk_token"))
    return vocab


def _unknown(vocab: Vocab, token: Any) -> int | None:
    unk = vocab.index.get(token) if isinstance(token, str) else None
    if unk is not None:
        vocab.types[unk] = UNKNOWN
    return unk


def _has_prefix(values: dict[str, Any]) -> bool:
    """Whether a text is given a space in front."""

    def walk(node: Any) -> bool:
        if isinstance(node, list):
            return any(map(walk, node))
        if not isinstance(node, dict):
            return False
        if node.get("type") == "Prepend":
            return True
        if node.get("type") == "Metaspace":
            return bool(node.get("prepend_scheme", "always" if node.get("add_prefix_space", True) else "never") != "never")
        return any(map(walk, node.values()))

    return walk([values.get("normalizer"), values.get("pre_tokenizer")])


def _unigram(values: dict[str, Any], model: dict[str, Any], path: str) -> Vocab:
    table = model.get("vocab")
    if not (isinstance(table, list) and all(isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) for row in table)):
        raise FormatError(f"{path}: vocab is no list of tokens and scores")
    tokens, types = _holes_named([text for text, _ in table])
    if model.get("byte_fallback"):
        types = [BYTE if _BYTE.fullmatch(token) else kind for token, kind in zip(tokens, types, strict=True)]
    normalizer = json.dumps(values.get("normalizer"))
    flags = {"add_space_prefix": _has_prefix(values), "remove_extra_whitespaces": " {2,}" in normalizer}
    vocab = Vocab("t5", tokens, types, scores=[float(score) for _, score in table], flags=flags, charsmap=_charsmap(values, path))
    if isinstance(model.get("unk_id"), int) and 0 <= model["unk_id"] < len(tokens):
        vocab.unk = model["unk_id"]
        vocab.types[model["unk_id"]] = UNKNOWN
    return vocab


def _charsmap(values: dict[str, Any], path: str) -> bytes:
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            found.extend([node["precompiled_charsmap"]] if isinstance(node.get("precompiled_charsmap"), str) else [])
        for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(each)

    walk(values.get("normalizer"))
    try:
        return base64.b64decode(found[0], validate=True) if found else b""
    except binascii.Error as error:
        raise FormatError(f"{path}: precompiled_charsmap is no base64: {error}") from None


def _wordpiece(values: dict[str, Any], model: dict[str, Any], path: str) -> Vocab:
    """GGUF marks the tokens that begin a word, this file those that do not."""
    prefix = model.get("continuing_subword_prefix", "##")
    spelt, types = _holes_named(_by_ids(model.get("vocab"), path))
    added = {t.get("content") for t in _list(values, "added_tokens", path) if t.get("special")}
    tokens = [t if t in added else t.removeprefix(prefix) if t.startswith(prefix) else SPACE + t for t in spelt]
    normalizer = json_object(values.get("normalizer") or {}, path, "normalizer")
    lowercase = bool(normalizer.get("lowercase", False))
    strips = normalizer.get("strip_accents")
    flags = {"normalizer.lowercase": lowercase, "normalizer.strip_accents": lowercase if strips is None else bool(strips)}
    vocab = Vocab("bert", tokens, types, flags=flags)
    vocab.unk = vocab.index.get(str(model.get("unk_token")))
    return vocab


def _add(vocab: Vocab, added: list[tuple[Any, Any, Any]], path: str) -> None:
    """Tokens that a tokenizer finds in a text before it cuts it: control tokens where they are special, else a user's own."""
    for i, text, special in added:
        if type(i) is not int or not isinstance(text, str) or not text or not 0 <= i < _MOST_TOKENS:
            raise FormatError(f"{path}: the added token {str((i, text))[:80]} has no id or no text")
        while len(vocab.tokens) <= i:
            vocab.types.append(UNUSED)
            vocab.tokens.append(f"[PAD{len(vocab.tokens)}]")
            if vocab.scores is not None:
                vocab.scores.append(_NO_SCORE)
        if i == vocab.unk and vocab.model != "bert":
            continue
        vocab.types[i] = CONTROL if special else USER_DEFINED
        if vocab.scores is not None:
            vocab.scores[i] = _ADDED_SCORE
        if not special and vocab.model == "bert":
            text = SPACE + text
        # The text that it is found in has spaces still.
        vocab.tokens[i] = text.replace(SPACE, " ") if not special and vocab.model == "llama" else text


def _json_of_gpt2(folder: str) -> str:
    """The tokenizer.json that vocab.json and merges.txt are the parts of."""
    lines = read_text(os.path.join(folder, "merges.txt")).splitlines()
    merges = [line for line in lines if line and not line.startswith("#version")]
    table = read_json(os.path.join(folder, "vocab.json"))
    added = [{"id": table[text], "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for text in ("<|endoftext|>",) if text in table]  # fmt: skip
    cut = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return json.dumps({"version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": cut, "post_processor": None,
                       "decoder": cut, "model": {"type": "BPE", "vocab": table, "merges": merges}})  # fmt: skip


# ---- tokenizer.model ---------------------------------------------------------------------------------------------------


def _read_sentencepiece(path: str) -> sentencepiece.SentencePieceModel:
    with system_errors(), open(path, "rb") as file:
        return sentencepiece.parse(file.read(), path)


def _of_sentencepiece(path: str, folder: str) -> Vocab:
    try:
        given = _read_sentencepiece(path)
    except AirpyError as error:
        raise UnsupportedError(f"{error}; a tokenizer of tiktoken's kind is not supported without a tokenizer.json") from None
    kinds = {sentencepiece.BPE: "llama", sentencepiece.UNIGRAM: "t5"}
    if given.kind not in kinds:
        raise UnsupportedError(f"{path}: SentencePiece's model type {given.kind}; supported are BPE and Unigram")
    flags = {"add_space_prefix": given.add_dummy_prefix}
    if given.kind == sentencepiece.UNIGRAM:
        flags["remove_extra_whitespaces"] = given.remove_extra_whitespaces
    charsmap = given.charsmap if given.kind == sentencepiece.UNIGRAM else b""
    vocab = Vocab(kinds[given.kind], given.pieces, given.types, scores=given.scores, flags=flags, charsmap=charsmap)
    vocab.unk = next((i for i, type in enumerate(given.types) if type == UNKNOWN), None)
    config = read_json_if_any(folder, "tokenizer_config.json")
    added = [(int(i) if i.isdecimal() else None, token.get("content"), token.get("special"))
             for i, token in json_object(config.get("added_tokens_decoder") or {}, path, "added_tokens_decoder").items()
             if isinstance(token, dict)]  # fmt: skip
    if not added:
        added = [(i, text, False) for text, i in read_json_if_any(folder, "added_tokens.json").items()]
    _add(vocab, added, path)
    return vocab
