"""model(input_ids).logits: shapes, padding, reuse, and what does not fit."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from models import load

from airpy import errors

IDS = np.random.default_rng(5).integers(0, 4096, (2, 12))


@pytest.fixture(scope="module")
def model():
    with load() as model:
        yield model


def test_all_logits_or_the_last_ones(model):
    whole = model(IDS).logits
    assert whole.shape == (2, 12, 4096) and whole.dtype == np.float32
    for keep in (1, 5, 12, 100):
        kept = model(IDS, logits_to_keep=keep).logits
        np.testing.assert_array_equal(kept, whole[:, -keep:])
    np.testing.assert_array_equal(model(IDS, logits_to_keep=0).logits, whole)
    assert model(IDS)["logits"].shape == model(IDS)[0].shape == whole.shape


def test_logits_may_be_changed_in_place(model):
    logits = model(IDS[:1]).logits
    before = logits.copy()
    logits[..., 3] = -np.inf
    logits /= 2
    assert logits[0, -1].argmax() != 3 and not logits.flags.owndata
    np.testing.assert_array_equal(model(IDS[:1]).logits, before)


def test_padded_rows_have_the_logits_they_have_alone(model):
    mask = np.ones_like(IDS)
    mask[1, :7] = 0
    alone = model(IDS[1:, 7:]).logits
    together = model(IDS, mask)
    np.testing.assert_array_equal(together.logits[1, 7:], alone[0])
    assert not together.logits[1, :7].any()
    np.testing.assert_array_equal(model(IDS, mask, logits_to_keep=3).logits[1], alone[0, -3:])


def test_known_beginnings_change_no_logit(model):
    model.forget()
    fresh = np.array(model(IDS[:1], logits_to_keep=1).logits)
    model.generate(IDS[:1, :8], max_new_tokens=2)
    np.testing.assert_array_equal(model(IDS[:1], logits_to_keep=1).logits, fresh)


def test_logits_that_do_not_fit_are_refused_with_a_hint():
    with load(io="direct", max_ram="10MiB") as model:
        ids = np.random.default_rng(1).integers(0, 4096, (1, 500))  # 500 rows of 16 KiB = 7.8 MiB
        advice = r"raise max_ram to [\d.]+ MiB, ask for fewer logits \(logits_to_keep\), give fewer"
        with pytest.raises(errors.BudgetError, match=rf"logits 7\.8.*; {advice}"):
            model(ids)
        assert model(ids, logits_to_keep=8).logits.shape == (1, 8, 4096)


def test_logits_count_against_the_budget_while_they_live():
    with load(io="direct", max_ram="16MiB") as model:
        ids = np.random.default_rng(1).integers(0, 4096, (1, 300))
        kept = model(ids).logits
        assert model.stats()["held_by"]["logits"] >= kept.nbytes
        with pytest.raises(errors.BudgetError):
            _ = [model(ids[:, :-1]).logits, model(ids[:, :-2]).logits]
        del kept
        gc.collect()
        assert model(ids[:, :-1]).logits.shape == (1, 299, 4096)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"logits_to_keep": -1}, errors.ArgumentError),
        ({"labels": [[1]]}, errors.UnsupportedError),
        ({"output_attentions": True}, errors.UnsupportedError),
        ({"nonsense": 1}, TypeError),
    ],
)
def test_arguments_it_does_not_have_are_refused(model, arguments, error):
    with pytest.raises(error):
        model(IDS, **arguments)


def test_neutral_arguments_of_transformers_pass(model):
    assert model(IDS, use_cache=True, return_dict=True, output_attentions=False).logits.shape == (2, 12, 4096)
