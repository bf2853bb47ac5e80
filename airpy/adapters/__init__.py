"""Low-rank adapters (LoRA) beside a model: files, and which sequence has which."""

from airpy.adapters.registry import ACTIVE, Adapters, Choice, Chosen

__all__ = ["ACTIVE", "Adapters", "Choice", "Chosen"]
