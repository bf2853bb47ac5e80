"""The vocabulary as a file's metadata states it, checked.

Everything a hostile or damaged file can get wrong (lengths, ids, duplicates, kinds of values) is refused here with a
FormatError that names the key and the number, so that the builders below may trust what they read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from airpy.errors import FormatError, UnsupportedError
from airpy.tokenizer.charsmap import Charsmap
from airpy.tokenizer.pretokenizers import PreTokenizer, find_pre

PREFIX = "tokenizer.ggml."
SPACE = "\u2581"  # SentencePiece's spelling of a space

# tokenizer.ggml.token_type (llama.h, enum llama_token_type)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

SPM_MODELS = ("llama",)
WORDPIECE_MODELS = ("bert",)
UNIGRAM_MODELS = ("t5",)
# "gemma4" is byte-level BPE's algorithm on raw UTF-8; llama.cpp sets its pre-tokenizer by the model's name.
BPE_MODELS = ("gpt2", "gemma4")

# What stands for an id where a file names none (llama-vocab.cpp, impl::load): the places of the models these kinds came with.
_DEFAULT_IDS: dict[str, dict[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unk": 0},
    "bert": {"cls": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103},
    "t5": {"eos": 1, "unk": 2, "pad": 0},
}

_ID_KEYS = {
    "bos": ("bos_token_id",),
    "eos": ("eos_token_id",),
    "unk": ("unknown_token_id",),
    "pad": ("padding_token_id",),
    "sep": ("seperator_token_id",),  # the key is misspelt in the format itself
    "cls": ("cls_token_id",),
    "mask": ("mask_token_id",),
    "eot": ("eot_token_id",),
    "eom": ("eom_token_id",),
}

# Texts that end a generation wherever they are control tokens (llama-vocab.cpp, special_eog_ids).
_END_TEXTS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
)  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """What the metadata says, in the order of ids. `index` maps a token's text to its id."""

    model: str
    pre: PreTokenizer | None  # byte-level BPE's; None for the others
    tokens: list[str]
    index: dict[str, int]
    types: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64] | None
    merges: list[str]
    ids: dict[str, int]  # "bos", "eos", …; only those the file has
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    escape_spaces: bool
    special: list[int]  # control and unknown tokens, in the order of ids
    user_defined: list[int]
    end_ids: list[int]
    strip_right: frozenset[int] = field(default_factory=frozenset)
    strip_left: frozenset[int] = field(default_factory=frozenset)
    add_sep: bool = False  # WordPiece's [SEP], where others have an end of sequence
    lowercase: bool = False  # these two are WordPiece's
    strip_accents: bool = False
    merge_spaces: bool = False  # these two are Unigram's
    charsmap: Charsmap | None = None

    @property
    def is_spm(self) -> bool:
        return self.model in SPM_MODELS

    @property
    def is_wordpiece(self) -> bool:
        return self.model in WORDPIECE_MODELS

    @property
    def is_unigram(self) -> bool:
        return self.model in UNIGRAM_MODELS

    @property
    def first_id(self) -> int | None:
        """What encode puts before a text."""
        return self.ids["cls" if self.is_wordpiece else "bos"] if self.add_bos else None

    @property
    def last_id(self) -> int | None:
        """What encode puts behind a text."""
        return self.ids["sep"] if self.add_sep else self.ids["eos"] if self.add_eos else None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> Vocabulary:
        model, pre = _model_and_pre(metadata)
        spm, wordpiece, unigram = model in SPM_MODELS, model in WORDPIECE_MODELS, model in UNIGRAM_MODELS
        tokens = _strings(metadata, "tokens")
        if not tokens:
            raise FormatError(f"{PREFIX}tokens is absent or empty: the file holds no vocabulary")
        if not all(tokens):
            # An empty spelling holds the place of an id that no text gives; llama.cpp names it the same.
            tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
        index = _index(tokens)
        types = _types(metadata, len(tokens))
        ids = _special_ids(metadata, len(tokens), model)
        special = np.flatnonzero((types == CONTROL) | (types == UNKNOWN)).tolist()
        user_defined = np.flatnonzero(types == USER_DEFINED).tolist()
        strip_left, strip_right = _strip_rules(metadata, tokens, index, special + user_defined)
        add_bos = _flag(metadata, "add_bos_token", spm or wordpiece or (pre is not None and pre.add_bos))
        add_eos = _flag(metadata, "add_eos_token", unigram)
        lowercase = wordpiece and _flag(metadata, "normalizer.lowercase", True)
        return cls(
            model=model,
            pre=pre,
            tokens=tokens,
            index=index,
            types=types,
            scores=_scores(metadata, len(tokens), unigram) if spm or unigram else None,
            merges=_merges(metadata) if pre is not None else [],
            ids=ids,
            add_bos=add_bos and ("cls" if wordpiece else "bos") in ids,
            add_eos=add_eos and "eos" in ids,
            # Converters write [SEP] as the end of sequence too, for it stands behind every text; it does so once.
            add_sep=wordpiece and (_flag(metadata, "add_sep_token", True) or add_eos) and "sep" in ids,
            add_space_prefix=_flag(metadata, "add_space_prefix", spm) and (spm or unigram),
            escape_spaces=spm or wordpiece or unigram or (pre is not None and pre.escape_spaces),
            special=special,
            user_defined=user_defined,
            end_ids=_end_ids(ids, tokens, index, types),
            strip_right=strip_right,
            strip_left=strip_left,
            lowercase=lowercase,
            strip_accents=wordpiece and _flag(metadata, "normalizer.strip_accents", lowercase),
            merge_spaces=unigram and _flag(metadata, "remove_extra_whitespaces", False),
            charsmap=_charsmap(metadata) if unigram else None,
        )


