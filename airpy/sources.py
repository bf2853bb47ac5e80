"""From what from_pretrained() is given to the GGUF file that is opened: itself, or one made of a checkpoint's folder, a repository on
the hub, or a file with more bits, and kept."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from airpy.errors import AirpyError, ArgumentError, ArgumentTypeError, MissingFileError, UnsupportedError, system_errors
from airpy.files import PathLike, checked_path, find_model
from airpy.progress import Progress
from airpy.sizes import check_flag

if TYPE_CHECKING:
    from airpy.conversion.cache import Place
    from airpy.conversion.directory import ConvertPlan

_WEIGHTS = ".safetensors"
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_TOKENIZERS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "modules.json",
    "1_Pooling/config.json", *(f"{i}_Dense/{name}" for i in (2, 3) for name in ("config.json", "model.safetensors")),
)  # fmt: skip


class SourceArguments(TypedDict, total=False):
    """Arguments of from_pretrained() that say where a model comes from, and what becomes of it on the way.

    compression: of weights, "4bit" (Q4_K_M), "8bit" (Q8_0) or another type of airpy.quantize(), made once and kept; None: as they are.
    load_in_4bit, load_in_8bit: two of these. layer_shards_saving_path: the folder where what is made is kept, by default models in
    airpy's cache. delete_original: remove the safetensors that were converted, after their file was read back and opened. hf_token (or
    token), revision: for the hub. gguf_file: one of several in a directory or repository."""

    compression: str | None
    load_in_4bit: bool
    load_in_8bit: bool
    layer_shards_saving_path: PathLike | None
    delete_original: bool
    hf_token: str | None
    token: str | None
    revision: str | None
    gguf_file: str | None


# Arguments that transformers or AirLLM take: values that mean what airpy does anyway, and what to do instead of others.
_FOREIGN: dict[str, tuple[tuple[Any, ...], str]] = {
    "quantization_config": ((None,), "compression= is how many bits weights have"),
    "trust_remote_code": ((None, False), "no code of a model is ever run"),
    "low_cpu_mem_usage": ((None, True, False), ""),
    "use_safetensors": ((None, True), "airpy reads safetensors and GGUF files"),
    "max_memory": ((None,), "max_ram= is the budget"),
}


@dataclass(frozen=True)
class Wanted:
    """SourceArguments, checked. kind: a mix, or None for what there is. folder: where what is made is kept, by default in the
    cache. delete: whether the safetensors of what was made go. header: whether a file's header will do. weights: what the file would be
    made from is wanted, not the file."""

    kind: str | None = None
    folder: str | None = None
    delete: bool = False
    token: str | None = None
    revision: str | None = None
    gguf_file: str | None = None
    progress: Progress = "auto"
    header: bool = False
    weights: bool = False

    @classmethod
    def of(cls, arguments: SourceArguments, progress: Progress) -> Wanted:
        """Raises ArgumentError, and what refuse_foreign() raises."""
        given: dict[str, Any] = {name: None for name in SourceArguments.__annotations__} | dict(arguments)
        _refuse_foreign({name: value for name, value in arguments.items() if name not in SourceArguments.__annotations__})
        tokens = [given[name] for name in ("hf_token", "token") if given[name] is not None]
        if len(set(map(str, tokens))) > 1:
            raise ArgumentError("hf_token and token are two; leave one of them out")
        given["token"] = tokens[0] if tokens else None
        for name in ("token", "revision", "gguf_file"):
            if given[name] is not None and not (isinstance(given[name], str) and given[name]):
                raise ArgumentError(f"{name} is {type(given[name]).__name__}; expected a text")
        folder = given["layer_shards_saving_path"]
        delete = check_flag("delete_original", given["delete_original"] or False)
        folder = None if folder is None else checked_path(folder)
        return cls(_kind_of(given), folder, delete, given["token"], given["revision"], given["gguf_file"], progress)


def _kind_of(given: Mapping[str, Any]) -> str | None:
    """The mix that is asked for, in one of three ways."""
    asked = [] if given["compression"] is None else [given["compression"]]
    for bits in ("4bit", "8bit"):
        if check_flag(f"load_in_{bits}", given[f"load_in_{bits}"] or False) and bits not in asked:
            asked.append(bits)
    if len(asked) > 1:
        raise ArgumentError(f"weights cannot be {' and '.join(map(str, asked))} at once; leave all but one of these arguments out")
    return _mix_name(asked[0]) if asked else None


def _refuse_foreign(arguments: Mapping[str, Any]) -> None:
    """Arguments that airpy does not have: values that mean what it does anyway pass."""
    for name, value in arguments.items():
        if name not in _FOREIGN:
            raise ArgumentTypeError(f"from_pretrained() got an unexpected argument {name!r}")
        if not any(value is v or (type(value) is type(v) and value == v) for v in _FOREIGN[name][0]):
            raise UnsupportedError(f"from_pretrained: {name}={value!r} is not supported; {_FOREIGN[name][1]}")


def _mix_name(compression: Any) -> str:
    from airpy.quantization import find_mix

    return find_mix(compression, "compression").name


@dataclass(frozen=True)
class Source:
    """with source as path: open it. originals: files that were converted, which go when that went well. unmade: what would make the file,
    where its header alone was asked for and it is not there. label: of a checkpoint that is itself what was asked for, how to call it."""

    path: str
    originals: tuple[str, ...] = ()
    unmade: ConvertPlan | None = None
    label: str | None = None

    def __enter__(self) -> str:
        return self.path

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        """Removes the safetensors files alone, and in the hub's cache what they are links to."""
        for file in self.originals if kind is None else ():
            real = os.path.realpath(file)
            blob = os.path.islink(file) and os.path.basename(os.path.dirname(real)) == "blobs"
            with system_errors(), contextlib.suppress(FileNotFoundError):
                os.unlink(file)
                if blob:
                    os.unlink(real)


