"""Prompts in every form they come in, as one rectangle and as rows of real tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from airpy.errors import ArgumentError
from airpy.generation.tensors import to_host, torch_tensor

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Prompts:
    """ids: int64 [batch, width], padded on the left. rows: the real tokens of each, int32. tensor: one of torch's that they came in."""

    ids: npt.NDArray[np.int64]
    rows: list[Ids]
    tensor: Any = None

    def repeated(self, n: int) -> Prompts:
        """Each n times, one after the other."""
        return self if n == 1 else Prompts(np.repeat(self.ids, n, axis=0), [row for row in self.rows for _ in range(n)], self.tensor)


def read_prompts(input_ids: Any, attention_mask: Any, pad: int, n_vocab: int, *, padding: int | None = None) -> Prompts:
    """input_ids: [batch, tokens] or [tokens] as array, tensor or list, or a list of rows of unequal length, which are padded on the
    left with `pad`. attention_mask: as long, 1 for real tokens, after the 0 of the padding. padding: the id that is no text where
    rows without a mask begin with it. Raises ArgumentError."""
    if input_ids is None:
        raise ArgumentError("input_ids is missing; pass the ids of a prompt, such as **model.tokenizer(text, return_tensors='np')")
    if isinstance(input_ids, Mapping):
        raise ArgumentError("input_ids is a mapping; unpack it: generate(**inputs)")
    if isinstance(input_ids, str):
        raise ArgumentError("input_ids is text; tokenize it: generate(**model.tokenizer([text], return_tensors='np'))")
    given = _rows("input_ids", input_ids, "iu")
    if attention_mask is not None:
        real = _masked(given, _rows("attention_mask", attention_mask, "iubf"))
    else:
        real = given if padding is None else [_after(row, padding) for row in given]
    rows = [_prompt(row, i, n_vocab) for i, row in enumerate(real)]
    ids = np.full((len(given), max(row.size for row in given)), pad, dtype=np.int64)
    for i, row in enumerate(given):
        ids[i, ids.shape[1] - row.size :] = row
    first = input_ids[0] if isinstance(input_ids, (list, tuple)) else input_ids
    return Prompts(ids, rows, torch_tensor(first))


def _rows(name: str, value: Any, kinds: str) -> list[npt.NDArray[Any]]:
    """A rectangle's rows, or those of unequal length, as arrays of numpy's kinds."""
    if _is_ragged(value):
        rows = [_array(name, row, kinds) for row in value]
        if odd := [row.shape for row in rows if row.ndim != 1]:
            raise ArgumentError(f"a row of {name} has shape {odd[0]}; expected [tokens]")
        return rows
    array = _array(name, value, kinds)
    if array.ndim == 1:
        array = array[None, :]
    if array.ndim != 2 or not array.shape[0]:
        raise ArgumentError(f"{name} has shape {array.shape}; expected [batch, tokens]")
    return list(array)


def _is_ragged(value: Any) -> bool:
    """A list of rows whose lengths differ. A single number may be an array or a tensor too, which has no length."""
    if not isinstance(value, (list, tuple)) or any(not hasattr(row, "__len__") or getattr(row, "shape", None) == () for row in value):
        return False
    return len({len(row) for row in value}) > 1


def _after(row: npt.NDArray[Any], padding: int) -> npt.NDArray[Any]:
    """A row without the padding before it; one of nothing else stays."""
    text = np.flatnonzero(row != padding)
    return row[text[0] :] if text.size else row


def _array(name: str, value: Any, kinds: str) -> npt.NDArray[Any]:
    try:
        array = np.asarray(to_host(value))
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise ArgumentError(f"{name} is not an array of numbers: {error}") from None
    if array.dtype.kind not in kinds and array.size:
        raise ArgumentError(f"{name} holds {array.dtype}; expected whole numbers")
    return array


def _prompt(row: npt.NDArray[Any], i: int, n_vocab: int) -> Ids:
    if not row.size:
        raise ArgumentError(f"prompt {i} has no tokens; give at least one, such as the beginning-of-sequence token")
    if row.min() < 0 or row.max() >= n_vocab:
        raise ArgumentError(f"prompt {i} has ids from {row.min()} to {row.max()}; expected token ids, 0 to {n_vocab - 1}")
    return row.astype(np.int32)


def _masked(rows: list[npt.NDArray[Any]], masks: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """What of the rows is no padding."""
    if len(rows) != len(masks):
        raise ArgumentError(f"attention_mask has {len(masks)} rows, input_ids {len(rows)}")
    for i, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        if row.size != mask.size:
            raise ArgumentError(f"attention_mask has {mask.size} numbers for the {row.size} tokens of prompt {i}")
        if (odd := mask[(mask != 0) & (mask != 1)]).size:
            raise ArgumentError(f"attention_mask holds {odd[0]}; expected 1 for tokens and 0 for padding")
        if np.any(mask[:-1] > mask[1:]):
            raise ArgumentError("attention_mask has a 0 after a 1: pad prompts on the left (tokenizer(…, padding=True) does)")
    return [row[mask != 0] for row, mask in zip(rows, masks, strict=True)]
