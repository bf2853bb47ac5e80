"""Whole models against Hugging Face transformers in float32: logits, greedy tokens."""

from __future__ import annotations

import numpy as np
import pytest
from models import ENCODER_NAMES, GOLDEN, GOLDEN_NAMES, RECURRENT, encoder, golden, load

from airpy import _core

LIMIT = 1e-6  # of the squared error over the squared logits


@pytest.fixture(params=GOLDEN_NAMES)
def case(request):
    return request.param, np.load(GOLDEN / f"{request.param}.npz")


def gguf_arch(path):
    return _core.GGUF(str(path)).metadata["general.architecture"]


def test_there_are_golden_models_of_every_family():
    arches = {gguf_arch(golden(name)) for name in GOLDEN_NAMES} | {gguf_arch(encoder(name)) for name in ENCODER_NAMES}
    assert arches == set(_core.ARCHITECTURES)
    assert "mistral" in GOLDEN_NAMES  # one of several families that files call llama


@pytest.mark.parametrize("io", ["direct", "mmap"])
def test_logits_are_those_of_transformers(case, io):
    name, data = case
    with load(golden(name), kv_dtype="f32", io=io) as model:
        logits = model(data["input_ids"]).logits
    assert logits.shape == (1, *data["logits"].shape) and logits.dtype == np.float32
    error = np.square(logits[0] - data["logits"], dtype=np.float64).sum() / np.square(data["logits"], dtype=np.float64).sum()
    print(f"{name}: {error:.2e}")
    assert error <= LIMIT


@pytest.mark.parametrize(("kind", "least", "most"), [("q8_0", 1e-6, 1e-3), ("q4_0", 1e-4, 1e-1)])
@pytest.mark.parametrize("name", [name for name in GOLDEN_NAMES if not name.startswith("baichuan")])  # of tens of layers
def test_logits_with_quantised_state_are_near_those_in_f32(name, kind, least, most):
    """A value in Q8_0 is off by up to 1/254 of the largest of its 32, evenly: (1/254)² / 3 of that square, which is 4 to 9 times the
    mean's, so 2e-5 to 5e-5 of K and V; in Q4_0 by up to 1/16, so 5e-3 to 1.2e-2 of them. Keys' errors are multiplied by the queries
    before the exponent; the rest is for that and up to eight layers."""
    data = np.load(GOLDEN / f"{name}.npz")
    logits = {}
    for each in ("f32", kind):
        with load(golden(name), kv_dtype=each) as model:
            logits[each] = model(data["input_ids"]).logits[0].astype(np.float64)
        has_experts = model.plan.has_experts
    error = np.square(logits[kind] - logits["f32"]).sum() / np.square(logits["f32"]).sum()
    print(f"{name}: {error:.2e}")
    assert least < error or name in RECURRENT  # few layers of which have K and V, if any
    assert error <= most or has_experts  # there a row may go to another expert, which is no small change


def test_greedy_tokens_are_those_of_transformers(case):
    name, data = case
    prompt, want = data["input_ids"].tolist(), data["greedy_ids"].tolist()
    with load(golden(name)) as model:
        assert model.generate([prompt], max_new_tokens=len(want), eos_token_id=[])[0].tolist() == prompt + want
