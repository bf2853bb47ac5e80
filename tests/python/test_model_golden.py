"""Whole models against Hugging Face transformers in float32: logits, greedy tokens."""

from __future__ import annotations

import numpy as np
import pytest
from models import GOLDEN, GOLDEN_NAMES, golden, load

LIMIT = 1e-6  # of the squared error over the squared logits


@pytest.fixture(params=GOLDEN_NAMES)
def case(request):
    return request.param, np.load(GOLDEN / f"{request.param}.npz")


def test_there_are_golden_models_of_every_family():
    assert {name.split("-")[0] for name in GOLDEN_NAMES} >= {"llama", "mistral", "qwen2", "qwen3"}


@pytest.mark.parametrize("io", ["direct", "mmap"])
def test_logits_are_those_of_transformers(case, io):
    name, data = case
    with load(golden(name), kv_dtype="f32", io=io) as model:
        logits = model(data["input_ids"]).logits
    assert logits.shape == (1, *data["logits"].shape) and logits.dtype == np.float32
    error = np.square(logits[0] - data["logits"], dtype=np.float64).sum() / np.square(data["logits"], dtype=np.float64).sum()
    print(f"{name}: {error:.2e}")
    assert error <= LIMIT


def test_greedy_tokens_are_those_of_transformers(case):
    name, data = case
    prompt, want = data["input_ids"].tolist(), data["greedy_ids"].tolist()
    with load(golden(name)) as model:
        assert model.generate([prompt], max_new_tokens=len(want), eos_token_id=[])[0].tolist() == prompt + want
