"""What calling a tokenizer returns, and how rows of unequal length become a rectangle."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from airpy.device import check_name
from airpy.errors import ArgumentError

Tensors = Literal["np", "pt"] | None


class BatchEncoding(dict[str, Any]):
    """A dict with input_ids and attention_mask, usable as **inputs; the keys are attributes as well."""

    def to(self, device: Any) -> BatchEncoding:
        """Itself: ids stay in the process's memory, and models of every device take them there. Raises UnsupportedError for what names
        no device."""
        check_name("to()", device)
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def pad(rows: list[list[int]], side: str, pad_id: int, length: int | None) -> tuple[list[list[int]], list[list[int]]]:
    """Rows filled up to the longest (or `length`) on `side`, and the mask that is 1 where a token stands."""
    width = max([len(row) for row in rows] + ([length] if length is not None else []), default=0)
    ids, mask = [], []
    for row in rows:
        gap = width - len(row)
        if side == "left":
            ids.append([pad_id] * gap + row)
            mask.append([0] * gap + [1] * len(row))
        else:
            ids.append(row + [pad_id] * gap)
            mask.append([1] * len(row) + [0] * gap)
    return ids, mask


def to_tensors(rows: list[list[int]], kind: Tensors) -> Any:
    """int64 (len(rows), length). Raises ArgumentError where lengths differ, ImportError for "pt" without torch."""
    if kind is None:
        return rows
    if kind not in ("np", "pt"):
        raise ArgumentError(f"return_tensors is {kind!r}; expected None, 'np' or 'pt'")
    if len({len(row) for row in rows}) > 1:
        raise ArgumentError(
            f"rows have {min(map(len, rows))} to {max(map(len, rows))} tokens: a tensor needs padding=True"
        )
    array = np.asarray(rows, dtype=np.int64).reshape(len(rows), -1 if rows and rows[0] else 0)
    if kind == "np":
        return array
    try:
        import torch  # only here: nothing else in airpy needs it
    except ImportError as error:
        raise ImportError(f"return_tensors='pt' needs PyTorch ({error}); install torch, or take return_tensors='np'") from None
    return torch.from_numpy(array)