def _model_and_pre(metadata: Mapping[str, object]) -> tuple[str, PreTokenizer | None]:
    model = metadata.get(PREFIX + "model")
    if not isinstance(model, str):
        raise FormatError(f"{PREFIX}model is {'absent' if model is None else repr(model)[:80]}; expected a string")
    others = SPM_MODELS + WORDPIECE_MODELS + UNIGRAM_MODELS
    if model in others:
        return model, None
    if model not in BPE_MODELS:
        raise UnsupportedError(f"{PREFIX}model {model[:80]!r} is not supported; supported are {', '.join(others + BPE_MODELS)}")
    pre = "gemma4" if model == "gemma4" else metadata.get(PREFIX + "pre", "default") or "default"
    if not isinstance(pre, str):
        raise FormatError(f"{PREFIX}pre is {repr(pre)[:80]}; expected a string")
    return model, find_pre(pre)


def _array(metadata: Mapping[str, object], key: str) -> Any:
    """A list, or a numpy array over whatever shares its memory (the reader's own arrays do); None if absent."""
    value = metadata.get(PREFIX + key)
    if value is None or isinstance(value, (list, np.ndarray)):
        return value
    try:
        return np.asarray(memoryview(value))  # type: ignore[arg-type]
    except TypeError:
        raise FormatError(f"{PREFIX}{key} is {repr(value)[:80]}; expected an array") from None


def _strings(metadata: Mapping[str, object], key: str) -> list[str]:
    value = _array(metadata, key)
    values: list[str] = [] if value is None else value.tolist() if isinstance(value, np.ndarray) else value
    # One set of types is the cheapest check of 150,000 values there is.
    kinds = set(map(type, values)) - {str}
    if kinds:
        raise FormatError(f"{PREFIX}{key} holds {kinds.pop().__name__} values; expected strings")
    return values


def _index(tokens: list[str]) -> dict[str, int]:
    index = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(index) == len(tokens):
        return index
    seen: dict[str, int] = {}
    for i, token in enumerate(tokens):
        if token in seen:
            raise FormatError(f"{PREFIX}tokens[{i}] {token[:40]!r} repeats tokens[{seen[token]}]")
        seen[token] = i
    return seen


def _merges(metadata: Mapping[str, object]) -> list[str]:
    merges = _strings(metadata, "merges")
    if not merges:
        raise FormatError(f"{PREFIX}merges is absent or empty; byte-level BPE needs it")
    if len(set(merges)) != len(merges):
        first: dict[str, int] = {}
        for i, merge in enumerate(merges):
            if merge in first:
                raise FormatError(f"{PREFIX}merges[{i}] {merge[:40]!r} repeats merges[{first[merge]}]")
            first[merge] = i
    return merges


def _numbers(metadata: Mapping[str, object], key: str, n: int) -> npt.NDArray[Any] | None:
    value = _array(metadata, key)
    if value is None:
        return None
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as e:
        raise FormatError(f"{PREFIX}{key} is not an array of numbers: {e}") from None
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise FormatError(f"{PREFIX}{key} is not a flat array of numbers")
    if len(array) != n:
        raise FormatError(f"{PREFIX}{key} has {len(array)} entries, but there are {n} tokens")
    return array


def _types(metadata: Mapping[str, object], n: int) -> npt.NDArray[np.int32]:
    types = _numbers(metadata, "token_type", n)
    if types is None:
        return np.full(n, NORMAL, np.int32)
    if types.dtype.kind == "f":
        raise FormatError(f"{PREFIX}token_type holds fractions; expected integers")
    # Unknown codes are what llama.cpp calls undefined: never matched, never special.
    return np.where((types >= NORMAL) & (types <= BYTE), types, UNUSED).astype(np.int32)


