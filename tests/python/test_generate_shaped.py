"""generate() with what changes logits, ends texts or hands out scores: against transformers, and by itself."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from models import GOLDEN, golden, load

from airpy import errors
from tools import make_gguf

sys.path.insert(0, str(GOLDEN / "generate"))
from cases import CASES, MODEL, NEW, PAD, PROMPT, five_new, forbid_last, halve_even

WANT = np.load(GOLDEN / "generate" / f"{MODEL}.npz")
IDS = np.load(GOLDEN / f"{MODEL}.npz")["input_ids"][None, :PROMPT]
GREEDY = WANT["greedy.ids"][PROMPT:].tolist()
PLAIN = {"max_new_tokens": NEW, "pad_token_id": PAD, "eos_token_id": []}
DRAWN = {**PLAIN, "do_sample": True, "top_k": 0}
KEPT = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
REAL_CASES = {**CASES, "words": {"bad_words_ids": [GREEDY[:1], GREEDY[1:3], [3]]}}


@pytest.fixture(scope="module")
def model():
    with load(golden(MODEL), kv_dtype="f32") as model:
        yield model


def near(got, want):
    """The same infinities, and finite numbers as near as two engines in float32 are."""
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    finite = np.isfinite(want)
    error = np.square(got[finite] - want[finite], dtype=np.float64).sum() / np.square(want[finite], dtype=np.float64).sum()
    assert error < 1e-9, error


@pytest.mark.parametrize("name", REAL_CASES)
def test_tokens_scores_and_logits_are_those_of_transformers(model, name):
    how = {**PLAIN, **REAL_CASES[name]}
    if "eos" in how:
        how["eos_token_id"] = GREEDY[how.pop("eos")]
    out = model.generate(IDS, **how, **KEPT)
    want = WANT[f"{name}.ids"]
    if not how.get("do_sample"):
        assert out.sequences[0].tolist() == want.tolist()
    assert len(out.scores) == len(out.logits) == want.size - PROMPT
    assert out.scores[0].shape == out.logits[0].shape == (1, model.config.vocab_size) and out.scores[0].dtype == np.float32
    near(np.concatenate(out.scores), WANT[f"{name}.scores"])
    near(np.concatenate(out.logits), WANT[f"{name}.logits"])
    if how.get("do_sample"):
        assert np.isfinite(out.scores[0][0, out.sequences[0, PROMPT]])


@pytest.mark.parametrize("how", [{}, {"temperature": 0.7}, {"top_k": 20}, {"top_p": 0.8}, {"min_p": 0.05}, {"frequency_penalty": 0.3},
                                 {"repetition_penalty": 1.3, "presence_penalty": 0.2, "top_k": 9, "top_p": 0.9}])
def test_scores_cost_no_token(model, how):
    """The same seed gives the same text, whoever samples: penalties are the engine's to the bit."""
    for seed in range(3):
        want = model.generate(IDS, **{**DRAWN, **how}, seed=seed)
        out = model.generate(IDS, **{**DRAWN, **how}, seed=seed, **KEPT)
        np.testing.assert_array_equal(out.sequences, want)


def test_rows_that_have_ended_have_no_scores(model):
    ids = np.concatenate([IDS, IDS[:, ::-1]])
    out = model.generate(ids, **{**PLAIN, "eos_token_id": GREEDY[1]}, **KEPT, logits_processor=[lambda ids, scores: scores])
    assert (out.sequences[0, PROMPT + 2 :] == PAD).all() and len(out.scores) > 2
    assert not out.scores[2][0].any() and not out.logits[2][0].any() and out.scores[2][1].any()
    near(out.scores[1][0], WANT["greedy.scores"][1])
    np.testing.assert_array_equal(out.scores[2][1], out.logits[2][1])


