"""Tiny checkpoints out of short descriptions: checkpoints/NAME.json has a model's config.json and the names and shapes of its tensors;
what is in them follows from a seed. So a test can write the very files whose logits transformers computed (make_checkpoints.py,
checkpoints/NAME.npz), without them or transformers being there. Needs numpy, and `tokenizers` for the tokenizer.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from encoder_families import WORDS
from packing import packed

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import make_gguf

FOLDER = Path(__file__).parent / "checkpoints"
ENCODERS = FOLDER / "encoders"
PROMPT = 36
ROWS = (6, 19, 35)  # of the prompt, whose logits are kept
_EMBEDDINGS = ("lm_head", "embed_tokens", "tok_embeddings", "embed_in", "embed_out", "wte", "word_embeddings.")
_LAST_NORMS = ("model.norm.weight", "model.embedding_norm.weight", "transformer.ln_f.weight")
Floats = npt.NDArray[np.float32]


def describe(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Of NAME.json: config, tensors {name: shape}, dtype, seed, how the weights are drawn (quiet, centred: families.py), and perhaps how
    they are quantised (packed: packing.py). Of encoders also whether the tokenizer is WordPiece (words), sentence-transformers' word for
    the pooling ("" for none), and shapes of the matrices behind it (dense)."""
    return dict(json.loads((folder / f"{name}.json").read_text()))


def draw(bits: np.random.PCG64, shape: list[int]) -> Floats:
    """Of three uniform numbers the sum: what a generator's raw bits are never changes, what its normal numbers are may."""
    raw = (bits.random_raw(3 * int(np.prod(shape))) >> np.uint64(40)).reshape(3, -1).astype(np.float32) / np.float32(1 << 24)
    noise: Floats = ((raw.sum(0) - np.float32(1.5)) * np.float32(2)).reshape(shape)
    return noise


def weights(description: dict[str, Any]) -> Iterator[tuple[str, Floats]]:
    """Drawn from the seed: sharp attention, and logits that spread over a few units."""
    bits = np.random.PCG64(description["seed"])
    quiet = description["quiet"]
    for name, shape in description["tensors"].items():
        noise = draw(bits, shape)
        if name.endswith("A_log"):
            yield name, np.float32(0.5) * noise - np.float32(1.5)  # what is seen is remembered for some ten positions
        elif name.endswith("bias"):
            yield name, 0.1 * noise
        elif len(shape) == 1 or "norm" in name:
            size = quiet if name in _LAST_NORMS else 1 / quiet if "embeddings_layernorm" in name else 1
            yield name, size * (1 + 0.2 * noise) - np.float32(description["centred"])
        else:
            inputs = shape[0] if description["transposed"] and ".c_" in name else shape[-1]
            gain = 2.5 / quiet if any(part in name for part in _EMBEDDINGS) else 1.5
            yield name, noise * np.float32(gain / inputs**0.5)


def stored(values: Floats, dtype: str) -> bytes:
    values = np.ascontiguousarray(values, np.float32)
    if dtype == "BF16":
        return ((values.view(np.uint32) + np.uint32(0x8000)) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F32": np.float32, "F16": np.float16}[dtype]).tobytes()


def stored_tensors(description: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """All of the checkpoint, as write_safetensors() takes them."""
    dtype, how = description["dtype"], description.get("packed", {"kind": ""})
    return {name: tensor for whole, values in weights(description)
            for name, tensor in packed(how, whole, values, (dtype, values.shape, stored(values, dtype)))}


def write_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """tensors: name → dtype, shape, bytes."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def tokenizer(n_vocab: int) -> Any:
    """Hugging Face's, of the vocabulary that make_gguf.py gives its models."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, _, merges = make_gguf.vocabulary(n_vocab)
    made = Tokenizer(models.BPE({text: i for i, text in enumerate(tokens)}, [tuple(merge.split(" ")) for merge in merges]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in make_gguf.SPECIAL])
    return made


def wordpiece() -> Any:
    """BERT's kind, of a few words and letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(WORDS[:5])
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return made


def dense_of(description: dict[str, Any]) -> list[Floats]:
    """Matrices behind an encoder."""
    bits = np.random.PCG64(description["seed"] + 1)
    return [draw(bits, shape) / np.float32(shape[1] ** 0.5) for shape in description.get("dense", [])]


def write_sentence(folder: Path, description: dict[str, Any]) -> None:
    """What sentence-transformers has beside a model."""
    modules = [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}]
    if description["pooling"]:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{description['pooling']}": True}))
        modules.append({"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    for i, matrix in enumerate(dense_of(description), 2):
        (folder / f"{i}_Dense").mkdir()
        config = {"in_features": matrix.shape[1], "out_features": matrix.shape[0], "bias": False,
                  "activation_function": "torch.nn.modules.linear.Identity"}
        (folder / f"{i}_Dense" / "config.json").write_text(json.dumps(config))
        write_safetensors(folder / f"{i}_Dense" / "model.safetensors", {"linear.weight": ("F32", matrix.shape, matrix.tobytes())})
        modules.append({"idx": i, "path": f"{i}_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))


def write_checkpoint(folder: Path, description: dict[str, Any], shards: int = 1) -> None:
    """config.json, tokenizer.json and the tensors, in so many files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(description["config"]))
    made_tokenizer = wordpiece() if description.get("words") else tokenizer(description["config"]["vocab_size"])
    made_tokenizer.save(str(folder / "tokenizer.json"))
    if "pooling" in description:
        write_sentence(folder, description)
    made = stored_tensors(description)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", made)
        return
    files = [f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)]
    index = {name: files[i % shards] for i, name in enumerate(made)}
    for file in files:
        write_safetensors(folder / file, {name: tensor for name, tensor in made.items() if index[name] == file})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