def _scores(metadata: Mapping[str, object], n: int, unigram: bool) -> npt.NDArray[np.float64]:
    scores = _numbers(metadata, "scores", n)
    if scores is None:
        if unigram:
            raise FormatError(f"{PREFIX}scores is absent; Unigram needs it")
        return np.zeros(n)
    scores = scores.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(scores) if unigram else np.isnan(scores))  # Unigram adds them up
    if bad.size:
        raise FormatError(f"{PREFIX}scores[{bad[0]}] is {scores[bad[0]]}, not a{' finite' if unigram else ''} number")
    return scores


def _charsmap(metadata: Mapping[str, object]) -> Charsmap | None:
    value = _array(metadata, "precompiled_charsmap")
    if value is None:
        return None
    try:
        units = np.asarray(value)
    except (ValueError, OverflowError) as e:
        raise FormatError(f"{PREFIX}precompiled_charsmap is not an array of bytes: {e}") from None
    if units.ndim != 1 or units.dtype.kind not in "iu" or (units.size and not -128 <= int(units.min()) <= int(units.max()) <= 255):
        raise FormatError(f"{PREFIX}precompiled_charsmap is not a flat array of bytes")
    return Charsmap(units.astype(np.uint8).tobytes())


def _special_ids(metadata: Mapping[str, object], n: int, model: str) -> dict[str, int]:
    ids = {name: i for name, i in _DEFAULT_IDS.get(model, {}).items() if i < n}
    for name, keys in _ID_KEYS.items():
        for key in keys:
            value = metadata.get(PREFIX + key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise FormatError(f"{PREFIX}{key} is {repr(value)[:80]}; expected an integer")
            if value in (-1, 0xFFFFFFFF):  # how converters write "none" into a uint32
                ids.pop(name, None)
            elif 0 <= value < n:
                ids[name] = int(value)
            else:
                raise FormatError(f"{PREFIX}{key} is {value}, but there are {n} tokens")
    if model in WORDPIECE_MODELS and "bos" in ids and metadata.get(PREFIX + "cls_token_id") is None:
        ids["cls"] = ids["bos"]  # older files have [CLS] under that name
    if model in WORDPIECE_MODELS + UNIGRAM_MODELS and "unk" not in ids:
        raise FormatError(f"{PREFIX}unknown_token_id is absent; {model!r} needs one, for text that no token spells")
    return ids


def is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _flag(metadata: Mapping[str, object], key: str, default: bool) -> bool:
    value = metadata.get(PREFIX + key, default)
    if not isinstance(value, (bool, np.bool_)):
        raise FormatError(f"{PREFIX}{key} is {repr(value)[:80]}; expected true or false")
    return bool(value)


def _end_ids(ids: dict[str, int], tokens: list[str], index: dict[str, int], types: npt.NDArray[np.int32]) -> list[int]:
    end = {ids[name] for name in ("eos", "eot", "eom") if name in ids}
    for text in _END_TEXTS:
        i = index.get(text)
        if i is None:
            continue
        # Some converters mark <|im_end|> and its like as user-defined; "</s>" of that type is an HTML tag (Gemma).
        marked = text.startswith(("<|", "<end_of")) and types[i] == USER_DEFINED
        if types[i] == CONTROL or marked:
            end.add(i)
    texts = {tokens[i] for i in end}
    # In the harmony and solar formats <|end|> only closes one message of several (llama-vocab.cpp, the same rule).
    several = {"<|return|>", "<|call|>"} <= texts or ("<|flush|>" in texts and texts & {"<|call|>", "<|calls|>"})
    if several and index.get("<|end|>") not in (ids.get("eos"), None):
        end.discard(index["<|end|>"])
    return sorted(end)


def _strip_rules(
    metadata: Mapping[str, object], tokens: list[str], index: dict[str, int], matched: list[int]
) -> tuple[frozenset[int], frozenset[int]]:
    """Special tokens that swallow the white space beside them: attributes files lose, restored by the model's name as
    llama.cpp does (llama-vocab.cpp, "Handle per token attributes")."""
    name = str(metadata.get("general.name", "")).lower()
    pre = str(metadata.get(PREFIX + "pre", ""))
    if pre in ("jina-v2-de", "jina-v2-es", "jina-v2-code"):
        return frozenset({index["<mask>"]} if "<mask>" in index else ()), frozenset()
    if "phi-3" in name or "phi3" in name:
        keep = {"<unk>", "<s>", "<|endoftext|>"}
        return frozenset(), frozenset(i for i in matched if tokens[i] not in keep)
    if "modern-bert" in name:
        return frozenset({index["[MASK]"]} if "[MASK]" in index else ()), frozenset()
    return frozenset(), frozenset()