def test_what_was_not_asked_for_is_not_there(model):
    out = model.generate(IDS, **PLAIN, return_dict_in_generate=True, output_logits=True)
    assert list(out) == ["sequences", "logits"] and out.scores is None and len(out) == 2
    with pytest.warns(UserWarning, match="output_scores=True does nothing without return_dict_in_generate=True"):
        assert isinstance(model.generate(IDS, **PLAIN, output_scores=True), np.ndarray)


def test_stream_takes_them_too(model):
    seen = []
    list(model.stream(IDS[0], **PLAIN, logits_processor=[halve_even, forbid_last], repetition_penalty=1.1, on_tokens=seen.extend))
    assert seen == WANT["processors.ids"][PROMPT:].tolist()
    seen.clear()
    list(model.stream(IDS[0], **PLAIN, stopping_criteria=[five_new], on_tokens=seen.extend))
    assert seen == GREEDY[:5]
    with pytest.raises(errors.ArgumentError, match="num_return_sequences belongs to generate"):
        model.stream(IDS[0], **DRAWN, num_return_sequences=2)


# ---- the caller's code --------------------------------------------------------------------------------------------------


def test_callables_see_all_rows_with_their_padding(model):
    seen = []

    def look(ids, scores):
        seen.append((ids.copy(), scores.shape))
        return scores

    def stop_second(ids, scores):
        assert scores is None
        return np.array([False, ids.shape[1] == 5])

    out = model.generate([[4, 5, 6], [7]], **{**PLAIN, "max_new_tokens": 4}, logits_processor=[look], stopping_criteria=[stop_second])
    assert [ids.shape for ids, _ in seen] == [(2, 3), (2, 4), (2, 5), (2, 6)] and {shape for _, shape in seen} == {(2, 272)}
    assert seen[0][0].tolist() == [[4, 5, 6], [PAD, PAD, 7]]
    assert out.shape == (2, 7) and out[1, 5:].tolist() == [PAD, PAD]
    np.testing.assert_array_equal(seen[-1][0], out[:, :-1])


