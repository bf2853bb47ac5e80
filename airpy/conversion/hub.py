"""Models on Hugging Face's hub: which files of a repository are needed, and bringing them, by the hub's own library, which resumes what was
cut off, keeps everything in its cache, and knows who may read what."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from airpy.conversion.safetensors import INDEX, find_files, index_of
from airpy.conversion.sentence import POOLING
from airpy.errors import AirpyError, ArgumentError, FileIOError, MissingFileError, UnsupportedError

_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
_SMALL = (".json", ".jinja", ".model", ".txt")  # all that a model has beside weights, at the top of its repository
_NETWORK = ("TransportError", "RequestError", "RequestException")  # of whichever library the hub's has for HTTP
_DENSE = re.compile(r"[23]_Dense/(config\.json|model\.safetensors)")
_LEFT_OUT = ("consolidated", "optimizer", "training_args")


@dataclass(frozen=True)
class Repository:
    """One state of it. revision: as it was asked for. commit: its name. files: all paths in it."""

    name: str
    revision: str | None
    commit: str
    files: tuple[str, ...]


def look_up(name: str, revision: str | None, token: str | None) -> Repository | None:
    """None where the hub cannot be reached. Raises MissingFileError where there is none of that name, or it is not for this token."""
    from huggingface_hub import HfApi

    try:
        with _errors(name):
            info = HfApi(token=token).model_info(name, revision=revision)
    except _Unreachable:
        return None
    return Repository(name, revision, str(info.sha), tuple(sorted(file.rfilename for file in info.siblings or ())))


def download(repository: Repository, names: list[str], token: str | None, *, silent: bool) -> str:
    """Brings these files, as far as the hub's cache has them not; the folder they are in, which is named after the commit. By the
    revision, not the commit, so that the cache knows later which commit it was."""
    from huggingface_hub import snapshot_download

    try:
        with _bars(not silent), _errors(repository.name):
            return str(snapshot_download(repository.name, revision=repository.revision, token=token, allow_patterns=names))
    except _Unreachable as error:
        raise FileIOError(f"{repository.name}: the hub cannot be reached ({error}); what has come is kept: try again") from None


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """The library's own bars, or none."""
    utils: Any = import_module("huggingface_hub.utils")
    hide = not shown and not utils.are_progress_bars_disabled()
    if hide:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            utils.enable_progress_bars()


def downloaded(name: str, revision: str | None) -> str:
    """The folder that the hub's cache has of it, without asking the hub, whichever of its files that are. Raises MissingFileError where
    there is none."""
    from huggingface_hub.constants import HF_HUB_CACHE

    # huggingface.co/docs/huggingface_hub/guides/manage-cache: a reference names a commit, whose files are in a folder of that name.
    repository = os.path.join(HF_HUB_CACHE, "models--" + name.replace("/", "--"))
    commit = revision or "main"
    with contextlib.suppress(OSError), open(os.path.join(repository, "refs", commit), encoding="ascii", errors="replace") as reference:
        commit = reference.read().strip()
    folder = os.path.join(repository, "snapshots", commit)
    if os.path.basename(folder) != commit or not os.path.isdir(folder):
        raise MissingFileError(
            2,
            f"no file or folder here, no model in the hub's cache ({HF_HUB_CACHE}), and the hub cannot be reached (HF_ENDPOINT is "
            f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}, HF_HUB_OFFLINE {os.environ.get('HF_HUB_OFFLINE', 'not set')})",
            name,
        )
    return folder


def has_weights(repository: Repository) -> bool:
    """Whether the hub's cache has all safetensors of this state."""
    try:
        folder = downloaded(repository.name, repository.revision)
        return os.path.basename(folder) == repository.commit and all(map(os.path.exists, find_files(folder)))
    except AirpyError:
        return False


def checkpoint(repository: Repository, token: str | None, *, silent: bool) -> str:
    """Brings config.json, tokenizer and safetensors; the folder. Raises UnsupportedError where weights are there as pickles alone."""
    top = [file for file in repository.files if "/" not in file]
    small = [file for file in top if file.endswith(_SMALL) and not file.startswith(_LEFT_OUT)]
    small += [file for file in repository.files if file == POOLING or _DENSE.fullmatch(file)]
    folder = download(repository, small, token, silent=silent)
    weights = [file for file in top if file.endswith(".safetensors") and not file.startswith(_LEFT_OUT)]
    if INDEX in top:
        named = set(index_of(folder).values())
        weights = [name for name in weights if name in named]
    elif "model.safetensors" in weights:
        weights = ["model.safetensors"]
    if not weights:
        pickles = [file for file in top if file.endswith((".bin", ".pt", ".pth"))]
        what = f"has its weights in {pickles[0]} alone; airpy loads no pickles, which may run code" if pickles else "has no weights"
        raise UnsupportedError(f"{repository.name} {what}: take a revision or repository with .safetensors or .gguf files")
    return download(repository, weights, token, silent=silent)


def gguf_file(repository: Repository, chosen: str | None, kind: str, token: str | None, *, silent: bool) -> str:
    """Brings one model of those that the repository holds as GGUF; its path. chosen: a file's name. kind: a type, part of one's name.
    Raises ArgumentError where several are meant, or none."""
    models = _models(repository)
    found = [files for files in models if chosen is None or chosen in files]
    if chosen is None and kind:
        found = [files for files in found if re.search(rf"(?<![^-_.]){re.escape(kind)}(?![^-_.])", files[0], re.IGNORECASE)]
    if len(found) != 1:
        asked = f"gguf_file {chosen!r}" if chosen else f"compression {kind}" if kind else "a choice (compression=, gguf_file=)"
        names = ", ".join(files[0] for files in models[:40])
        raise ArgumentError(f"{repository.name} holds {len(models)} models, {len(found)} for {asked}: {names}")
    return os.path.join(download(repository, found[0], token, silent=silent), found[0][0])


def _models(repository: Repository) -> list[list[str]]:
    """The files of each, in order."""
    models: dict[str, list[str]] = {}
    for file in repository.files:
        if file.endswith(".gguf") and not os.path.basename(file).startswith("mmproj"):
            models.setdefault(_PART.sub(r" of \1", file), []).append(file)
    return list(models.values())


class _Unreachable(Exception):
    """The hub did not answer."""


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """The library's errors as ours. Raises _Unreachable for those of the network."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise MissingFileError(13, "its makers ask to be asked: accept their terms on the hub, and give hf_token", name) from None
    except errors.RevisionNotFoundError as error:
        raise MissingFileError(2, f"the hub has no such revision of it ({_first_line(error)})", name) from None
    except errors.RepositoryNotFoundError:
        raise MissingFileError(
            2, "no file or folder here, and the hub has no model of that name, or not for you (give hf_token, if it is private)", name
        ) from None
    except errors.HFValidationError as error:
        raise ArgumentError(f"{name} is neither a file or folder here nor a name on the hub: {_first_line(error)}") from None
    except errors.LocalEntryNotFoundError as error:
        raise _Unreachable(_first_line(error)) from None
    except errors.HfHubHTTPError as error:
        raise FileIOError(f"{name}: the hub answers {_first_line(error)}") from None
    except Exception as error:
        if isinstance(error, OSError) or any(base.__name__ in _NETWORK for base in type(error).__mro__):
            raise _Unreachable(_first_line(error)) from None
        raise


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300] or type(error).__name__
