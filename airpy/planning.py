"""The plan of a model: what stays in memory, what streams, how long a pass takes; as an object, a text and a file."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from airpy import _core
from airpy.device import Gpu
from airpy.errors import AirpyError, ArgumentError, ArgumentTypeError, system_errors
from airpy.files import PathLike, checked_path
from airpy.sizes import format_rate, format_size, format_speed, format_time
from airpy.text import printable

FORMAT = "airpy plan 5"
# Options of the engine that a plan fixes: as they were solved, and as they were given, 0 or "" for a default, which is chosen again.
_SOLVED = ("io", "n_ctx", "max_rows", "tile_bytes", "ring_bytes")
_GIVEN = ("max_ram", "max_vram", "cpu_share", "threads", "tier", "kv_dtype")
_LAYER_PART = re.compile(r"blk\.\d+\.(\w+?)(?:_\w+)?\.(?:weight|bias)$")
_CLASSES = {"attn": "attention", "ffn": "feed-forward"}
_EXPERTS = re.compile(r"blk\.\d+\.ffn_\w+_exps\.weight$")
_COUNTS = (
    "budget", "fixed", "n_ctx", "max_rows", "tile_bytes", "ring_bytes", "block_bytes", "depth", "weight_bytes", "pin_bytes",
    "pin_bytes_full", "state_bytes_full", "recurrent_bytes", "activation_bytes", "activation_bytes_full", "logit_bytes",
    "device_budget", "device_fixed",
    "n_device_tiles", "device_pin_bytes", "device_weight_bytes", "device_ring_bytes", "device_state_bytes", "device_activation_bytes",
    "device_activation_bytes_full", "device_part_bytes", "n_host_tiles", "host_weight_bytes", "share_bytes", "staging_bytes",
    "away_blocks", "device_shuttle_bytes", "device_graph_bytes", "expert_weight_bytes", "expert_token_bytes", "expert_bytes",
    "expert_bytes_full", "device_expert_bytes",
)  # fmt: skip
_HELPER = ("budget", "fixed", "buffer_bytes", "ring_bytes", "pin_bytes", "weight_bytes", "linked_bytes", "n_tiles", "linked_tiles")
_WORK = ("weight_bytes", "linked_bytes", "link_s", "device_s")
_BUSY = 0.95  # of a token's time: a device that is at work so long is not said to be idle
_SECONDS = ("disk_s", "link_s", "device_s", "compute_s", "pass_s", "full_s", "prompt_s")
_STATES = ("f16", "f32", "q8_0", "q4_0")
_BOUNDS = ("disk", "link", "device", "compute")
_RATE_OF = {"compute": "memory"}  # bandwidths by what is bound by them, where that has another name
_CALLED = {"disk": "the disk", "link": "the link", "device": "the device", "compute": "the CPU"}


def fingerprint(gguf: _core.GGUF) -> str:
    """What a plan belongs to: names, types and shapes of all tensors; not the path, not the values."""
    import hashlib

    facts = [(name, kind, shape) for name, kind, shape, *_ in gguf.tensors]
    return hashlib.sha256(json.dumps(facts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


class Plan:
    """An immutable record. str(plan) is what `airpy plan` prints; plan.save(path), Plan.load(path) and
    AutoModel.from_pretrained(…, plan=plan) keep and reuse it."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        """From to_dict()'s form. Raises ArgumentError for anything else."""
        self._data = _checked(data)

    @classmethod
    def build(
        cls, gguf: _core.GGUF, metadata: Mapping[str, Any], solved: Mapping[str, Any], options: Mapping[str, Any], gpus: Sequence[Gpu] = ()
    ) -> Plan:
        """From what the engine solved under `options`; solves for more memory as well. gpus: what it is for, if those are
        this machine's."""
        arch = str(metadata.get("general.architecture", ""))
        name = str(metadata.get("general.name", "")) or os.path.basename(gguf.paths[0])
        data: dict[str, Any] = {
            "format": FORMAT,
            "model": {
                "name": name.encode("utf-8", "replace").decode(), "arch": arch, "fingerprint": fingerprint(gguf),
                "file_bytes": gguf.bytes, "layers": metadata.get(f"{arch}.block_count", 0),
            },
            "devices": [gpu.kind for gpu in gpus],
            "options": {name: list(options[name]) if isinstance(options[name], tuple) else options[name] for name in _GIVEN},
            "bandwidths": dict(options.get("bandwidths") or {}),
            "plan": {**solved, "weights": [list(row) for row in solved["weights"]]},
            "more_ram": [],
            "more_vram": [],
        }  # fmt: skip
        plan = cls(data)
        data["more_ram"] = plan._outlook(gguf, options, "max_ram", plan["budget"], plan.lacking_bytes)
        if plan.on_device:
            data["more_vram"] = plan._outlook(gguf, options, "max_vram", plan["device_budget"], plan.lacking_vram)
        return cls(data)

    @classmethod
    def load(cls, path: PathLike) -> Plan:
        """From a file that save() wrote. Raises FileIOError, or ArgumentError where it is something else."""
        with system_errors(), open(checked_path(path), encoding="utf-8") as file:
            try:
                return cls(json.load(file))
            except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
                raise ArgumentError(f"{os.fspath(path)} is not a plan: {error}") from None

    @classmethod
    def of(cls, plan: Plan | Mapping[str, Any] | PathLike) -> Plan:
        """A plan from whatever form `plan=` takes: itself, its dict or its file."""
        if isinstance(plan, Plan):
            return plan
        if not isinstance(plan, (Mapping, str, bytes, os.PathLike)):
            raise ArgumentTypeError(f"plan is {type(plan).__name__}; expected a Plan, its dict or the path of its file")
        return cls(plan) if isinstance(plan, Mapping) else cls.load(plan)

    def save(self, path: PathLike) -> None:
        """Writes it as JSON. Raises FileIOError."""
        with system_errors(), open(checked_path(path), "w", encoding="utf-8") as file:
            json.dump(self.to_dict(), file, indent=1)
            file.write("\n")

    def to_dict(self) -> dict[str, Any]:
        """Plain data: model, devices (name, capability and driver of each GPU), options, bandwidths, plan (sizes in bytes, times in
        seconds), more_ram, more_vram."""
        copy: dict[str, Any] = json.loads(json.dumps(self._data))
        copy["predicted_tok_s"] = self.predicted_tok_s
        return copy

    def __getitem__(self, key: str) -> Any:
        """A figure of the engine's plan by its name, such as plan["pin_bytes"]."""
        return self._data["plan"][key]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self._data == other._data

    def __hash__(self) -> int:
        return hash(json.dumps(self._data, sort_keys=True))

    def __repr__(self) -> str:
        vram = f"max_vram={self._text_vram()}, " if self.on_device else ""
        ram = f"max_ram={format_size(self['budget'])}, "
        return f"Plan({printable(self.model['name'])}, {vram}{ram}io={self['io']}, bound={self.bound})"

    @property
    def model(self) -> dict[str, Any]:
        return dict(self._data["model"])

    @property
    def bandwidths(self) -> dict[str, Any]:
        return dict(self._data["bandwidths"])

    @property
    def bound(self) -> str:
        """What bounds a pass: "disk", "link" (to a device), "device" or "compute" (of the CPU)."""
        return str(self["bound"])

    @property
    def on_device(self) -> bool:
        """Whether a device with memory of its own computes, and weights may lie there."""
        return bool(self["device_budget"])

    @property
    def devices(self) -> list[dict[str, Any]]:
        """Name, compute capability and driver of each GPU that it was made for, the first with the KV cache; []: the CPU, or a machine that
        was described."""
        return [dict(device) for device in self._data["devices"]]

    @property
    def device_name(self) -> str:
        names = [printable(device["name"]) for device in self._data["devices"]]
        if not names and self.on_device:
            return "a GPU" if self.n_devices == 1 else f"{self.n_devices} GPUs"
        if len(names) > 1 and len(set(names)) == 1:
            return f"{len(names)} x {names[0]}"
        return " + ".join(names) or "a CPU"

    @property
    def n_devices(self) -> int:
        """GPUs that it was made for, whether or not all have a part; 1 of a plan for the CPU."""
        vram = self._data["options"]["max_vram"]
        return max(len(self._data["devices"]), len(vram) if isinstance(vram, (list, tuple)) else 1, len(self["work"]))

    @property
    def away_bytes(self) -> int:
        """Weight bytes that no device holds, experts of mixtures apart."""
        return self["weight_bytes"] - self["device_weight_bytes"] if self.on_device else 0

    @property
    def linked_bytes(self) -> int:
        """Weight bytes that cross the link to the device, or several links, in a pass of a token; the CPU computes with the others."""
        return self.away_bytes - self["host_weight_bytes"] if self.on_device else 0

    @property
    def lacking_vram(self) -> int:
        """Weight bytes that are not in VRAM: more of it would keep them."""
        return self.away_bytes + max(0, self["expert_weight_bytes"] - self["device_expert_bytes"]) if self.on_device else 0

    @property
    def _linked_experts(self) -> int:
        """Bytes of experts that a token is expected to bring over the link."""
        return int(self["expert_token_bytes"] * (1 - self["device_expert_hit"])) if self.on_device else 0

    @property
    def streamed_bytes(self) -> int:
        """Weight bytes that a pass of one token reads from disk, with an empty context; of experts, as many as are expected."""
        return 0 if self["io"] == "mmap" else self._streamed_tiles + int(self["expert_token_bytes"] * (1 - self["expert_hit"]))

    @property
    def lacking_bytes(self) -> int:
        """Weight bytes that are not in memory: more of it would keep them, with an empty context."""
        held = self["expert_bytes"] + self["device_expert_bytes"]
        return 0 if self["io"] == "mmap" else self._streamed_tiles + max(0, self["expert_weight_bytes"] - held)

    @property
    def _streamed_tiles(self) -> int:
        left: int = self["weight_bytes"] - self["device_weight_bytes"] - self["pin_bytes"]
        return max(0, left)

    @property
    def has_experts(self) -> bool:
        return bool(self["expert_weight_bytes"])

    @property
    def predicted_tok_s(self) -> float | None:
        """Tokens per second of one sequence with an empty context; None where no bandwidth is known, nor how fast what bounds it is: what
        is known of it beside its bytes is no prediction."""
        return 1 / self["pass_s"] if self["pass_s"] > 0 and self.bound not in self._unknown else None

    @property
    def _moved(self) -> dict[str, int]:
        """Bytes of weights that a token takes through each resource beside a device; without one {}."""
        if not self.on_device:
            return {}
        here = self["host_weight_bytes"]
        device, link = self["weight_bytes"] - here + self["expert_token_bytes"], self.linked_bytes + self._linked_experts
        return {"device": device, "link": link, "compute": here, "disk": self.streamed_bytes}

    @property
    def _unknown(self) -> list[str]:
        """Those of them that no rate is known of, so that what they take is not in the plan's times."""
        rates = self.bandwidths
        tables = {"device": "device_product", "compute": "product"}
        known = {name: rates.get(_RATE_OF.get(name, name)) or rates.get(tables.get(name, "")) for name in self._moved}
        return [name for name, size in self._moved.items() if size and not known[name]]

    def engine_options(self, gguf: _core.GGUF) -> dict[str, Any]:
        """The engine's options that give this plan again. Raises ArgumentError if gguf is another model."""
        if fingerprint(gguf) != self._data["model"]["fingerprint"]:
            raise ArgumentError(f"the plan is for {self.model['name']!r} with other tensors than {gguf.paths[0]}; make a new one")
        options = {name: self._data["options"][name] for name in _GIVEN} | {name: self[name] for name in _SOLVED}
        if isinstance(options["max_vram"], list):
            options["max_vram"] = tuple(options["max_vram"])
        return options | {"bandwidths": self.bandwidths}

    def _outlook(
        self, gguf: _core.GGUF, options: Mapping[str, Any], option: str, budget: int, missing: int
    ) -> list[dict[str, Any]]:
        """What larger budgets of one memory would bring: half of what it lacks kept there, then all of it."""
        found = []
        # For a device as it is planned: one that is open has taken what it would be asked for.
        rest = {name: value for name, value in options.items() if name not in ("plugin", "device")}
        helpers = tuple(helper["budget"] for helper in self["helpers"])
        if self.on_device:
            rest["max_vram"] = (self["device_budget"], *helpers)
        for share in (0.5, 1.0) if missing else ():
            # Slack: tiles are kept whole and in whole pages.
            more = budget + int(missing * share * 1.02) + (self["tile_bytes"] if share == 1 else 0)
            try:
                memory = {option: (more, *helpers) if option == "max_vram" else more}
                solved = _core.solve_plan(gguf, **{**rest, **memory, "n_ctx": self["n_ctx"], "max_rows": self["max_rows"], "io": "direct"})
            except AirpyError:
                continue
            found.append({option: more, "share": share, "pass_s": solved["pass_s"], "bound": solved["bound"]})
        return found

    @property
    def homes(self) -> dict[str, int]:
        """Where the weights that passes use lie with an empty context: bytes in "VRAM", in "RAM" and on "disk", from where they stream; of
        a mapped file all are the "page cache"'s. A table that is only read by row is left out."""
        total = self["weight_bytes"] + self["expert_weight_bytes"]
        if self["io"] == "mmap":
            return {"page cache": total}
        vram, disk = self["device_weight_bytes"], self.lacking_bytes
        return {"VRAM": vram, "RAM": total - vram - disk, "disk": disk} if self.on_device else {"RAM": total - disk, "disk": disk}

    # -- in a notebook --------------------------------------------------------------------------------------------------

    def _repr_html_(self) -> str:
        from airpy.html import Cell, bars, homes_of, table_of

        rows: list[list[Cell]] = [
            [label, types, bars([(label, size)], max(1, self["weight_bytes"])), format_size(size), *shares]
            for label, types, size, shares in self._weight_rows()
        ]
        speed = f", {format_speed(self.predicted_tok_s)} predicted, bound by the {self.bound}" if self.predicted_tok_s else ""
        weights = table_of(f"{self._text_head()[1]}{speed}", ["weights", "type", "", "bytes", *self._columns], rows)
        return homes_of(self._text_head()[0], self.homes) + weights

    # -- as text --------------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        parts = [self._text_head(), self._text_weights(), self._text_memory(), self._text_devices(), self._text_time()]
        return "\n\n".join("\n".join(map(printable, lines)) for lines in parts if lines)  # names are a file's, or an edited plan's

    def _text_vram(self) -> str:
        budgets = [self["device_budget"], *(helper["budget"] for helper in self["helpers"])]
        return " + ".join(map(format_size, budgets))

    def _text_head(self) -> list[str]:
        kinds = sorted({kind for _, kind, _, tiles, *_ in self["weights"] if tiles})
        how = {"mmap": "mapped, the page cache keeps it", "direct": "direct reads past the page cache"}[self["io"]]
        vram = f"{self.device_name}: max_vram {self._text_vram()}, " if self.on_device else "the CPU computes: "
        return [
            f"{self.model['name']}: {self.model['arch']}, {self.model['layers']} layers, {', '.join(kinds)}; "
            f"a token reads {format_size(self['weight_bytes'] + self['expert_token_bytes'])} of weights",
            f"{vram}max_ram {format_size(self['budget'])}, context {self['n_ctx']} ({self['kv_dtype']}), io {self['io']}: {how}",
        ]

    @property
    def _columns(self) -> tuple[str, ...]:
        """Where weights may be, in the order of _weight_rows()' shares."""
        return ("in VRAM", "locked RAM", "from disk") if self.on_device else ("stays", "streams")

    def _weight_rows(self) -> list[tuple[str, str, float, list[str]]]:
        """Of each class of weights: what it is called, types, bytes, and shares of it in each place, as text."""
        rows: dict[str, list[float]] = {}
        kinds: dict[str, set[str]] = {}
        for name, kind, size, tiles, pinned, device in self["weights"]:
            label = _class_of(name, tiles)
            row = rows.setdefault(label, [0, 0, 0])
            row[0] += size
            row[1] += size * device / tiles if tiles else 0
            row[2] += size * pinned / tiles if tiles else 0
            kinds.setdefault(label, set()).add(kind)
        return [
            (label, "/".join(sorted(kinds[label])), row[0], ["by row"] if label.startswith("embedding") else self._shares(*row))
            for label, row in rows.items()
        ]

    def _text_weights(self) -> list[str]:
        lines = [f"{'weights':<22}{'type':<14}{'bytes':>10}" + "".join(f"{column:>12}" for column in self._columns)]
        for label, types, size, shares in self._weight_rows():
            lines.append(f"{label:<22}{types:<14}{format_size(size):>10}" + "".join(f"{share:>12}" for share in shares))
        if self.has_experts:
            used, where = format_size(self["expert_token_bytes"]), f"{100 * self['expert_hit']:.0f} % of them are in memory"
            if self.on_device:
                where = f"{100 * self['device_expert_hit']:.0f} % of them are in VRAM, {where.replace(' of them are', '')}"
            lines.append(f"a token uses {used} of experts; {where} if all are used alike, more if some are used most")
        if self.on_device:
            size = self["weight_bytes"] + self["expert_token_bytes"]
            device = self["device_weight_bytes"] + self["expert_token_bytes"] - self._linked_experts
            homes = [device, size - device - self.streamed_bytes, self.streamed_bytes]
            sizes = "".join(f"{format_size(size):>12}" for size in homes)
            lines.append(f"{'of a pass in all':<36}{format_size(size):>10}{sizes}")
        return lines

    def _shares(self, size: float, device: float, pinned: float) -> list[str]:
        size = max(size, 1)
        shares = [device / size] if self.on_device else []
        if self["io"] == "mmap":
            return [*(f"{100 * share:.0f} %" for share in shares), "mapped"]
        shares += [pinned / size, max(0.0, size - device - pinned) / size]
        return [f"{100 * share:.0f} %" for share in shares]

    def _text_memory(self) -> list[str]:
        rows = self._memory_of_all() if self.on_device else self._memory_over_time()
        helpers: list[dict[str, int]] = self["helpers"]
        several = ["VRAM 1", *(f"VRAM {i + 2}" for i in range(len(helpers)))] if helpers else ["VRAM"]
        columns = (*several, "RAM") if self.on_device else ("empty context", "full context")
        budgets = (self["device_budget"], *(helper["budget"] for helper in helpers), self["budget"])

        def line(name: str, cells: Sequence[str]) -> str:
            return f"{name:<26}" + "".join(f"{cell:>15}" for cell in cells)

        lines = [line("memory", columns)]
        lines += [line(name, [format_size(size) for size in sizes]) for name, *sizes in rows if any(sizes)]
        total = line("in all", [format_size(sum(sizes)) for sizes in list(zip(*rows, strict=True))[1:]])
        if self.on_device:
            lines += [total, line("of", [format_size(budget) for budget in budgets])]
        else:
            lines.append(f"{total}   of {format_size(self['budget'])}")
        if self["io"] == "mmap":
            lines.append(f"{'mapped file, besides':<26}{format_size(self.model['file_bytes']):>15}")
        return lines

    def _memory_over_time(self) -> list[tuple[Any, ...]]:
        """What RAM holds with an empty and with a full context."""
        block = self["state_bytes_full"] / max(1, math.ceil(self["n_ctx"] / 64))
        return [
            ("tokenizer, small weights", self["fixed"], self["fixed"]),
            ("KV cache", block, self["state_bytes_full"]),
            ("recurrent state", self["recurrent_bytes"], self["recurrent_bytes"]),
            ("activations", self["activation_bytes"], self["activation_bytes"]),
            ("logits", self["logit_bytes"], self["logit_bytes"]),
            ("ring of weights", self["ring_bytes"] if self._streamed_tiles else 0, self["ring_bytes"]),
            ("weights that stay", self["pin_bytes"], self["pin_bytes_full"]),
            ("experts used most", self["expert_bytes"], self["expert_bytes_full"]),
        ]

    def _memory_of_all(self) -> list[tuple[Any, ...]]:
        """What VRAM, of each device, and RAM hold with a full context, but for which only KV cache in RAM would leave room for weights."""
        helpers: list[dict[str, int]] = self["helpers"]
        rows = [
            ("CUDA, small weights", self["device_fixed"], "fixed", self["fixed"]),  # and, in RAM, the tokenizer
            ("KV cache", self["device_state_bytes"], "", self["state_bytes_full"]),
            ("recurrent state", self["recurrent_bytes"], "", 0),
            ("activations", self["device_activation_bytes_full"], "buffer_bytes", self["activation_bytes_full"]),
            ("logits", 0, "", self["logit_bytes"]),
            ("results of others", self["device_part_bytes"], "", self["share_bytes"]),
            ("weights on their way", self["device_ring_bytes"], "ring_bytes", self["ring_bytes"] + self["staging_bytes"]),
            ("KV cache on its way", self["device_shuttle_bytes"], "", 0),
            ("CUDA graph", self["device_graph_bytes"], "", 0),
            ("weights that stay", self["device_pin_bytes"], "pin_bytes", self["pin_bytes_full"]),
            ("experts used most", self["device_expert_bytes"], "", self["expert_bytes_full"]),
        ]
        return [(name, one, *(helper.get(key, 0) for helper in helpers), ram) for name, one, key, ram in rows]

    def _text_devices(self) -> list[str]:
        """What each of several devices does for a token, where it is idle and why."""
        if self.n_devices < 2:
            return []
        columns = ("computes with", "over its link", "computes in", "link takes")
        lines = [f"{'each GPU, for every token':<26}" + "".join(f"{column:>15}" for column in columns)]
        for i in range(self.n_devices):
            kind = self._data["devices"][i]["name"] if i < len(self._data["devices"]) else ""
            name = f"GPU {i + 1} {kind}"[:25]
            if i < len(self["work"]):
                work = self["work"][i]
                cells = [format_size(work["weight_bytes"]), format_size(work["linked_bytes"])]
                cells += [format_time(work[key]) if work[key] else "-" for key in ("device_s", "link_s")]
                lines.append(f"{name:<26}" + "".join(f"{cell:>15}" for cell in cells) + self._text_idle(work))
            else:
                why = "the first holds all weights, and handing over to another one costs more than it saves"
                lines.append(f"{name:<26}   idle: {why}")
        if self.has_experts:
            lines.append("experts of mixtures are computed by GPU 1 alone, which has them in its VRAM and over its link")
        return lines

    def _text_idle(self, work: Mapping[str, Any]) -> str:
        busy, most = max(work["link_s"], work["device_s"]), self["pass_s"]
        if not work["weight_bytes"]:
            return "   idle: it has no room for weights that stay, and would only hold up those that stream"
        if not most or busy >= _BUSY * most:
            return ""
        slowest = max(range(len(self["work"])), key=lambda i: max(self["work"][i]["link_s"], self["work"][i]["device_s"]))
        others = {**_CALLED, "link": f"the link of GPU {slowest + 1}", "device": f"GPU {slowest + 1}"}
        return f"   idle {100 * (1 - busy / most):.0f} % of the time: {others[self.bound]} takes longer"

    def _text_time(self) -> list[str]:
        lines = [*self._text_resources(), ""] if self.on_device else [f"bandwidths    {self._text_rates()}"]
        unknown = " and ".join(_CALLED[name] for name in self._unknown)
        if self.predicted_tok_s is None:
            return [*lines, f"a token       not known: how fast {unknown} would be is not (bandwidths)"] if unknown else lines
        times = "" if self.on_device else f" (disk {format_time(self['disk_s'])}, compute {format_time(self['compute_s'])})"
        speed = f"{format_time(self['pass_s'])}, {format_speed(self.predicted_tok_s)}, bound by the {self.bound}"
        lines.append(f"a token       {speed}{times}{f', unless {unknown} takes longer, which is not known' if unknown else ''}")
        if not self.on_device or self["away_blocks"]:  # else the context has its room from the start
            lines.append(self._text_full())
        passes = math.ceil(self["n_ctx"] / self["max_rows"])
        least = " or more" if self.on_device and not self.bandwidths.get("device_product_columns") else ""  # by bytes alone
        together = f", {format_time(passes * self['prompt_s'])} in all" if passes > 1 else ""
        lines.append(
            f"a prompt      of {self['n_ctx']} tokens takes {passes} pass{'es' if passes > 1 else ''} of "
            f"{format_time(self['prompt_s'])}{least}{together}"
        )
        if self.on_device:
            lines.append(f"more VRAM     {self._text_more('max_vram', self.lacking_vram, 'is away from VRAM')}")
        lines.append(f"more RAM      {self._text_more('max_ram', self.lacking_bytes, 'streams')}")
        return lines

    def _text_resources(self) -> list[str]:
        """What a token takes of each that is at work at the same time: bytes, rate, seconds."""
        devices, unknown = len(self["work"]), self._unknown
        does = {"device": "device reads, of VRAM", "link": "link brings, from RAM", "compute": "CPU computes, in RAM", "disk": "disk reads"}
        if devices > 1:
            does |= {"device": f"{devices} devices read", "link": f"{devices} links bring"}
        lines = [f"{'for every token':<26}{'bytes':>15}{'at':>22}{'takes':>11}"]
        for name, size in self._moved.items():
            if name == "compute" and not size:
                continue
            rate, seconds = self.bandwidths.get(_RATE_OF.get(name, name)), self[f"{name}_s"]
            several = devices > 1 and name in ("device", "link")
            if seconds and size and name not in unknown and (several or name in ("device", "compute")):
                rate = size / seconds  # by products, with what they cost beside
            elif several:
                rate = 0
            at = f"{format_rate(rate)}{' in all' if several else ''}" if rate else "not known" if size or not several else "-"
            takes = format_time(seconds) if rate or (seconds and name not in unknown) else "-"
            mark = "   bounds it" if name == self.bound and self.predicted_tok_s else ""
            lines.append(f"{does[name]:<26}{format_size(size):>15}{at:>22}{takes:>11}{mark}")
        return lines

    def _text_rates(self) -> str:
        rates = self.bandwidths
        known = [f"{name} {format_rate(rates[name])}" for name in ("disk", "memory") if rates.get(name)]
        known += [f"{kind} products {format_rate(rate)}" for kind, rate in sorted(rates.get("product", {}).items()) if rate]
        return ", ".join(known) or "unknown: nothing was probed"

    def _text_full(self) -> str:
        """A token when the context is full, so that less room is left for weights."""
        full = self["full_s"]
        away = f", {format_size(self['state_bytes_full'])} of KV cache over the link" if self["away_blocks"] else ""
        return f"full context  {format_time(full)}, {format_speed(1 / full)}, before attention{away}" if full else "full context  unknown"

    def _text_more(self, option: str, missing: int, how: str) -> str:
        if not missing:
            return f"would not help: nothing {how}"
        if self.on_device and option == "max_ram" and self.bound != "disk":
            return f"would not help: the {self.bound} bounds a token"
        found = self._data["more_ram" if option == "max_ram" else "more_vram"]
        if not found:
            return f"{format_size(missing)} more would keep every weight"
        steps: list[str] = []
        for step in found:
            known = step["pass_s"] > 0 and step.get("bound") not in self._unknown
            speed = format_speed(1 / step["pass_s"]) if known else "speed unknown"
            what = f"{'all' if step['share'] == 1 else 'half'} of {'it' if steps else f'what {how} now'}"
            steps.append(f"{format_size(step[option])} keeps {what}: {speed}")
        return "; ".join(steps)