def is_hub_name(path: str) -> bool:
    """Whether it looks like "org/name", which a path may as well."""
    return _HUB_NAME.fullmatch(path) is not None and not path.endswith((".gguf", ".safetensors"))


def shows_bar(progress: Progress) -> bool:
    return progress is True or (progress == "auto" and sys.stderr is not None and sys.stderr.isatty())


def find_source(path: PathLike, wanted: Wanted) -> Source:
    """Raises ArgumentError for what is asked of a source that has it not, and whatever converting or bringing it raises."""
    text = checked_path(path)
    if os.path.isdir(text):
        return _of_folder(text, wanted)
    if not os.path.exists(text) and is_hub_name(text):
        return _of_hub(text, wanted)
    for name, value in (("revision", wanted.revision), ("gguf_file", wanted.gguf_file)):
        if value is not None:
            raise ArgumentError(f"{name} is {value!r}, but {text} is a file, no folder, or no name on the hub")
    if text.endswith(_WEIGHTS) and os.path.exists(text):
        raise ArgumentError(f"{text} is a file of a checkpoint; give the directory that it is in")
    return _of_gguf(find_model(text), wanted)


class Header(NamedTuple):
    """path: of a file that has it, until the context ends. disk: the file that is there: itself, or the largest of the checkpoint's."""

    path: str
    disk: str

    @property
    def made(self) -> bool:
        """Whether it is that of a file on a disk."""
        return self.path == self.disk


@contextlib.contextmanager
def find_header(path: PathLike, wanted: Wanted) -> Iterator[Header]:
    """Where the header of the file is that find_source() means: of a checkpoint it is not made for that, its header lies in memory."""
    source = find_source(path, replace(wanted, header=True))
    if source.unmade is None:
        file = find_model(source.path)
        yield Header(file, file)
        return
    with source.unmade as plan, plan.header() as file:
        yield Header(file, max(plan.files.files, key=os.path.getsize))


def find_checkpoint(path: PathLike, revision: str | None = None, *, silent: bool = False) -> tuple[str, str]:
    """A checkpoint's folder, brought from the hub where path is a name there, and what to call it."""
    text = checked_path(path)
    if os.path.exists(text) or not is_hub_name(text):
        if revision is not None:
            raise ArgumentError(f"revision is {revision!r}, but {text} is no name on the hub")
        if os.path.isfile(text):
            quantize = "; of a .gguf file airpy quantize makes one with fewer bits" if text.endswith(".gguf") else ""
            raise ArgumentError(f"{text} is a file; a checkpoint is a directory{quantize}")
        return text, os.path.basename(os.path.abspath(text))
    from airpy.conversion import hub

    repository = hub.look_up(text, revision, None)
    folder = hub.downloaded(text, revision) if repository is None else hub.checkpoint(repository, None, silent=silent)
    return folder, text.partition("/")[2]


def _of_folder(folder: str, wanted: Wanted) -> Source:
    if wanted.revision is not None:
        raise ArgumentError(f"revision is {wanted.revision!r}, but {folder} is a folder here")
    if wanted.gguf_file is not None:
        return _of_gguf(find_model(os.path.join(folder, wanted.gguf_file)), wanted)
    names = os.listdir(folder)
    if any(name.endswith(".gguf") for name in names) and ("config.json" not in names or wanted.kind is None):
        return _of_gguf(find_model(folder), wanted)
    if "adapter_config.json" in names:
        raise ArgumentError(f"{folder} is an adapter; open the model that it is for, and give this to its load_adapter()")
    if "config.json" not in names:
        if any(name.endswith(_WEIGHTS) for name in names):
            raise MissingFileError(2, "there is no config.json beside the safetensors, which says what model they are", folder)
        return _of_gguf(find_model(folder), wanted)
    return _converted(folder, os.path.basename(os.path.abspath(folder)), os.path.abspath(folder), None, wanted)