def test_criteria_get_the_scores_that_are_kept(model):
    seen = []
    out = model.generate(IDS, **PLAIN, **KEPT, stopping_criteria=[lambda ids, scores: seen.append(len(scores)) or len(scores) == 3])
    assert seen == [1, 2, 3] and len(out.scores) == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"logits_processor": [lambda ids, scores: None]}, errors.ArgumentError, "a logits_processor returned None; expected scores of"),
        ({"logits_processor": [lambda ids, scores: scores[0]]}, errors.ArgumentError, r"returned shape \(272,\); expected .* \(1, 272\)"),
        ({"logits_processor": [lambda ids, scores: scores - np.inf]}, errors.ArgumentError, "every token is forbidden"),
        ({"logits_processor": [lambda ids, scores: scores * np.nan]}, errors.NumericError, "score after 12 tokens is not a finite"),
        ({"logits_processor": [lambda ids, scores: scores + np.inf]}, errors.NumericError, "score after 12 tokens is not a finite"),
        ({"logits_processor": len}, errors.ArgumentError, "logits_processor is builtin_function_or_method; expected a list"),
        ({"logits_processor": [3]}, errors.ArgumentError, "logits_processor holds int; expected what can be called"),
        ({"stopping_criteria": ["x"]}, errors.ArgumentError, "stopping_criteria holds str"),
        ({"stopping_criteria": [lambda ids, scores: [True, False]]}, errors.ArgumentError, "or one for each of 1 rows"),
        ({"stopping_criteria": [lambda ids, scores: 0.5]}, errors.ArgumentError, "expected True or False"),
        ({"prefix_allowed_tokens_fn": lambda row, ids: []}, errors.ArgumentError, "no token for row 0; a text cannot go on"),
        ({"prefix_allowed_tokens_fn": lambda row, ids: [272]}, errors.ArgumentError, "must return token ids, 0 to 271, for row 0"),
        ({"prefix_allowed_tokens_fn": lambda row, ids: [-1]}, errors.ArgumentError, "must return token ids"),
        ({"prefix_allowed_tokens_fn": 5}, errors.ArgumentError, "prefix_allowed_tokens_fn holds int"),
        ({"bad_words_ids": [3]}, errors.ArgumentError, r"bad_words_ids is \[3\]; expected lists of token ids"),
        ({"bad_words_ids": [[]]}, errors.ArgumentError, "expected lists of token ids"),
        ({"bad_words_ids": [[272]]}, errors.ArgumentError, "bad_words_ids is 272; expected a token id, 0 to 271"),
        ({"suppress_tokens": list(range(272))}, errors.ArgumentError, "every token is forbidden"),
        ({"suppress_tokens": [-1]}, errors.ArgumentError, "suppress_tokens is -1"),
        ({"begin_suppress_tokens": ["a"]}, errors.ArgumentError, "begin_suppress_tokens is 'a'; expected a token id"),
        ({"sequence_bias": [[3, 1.0]]}, errors.ArgumentError, "sequence_bias is"),
        ({"sequence_bias": {(3,): float("nan")}}, errors.ArgumentError, "not a number below infinity"),
        ({"sequence_bias": 7}, errors.ArgumentError, "sequence_bias is 7; expected"),
        ({"no_repeat_ngram_size": -1}, errors.ArgumentError, "no_repeat_ngram_size is -1; expected 0 or more"),
        ({"min_new_tokens": 1.5}, errors.ArgumentError, "min_new_tokens is 1.5; expected a whole number"),
        ({"num_return_sequences": 0}, errors.ArgumentError, "num_return_sequences is 0; expected 1 or more"),
        ({"num_return_sequences": 2}, errors.ArgumentError, "without do_sample=True they would be the same text"),
        ({"use_cache": "no"}, errors.ArgumentError, "use_cache is 'no'; expected True or False"),
        ({"output_scores": 1}, errors.ArgumentError, "output_scores is 1; expected True or False"),
    ],
)
def test_what_makes_no_sense_says_so_and_leaves_the_model_usable(model, arguments, error, message):
    with pytest.raises(error, match=message):
        model.generate(IDS, **{**PLAIN, **arguments})
    assert model.generate(IDS, **PLAIN)[0, PROMPT:].tolist() == GREEDY


def test_what_a_callable_raises_comes_out(model):
    def fail(ids, scores):
        raise RuntimeError("mine")

    for how in ({"logits_processor": [fail]}, {"stopping_criteria": [fail]}, {"prefix_allowed_tokens_fn": fail}):
        with pytest.raises(RuntimeError, match="mine"):
            model.generate(IDS, **PLAIN, **how)


def test_a_bias_comes_in_both_forms(model):
    pairs = [[[7], 3.0], [[11, 9], -2.5], [[9], -1.0]]
    assert model.generate(IDS, **PLAIN, sequence_bias=pairs)[0].tolist() == WANT["bias.ids"].tolist()


def test_a_forbidden_token_is_never_drawn(model):
    """Where so few are left that draws have nothing else to fall back on."""
    for how in ({}, {"top_k": 50}, {"top_p": 0.9999}, {"min_p": 1e-6}):
        for seed in range(8):
            drawn = {**DRAWN, "temperature": 50.0, **how, "seed": seed}
            out = model.generate(IDS, **drawn, prefix_allowed_tokens_fn=lambda row, ids: [5, 200])
            assert set(out[0, PROMPT:].tolist()) <= {5, 200}


# ---- several texts for a prompt, and what is known of it -----------------------------------------------------------------