def _class_of(name: str, tiles: int) -> str:
    if _EXPERTS.match(name):
        return "experts"
    if match := _LAYER_PART.match(name):
        return _CLASSES.get(match[1], match[1])
    return "output" if tiles else "embedding table"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1 << 63  # False for NaN


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_weight(row: Any) -> bool:
    if not isinstance(row, (list, tuple)) or len(row) != 6:
        return False
    return isinstance(row[0], str) and isinstance(row[1], str) and all(map(_is_count, row[2:]))


def _is_device(device: Any) -> bool:
    if not isinstance(device, Mapping) or device.keys() != {"name", "capability", "driver"}:
        return False
    capability = device["capability"]
    numbers = isinstance(capability, list) and len(capability) == 2 and all(map(_is_count, capability))
    return isinstance(device["name"], str) and numbers and _is_count(device["driver"])


def _is_work(work: Any) -> bool:
    return isinstance(work, Mapping) and all(_is_number(work.get(name)) for name in _WORK)


def _is_step(step: Any, option: str) -> bool:
    if not isinstance(step, Mapping) or not _is_count(step.get(option)):
        return False
    return _is_number(step.get("share")) and _is_number(step.get("pass_s"))


def _checked(data: Any) -> dict[str, Any]:
    """What a stranger may have edited, made sure of."""
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise ArgumentError(f"not a plan of this version of airpy: its 'format' should be {FORMAT!r}")
    plan, model, options = data.get("plan"), data.get("model"), data.get("options")
    if not (isinstance(plan, Mapping) and isinstance(model, Mapping) and isinstance(options, Mapping)):
        raise ArgumentError("a plan has the objects 'model', 'options' and 'plan'")
    wrong = [name for name in _COUNTS if not _is_count(plan.get(name))]
    wrong += [name for name in ("max_rows",) if plan.get(name) == 0]
    wrong += [name for name in _SECONDS if not _is_number(plan.get(name))]
    wrong += [name for name in ("name", "arch", "fingerprint") if not isinstance(model.get(name), str)]
    wrong += [name for name in ("file_bytes", "layers") if not _is_count(model.get(name))]
    wrong += [name for name in ("max_ram", "threads") if not _is_count(options.get(name))]
    vram, share, helpers = options.get("max_vram"), options.get("cpu_share"), plan.get("helpers")
    if vram in ([], ()) or not all(map(_is_count, vram if isinstance(vram, (list, tuple)) else [vram])):
        wrong.append("max_vram")
    if share is not None and not (_is_number(share) and share <= 1):
        wrong.append("cpu_share")
    if not isinstance(helpers, list) or not all(isinstance(h, Mapping) and all(_is_count(h.get(n)) for n in _HELPER) for h in helpers):
        wrong.append("helpers")
    wrong += [name for name in ("tier", "kv_dtype") if not isinstance(options.get(name), str)]
    if plan.get("io") not in ("direct", "mmap"):
        wrong.append("io")
    if plan.get("kv_dtype") not in _STATES:
        wrong.append("kv_dtype")
    wrong += [name for name in ("expert_hit", "device_expert_hit") if not (_is_number(plan.get(name)) and plan[name] <= 1)]
    if plan.get("bound") not in _BOUNDS:
        wrong.append("bound")
    devices, work = data.get("devices"), plan.get("work")
    if not isinstance(devices, list) or len(devices) > _core.MAX_DEVICES or not all(map(_is_device, devices)):
        wrong.append("devices")
    computing = bool(plan.get("device_budget")) + (len(helpers) if isinstance(helpers, list) else 0)
    if not isinstance(work, list) or not all(map(_is_work, work)) or len(work) != computing:
        wrong.append("work")
    weights = plan.get("weights")
    steps = {f"more_{memory}": (data.get(f"more_{memory}", []), f"max_{memory}") for memory in ("ram", "vram")}
    if not isinstance(weights, list) or not all(map(_is_weight, weights)):
        wrong.append("weights")
    for name, (found, option) in steps.items():
        if not isinstance(found, list) or not all(_is_step(step, option) for step in found):
            wrong.append(name)
    if wrong:
        raise ArgumentError(f"the plan's {', '.join(wrong)} {'are' if len(wrong) > 1 else 'is'} missing or makes no sense")
    from airpy.calibration import check_rates

    return {
        "format": FORMAT,
        "model": dict(model),
        "devices": [dict(device) for device in devices or ()],
        "options": dict(options),
        "bandwidths": check_rates(data.get("bandwidths", {})),
        "plan": {**plan, "weights": [list(row) for row in weights or ()]},
        **{name: [dict(step) for step in found] for name, (found, _) in steps.items()},
    }
