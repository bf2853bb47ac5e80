"""A GGUF file as another one with fewer bits: what would become of each tensor, and doing it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from airpy import _core
from airpy.errors import ArgumentError
from airpy.files import PathLike, check_output, checked_path, find_model
from airpy.gguf_writer import Entry, TensorInfo, Type, entries_of
from airpy.progress import Progress, check_progress, progress_for_call
from airpy.quantization.mixes import ALIASES, MIXES, Mix, choose_types, facts_of, find_mix, is_quantized
from airpy.quantization.stream import SourceFiles, write_model
from airpy.sizes import check_count

_QUANTIZATION_VERSION = 2  # ggml.h: GGML_QNT_VERSION
_U32: Type = ("u32", None)
_SPLIT = ("split.no", "split.count", "split.tensors.count")
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_MIB = 1 << 20


@dataclass(frozen=True)
class TensorChange:
    """What becomes of a tensor."""

    source: TensorInfo
    target: TensorInfo
    part: int  # of the source's files
    offset: int  # in it


@dataclass(frozen=True)
class QuantizePlan:
    """What quantize() does; made by plan_quantize(), which reads headers only, done by write()."""

    output: str
    mix: Mix
    tensors: list[TensorChange]
    _gguf: _core.GGUF = field(repr=False)

    @property
    def source_bytes(self) -> int:
        """Of all tensors, as target_bytes."""
        return sum(tensor.source.bytes for tensor in self.tensors)

    @property
    def target_bytes(self) -> int:
        return sum(tensor.target.bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.target_bytes / max(1, sum(tensor.target.elements for tensor in self.tensors))

    def write(self, *, threads: int | None = None, progress: Progress = "auto") -> int:
        """Writes the file; its bytes. progress: as from_pretrained() has it, of MiB of weights (as float32) instead of layers."""
        threads, progress = check_count("threads", threads, _core.MAX_THREADS), check_progress(progress)
        bar = progress_for_call(progress, " MiB")

        def report(done: int, total: int, name: str) -> None:
            bar.note = name
            bar(4 * done // _MIB, max(1, 4 * total // _MIB), 0, 1)

        with SourceFiles(self._gguf.paths) as files, bar:
            return write_model(
                self.output,
                self._entries(),
                [files.tensor(tensor.source, tensor.part, tensor.offset) for tensor in self.tensors],
                [tensor.target.type for tensor in self.tensors],
                threads=threads or 0,
                alignment=self._gguf.alignment,
                report=report,
            )

    def _entries(self) -> Iterator[Entry]:
        """The source's own metadata, less what says that it is split, with the new type."""
        changes: dict[str, tuple[Type, Any] | None] = dict.fromkeys(_SPLIT)
        changes |= {"general.quantization_version": (_U32, _QUANTIZATION_VERSION), "general.file_type": (_U32, self.mix.file_type)}
        return entries_of(self._gguf.metadata, self._gguf.types, changes)


def plan_quantize(
    model: PathLike,
    type: str,
    output: PathLike | None = None,
    *,
    tensor_types: Iterable[tuple[str, str]] = (),
    pure: bool = False,
    allow_requantize: bool = False,
    overwrite: bool = False,
) -> QuantizePlan:
    """Arguments of quantize(), checked."""
    mix = find_mix(type)
    gguf = _core.GGUF(find_model(model))
    sources = [(TensorInfo(name, kind, shape), part, offset) for name, kind, shape, part, offset, _ in gguf.tensors]
    infos = [info for info, _, _ in sources]
    types = choose_types(mix, infos, facts_of(gguf.metadata), overrides=tensor_types, pure=pure)
    changes = [
        TensorChange(info, TensorInfo(info.name, target, info.shape), part, offset)
        for (info, part, offset), target in zip(sources, types, strict=True)
    ]
    twice = [change for change in changes if is_quantized(change.source.type) and change.source.type != change.target.type]
    if twice and not allow_requantize:
        first = twice[0]
        raise ArgumentError(
            f"{gguf.paths[0]} is quantized already ({first.source.name} and {len(twice) - 1} more would go from {first.source.type} to "
            f"{first.target.type}), and errors add up; start from an F16, BF16 or F32 file, or allow it (allow_requantize=True, "
            f"--allow-requantize)"
        )
    path = checked_path(output) if output is not None else _default_output(gguf.paths[0], mix)
    check_output(path, overwrite, gguf.paths)
    return QuantizePlan(path, mix, changes, gguf)


def quantize(
    model: PathLike,
    type: str,
    output: PathLike | None = None,
    *,
    tensor_types: Iterable[tuple[str, str]] = (),
    pure: bool = False,
    allow_requantize: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress = "auto",
) -> str:
    """Writes a GGUF file with weights of fewer bits; its path. model: a GGUF file (any part of a split one) or a directory with one.

    type: a mix (Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q4_K_M, Q4_K_S, Q4_0, …, F16, BF16, F32), "8bit" or "4bit". output: beside the model, named
    after it, unless given. tensor_types: (regular expression, type) of tensors that shall be something else, such as
    ("ffn_down", "Q8_0"). pure: one type for all matrices. Tensors are streamed: memory is some MiB for each thread, whatever the
    model, and what is not finished leaves no file.

    Raises ArgumentError for what is quantized already, unless allow_requantize; for a file that exists, unless overwrite; FileIOError
    where the disk has no room, NumericError where a weight is not finite."""
    plan = plan_quantize(
        model, type, output, tensor_types=tensor_types, pure=pure, allow_requantize=allow_requantize, overwrite=overwrite
    )  # fmt: skip
    plan.write(threads=threads, progress=progress)
    return plan.output


def _default_output(source: str, mix: Mix) -> str:
    """Beside the source, by its name, with the mix in the place of its own, in the same case."""
    folder, name = os.path.split(source)
    stem = _PART.sub("", name.removesuffix(".gguf"))
    own = re.search(rf"[-_.]({'|'.join(sorted((*MIXES, *ALIASES), key=len, reverse=True))})$", stem, re.IGNORECASE)
    if own is None:
        return os.path.join(folder, f"{stem}-{mix.name}.gguf")
    new = mix.name.lower() if own[1].islower() else mix.name
    return os.path.join(folder, f"{stem[: own.start(1)]}{new}.gguf")
