"""What calls return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt


class _Fields(Mapping[str, Any]):
    """Access by attribute, by key and by position, as transformers' outputs have it."""

    def __getitem__(self, key: str | int) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in tuple(self):
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        names = (field.name for field in fields(self))  # type: ignore[arg-type]
        return (name for name in names if getattr(self, name) is not None)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self)


@dataclass(frozen=True, eq=False)
class GenerateOutput(_Fields):
    """generate(return_dict_in_generate=True): sequences int64 [batch, longest], prompt and new ids. Where asked for, of each step
    float32 [batch, vocab]: scores, after processors, with -inf for what a draw leaves out; logits, as the model gave them; zeros where
    a row had ended before. Arrays, or torch's tensors where the prompts were such. What was not asked for is None and no key."""

    sequences: npt.NDArray[np.int64]
    scores: tuple[npt.NDArray[np.float32], ...] | None = None
    logits: tuple[npt.NDArray[np.float32], ...] | None = None


@dataclass(frozen=True, eq=False)
class CausalLMOutput(_Fields):
    """model(ids): logits float32 [batch, kept, vocab]; yours to write to, counted against max_ram until it is gone."""

    logits: npt.NDArray[np.float32]
