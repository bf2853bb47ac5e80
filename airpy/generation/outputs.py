"""What calls return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt


class _Fields:
    """Access by name and by position, as transformers' outputs have it."""

    def __getitem__(self, key: str | int) -> Any:
        return getattr(self, key) if isinstance(key, str) else tuple(self)[key]

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class GenerateOutput(_Fields):
    """generate(return_dict_in_generate=True): sequences int64 [batch, longest], prompt and new ids."""

    sequences: npt.NDArray[np.int64]


@dataclass(frozen=True)
class CausalLMOutput(_Fields):
    """model(ids): logits float32 [batch, kept, vocab]; read-only, counted against max_ram until it is gone."""

    logits: npt.NDArray[np.float32]
