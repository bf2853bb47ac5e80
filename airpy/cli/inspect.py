"""airpy inspect: what a file says about itself."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airpy.cli import common
from airpy.sizes import format_size
from airpy.text import printable

if TYPE_CHECKING:
    from airpy._core import GGUF

_SHORT = 8  # longer arrays are told by their length
_EXAMPLES = """\
  airpy inspect model.gguf
  airpy inspect model.gguf --tensors
  airpy inspect model.gguf --json | jq .metadata"""


def add(commands: common.Commands) -> None:
    what = "Prints a file's metadata, types and sizes, or what they would be of the one that is made of a checkpoint. Reads headers only."
    parser = common.command(commands, "inspect", "what a file holds", what, _EXAMPLES)
    common.add_model(parser)
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from airpy import _core

    with common.find_header(args) as header:
        facts = describe(_core.GGUF(header.path), tensors=args.tensors)
    if not header.made:
        facts["paths"] = []
    if args.json:
        common.print_json(facts)
    else:
        for line in _lines(facts):
            print(printable(line))
    return 0


def describe(gguf: GGUF, *, tensors: bool) -> dict[str, Any]:
    from airpy import _core

    metadata = {key: _plain(value) for key, value in gguf.metadata.items()}
    arch = metadata.get("general.architecture")
    sizes: Counter[str] = Counter()
    for _, kind, _, _, _, size in gguf.tensors:
        sizes[kind] += size
    facts: dict[str, Any] = {
        "paths": gguf.paths,
        "version": gguf.version,
        "bytes": gguf.bytes,
        "alignment": gguf.alignment,
        "architecture": arch,
        "supported": arch in _core.ARCHITECTURES,
        "supported_architectures": list(_core.ARCHITECTURES),
        "parameters": sum(math.prod(shape) for _, _, shape, *_ in gguf.tensors),
        "types": dict(sizes.most_common()),
        "tensor_count": len(gguf.tensors),
        "metadata": metadata,
    }
    if tensors:
        facts["tensors"] = [
            {"name": name, "type": kind, "shape": list(shape), "part": part, "offset": offset, "bytes": size}
            for name, kind, shape, part, offset, size in gguf.tensors
        ]
    return facts


def _plain(value: Any) -> Any:
    """A value as JSON has it, which knows no infinity; a long array as its length."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (str, int, float)):
        return value
    values = value if isinstance(value, list) else memoryview(value)
    if len(values) > _SHORT:
        return {"length": len(values)}
    return [_plain(item) for item in values]


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    known = "supported" if facts["supported"] else f"not supported; supported are {', '.join(facts['supported_architectures'])}"
    files = "1 file" if len(facts["paths"]) == 1 else f"{len(facts['paths'])} files"
    types = ", ".join(f"{kind} {format_size(size)}" for kind, size in facts["types"].items())
    kind, size = f"GGUF {facts['version']}", format_size(facts["bytes"])
    yield f"{facts['paths'][0]}: {kind}, {files}, {size}" if facts["paths"] else f"a checkpoint, which would be {kind} of {size}"
    yield f"architecture {facts['architecture']}: {known}"
    yield f"{facts['parameters'] / 1e6:.4g} million parameters, {facts['tensor_count']} tensors: {types}"
    yield ""
    for key, value in facts["metadata"].items():
        text = f"{value['length']} values" if isinstance(value, dict) else repr(value)
        yield f"{key:<44} {text if len(text) <= 100 else text[:97] + '…'}"
    if "tensors" in facts:
        yield ""
        for tensor in facts["tensors"]:
            shape = " x ".join(map(str, tensor["shape"]))
            yield f"{tensor['name']:<40} {tensor['type']:<8} {shape:<20} {format_size(tensor['bytes']):>10}"
