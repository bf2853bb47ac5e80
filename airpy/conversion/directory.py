"""A model's directory as transformers has it, as one GGUF file: what would become of it, and doing it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from airpy import _core
from airpy.conversion import reranker, sentence
from airpy.conversion.config import Config
from airpy.conversion.families import find_family
from airpy.conversion.hparams import model_entries
from airpy.conversion.packed import Microscaled, Packed, weights
from airpy.conversion.safetensors import Checkpoint, Stored
from airpy.conversion.special import sampling_entries, tokenizer_entries
from airpy.conversion.tensors import source_tensors
from airpy.conversion.vocabulary import check_ids, read_vocab
from airpy.errors import FormatError, ModelError, system_errors
from airpy.files import PathLike, check_output, checked_path
from airpy.gguf_writer import Entry, GGUFWriter, TensorInfo
from airpy.progress import Progress, check_progress, progress_for_call
from airpy.quantization import MIXES, Mix, SourceTensor, choose_types, facts_of, find_mix, write_model
from airpy.quantization.stream import Report, is_written
from airpy.sizes import check_count

_MIB = 1 << 20
_NO_LIMIT = 1 << 50  # bytes of memory
_PARTIAL = ".part"
_MXFP4_FILE = 38  # LLAMA_FTYPE_MOSTLY_MXFP4_MOE


@dataclass(frozen=True)
class ConvertPlan:
    """What convert() does; made by plan_convert(), which reads headers and the tokenizer, done by write(). Use as a context: it holds the
    checkpoint's files open. type: the mix's name."""

    folder: str
    output: str
    arch: str
    mix: Mix
    tensors: list[SourceTensor]
    types: list[str]
    entries: list[Entry] = field(repr=False)
    files: Checkpoint = field(repr=False)

    @property
    def source_bytes(self) -> int:
        """Of the checkpoint's files that are tensors."""
        return sum(stored.bytes for stored in self.files.tensors.values())

    @property
    def target_bytes(self) -> int:
        return sum(TensorInfo(t.info.name, type, t.info.shape).bytes for t, type in zip(self.tensors, self.types, strict=True))

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.target_bytes / max(1, sum(tensor.info.elements for tensor in self.tensors))

    def __enter__(self) -> ConvertPlan:
        return self

    def __exit__(self, *exc: object) -> None:
        self.files.__exit__()

    def write(self, *, threads: int | None = None, progress: Progress = "auto", verify: bool = False) -> int:
        """Writes the file; its bytes. What fails, or Ctrl-C, leaves output.part beside it, which the same call continues. verify: read
        back all that was written before the file takes its place."""
        threads, bar = check_count("threads", threads, _core.MAX_THREADS), progress_for_call(check_progress(progress), " MiB")
        with bar:
            return write_model(
                self.output, self.entries, self.tensors, self.types, threads=threads or 0, report=_report(bar),
                partial=self.output + _PARTIAL, source=identity(self.files.files), verify=verify,
            )  # fmt: skip

    @contextmanager
    def header(self) -> Iterator[str]:
        """The path of a file in memory that has the header of the one to be written, and a hole in the place of tensors."""
        targets = [TensorInfo(tensor.info.name, type, tensor.info.shape) for tensor, type in zip(self.tensors, self.types, strict=True)]
        layout = GGUFWriter(self.output, self.entries, targets)
        with system_errors(), open(os.memfd_create("airpy-header", os.MFD_CLOEXEC), "r+b") as file:
            file.write(layout.header)
            file.truncate(layout.bytes)
            yield f"/proc/self/fd/{file.fileno()}"

    def is_written(self, *, progress: Progress = "auto") -> bool:
        """Whether output is there, byte for byte what write() makes, as the disk gives it back."""
        with progress_for_call(check_progress(progress), " MiB") as bar:
            return is_written(self.output, self.entries, self.tensors, self.types, report=_report(bar))


