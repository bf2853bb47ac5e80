"""A profile: what each thread did while a model worked, as a table per layer, as arrays, and as a trace for a viewer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from airpy import _core
from airpy.errors import StateError, system_errors
from airpy.files import PathLike, checked_path
from airpy.html import Cell, bars, table_of
from airpy.sizes import check_count, format_rate, format_size, format_time
from airpy.spans import Spans
from airpy.text import printable

if TYPE_CHECKING:
    from airpy.model import Model

EVENT_BYTES = 40
MOST_BYTES = 16 << 20  # of a log, where nobody asked for a size
LEAST_SHARE = 16  # and of max_ram no more than one part of so many
EVENT = np.dtype(
    [("begin_ns", "<u8"), ("end_ns", "<u8"), ("bytes", "<u8"), ("kind", "<u2"), ("lane", "<u2"), ("layer", "<i4"), ("weight", "<i4"),
     ("number", "<i4")]
)  # fmt: skip
_READS, _LAYERS = 256, 320  # lanes, as csrc/platform/timeline.h has them
_KIND = {name: kind for kind, name in enumerate(_core.EVENT_KINDS)}
_READ_KINDS = [_KIND[name] for name in ("read", "expert", "row")]
_LAYER_KINDS = [_KIND[name] for name in ("layer", "device")]
_PARTS = ("rows", "attention", "products", "experts")  # of stages, one a thread
_NUMBERS = {"pass": "rows", "sample": "sequences", "read": "tile", "stall": "tile", "expert": "expert", **dict.fromkeys(_PARTS, "ops")}
_PYTHON = 1000  # thread numbers of a trace from here on: Python's


def default_events(budget: int) -> int:
    """How many events a profile has room for under a max_ram."""
    return max(1024, min(MOST_BYTES, budget // LEAST_SHARE) // EVENT_BYTES)


class Profile:
    """Made by Model.profile(), for use in `with`. Afterwards: table(), save(), print() and events.

    events: one row for each thing that a thread of the engine did, an array with fields begin_ns and end_ns (of time.monotonic_ns()),
    bytes, kind (a number; kinds has the names), lane (a thread; lanes has the names), layer, weight (weights has the names) and
    number (of a read's tile or expert, of a pass's rows, of a sampling's sequences, of a part's ops), -1 where there is none. Sorted by
    lane, then begin. spans: (name, begin, end, thread) of Python's part. dropped: what there was no room for (max_events).
    disk_bytes, ram_bytes, stall_s: what stats() counted in the same time; the sums over events say the same."""

    kinds = _core.EVENT_KINDS

    def __init__(self, model: Model, max_events: int | None = None) -> None:
        self._model, self._max_events = model, check_count("max_events", max_events, 1 << 28) or default_events(model._budget)
        self._name, self._n_layers = model.config.name or model.config.model_type, model.config.num_hidden_layers
        self._state = "new"
        self._figures: Mapping[str, int] = {}
        self.spans: list[tuple[str, int, int, int]] = []
        self.events: npt.NDArray[Any] = np.empty(0, EVENT)
        self.weights: tuple[str, ...] = ()
        self.dropped = 0

    # -- life -----------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Profile:
        """Raises StateError where another profile of the model is being taken, or this one was; BudgetError where max_ram has no room."""
        if self._state != "new":
            raise StateError("a profile is taken once; ask model.profile() for another one")
        model = self._model
        model._check_open()
        model._engine.timeline_begin(self._max_events)
        self._state = "running"
        self._python = Spans(self._max_events)
        model._profile, model.tokenizer.spans = self, self._python
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def end(self) -> None:
        """Takes what there is, as leaving the block does, and closing the model. Waits for the pass under way. Idempotent."""
        if self._state != "running":
            return
        model, self._state = self._model, "ending"
        try:
            data, self._figures = model._engine.timeline_stop()
        except BaseException:  # Ctrl-C, while it waited for another thread's pass: another try takes it
            self._state = "running"
            raise
        self._state = "taken"
        model._profile = model.tokenizer.spans = None
        self.weights = model._engine.weight_names
        events = np.asarray(data).view(EVENT)
        self.events = events[np.lexsort((-events["end_ns"].astype(np.int64), events["begin_ns"], events["lane"]))]
        self.spans = sorted(self._python.rows, key=lambda row: (row[3], row[1], -row[2]))
        self.dropped = self._figures["dropped"] + self._python.dropped

    # -- figures --------------------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """From its begin to its end."""
        return (self._figures["end_ns"] - self._figures["begin_ns"]) / 1e9 if self._figures else 0.0

    @property
    def disk_bytes(self) -> int:
        return self._figures.get("disk_bytes", 0)

    @property
    def ram_bytes(self) -> int:
        return self._figures.get("ram_bytes", 0)

    @property
    def stall_s(self) -> float:
        """How long passes waited for reads."""
        return self._figures.get("stall_ns", 0) / 1e9

    @property
    def read_s(self) -> float:
        """Sum over reads, of which several are under way at once."""
        return self._figures.get("read_ns", 0) / 1e9

    @property
    def passes(self) -> int:
        return int(self._of("pass").size)

    @property
    def pass_s(self) -> float:
        return float(_durations(self._of("pass")).sum() / 1e9)

    @property
    def lanes(self) -> dict[int, str]:
        """Names of the threads that there are events of."""
        return {int(lane): _lane_name(int(lane)) for lane in np.unique(self.events["lane"])}

    def _of(self, *kinds: str) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = self.events[np.isin(self.events["kind"], [_KIND[kind] for kind in kinds])]
        return found

    def table(self) -> list[dict[str, Any]]:
        """A row for each layer and, last, one for what is outside of layers (embedding, output): layer (None there), wall_ms (of passes:
        compute_ms and stall_ms, what they waited for reads), read_bytes and read_ms (summed over reads, of which several are under way
        at once, most while other layers compute). Sums over all passes."""
        wall = self._by_layer(_LAYER_KINDS, None)
        stall = self._by_layer([_KIND["stall"]], None)
        read = self._by_layer(_READ_KINDS, None)
        size = self._by_layer(_READ_KINDS, "bytes")
        rows = []
        for i in range(self._n_layers + 1):
            compute = max(0.0, float(wall[i] - stall[i]))
            rows.append({
                "layer": i if i < self._n_layers else None, "wall_ms": wall[i] / 1e6, "compute_ms": compute / 1e6,
                "stall_ms": stall[i] / 1e6, "read_bytes": int(size[i]), "read_ms": read[i] / 1e6,
            })  # fmt: skip
        return rows

    def _by_layer(self, kinds: list[int], field: str | None) -> npt.NDArray[np.float64]:
        """Sums of a field, or of durations, by layer; the last: outside."""
        events = self.events[np.isin(self.events["kind"], kinds)]
        layers = np.where(events["layer"] < 0, self._n_layers, events["layer"])
        values = _durations(events) if field is None else events[field]
        return np.bincount(layers, values.astype(np.float64), self._n_layers + 1).astype(np.float64)  # an empty one counts whole numbers

    def by_kind(self) -> dict[str, float]:
        """Seconds of each kind of event, summed over threads. What a thread waits within its part of a stage (stall, idle) is not the
        part's."""
        sums = {name: float(_durations(self._of(name)).sum() / 1e9) for name in self.kinds if name}
        waits, parts = self._of("stall", "idle"), self._of(*_PARTS)
        for lane in np.unique(waits["lane"]):
            mine, those = parts[parts["lane"] == lane], waits[waits["lane"] == lane]
            last = np.searchsorted(mine["begin_ns"], those["begin_ns"], side="right") - 1
            inside = (last >= 0) & (those["end_ns"] <= mine["end_ns"][last]) if mine.size else np.zeros(those.size, bool)
            for wait, kind in zip(_durations(those[inside]).tolist(), mine["kind"][last[inside]].tolist(), strict=True):
                sums[self.kinds[kind]] -= wait / 1e9
        return {name: value for name, value in sums.items() if value}

    # -- as text --------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        if self._state != "taken":
            return f"Profile({printable(self._name)}, {'being taken' if self._state == 'running' else 'not taken yet'})"
        return f"Profile({printable(self._name)}, {self.passes} passes, {format_time(self.seconds)}, {self.events.size} events)"

    def _head(self) -> str:
        parts = [
            f"{printable(self._name)}: {self.passes} passes of {format_time(self.pass_s / max(1, self.passes))}, "
            f"{format_time(self.pass_s)} of {format_time(self.seconds)} in all"
        ]
        if self.disk_bytes:
            rate = format_rate(self.disk_bytes / self.seconds)
            parts.append(f"{format_size(self.disk_bytes)} read from disk at {rate}, for which passes waited {format_time(self.stall_s)}")
        if self.dropped:
            parts.append(f"{self.dropped} events dropped for want of room: what follows lacks them; give max_events")
        return "; ".join(parts)

    def __str__(self) -> str:
        if self._state != "taken":
            return repr(self)
        lines = [self._head(), "", f"{'layer':<9}{'wall':>11}{'compute':>11}{'stalled':>11}{'read':>12}{'read at':>13}"]
        for row in self.table():
            name = "outside" if row["layer"] is None else str(row["layer"])
            cells = [format_time(row[key] / 1e3) for key in ("wall_ms", "compute_ms", "stall_ms")]
            lines.append(f"{name:<9}" + "".join(f"{cell:>11}" for cell in cells) + f"{format_size(row['read_bytes']):>12}{_rate(row):>13}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        if self._state != "taken":
            return table_of(repr(self), [], [])
        rows, most = self.table(), max((row["wall_ms"] for row in self.table()), default=0.0)
        cells: list[list[Cell]] = []
        for row in rows:
            parts = [("compute", row["compute_ms"]), ("stalled", row["stall_ms"])]
            cells.append([
                "outside" if row["layer"] is None else row["layer"], bars(parts, most or 1.0), format_time(row["wall_ms"] / 1e3),
                format_time(row["compute_ms"] / 1e3), format_time(row["stall_ms"] / 1e3), format_size(row["read_bytes"]), _rate(row),
            ])  # fmt: skip
        return table_of(self._head(), ["layer", "compute, stalled", "wall", "compute", "stalled", "read", "read at"], cells)

    # -- as a trace -----------------------------------------------------------------------------------------------------

    def save(self, path: PathLike) -> None:
        """Writes a trace in Chrome's format (JSON), for https://ui.perfetto.dev or chrome://tracing: a line for each thread. Raises
        FileIOError, and StateError before it was taken."""
        if self._state != "taken":
            raise StateError("the profile is not taken yet; save it behind its `with`")
        with system_errors(), open(checked_path(path), "w", encoding="utf-8") as file:
            file.write('{"displayTimeUnit":"ms","traceEvents":[\n')
            file.write(",\n".join(self._trace()))
            file.write("\n],\n")
            facts = {"model": printable(self._name), "airpy": _core.VERSION, "dropped": self.dropped, **self._figures}
            file.write(f'"otherData":{json.dumps({key: str(value) for key, value in facts.items()})}}}\n')

    def _trace(self) -> Iterator[str]:
        """Events of the trace, a text each."""
        yield _meta("process_name", 0, name=f"airpy: {printable(self._name)}")
        threads = {thread: _PYTHON + i for i, thread in enumerate(self._python.threads)}
        for thread, tid in threads.items():
            yield _meta("thread_name", tid, name=f"Python {self._python.threads[thread]}")
            yield _meta("thread_sort_index", tid, sort_index=tid - _PYTHON - len(threads))
        for lane, name in self.lanes.items():
            yield _meta("thread_name", lane, name=name)
            yield _meta("thread_sort_index", lane, sort_index=lane)
        start = min([self._figures["begin_ns"], *self.events["begin_ns"].tolist()])  # a read may have been under way
        for name, begin, end, thread in self.spans:
            yield _complete(json.dumps(name), "python", begin - start, end - begin, threads[thread], "{}")
        names: dict[tuple[int, int, int, int], tuple[str, str]] = {}
        for begin, end, size, kind, lane, layer, weight, number in self.events.tolist():
            key = kind, layer, weight, number
            if key not in names:
                names[key] = self._name_of(*key)
            title, args = names[key]
            args = f'"bytes":{size}{args}' if kind in _READ_KINDS else args[1:]  # none: it failed, or was given up
            yield _complete(title, self.kinds[kind], begin - start, end - begin, lane, f"{{{args}}}")

    def _name_of(self, kind: int, layer: int, weight: int, number: int) -> tuple[str, str]:
        """A title and further arguments, as JSON."""
        name = self.kinds[kind]
        facts: dict[str, Any] = {"layer": layer} if layer >= 0 else {}
        what = printable(self.weights[weight]) if weight >= 0 else ""
        if what:
            facts["weight"] = what
        if number >= 0:
            facts[_NUMBERS.get(name, "number")] = number
        title = f"{name} {what}".strip()
        if name in ("pass", "sample") and number >= 0:
            title = f"{name} of {number}"
        elif name in ("layer", "device"):
            title = f"{name} {layer}" if layer >= 0 else f"{name}: embedding, output"
        elif name == "expert":
            title = f"{name} {number} {what}"
        elif name == "stall" and not what:
            title = f"stall: experts of layer {layer}"
        return json.dumps(title), "".join(f",{json.dumps(key)}:{json.dumps(value)}" for key, value in facts.items())


def _durations(events: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    found: npt.NDArray[np.uint64] = events["end_ns"] - events["begin_ns"]
    return found


def _rate(row: Mapping[str, Any]) -> str:
    return format_rate(row["read_bytes"] / row["read_ms"] * 1e3) if row["read_ms"] else ""


def _lane_name(lane: int) -> str:
    if lane >= _LAYERS:
        return "layers"
    if lane >= _READS:
        return f"reads {lane - _READS + 1}"
    return f"compute {lane}" if lane else "passes, compute 0"


def _meta(what: str, tid: int, **args: Any) -> str:
    return json.dumps({"name": what, "ph": "M", "pid": 1, "tid": tid, "args": args})


def _complete(title: str, category: str, begin_ns: int, ns: int, tid: int, args: str) -> str:
    times = f'"ts":{begin_ns / 1e3:.3f},"dur":{ns / 1e3:.3f}'
    return f'{{"name":{title},"cat":"{category}","ph":"X",{times},"pid":1,"tid":{tid},"args":{args}}}'
