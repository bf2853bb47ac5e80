"""The one device of this version, for code that names one as it would for PyTorch."""

from __future__ import annotations

from typing import Any

from airpy.errors import UnsupportedError

DEVICE = "cpu"


def stay_on(where: str, device: Any) -> None:
    """Raises UnsupportedError for any device but the CPU: its name, or what prints as it."""
    if str(device) not in (DEVICE, f"{DEVICE}:0"):
        raise UnsupportedError(f"{where}: {device!r} is not supported; this version runs on the CPU")