def _report(bar: Any) -> Report:
    """For a bar that counts MiB, as float32."""

    def report(done: int, total: int, name: str) -> None:
        bar.note = name
        bar(4 * done // _MIB, max(1, 4 * total // _MIB), 0, 1)

    return report


def identity(files: Iterable[str]) -> str:
    """A text that is another one when any of these files is."""
    with system_errors():
        states = [(file, os.stat(file)) for file in files]
    return "\n".join(f"{os.path.abspath(file)} {state.st_size} {state.st_mtime_ns}" for file, state in states)


def plan_convert(
    folder: PathLike,
    output: PathLike | None = None,
    type: str | None = None,
    *,
    tensor_types: Iterable[tuple[str, str]] = (),
    pure: bool = False,
    overwrite: bool = False,
    label: str = "",
) -> ConvertPlan:
    """Arguments of convert(), checked. label: the model's name, where it is not the folder's."""
    folder = checked_path(folder)
    label = label or os.path.basename(os.path.abspath(folder))
    family, config = find_family(Config.read(folder))
    files = Checkpoint(folder, [module.folder for module in sentence.dense(folder)])
    try:
        tensors, reranks = source_tensors(family, config, files), reranker.is_reranker(config, label)
        n_vocab = next(tensor.info.shape[1] for tensor in tensors if tensor.info.name == "token_embd.weight")
        vocab = read_vocab(folder, n_vocab)
        if reranks:
            tensors = reranker.classifier(tensors, vocab.tokens)
        mix = find_mix(type) if type is not None else _as_stored(tensors, weights(config, files))
        path = checked_path(output) if output is not None else _default_output(folder, mix)
        check_output(path, overwrite)
        entries = _entries(folder, label, family.arch, mix, [*model_entries(family, config)])
        entries += reranker.entries(family.arch) if reranks else []
        infos = [tensor.info for tensor in tensors]
        facts = facts_of({key: value for key, _, value in entries})
        types = choose_types(mix, infos, facts, overrides=tensor_types, pure=pure, exact=True)
        own = tokenizer_entries(folder, vocab, config, reranker.TEMPLATES if reranks else None)
        check_ids(vocab, own, folder)
        plan = ConvertPlan(folder, path, family.arch, mix, tensors, types, entries + own, files)
        _check_opens(plan)
        return plan
    except BaseException:
        files.__exit__()
        raise


def _check_opens(plan: ConvertPlan) -> None:
    """Raises ModelError where the file would not open, such as where config.json is about another model than the tensors: by its header,
    before a tensor is read."""
    with plan.header() as path:
        try:
            _core.solve_plan(_core.GGUF(path), max_ram=_NO_LIMIT)
        except (FormatError, ModelError) as error:
            raise ModelError(f"{plan.folder}: what config.json says and the tensors do not go together: {error}") from None


def convert(
    folder: PathLike,
    output: PathLike | None = None,
    type: str | None = None,
    *,
    tensor_types: Iterable[tuple[str, str]] = (),
    pure: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress = "auto",
) -> str:
    """A model's directory (config.json, safetensors, a tokenizer), as save_pretrained() writes it or a hub has it, as one GGUF file; its
    path.

    output: in the directory, named after it, unless given. type: as quantize() has it: a mix, "8bit" or "4bit"; without one weights
    stay as they are stored. Tensors are streamed: memory is some MiB for each thread, whatever the model. What is not finished leaves
    output.part, which the same call continues.

    Raises UnsupportedError for models, tokenizers and dtypes that cannot be converted, FormatError and ModelError for damaged files,
    ArgumentError for a file that exists, unless overwrite; FileIOError where the disk has no room, NumericError where a weight is not
    finite."""
    with plan_convert(folder, output, type, tensor_types=tensor_types, pure=pure, overwrite=overwrite) as plan:
        plan.write(threads=threads, progress=progress)
        return plan.output


def _as_stored(tensors: list[SourceTensor], stored: Iterable[Stored | Packed]) -> Mix:
    """What most weights are. Of fewer bits with scales what was rounded to them: BF16 is what nearly all FP8 is made from. MXFP4 stays,
    beside BF16."""
    elements: Counter[str] = Counter()
    for tensor in tensors:
        elements[tensor.info.type] += tensor.info.elements
    for part in stored:
        if not isinstance(part, (Stored, Microscaled)):
            elements["F32"] -= math.prod(part.shape)
            elements[part.plain] += math.prod(part.shape)
    packed = elements.pop("MXFP4", 0)
    most, count = max(elements.items(), key=lambda item: item[1])
    mix = MIXES.get(most, MIXES["F32"])
    return Mix("MXFP4", _MXFP4_FILE, mix.type, {}) if packed > count else mix


def _entries(folder: str, label: str, arch: str, mix: Mix, of_model: list[Entry]) -> list[Entry]:
    general: list[tuple[str, str, Any]] = [
        ("general.architecture", "string", arch), ("general.type", "string", "model"), ("general.name", "string", label),
        ("general.quantization_version", "u32", 2), ("general.file_type", "u32", mix.file_type),
    ]  # fmt: skip
    return [(key, (type, None), value) for key, type, value in general] + sampling_entries(folder) + of_model


def _default_output(folder: str, mix: Mix) -> str:
    name = os.path.basename(os.path.abspath(folder)) or "model"
    return os.path.join(folder, f"{name}-{mix.name}.gguf")
