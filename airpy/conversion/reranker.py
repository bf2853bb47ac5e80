"""Qwen3-Reranker: a model that generates, trained to answer whether a text answers a question with one word. Its file has a classifier of
that word in the place of the output, and the text around question and answer, as llama.cpp's files have them.

Its config.json is that of any Qwen 3, so it is known by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from airpy.conversion.config import Config
from airpy.errors import ModelError
from airpy.gguf_writer import Entry, TensorInfo, blocks_of
from airpy.quantization.stream import SourceTensor

_NAME = "qwen3-reranker"
_ANSWERS = ("yes", "no")
_RANK = 4  # enum llama_pooling_type
# What the model was trained with, by its makers' description; {query} and {document} stand for the two texts.
TEMPLATES = {"rerank": (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the "
    'answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that '
    "answer the query\n<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)}


def is_reranker(config: Config, label: str) -> bool:
    return config.architecture == "Qwen3ForCausalLM" and _NAME in label.lower()


def entries(arch: str) -> list[Entry]:
    """Of the model's metadata."""
    return [
        (f"{arch}.pooling_type", ("u32", None), _RANK),
        (f"{arch}.classifier.output_labels", ("array", "string"), list(_ANSWERS)),
    ]


def classifier(tensors: Sequence[SourceTensor], tokens: Sequence[str]) -> list[SourceTensor]:
    """With the rows of the two answers instead of the output matrix, which may be the embedding. Raises ModelError where the vocabulary has
    no such words."""
    if missing := [word for word in _ANSWERS if word not in tokens]:
        raise ModelError(f"the vocabulary has no {missing[0]!r}, which a Qwen3-Reranker answers; rename the folder if it is another model")
    named = {tensor.info.name: tensor for tensor in tensors}
    head = named.pop("output.weight", None) or named["token_embd.weight"]
    block, item = blocks_of(head.info.type)
    width, size = head.info.shape[0], head.info.shape[0] // block * item

    def read(offset: int, wanted: int) -> Any:
        rows = b"".join(bytes(head.read(tokens.index(word) * size, size)) for word in _ANSWERS)
        return rows[offset : offset + wanted]

    return [*named.values(), replace(head, info=TensorInfo("cls.output.weight", head.info.type, (width, len(_ANSWERS))), read=read)]
