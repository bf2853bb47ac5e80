"""Directories of transformers' as GGUF files: logits are those that transformers computes from the same safetensors."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from models import GOLDEN, load

import airpy
from airpy import _core
from airpy.conversion import FAMILIES

sys.path.insert(0, str(GOLDEN))
import checkpoints

NAMES = sorted(path.stem for path in checkpoints.FOLDER.glob("*.json"))
LIMIT = 1e-6  # of the squared error over the squared logits


def error_of(path, data):
    with load(path, kv_dtype="f32") as model:
        logits = model(data["input_ids"]).logits[0][list(checkpoints.ROWS)].astype(np.float64)
    return float(np.square(logits - data["logits"]).sum() / np.square(data["logits"].astype(np.float64)).sum())


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name, tmp_path):
    description = checkpoints.describe(name)
    checkpoints.write_checkpoint(tmp_path / "checkpoint", description, shards=1 + description["seed"] % 3)
    exact = "F32" if "packed" in description else None  # with BF16 or MXFP4, as it would be, products are not as exact as transformers'
    path = airpy.convert(tmp_path / "checkpoint", tmp_path / "model.gguf", exact, progress=False)
    error = error_of(path, np.load(checkpoints.FOLDER / f"{name}.npz"))
    print(f"{name}: {error:.2e}")
    assert error <= LIMIT


@pytest.mark.parametrize(("name", "step"), [("llama4", 2), ("ernie4-5-moe", 1)])
def test_what_llama_cpp_asks_for_is_there(name, step, tmp_path):
    """Which layers are of experts; ours are told by their tensors."""
    checkpoints.write_checkpoint(tmp_path / "checkpoint", checkpoints.describe(name))
    metadata = _core.GGUF(airpy.convert(tmp_path / "checkpoint", tmp_path / "m.gguf", progress=False)).metadata
    assert metadata[f"{metadata['general.architecture']}.interleave_moe_layer_step"] == step


def test_every_class_that_can_be_converted_is_checked():
    """But for names of the same model that other files have; encoders by test_convert_encoders.py."""
    again = {"LLaMAForCausalLM", "RWForCausalLM", "MPTForCausalLM", "Ernie4_5_ForCausalLM", "Gemma3ForConditionalGeneration",
             "InternLM3ForCausalLM", "Llama4ForConditionalGeneration", "Mistral3ForConditionalGeneration", "PhiMoEForCausalLM",
             "ExaoneMoEForCausalLM", "Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"}  # fmt: skip
    again |= {"BertForMaskedLM", "RobertaModel", "RobertaForSequenceClassification", "EuroBertForMaskedLM", "ModernBertForMaskedLM",
              "MistralModel"}  # fmt: skip
    files = [*checkpoints.FOLDER.glob("*.json"), *checkpoints.ENCODERS.glob("*.json")]
    checked = {json.loads(file.read_text())["config"]["architectures"][0] for file in files}
    assert checked | again == set(FAMILIES) and checked <= set(FAMILIES)
    for name in again:
        assert any(FAMILIES[name] is FAMILIES[other] or FAMILIES[name] == FAMILIES[other] for other in checked), name