def test_several_texts_of_one_prompt_are_those_of_their_seeds(model):
    prompts = np.concatenate([IDS, IDS[:, ::-1]])
    out = model.generate(prompts, **DRAWN, num_return_sequences=3, seed=5)
    assert out.shape == (6, PROMPT + NEW)
    for row in range(2):
        for copy in range(3):
            want = model.generate(prompts[row : row + 1], **DRAWN, seed=5 + copy)
            np.testing.assert_array_equal(out[3 * row + copy], want[0])
    seeds = [9, 8, 7, 6, 5, 4]
    listed = model.generate(prompts, **DRAWN, num_return_sequences=3, seed=seeds)
    np.testing.assert_array_equal(listed[4], model.generate(prompts[1:], **DRAWN, seed=5)[0])
    with pytest.raises(errors.ArgumentError, match="2 seeds for 6 rows"):
        model.generate(prompts, **DRAWN, num_return_sequences=3, seed=[1, 2])
    assert len(np.unique(model.generate(IDS, **DRAWN, temperature=3.0, num_return_sequences=4), axis=0)) == 4


def test_the_prompt_of_several_texts_is_read_once(model):
    model.forget()
    before = model.stats()["passes"]
    out = model.generate(IDS, **DRAWN, num_return_sequences=4, seed=1, **KEPT)
    stats = model.stats()
    assert stats["passes"] - before == NEW and stats["new_tokens"] == 4 * NEW
    assert out.scores[0].shape == (4, 272) and np.array_equal(out.logits[0][0], out.logits[0][3])
    assert not np.array_equal(out.logits[-1][0], out.logits[-1][3])


def test_texts_of_one_prompt_may_end_at_once(model):
    first = model.generate(IDS, **DRAWN, num_return_sequences=4, temperature=3.0, seed=1)[:, PROMPT]
    out = model.generate(IDS, **{**DRAWN, "eos_token_id": int(first[0])}, num_return_sequences=4, temperature=3.0, seed=1)
    assert (out[0, PROMPT + 1 :] == PAD).all() and out[1:, PROMPT].tolist() == first[1:].tolist()
    assert model.generate(IDS, **{**DRAWN, "max_new_tokens": 1}, num_return_sequences=3).shape == (3, PROMPT + 1)


def test_without_the_cache_nothing_is_taken_from_other_calls_nor_left_to_them(model):
    model.forget()
    want = model.generate(IDS, **PLAIN)
    assert model.generate(IDS, **PLAIN, use_cache=True).tolist() == want.tolist() and model.stats()["reused_tokens"] == PROMPT - 1
    assert model.generate(IDS, **PLAIN, use_cache=False).tolist() == want.tolist() and model.stats()["reused_tokens"] == 0
    model.forget()
    model.generate(IDS, **PLAIN, use_cache=False)
    model.generate(IDS, **PLAIN)
    assert model.stats()["reused_tokens"] == 0
    assert model(IDS, use_cache=False).logits.shape == (1, PROMPT, 272)


def test_weights_that_stay_are_room_for_scores(tmp_path):
    """Before the first pass has brought them and after, and experts as well."""
    asked = {"max_new_tokens": 64, "return_dict_in_generate": True, "output_scores": True, "eos_token_id": None}
    with load(max_ram="5MiB", io="direct") as model:
        for _ in range(2):
            assert len(model.generate([[5, 6]], **asked).scores) == 64  # 1 MiB
    path = tmp_path / "mixture.gguf"
    make_gguf.write(path, shape="moe", arch="qwen3moe", type="F16", layers=3, embd=256, heads=4, kv_heads=2, head_dim=64, vocab=4096,
                    ctx=128, experts=16, used=4, expert_ff=256)  # fmt: skip
    with load(path, max_ram="12MiB", io="direct") as model:
        model.generate([[5, 6]], max_new_tokens=32, eos_token_id=None)
        stats = model.stats()
        assert stats["budget"] - stats["held"] + stats["held_by"]["pinned weights"] < 120 * 2 * 4 * 4096  # what is asked for now
        asked |= {"max_new_tokens": 120, "output_logits": True}
        assert len(model.generate([[5, 6]], **asked).scores) == 120


def test_scores_that_memory_does_not_hold_are_refused():
    with load(max_ram="12MiB") as model, pytest.raises(errors.BudgetError, match=r"scores and logits of 400 steps take 12\.5 MiB"):
        model.generate([[1, 2]], max_new_tokens=400, eos_token_id=[], **KEPT)