def _of_hub(name: str, wanted: Wanted) -> Source:
    from airpy.conversion import hub
    from airpy.conversion.cache import Place, models_folder

    repository = hub.look_up(name, wanted.revision, wanted.token)
    label, silent = name.partition("/")[2], not shows_bar(wanted.progress)
    if repository is None:
        return _of_hubs_cache(name, label, wanted)
    kinds = {os.path.splitext(file)[1] for file in repository.files}
    if ".gguf" in kinds and (wanted.gguf_file is not None or ".safetensors" not in kinds):
        kind = "" if wanted.weights else wanted.kind or ""
        return Source(hub.gguf_file(repository, wanted.gguf_file, kind, wanted.token, silent=silent))
    if wanted.gguf_file is not None:
        raise ArgumentError(f"gguf_file is {wanted.gguf_file!r}, but {name} holds no .gguf file")
    place = Place(models_folder(wanted.folder), label, wanted.kind or "", _origin(name, wanted), repository.commit)
    if os.path.exists(place.path()) and not (wanted.delete and hub.has_weights(repository)) and not wanted.weights:
        return Source(place.path())
    folder = hub.checkpoint(repository, wanted.token, silent=silent)
    return _converted(folder, label, _origin(name, wanted), os.path.basename(folder), wanted)


def _of_hubs_cache(name: str, label: str, wanted: Wanted) -> Source:
    """Where the hub cannot be reached: what was made of it, or what was brought."""
    from airpy.conversion import hub
    from airpy.conversion.cache import Place, models_folder

    origin = _origin(name, wanted)
    made = None if wanted.weights else Place(models_folder(wanted.folder), label, wanted.kind or "", origin).latest()
    if made and wanted.gguf_file is None:
        return Source(made)
    folder = hub.downloaded(name, wanted.revision)
    if wanted.gguf_file is not None or any(file.endswith(".gguf") for file in os.listdir(folder)):
        return _of_folder(folder, replace(wanted, revision=None))
    return _converted(folder, label, origin, os.path.basename(folder), wanted)


def _origin(name: str, wanted: Wanted) -> str:
    return f"{name}@{wanted.revision or ''}"


def _converted(folder: str, label: str, origin: str, commit: str | None, wanted: Wanted) -> Source:
    """A checkpoint's file, made where it is not there yet; also where it is not what would be made, if the originals are to go. commit:
    its state; None: by its files."""
    from airpy.conversion.cache import Place, made_once, models_folder
    from airpy.conversion.directory import identity, plan_convert
    from airpy.conversion.safetensors import find_files

    if wanted.weights:
        return Source(folder, label=label)
    place = Place(models_folder(wanted.folder), label, wanted.kind or "", origin)
    try:
        weights = find_files(folder)
    except AirpyError:
        if (source := _without_weights(folder, place, wanted)) is None:
            raise
        return source
    others = [path for name in _TOKENIZERS if os.path.exists(path := os.path.join(folder, name))]
    place = Place(place.folder, label, place.kind, origin, commit or identity([*weights, *others]))

    def plan(path: str) -> ConvertPlan:
        return plan_convert(folder, path, wanted.kind, label=label, overwrite=True)

    if wanted.header and not os.path.exists(place.path()):
        return Source(place.path(), unmade=plan(place.path()))

    def make(path: str) -> None:
        with plan(path) as made:
            made.write(progress=wanted.progress, verify=wanted.delete)

    def holds(path: str) -> bool:
        """It may be long ago that it was made, and by a call that did not read it back."""
        try:
            with plan(path) as made:
                return made.is_written(progress=wanted.progress)
        except AirpyError:
            if any(map(os.path.exists, weights)):
                raise
            return True  # another process has found it so, and removed them meanwhile

    return Source(made_once(place.path(), make, holds if wanted.delete else None), tuple(weights) if wanted.delete else ())


def _without_weights(folder: str, place: Place, wanted: Wanted) -> Source | None:
    """Of a checkpoint that has no safetensors: what was made of them before they went, or a .gguf file beside. None where there are some,
    and something is wrong with them."""
    names = os.listdir(folder)
    if any(name.endswith(_WEIGHTS) for name in names):
        return None
    if made := place.latest():
        return Source(made)
    return _of_gguf(find_model(folder), wanted) if any(name.endswith(".gguf") for name in names) else None


def _of_gguf(path: str, wanted: Wanted) -> Source:
    """The file, or one with fewer bits made of it."""
    if wanted.kind is None or wanted.weights:
        return Source(path)
    from airpy import _core
    from airpy.conversion.cache import Place, made_once, models_folder
    from airpy.conversion.directory import identity
    from airpy.quantization import plan_quantize

    parts: Iterable[str] = _core.GGUF(path).paths
    label = os.path.basename(path).removesuffix(".gguf")
    place = Place(models_folder(wanted.folder), label, wanted.kind, os.path.abspath(path), identity(parts))
    if os.path.exists(place.path()):
        return Source(place.path())
    plan = plan_quantize(path, wanted.kind, place.path())
    if all(change.source.type == change.target.type for change in plan.tensors):
        return Source(path)  # it is that already

    def make(_: str) -> None:
        plan.write(progress=wanted.progress)

    return Source(made_once(place.path(), make))
