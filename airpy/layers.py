"""What each layer took, from the engine's sums: profiling_mode's table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airpy.sizes import format_size, format_time

Times = tuple[Sequence[int], Sequence[int]]  # computing and waiting ns, by layer, the last entry outside of layers
_BLOCK = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class LayerProfile:
    """Of one call. load: bytes that a pass reads of each layer as planned (experts, which are read as they are asked for, are not in it);
    compute_s, stall_s: seconds over all passes; all by layer, then what is outside of layers. disk_bytes: what was read in fact."""

    passes: int
    load: list[int]
    compute_s: list[float]
    stall_s: list[float]
    disk_bytes: int

    @classmethod
    def between(cls, before: Times, after: Times, passes: int, disk_bytes: int, solved: Mapping[str, Any]) -> LayerProfile:
        """before, after: an engine's layer_totals(). solved: its plan."""
        compute, stall = ([(b - a) / 1e9 for a, b in zip(*pair, strict=True)] for pair in zip(before, after, strict=True))
        return cls(passes, _planned_load(solved, len(compute) - 1), compute, stall, disk_bytes)

    def __str__(self) -> str:
        total = sum(self.compute_s) + sum(self.stall_s)
        lines = [
            f"{self.passes} passes, {format_time(total)}: compute {format_time(sum(self.compute_s))}, stall "
            f"{format_time(sum(self.stall_s))}, {format_size(self.disk_bytes)} read from disk",
            f"{'layer':<10}{'load a pass':>14}{'compute':>12}{'stall':>12}{'of the time':>14}",
        ]
        names = [*map(str, range(len(self.load) - 1)), "outside"]
        for name, load, compute, stall in zip(names, self.load, self.compute_s, self.stall_s, strict=True):
            share = 100 * (compute + stall) / total if total else 0.0
            lines.append(f"{name:<10}{format_size(load):>14}{format_time(compute):>12}{format_time(stall):>12}{share:>12.1f} %")
        return "\n".join(lines)


def _planned_load(solved: Mapping[str, Any], layers: int) -> list[int]:
    load = [0] * (layers + 1)
    for name, _, size, tiles, pinned, device in solved["weights"] if solved["io"] == "direct" else ():
        layer = _BLOCK.match(name)
        if tiles:
            load[int(layer[1]) if layer else layers] += size * (tiles - pinned - device) // tiles
    return load
