"""From the tensors of a checkpoint to those of a GGUF file: names, orders, and which there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from airpy.conversion.config import Config
from airpy.conversion.families import Family
from airpy.conversion.hparams import Rope
from airpy.conversion.layouts import in_order, stacked
from airpy.conversion.lazy import LazyTensor
from airpy.conversion.names import EXPERT, expert_of, gguf_name, is_left_out, stem_of
from airpy.conversion.packed import weights
from airpy.conversion.safetensors import Checkpoint
from airpy.errors import ModelError
from airpy.gguf_writer import TensorInfo
from airpy.quantization.stream import SourceTensor


def source_tensors(family: Family, config: Config, files: Checkpoint) -> list[SourceTensor]:
    """All tensors of the file, the embedding first, then layer by layer. Raises ModelError for those that are missing, unknown or of
    the wrong shape, as far as a shape matters here: the engine checks all of them."""
    named = dict(_factors(family, config))
    for name, tensor in _named(family, config, files):
        if name in named:
            raise ModelError(f"{tensor.name} and another tensor are both {name}")
        named[name] = tensor.source(name, files)
    if "token_embd.weight" not in named:
        raise ModelError(f"{files.files[0]} and the files with it hold no embedding of tokens")
    if len(shape := named["token_embd.weight"].info.shape) < 2:
        raise ModelError(f"{files.files[0]} and the files with it hold an embedding of the shape {list(shape)}; expected a matrix")
    missing = [i for i in range(config.layers) if not any(name.startswith(f"blk.{i}.") for name in named)]
    if missing:
        raise ModelError(f"the configuration has {config.layers} layers, but no tensor is of layer {missing[0]}")
    if config.flag("tie_word_embeddings", default=family.tied):
        named.pop("output.weight", None)  # the embedding once more, where a checkpoint has it at all
    return sorted(named.values(), key=lambda tensor: _place(tensor.info.name))


def _place(name: str) -> tuple[int, int]:
    """As engines read them: what is before the layers, these, what is behind."""
    if name.startswith("blk."):
        return 1, int(name.split(".")[1])
    return (2 if name.startswith("output") else 0), 0


def _named(family: Family, config: Config, files: Checkpoint) -> Iterator[tuple[str, LazyTensor]]:
    for layer, tensors in _by_layer(family, config, files).items():
        if layer is not None and layer >= config.layers:
            if config.integer("num_nextn_predict_layers", default=0, least=0):
                continue  # a layer that foretells a second token, which transformers leaves out as well
            raise ModelError(f"{next(iter(tensors.values())).name} is of layer {layer}, but the configuration has {config.layers}")
        joined = family.joint(tensors) if family.joint else tensors
        for rest, tensor in _with_experts(joined).items():
            name = gguf_name(layer, rest, family.names or {}) or _expert_name(layer, rest)
            if name is None:
                raise ModelError(f"{tensor.name} has no place in a file of {family.arch}; the checkpoint is of another kind")
            yield name, tensor


def _by_layer(family: Family, config: Config, files: Checkpoint) -> dict[int | None, dict[str, LazyTensor]]:
    layers: dict[int | None, dict[str, LazyTensor]] = defaultdict(dict)
    for stored in weights(config, files):
        if is_left_out(stored.name) or (family.ignored and stored.name.removeprefix("model.").startswith(family.ignored)):
            continue
        layer, rest = stem_of(stored.name)
        found = [(rest, LazyTensor.of(stored))]
        for layout in family.layouts:
            found = [each for name, tensor in found for each in layout(name, tensor, config)]
        for name, tensor in found:
            if name in layers[layer]:
                raise ModelError(f"{tensor.name} and {layers[layer][name].name} are the same tensor by name")
            layers[layer][name] = tensor
    return layers


def _with_experts(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """A layer's, with one tensor in the place of those of each expert."""
    out: dict[str, LazyTensor] = {}
    of_experts: dict[str, dict[str, LazyTensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        expert = expert_of(name)
        if expert is None:
            out[name] = tensor
        else:
            of_experts[f"experts.{expert[1]}"][str(expert[0])] = tensor
    for name, found in of_experts.items():
        out[name] = stacked(in_order(found, f"{next(iter(found.values())).name}: expert "))
    return out


def _expert_name(layer: int | None, rest: str) -> str | None:
    parts = rest.split(".")
    known = layer is not None and len(parts) == 3 and parts[0] == "experts" and parts[2] in ("weight", "bias") and parts[1] in EXPERT
    return f"blk.{layer}.{EXPERT[parts[1]]}.{parts[2]}" if known else None


def _factors(family: Family, config: Config) -> Iterator[tuple[str, SourceTensor]]:
    """Tensors that follow from the configuration."""
    for name, values in Rope(config).factors() if family.rotated else ():
        yield name, _constant(name, values)


def _constant(name: str, values: npt.NDArray[np.float32]) -> SourceTensor:
    data = values.tobytes()
    return SourceTensor(TensorInfo(name, "F32", values.shape), lambda offset, size: data[offset : offset + size])
