"""Sizes, speeds and times as people write and read them."""

from __future__ import annotations

import operator
import re
from typing import Any

from airpy.errors import ArgumentError

_UNITS = {
    "": 1, "b": 1,
    "k": 1 << 10, "kib": 1 << 10, "kb": 10**3,
    "m": 1 << 20, "mib": 1 << 20, "mb": 10**6,
    "g": 1 << 30, "gib": 1 << 30, "gb": 10**9,
    "t": 1 << 40, "tib": 1 << 40, "tb": 10**12,
}  # fmt: skip
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zA-Z]*)\s*")
_LARGEST = (1 << 63) - 1


def parse_size(size: int | str, name: str = "size") -> int:
    """Bytes of 4096, "4096", "4GiB", "1.5 GiB", "500MB", "2g". KiB, MiB … and bare K, M … are powers of 1024, KB, MB … of 1000.
    Raises ArgumentError, naming what `name` is, for anything else and for sizes below 1 byte."""
    if isinstance(size, str):
        match = _SIZE.fullmatch(size)
        unit = _UNITS.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise ArgumentError(f"{name} {size!r} is not a size; write bytes, or a number with KiB, MiB, GiB, KB, MB, GB")
        exact = match[1].isdigit() and len(match[1]) < 20  # else a float will do, which is infinite where int() would refuse
        value = int(match[1]) * unit if exact else float(match[1]) * unit
    else:
        try:
            if isinstance(size, bool):
                raise TypeError
            value = operator.index(size)
        except TypeError:
            raise ArgumentError(f"{name} is {type(size).__name__}; expected bytes as int or a text such as '4GiB'") from None
    if not 1 <= value <= _LARGEST:  # of any length: not to be repeated
        raise ArgumentError(f"{name} is {'less than 1 byte' if value < 1 else '8 EiB or more, which no machine has'}")
    return int(value)


def parse_sizes(size: Any, name: str = "size") -> int | tuple[int, ...]:
    """As parse_size(), or several: "24GB,8GB", or a list of sizes. Raises ArgumentError."""
    sizes = size.split(",") if isinstance(size, str) else list(size) if isinstance(size, (list, tuple)) else [size]
    if not sizes:
        raise ArgumentError(f"{name} is empty; expected a size, or one for each device")
    values = tuple(parse_size(each, name) for each in sizes)
    return values if len(values) > 1 else values[0]


def check_share(name: str, value: Any) -> float | None:
    """A number from 0 to 1; None is itself. Raises ArgumentError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ArgumentError(f"{name} is {value!r}; expected a number from 0 to 1")
    return float(value)


def check_count(name: str, value: Any, most: int | None = None) -> int | None:
    """A whole number from 1, to `most` where there is one; None is itself. True and False are ints to Python, and hardly ever meant as
    such. Raises ArgumentError."""
    if value is None:
        return None
    expected = "a whole number from 1" + ("" if most is None else f" to {most}")
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ArgumentError(f"{name} is {value!r}; expected {expected}") from None
    if number < 1 or (most is not None and number > most):
        raise ArgumentError(f"{name} is {number}; expected {expected}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """True or False. Raises ArgumentError for anything else."""
    if not isinstance(value, bool):
        raise ArgumentError(f"{name} is {value!r}; expected True or False")
    return value


def format_size(count: float) -> str:
    """1536 as "1.5 KiB"; at most four digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_rate(bytes_per_second: float) -> str:
    """Decimal, as disks and memories are sold: 2.15e9 as "2.15 GB/s"."""
    if bytes_per_second >= 1e9:
        return f"{bytes_per_second / 1e9:.2f} GB/s"
    return f"{bytes_per_second / 1e6:.1f} MB/s"


def format_speed(tokens_per_second: float) -> str:
    """Three digits, never an exponent: 4583.2 as "4583 tokens/s", 0.91234 as "0.912 tokens/s"."""
    return f"{format_number(tokens_per_second)} tokens/s"


def format_number(value: float) -> str:
    """At least three digits, and no exponent from 0.0001 on."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def format_time(seconds: float) -> str:
    """0.00231 as "2.3 ms", 4000 as "1 h 07 min"."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
