"""Prompts in every form they come in, as one rectangle and as rows of real tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from airpy.errors import ArgumentError

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Prompts:
    """ids: int64 [batch, width], padded on the left. rows: the real tokens of each, int32."""

    ids: npt.NDArray[np.int64]
    rows: list[Ids]


def read_prompts(input_ids: Any, attention_mask: Any, pad: int) -> Prompts:
    """input_ids: [batch, tokens] or [tokens] as array, tensor or list, or a list of rows of unequal length, which are padded on the
    left with `pad`. attention_mask: 1 for real tokens, after the 0 of the padding. Raises ArgumentError."""
    if input_ids is None:
        raise ArgumentError("input_ids is missing; pass the ids of a prompt, such as **model.tokenizer(text, return_tensors='np')")
    if isinstance(input_ids, Mapping):
        raise ArgumentError("input_ids is a mapping; unpack it: generate(**inputs)")
    if isinstance(input_ids, str):
        raise ArgumentError("input_ids is text; tokenize it: generate(**model.tokenizer([text], return_tensors='np'))")
    if _is_ragged(input_ids):
        if attention_mask is not None and _is_ragged(attention_mask):
            attention_mask = None  # the tokenizer's, all ones, for rows of the same lengths
        if attention_mask is not None:
            raise ArgumentError("input_ids has rows of unequal length, attention_mask has not; pad both or neither")
        return _pad_rows([_row(row) for row in input_ids], pad)
    ids = _whole("input_ids", input_ids)
    if ids.ndim == 1:
        ids = ids[None, :]
    if ids.ndim != 2 or not ids.shape[0]:
        raise ArgumentError(f"input_ids has shape {ids.shape}; expected [batch, tokens]")
    _check_range(ids)
    lengths = np.full(ids.shape[0], ids.shape[1]) if attention_mask is None else _lengths(attention_mask, ids.shape)
    rows = [ids[i, ids.shape[1] - n :].astype(np.int32) for i, n in enumerate(lengths.tolist())]
    return Prompts(ids.astype(np.int64), [_not_empty(row, i) for i, row in enumerate(rows)])


def _is_ragged(value: Any) -> bool:
    """A list of rows whose lengths differ."""
    return isinstance(value, (list, tuple)) and bool(value) and all(hasattr(row, "__len__") for row in value) and (
        len({len(row) for row in value}) > 1
    )  # fmt: skip


def _whole(name: str, value: Any) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{name} is not an array of numbers: {error}") from None
    if array.dtype.kind not in "iub" and array.size:
        raise ArgumentError(f"{name} holds {array.dtype}; expected whole numbers")
    return array


def _check_range(ids: npt.NDArray[Any]) -> None:
    if ids.size and (ids.min() < 0 or ids.max() > np.iinfo(np.int32).max):
        raise ArgumentError(f"input_ids holds {ids.min()} to {ids.max()}; token ids are 0 or more")


def _row(row: Any) -> Ids:
    ids = _whole("input_ids", row)
    if ids.ndim != 1:
        raise ArgumentError(f"a row of input_ids has shape {ids.shape}; expected [tokens]")
    _check_range(ids)
    return ids.astype(np.int32)


def _not_empty(row: Ids, i: int) -> Ids:
    if not row.size:
        raise ArgumentError(f"prompt {i} has no tokens; give at least one, such as the beginning-of-sequence token")
    return row


def _pad_rows(rows: list[Ids], pad: int) -> Prompts:
    width = max(row.size for row in rows)
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, width - row.size :] = row
    return Prompts(ids, [_not_empty(row, i) for i, row in enumerate(rows)])


def _is_float(value: Any) -> bool:
    """np.ones() and its kin, which make a mask as well."""
    return getattr(getattr(value, "dtype", None), "kind", "") == "f"


def _lengths(attention_mask: Any, shape: tuple[int, ...]) -> npt.NDArray[np.intp]:
    mask = np.asarray(attention_mask) if _is_float(attention_mask) else _whole("attention_mask", attention_mask)
    if mask.ndim == 1:
        mask = mask[None, :]
    if mask.shape != shape:
        raise ArgumentError(f"attention_mask has shape {mask.shape}, input_ids {shape}")
    real = mask != 0
    if (odd := mask[real & (mask != 1)]).size:
        raise ArgumentError(f"attention_mask holds {odd[0]}; expected 1 for tokens and 0 for padding")
    if np.any(real[:, :-1] & ~real[:, 1:]):
        raise ArgumentError("attention_mask has a 0 after a 1: pad prompts on the left (tokenizer(…, padding=True) does)")
    lengths: npt.NDArray[np.intp] = real.sum(axis=1)
    return lengths
