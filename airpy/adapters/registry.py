"""The adapters of one open model by name, and what a call says about who has which."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from airpy import _core
from airpy.adapters.gguf import read_gguf
from airpy.errors import ArgumentError, FormatError, system_errors
from airpy.files import PathLike, checked_path

Chosen = tuple[_core.Adapter, float] | None  # of a sequence, as _core.Sequence.adapted has it; the scale is a float32's value
Choice = Any  # in a call: ACTIVE, None, a name, (name, scale), or a list of those, one for each prompt
ACTIVE = "the active one"

_MOST_SCALE = 1e6


@dataclass(frozen=True)
class Loaded:
    name: str
    path: str
    scale: float
    core: _core.Adapter
    weights: int

    @property
    def chosen(self) -> Chosen:
        return self.core, self.scale


class Adapters:
    """Thread-safe. What is unloaded lives on until the last sequence that has it is gone."""

    def __init__(self, engine: _core.Engine, config: Any) -> None:
        """config: the model's ModelConfig."""
        self._engine, self._config = engine, config
        self._loaded: dict[str, Loaded] = {}
        self._lock = threading.Lock()
        self.active: str | None = None

    def load(self, path: PathLike, name: str, scale: float, make: Callable[[list[tuple[str, int, int, int]]], _core.Adapter]) -> Loaded:
        """make: the engine's adapter(). Raises what reading a file raises, ArgumentError for a name that is taken, BudgetError."""
        if not isinstance(name, str) or not name:
            raise ArgumentError(f"the adapter's name is {name!r}; expected a text")
        if name in self._loaded:
            raise ArgumentError(f"there is an adapter {name!r} already; unload_adapter({name!r}) first, or give another name")
        file, factor = checked_path(path), check_scale(scale)
        matrices = self._read(file)
        core = make([(m.name, m.rank, m.rows, m.cols) for m in matrices])
        for i, matrix in enumerate(matrices):
            core.set(i, *matrix.read())
        loaded = Loaded(name, file, factor, core, len(matrices))
        with self._lock:
            if name in self._loaded:
                raise ArgumentError(f"there is an adapter {name!r} already, since another thread loaded it")
            self._loaded[name] = loaded
            self.active = name
        return loaded

    def _read(self, path: str) -> list[Any]:
        from airpy.adapters.peft import is_peft, read_peft

        with system_errors():
            os.stat(path)
        if is_peft(path):
            found = read_peft(path, self._config.model_type, (self._config.num_attention_heads, self._config.num_key_value_heads))
        else:
            found = read_gguf(path, self._config.model_type)
        if not found:
            raise FormatError(f"{path} changes no weight")
        return found

    def unload(self, name: str) -> Loaded:
        """Raises ArgumentError where there is none of that name."""
        with self._lock:
            loaded = self._of(name)
            del self._loaded[name]
            if self.active == name:
                self.active = None
        return loaded

    def activate(self, name: str | None) -> None:
        """What calls have that say nothing. Raises ArgumentError."""
        with self._lock:
            self.active = None if name is None else self._of(name).name

    def choose(self, choice: Choice, prompts: int) -> list[Chosen]:
        """One for each prompt. Raises ArgumentError for a name that is none, or another number of them."""
        if not isinstance(choice, list):
            return [self._one(choice)] * prompts
        if len(choice) != prompts:
            raise ArgumentError(f"{len(choice)} adapters for {prompts} prompts; give one, or one for each")
        return [self._one(each) for each in choice]

    def _one(self, choice: Any) -> Chosen:
        with self._lock:
            if choice is ACTIVE:
                choice = self.active
            if choice is None:
                return None
            if isinstance(choice, str):
                return self._of(choice).chosen
            if isinstance(choice, tuple) and len(choice) == 2:
                return self._of(choice[0]).core, check_scale(choice[1])
        raise ArgumentError(f"adapter is {choice!r}; expected a name, (name, scale), None, or a list of those, one for each prompt")

    def _of(self, name: Any) -> Loaded:
        loaded = self._loaded.get(name) if isinstance(name, str) else None
        if loaded is None:
            there = ", ".join(map(repr, self._loaded)) or "none"
            raise ArgumentError(f"there is no adapter {name!r}; there is {there}: load_adapter(path, name) loads one")
        return loaded

    def listed(self) -> dict[str, dict[str, Any]]:
        with self._lock:
            return {
                each.name: {
                    "path": each.path, "scale": each.scale, "bytes": each.core.bytes, "vram_bytes": each.core.device_bytes,
                    "weights": each.weights,
                }
                for each in self._loaded.values()
            }


def check_scale(value: Any) -> float:
    """As the engine has it. Raises ArgumentError."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not abs(float(value)) <= _MOST_SCALE:
        raise ArgumentError(f"an adapter's scale is {value!r}; expected a number, -1e6 to 1e6")
    return float(np.float32(value))
