"""Checkpoints' tensors as quantised files have them: FP8 with scales, and MXFP4. Needs numpy alone.

A description (checkpoints.py) says it under "packed": {"kind": "fp8", "block": [rows, columns]}, {"kind": "fp8-rows"},
{"kind": "fp8-whole"} or {"kind": "mxfp4"}.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Stored = tuple[str, tuple[int, ...], bytes]     # dtype, shape, bytes
LARGEST = 448.0                                 # of E4M3


def numbers_of_e4m3() -> Floats:
    """The finite ones that are not negative, by their bits."""
    return np.array([(i & 7) / 512 if i < 8 else (8 + (i & 7)) * 2.0 ** ((i >> 3) - 10) for i in range(127)], np.float32)


def nearest(values: Floats, table: Floats, sign: int) -> npt.NDArray[np.uint8]:
    """The numbers of an ascending table, by number, with `sign` for negative ones."""
    above = np.clip(np.searchsorted(table, np.abs(values)), 1, len(table) - 1)
    found = above - (np.abs(values) - table[above - 1] <= table[above] - np.abs(values))
    return (found | np.where(np.signbit(values), sign, 0)).astype(np.uint8)


def fp8(values: Floats, rows: int, columns: int) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Bits and scales, [blocks below each other, blocks beside each other]."""
    starts = [np.arange(0, n, step) for n, step in zip(values.shape, (rows, columns), strict=True)]
    largest = np.maximum.reduceat(np.maximum.reduceat(np.abs(values), starts[0], axis=0), starts[1], axis=1)
    scales = (largest / np.float32(LARGEST)).astype(np.float32)
    spread = np.repeat(np.repeat(scales, rows, axis=0), columns, axis=1)[: values.shape[0], : values.shape[1]]
    return nearest(values / spread, numbers_of_e4m3(), 128), scales


def mxfp4(values: Floats) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """[..., n] → blocks [..., n / 32, 16] and scales [..., n / 32]: the OCP Microscaling formats' (MXFP4, 6.3)."""
    parts = values.reshape(*values.shape[:-1], -1, 32)
    scales = np.floor(np.log2(np.abs(parts).max(-1))).astype(np.int32) - 2
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    codes = nearest(np.ldexp(parts, -scales[..., None]).astype(np.float32), table, 8)
    return codes[..., 0::2] | codes[..., 1::2] << 4, (scales + 127).astype(np.uint8)


def packed(how: dict[str, Any], name: str, values: Floats, plain: Stored) -> Iterator[tuple[str, Stored]]:
    """What a tensor becomes. plain: it as it would be stored otherwise."""
    if how["kind"] == "mxfp4" and name.endswith(("gate_up_proj", "down_proj")):
        blocks, exponents = mxfp4(np.ascontiguousarray(values.swapaxes(1, 2)))
        yield f"{name}_blocks", ("U8", blocks.shape, blocks.tobytes())
        yield f"{name}_scales", ("U8", exponents.shape, exponents.tobytes())
    elif how["kind"].startswith("fp8") and values.ndim == 2 and "proj" in name:
        block = {"fp8": how.get("block"), "fp8-rows": (1, values.shape[1]), "fp8-whole": values.shape}[how["kind"]]
        bits, scales = fp8(values, *block)
        yield name, ("F8_E4M3", values.shape, bits.tobytes())
        scale = f"{name}_scale" if how["kind"] == "fp8-rows" else f"{name}_scale_inv"
        yield scale, ("F32", () if how["kind"] == "fp8-whole" else scales.shape, scales.tobytes())
    else:
        yield name, plain
