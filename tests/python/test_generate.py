"""generate() and stream(): shapes, stopping, sampling, streamers, reuse, threads."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import threading
import time
import weakref
from collections import Counter

import numpy as np
import pytest
from models import DEMO, load, run_python

from airpy import GenerationConfig, TextIteratorStreamer, TextStreamer, errors

TEXTS = ["And it came to pass", "The", "It is a truth universally acknowledged, that a"]


@pytest.fixture(scope="module")
def model():
    with load() as model:
        yield model


@pytest.fixture
def fresh(model):
    model.forget()
    return model


def alone(model, text, n=12, **arguments):
    ids = model.tokenizer([text], return_tensors="np").input_ids
    return model.generate(ids, max_new_tokens=n, **arguments)[0, ids.shape[1] :].tolist()


# ---- shapes ----------------------------------------------------------------------------------------------------------------------


def test_prompt_and_new_ids_come_back(model):
    inputs = model.tokenizer(TEXTS[:1], return_tensors="np")
    out = model.generate(**inputs, max_new_tokens=5)
    assert out.dtype == np.int64 and out.shape == (1, inputs.input_ids.shape[1] + 5)
    np.testing.assert_array_equal(out[:, :-5], inputs.input_ids)
    assert isinstance(model.tokenizer.decode(out[0]), str)


@pytest.mark.parametrize("form", [list, tuple, np.array, lambda ids: np.array(ids, np.int32), lambda ids: np.array(ids[0])])
def test_prompts_come_in_many_forms(model, form):
    ids = [model.tokenizer.encode(TEXTS[0])]
    want = model.generate(ids, max_new_tokens=4)
    np.testing.assert_array_equal(model.generate(form(ids), max_new_tokens=4), want)


def test_what_has_an_array_is_taken_as_one(model):
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return np.array([[5, 6, 7]])

    np.testing.assert_array_equal(model.generate(Tensor(), max_new_tokens=3), model.generate([[5, 6, 7]], max_new_tokens=3))


def test_single_ids_may_be_arrays(model):
    want = model.generate([[3, 4]], max_new_tokens=3)
    np.testing.assert_array_equal(model.generate([np.array(3), np.array(4)], max_new_tokens=3), want)
    np.testing.assert_array_equal(model.generate([np.int64(3), np.int64(4)], max_new_tokens=3), want)


def test_padding_without_a_mask_is_seen_where_its_id_is_nothing_else(model):
    """As transformers infers it."""
    row = model.tokenizer.encode(TEXTS[2])
    padded = np.array([[7] * 4 + row])
    whole_mask = np.ones(padded.shape, int)
    how = {"max_new_tokens": 8, "eos_token_id": []}
    want = model.generate(padded, [[0] * 4 + [1] * len(row)], **how)
    whole = model.generate(padded, whole_mask, **how)
    assert want.tolist() != whole.tolist()
    np.testing.assert_array_equal(model.generate(padded, pad_token_id=7, **how), want)
    np.testing.assert_array_equal(model.generate(padded, whole_mask, pad_token_id=7, **how), whole)
    np.testing.assert_array_equal(model.generate(padded, **how), whole)  # another id is a text's
    out = model.generate(padded, pad_token_id=7, max_new_tokens=8, eos_token_id=[7])  # and so is one that ends texts
    np.testing.assert_array_equal(out, whole[:, : out.shape[1]])
    assert model.generate([[7, 7]], pad_token_id=7, **how).shape == (1, 10)  # nothing but padding is a text


def test_rows_of_unequal_length_give_what_each_gives_alone(fresh):
    want = [alone(fresh, text) for text in TEXTS]
    fresh.forget()
    padded = fresh.tokenizer(TEXTS, return_tensors="np", padding=True)
    out = fresh.generate(**padded, max_new_tokens=12)
    width = padded.input_ids.shape[1]
    np.testing.assert_array_equal(out[:, :width], padded.input_ids)  # left padding stays
    assert [row[width:].tolist() for row in out] == want
    fresh.forget()
    ragged = fresh.generate(fresh.tokenizer(TEXTS).input_ids, max_new_tokens=12)
    np.testing.assert_array_equal(ragged, out)


def test_a_batch_reads_each_weight_once_for_all(fresh):
    with load(io="direct", max_ram="6MiB") as model:
        ids = np.random.default_rng(2).integers(0, 4096, (6, 9))
        model.generate(ids[:1], max_new_tokens=4, eos_token_id=[])
        passes = model.stats()["passes"]
        model.forget()
        model.generate(ids, max_new_tokens=5, eos_token_id=[])
        stats = model.stats()
        assert stats["passes"] - passes <= 2 + 4  # the prompts in one pass, or two where rows are short of room
        assert stats["bytes_disk_per_token"] < 6.2e6 / 6


def test_rows_that_end_early_are_padded_on_the_right(model):
    ids = model.tokenizer.encode(TEXTS[0])
    free = alone(model, TEXTS[0], 10)
    other = model.tokenizer.encode(TEXTS[2])
    out = model.generate([ids, other], max_new_tokens=10, eos_token_id=free[2], pad_token_id=7)
    width = max(len(ids), len(other))
    stop = free.index(free[2])
    assert out[0, width:].tolist() == free[: stop + 1] + [7] * (out.shape[1] - width - stop - 1)


def test_return_dict_has_sequences(model):
    out = model.generate([[1, 2]], max_new_tokens=2, return_dict_in_generate=True)
    assert out.sequences.shape == (1, 4) and out["sequences"] is out[0]
    assert list(out) == list(out.keys()) == ["sequences"] and "sequences" in out and "scores" not in out
    assert out.to_tuple()[0] is out.sequences
    with pytest.raises(KeyError):
        out["scores"]


def test_rows_of_unequal_length_have_masks_of_their_own(model):
    want = model.generate([[7], [8]], max_new_tokens=3)
    out = model.generate([[5, 6, 7], [8]], attention_mask=[[0, 0, 1], [1]], max_new_tokens=3)
    np.testing.assert_array_equal(out[:, -4:], want)
    assert out[0, :3].tolist() == [5, 6, 7]
    np.testing.assert_array_equal(model.generate([[5, 6, 7], [8]], [[1, 1, 1], [1]], max_new_tokens=3)[0, :3], [5, 6, 7])


def test_a_mask_of_floats_is_a_mask(model):
    padded = np.array([[7, 7, 1, 2], [3, 4, 5, 6]])
    mask = np.array([[0.0, 0, 1, 1], [1, 1, 1, 1]])
    np.testing.assert_array_equal(
        model.generate(padded, mask, max_new_tokens=3), model.generate(padded, mask.astype(int), max_new_tokens=3)
    )


# ---- when it stops ---------------------------------------------------------------------------------------------------------------


def test_it_stops_at_the_end_token_and_not_without_one(model):
    free = alone(model, TEXTS[1], 8, eos_token_id=[])
    assert len(free) == 8
    first = free.index(free[3])
    assert alone(model, TEXTS[1], 8, eos_token_id=[4095, free[3]]) == free[: first + 1]
    assert alone(model, TEXTS[1], 8, eos_token_id=None) == free


def test_max_length_counts_the_prompt(model):
    assert model.generate([[1, 2, 3]], max_length=5, eos_token_id=[]).shape == (1, 5)
    with pytest.raises(errors.ArgumentError, match="max_length"):
        model.generate([[1, 2, 3]], max_length=3)
    with pytest.raises(errors.ArgumentError, match="both"):
        model.generate([[1]], max_length=9, max_new_tokens=3)


def test_the_default_is_what_the_context_has_room_for():
    with load(n_ctx=64) as model:
        assert model.generate([[1] * 10], eos_token_id=[]).shape == (1, 64)
    with load() as model:
        assert model.generate([[1] * 10], eos_token_id=[]).shape == (1, 266)


def test_too_much_for_the_context_is_refused_before_anything_is_computed(fresh):
    passes = fresh.stats()["passes"]
    for ids, n in (([[1] * 500], 13), ([[1] * 512], 1), ([[1] * 600], None)):
        with pytest.raises(errors.ContextOverflowError, match="the 512 positions that the model was trained for; shorten"):
            fresh.generate(ids, max_new_tokens=n)
    with pytest.raises(errors.ContextOverflowError, match="the 512 positions that the model was trained for; shorten"):
        fresh([[1] * 600])
    assert fresh.stats()["passes"] == passes
    assert fresh.generate([[1] * 500], max_new_tokens=12, eos_token_id=[]).shape == (1, 512)


def test_a_larger_context_is_advised_where_there_is_one():
    with load(n_ctx=64) as model:
        for call in (lambda: model.generate([[1] * 70]), lambda: model([[1] * 70])):
            with pytest.raises(errors.ContextOverflowError, match=r"context of 64; .*open .*larger n_ctx.* 512|trained: 512"):
                call()


def test_stop_strings_match_across_tokens(model):
    free = model.tokenizer.decode(alone(model, TEXTS[0], 30))
    pieces = model.tokenizer.pieces(alone(model, TEXTS[0], 30))
    stop = (pieces[3] + pieces[4] + pieces[5])[1:-1]  # begins and ends inside of tokens
    ids = alone(model, TEXTS[0], 30, stop_strings=["never in there", stop])
    assert ids == alone(model, TEXTS[0], 30)[: len(ids)] and len(ids) <= 6
    assert stop in model.tokenizer.decode(ids)
    assert "".join(model.stream(TEXTS[0], max_new_tokens=30, stop_strings=stop)) == free[: free.index(stop)]


def test_what_looks_like_a_stop_string_but_is_none_is_shown(model):
    free = "".join(model.stream(TEXTS[0], max_new_tokens=30))
    almost = free[-3:] + "\x00"
    assert "".join(model.stream(TEXTS[0], max_new_tokens=30, stop_strings=almost)) == free


# ---- sampling --------------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_text_alone_and_in_a_batch(fresh):
    how = {"do_sample": True, "temperature": 0.9}
    want = [alone(fresh, text, seed=seed, **how) for text, seed in zip(TEXTS, (3, 4, 5), strict=True)]
    fresh.forget()
    ids = fresh.tokenizer(TEXTS).input_ids
    width = max(map(len, ids))
    out = fresh.generate(ids, max_new_tokens=12, seed=[3, 4, 5], **how)
    assert [row[width:].tolist() for row in out] == want
    same = fresh.generate([ids[0], ids[0]], max_new_tokens=12, seed=3, **how)
    assert same[0].tolist() == same[1].tolist() and same[0, len(ids[0]) :].tolist() == want[0]


def test_without_a_seed_texts_differ(model):
    texts = {tuple(alone(model, TEXTS[1], 12, do_sample=True, temperature=1.5)) for _ in range(6)}
    assert len(texts) > 1


def test_truncations_and_penalties_reach_the_sampler(model):
    greedy = alone(model, TEXTS[1], 24)
    how = {"do_sample": True, "temperature": 2.0, "seed": 1}
    for least in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert alone(model, TEXTS[1], 24, **how, **least) == greedy
    assert alone(model, TEXTS[1], 24, **how) != greedy
    assert max(Counter(alone(model, TEXTS[1], 24, presence_penalty=100.0)).values()) == 1
    for penalty in ({"repetition_penalty": 1.5}, {"frequency_penalty": 2.0}):
        assert alone(model, TEXTS[1], 24, **penalty) != greedy


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": -1.0, "do_sample": True}, {"top_p": 0.0, "do_sample": True}, {"top_k": -2, "do_sample": True},
        {"repetition_penalty": 0.0}, {"max_new_tokens": 0}, {"max_new_tokens": 2.5}, {"seed": -1}, {"seed": [1, 2]},
        {"seed": 1 << 64},
        {"stop_strings": [""]}, {"stop_strings": [3]}, {"eos_token_id": "x"}, {"eos_token_id": -3}, {"pad_token_id": "x"},
    ],
)  # fmt: skip
def test_values_that_make_no_sense_are_argument_errors(model, arguments):
    with pytest.raises(errors.ArgumentError):
        model.generate([[1, 2]], **{"max_new_tokens": 2, **arguments})


@pytest.mark.parametrize(
    ("ids", "mask"),
    [
        (None, None), ([], None), ([[]], None), ([[1], []], None), ([[-1]], None), ([[1.5]], None), ([["a"]], None), ("text", None),
        ([[4096]], None), ([[1 << 40]], None), ([[[1]]], None), ({"input_ids": [[1]]}, None), ([[1, 2]], [[1]]),
        ([[1, 2]], [[1, 0]]),
        ([[1, 2]], [[0, 0]]), ([[1, 2, 3]], [[1, 0, 1]]), ([[1], [2, 3]], [[0, 1], [1, 1]]),
        ([[1], [2, 3]], [[1], [1]]), ([[1], [2, 3]], [[1], [1, 1, 1]]), ([[1], [2, 3]], [[1], [1, 1], [1]]), ([[1], [2, 3]], [[1], [1, 0]]),
        ([[1], [2, 3]], [[0], [1, 1]]), ([[True]], None), ([np.array(3), [4, 5]], None), ([np.array(3), [4]], None),
    ],
)  # fmt: skip
def test_prompts_that_make_no_sense_are_argument_errors(model, ids, mask):
    with pytest.raises(errors.ArgumentError):
        model.generate(ids, mask, max_new_tokens=1)


# ---- whose arguments -------------------------------------------------------------------------------------------------------------


def test_a_config_stands_between_the_models_and_the_arguments(model):
    config = GenerationConfig(max_new_tokens=3, eos_token_id=[])
    assert model.generate([[1, 2]], generation_config=config).shape == (1, 5)
    assert model.generate([[1, 2]], generation_config={"max_new_tokens": 3}, max_new_tokens=4, eos_token_id=[]).shape == (1, 6)
    assert model.generate([[1, 2]], generation_config=config, max_length=4).shape == (1, 4)
    assert GenerationConfig().over(config).max_new_tokens == 3


def test_the_models_own_config_is_the_default():
    with load() as model:
        model.generation_config.max_new_tokens = 2
        model.generation_config.eos_token_id = []
        model.generation_config.num_beams = 1  # what transformers sets and means what airpy does
        assert model.generate([[1, 2]]).shape == (1, 4)
        with pytest.raises(errors.UnsupportedError, match="generation_config: num_beams=4 is not supported; use do_sample=True"):
            model.generation_config.num_beams = 4
        with pytest.raises(AttributeError, match="generation_config has no field 'max_new_token'; it has max_new_tokens, "):
            model.generation_config.max_new_token = 2
        assert pickle.loads(pickle.dumps(model.generation_config)) == copy.deepcopy(model.generation_config) == model.generation_config


def test_what_an_assigned_config_leaves_open_is_the_files():
    with load() as model:
        free = alone(model, TEXTS[1], 8, eos_token_id=[])
        model._file_config.eos_token_id, model._file_config.pad_token_id = [free[3]], 7
        stopped = free[: free.index(free[3]) + 1]
        for config in (GenerationConfig(max_new_tokens=8), {"max_new_tokens": 8}):
            model.generation_config = config
            ids = model.tokenizer([TEXTS[1]], return_tensors="np").input_ids
            assert model.generate(ids)[0, ids.shape[1] :].tolist() == stopped
            out = model.generate([[1, 2, 3], [4]], eos_token_id=None)
            assert out[1, :3].tolist() == [7, 7, 4] and out.shape[1] == 3 + 8  # pad is the file's as well
        model.generation_config.eos_token_id = []
        assert alone(model, TEXTS[1], 8) == free
        model.generation_config = None
        assert model.generation_config.eos_token_id == [free[3]] and alone(model, TEXTS[1], 8) == stopped
        with pytest.raises(errors.ArgumentTypeError, match="generation_config is int; expected airpy"):
            model.generation_config = 3


class TransformersConfig:
    """As transformers' GenerationConfig gives itself away."""

    def __init__(self, **fields):
        self.fields = fields

    def to_diff_dict(self):
        return dict(self.fields)


def test_configs_of_real_models_are_taken(model):
    real = {
        "bos_token_id": 128000, "eos_token_id": [128, 9], "pad_token_id": -1, "do_sample": True, "temperature": 0.6, "top_p": 0.9,
        "top_k": 20, "repetition_penalty": 1.05, "transformers_version": "4.42.3", "_from_model_config": True, "use_cache": True,
        "cache_implementation": "hybrid", "num_return_sequences": 1, "num_beams": 1, "num_assistant_tokens": 5, "max_length": 4,
        "decoder_start_token_id": 1, "trust_remote_code": True, "_commit_hash": None, "renormalize_logits": True,
    }  # fmt: skip
    config = TransformersConfig(**real)
    assert model.generate([[1, 2]], generation_config=config, seed=1).shape == (1, 4)
    with load() as other:
        other.generation_config = config
        assert other.generate([[1, 2]], seed=1).shape == (1, 4) and other.generation_config.eos_token_id == [128, 9]
    for changed in ({"num_beams": 4}, {"cache_implementation": "quantized"}, {"typical_p": 0.5}):
        with pytest.raises(errors.UnsupportedError, match=f"{next(iter(changed))}="):
            model.generate([[1]], generation_config=TransformersConfig(**{**real, **changed}))
    with pytest.raises(errors.ArgumentTypeError, match="future_field"):
        model.generate([[1]], generation_config=TransformersConfig(future_field=1))


def test_advice_is_a_sentence(model):
    with pytest.raises(errors.UnsupportedError, match=r"typical_p=0.2 is not supported; use min_p or top_p"):
        model.generate([[1]], typical_p=0.2)
    with load(n_ctx=64) as short, pytest.raises(errors.ContextOverflowError, match="lower max_length, or open"):
        short.generate([[1]], max_length=99)


def test_prompts_are_inputs_as_well(model):
    want = model.generate([[5, 6, 7]], max_new_tokens=2)
    np.testing.assert_array_equal(model.generate(inputs=[[5, 6, 7]], max_new_tokens=2), want)
    with pytest.raises(errors.UnsupportedError, match="use input_ids or inputs, not both"):
        model.generate([[5, 6, 7]], inputs=[[5]], max_new_tokens=2)


def test_unknown_arguments_raise_and_unsupported_ones_say_what_to_do(model):
    with pytest.raises(TypeError, match="max_new_token'"):
        model.generate([[1]], max_new_token=3)
    for arguments in (
        {"num_beams": 4}, {"num_beam_groups": 2}, {"penalty_alpha": 0.6}, {"assistant_model": model}, {"num_beams": True},
        {"constraints": [len]}, {"force_words_ids": [[3]]}, {"output_attentions": True},
    ):  # fmt: skip
        with pytest.raises(errors.UnsupportedError, match="use "):
            model.generate([[1]], **arguments)
    with pytest.raises(TypeError) as refused:
        model.generate([[1]], generation_config=3)
    assert isinstance(refused.value, errors.AirpyError)
    with pytest.raises(TypeError, match="nonsense"):
        model.generate([[1]], generation_config={"nonsense": 3})
    neutral = {"num_beams": 1, "use_cache": True, "output_scores": False, "logits_processor": None, "length_penalty": 1}
    neutral |= {"stopping_criteria": [], "bad_words_ids": []}
    assert model.generate([[1]], max_new_tokens=1, logits_processor=type("LogitsProcessorList", (list,), {})()).shape == (1, 2)
    assert model.generate([[1]], max_new_tokens=1, **neutral).shape == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": [[1 << 40]]}, "prompt 0 has ids from 1099511627776 to 1099511627776; expected token ids, 0 to 4095"),
        ({"input_ids": [[1, 2], [3, 4096]]}, "prompt 1 has ids from 3 to 4096; expected token ids, 0 to 4095"),
        ({"attention_mask": [[1]]}, "attention_mask has 1 numbers for the 2 tokens of prompt 0"),
        ({"streamer": "x"}, r"streamer is str; expected an object with put\(\) and end\(\), such as TextStreamer"),
        ({"do_sample": "yes"}, "do_sample is 'yes'; expected True or False"),
        ({"do_sample": 1}, "do_sample is 1; expected True or False"),
        ({"do_sample": "False"}, "do_sample is 'False'; expected True or False"),
        ({"do_sample": "True"}, "do_sample is 'True'; expected True or False"),
        ({"temperature": "0.7", "do_sample": True}, "temperature is '0.7'; expected a number"),
        ({"top_p": True, "do_sample": True}, "top_p is True; expected a number"),
        ({"top_k": 2.5, "do_sample": True}, "top_k is 2.5; expected a whole number"),
        ({"repetition_penalty": [1]}, r"repetition_penalty is \[1\]; expected a number"),
        ({"repetition_penalty": 1e300}, r"repetition_penalty is 1e\+300; it must be above 0, at most 1e6"),
        ({"temperature": 1e300, "do_sample": True}, r"temperature is 1e\+300; it must be 0 to 1e6"),
        ({"temperature": float("inf"), "do_sample": True}, "temperature is inf; it must be 0 to 1e6"),
        ({"min_p": float("nan"), "do_sample": True}, "min_p is nan; it must be 0 to 1"),
        ({"top_k": -1, "do_sample": True}, r"top_k is -1; it must be 0 \(off\) or more"),
        ({"stop_strings": 5}, "stop_strings is 5; expected texts that are not empty"),
        ({"return_dict_in_generate": "no"}, "return_dict_in_generate is 'no'"),
        ({"max_new_tokens": True}, "max_new_tokens is True; expected a whole number"),
        ({"seed": False}, "seed is False"),
        ({"eos_token_id": 4096}, "eos_token_id is 4096; expected a token id, 0 to 4095"),
        ({"eos_token_id": [3, 1 << 20]}, "eos_token_id is 1048576"),
        ({"eos_token_id": True}, "eos_token_id is True; expected a token id"),
        ({"pad_token_id": 4096}, "pad_token_id is 4096"),
        ({"attention_mask": [[2, 1]]}, "attention_mask holds 2; expected 1 for tokens and 0 for padding"),
        ({"attention_mask": [[0, -1]]}, "attention_mask holds -1"),
        ({"attention_mask": np.array([[0.5, 1]])}, "attention_mask holds 0.5"),
    ],
)
def test_arguments_without_a_meaning_say_what_was_expected(model, arguments, message):
    with pytest.raises(errors.ArgumentError, match=message):
        model.generate(**{"input_ids": [[1, 2]], **arguments})


def test_what_means_the_same_is_taken(model):
    out = model.generate([[1, 2]], np.array([[False, True]]), max_new_tokens=np.int64(1), do_sample=np.bool_(True), seed=1)
    assert out.shape == (1, 3)


def test_sampling_arguments_without_sampling_warn(model):
    with pytest.warns(UserWarning, match="temperature=0.7 does nothing without do_sample") as seen:
        model.generate([[1]], max_new_tokens=1, temperature=0.7)
    assert seen[0].filename == __file__
    for arguments, message in (
        ({"seed": 3}, "seed=3 does nothing without do_sample=True"),
        ({"seed": [3]}, r"seed=\[3\] does nothing without do_sample=True"),
        ({"seed": 3, "do_sample": True, "temperature": 0}, "seed=3 does nothing at temperature=0"),
        ({"top_k": 3, "do_sample": True, "temperature": 0.0}, "top_k=3 does nothing at temperature=0"),
    ):
        with pytest.warns(UserWarning, match=message) as seen:
            model.generate([[1]], max_new_tokens=1, **arguments)
        assert [warning.filename for warning in seen] == [__file__]
    with pytest.warns(UserWarning, match="seed=3 does nothing") as seen:
        model.stream([1], max_new_tokens=1, seed=3)
    assert seen[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_what_has_an_effect_or_is_the_default_does_not_warn(model):
    model.generate([[1]], max_new_tokens=1, seed=3, top_k=3, temperature=0.5, do_sample=True)
    model.generate([[1]], max_new_tokens=1, do_sample=True, temperature=0, top_k=50, top_p=1.0)


# ---- streaming -------------------------------------------------------------------------------------------------------------------


def test_stream_gives_the_text_of_generate(model):
    ids = model.tokenizer.encode(TEXTS[0])
    out = model.generate([ids], max_new_tokens=20)[0].tolist()
    pieces = list(model.stream(TEXTS[0], max_new_tokens=20))
    assert len(pieces) > 5
    assert TEXTS[0] + "".join(pieces) == model.tokenizer.decode(out, skip_special_tokens=True)
    assert "".join(model.stream(ids, max_new_tokens=20)) == "".join(pieces)


def test_stream_never_gives_half_a_character(model):
    # What follows the first bytes of a character is up to the model: every id it might choose is forced by turns.
    euro = model.tokenizer.encode("€")
    assert len(euro) > 1
    decoder = model.tokenizer.stream_decoder([])
    pieces = [decoder.push(i) for i in euro]
    assert pieces[:-1] == [""] * (len(euro) - 1) and pieces[-1] == "€"
    text = "".join(model.stream(euro[:-1], max_new_tokens=6, do_sample=True, temperature=9.0, top_k=0, seed=2))
    text.encode("utf-8")


def test_leaving_a_stream_early_leaves_the_model_usable(fresh):
    stream = fresh.stream(TEXTS[0], max_new_tokens=400, eos_token_id=[])
    first = next(stream)
    stream.close()
    passes = fresh.stats()["passes"]
    assert passes == fresh.stats()["passes"]
    assert next(iter(fresh.stream(TEXTS[0], max_new_tokens=4))) == first
    for _ in fresh.stream(TEXTS[0], max_new_tokens=400):
        break
    assert alone(fresh, TEXTS[0], 3)


def test_a_stream_left_open_says_nothing_when_the_interpreter_ends(tmp_path):
    done = run_python(
        "import sys\n"
        "from airpy import AutoModel, calibration\n"
        "calibration._LEARN_SECONDS = 0.0\n"
        "model = AutoModel.from_pretrained(sys.argv[1])\n"
        "stream = model.stream('It is', max_new_tokens=8)\n"
        "print(len([next(stream) for _ in range(3)]))",
        str(DEMO), env={"AIRPY_BANDWIDTHS": "", "AIRPY_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout == "3\n" and not done.stderr


def test_stream_checks_its_arguments_at_once(model):
    passes = model.stats()["passes"]
    for error, arguments, message in (
        (TypeError, {"bogus": 1}, r"stream\(\) got an unexpected argument 'bogus'"),
        (TypeError, {"attention_mask": [[1]]}, r"stream\(\) got an unexpected argument 'attention_mask'"),
        (TypeError, {"streamer": None}, r"stream\(\) got an unexpected argument 'streamer'"),
        (errors.ArgumentError, {"return_dict_in_generate": True}, "generate"),
        (errors.ContextOverflowError, {"max_new_tokens": 600}, "600 new ones exceed"),
        (errors.ArgumentError, {"max_length": 1}, "max_length is 1"),
        (errors.ArgumentError, {"seed": [1, 2]}, "2 seeds for 1 rows"),
        (errors.ArgumentError, {"do_sample": True, "top_p": 3}, "top_p is 3; it must be above 0, at most 1"),
        (errors.UnsupportedError, {"num_beams": 4}, r"stream\(\): num_beams=4"),
    ):
        with pytest.raises(error, match=message):
            model.stream([1, 2], **arguments)
    assert model.stats()["passes"] == passes
    with pytest.raises(errors.ArgumentError, match="one prompt"):
        model.stream([[1], [2]])


def test_streamers_get_what_transformers_gives_them(model):
    class Recorder:
        def __init__(self):
            self.values, self.ended = [], 0

        def put(self, value):
            self.values.append(value)

        def end(self):
            self.ended += 1

    recorder = Recorder()
    out = model.generate([[1, 2], [3, 4]], max_new_tokens=3, eos_token_id=[], streamer=recorder)
    assert [value.shape for value in recorder.values] == [(2, 2), (2,), (2,), (2,)] and recorder.ended == 1
    np.testing.assert_array_equal(np.stack(recorder.values[1:], axis=1), out[:, 2:])
    with pytest.raises(errors.ArgumentError):
        model.generate([[1, 2]], max_new_tokens=3, seed=[1, 2], streamer=(failing := Recorder()))
    assert failing.values == []


@pytest.mark.parametrize("arguments", [{"input_ids": 5.5}, {"do_sample": "yes"}, {"bogus": 1}, {"generation_config": 3}, {"num_beams": 4}])
def test_a_streamer_ends_with_a_refusal_too(model, arguments):
    streamer = TextIteratorStreamer(model.tokenizer, timeout=5)
    with pytest.raises((errors.AirpyError, TypeError)):
        model.generate(**{"input_ids": [[1]], **arguments}, streamer=streamer)
    assert list(streamer) == []


def test_text_streamers_print_and_iterate(model, capsys):
    ids = [model.tokenizer.encode(TEXTS[0])]
    text = "".join(model.stream(ids[0], max_new_tokens=10))
    model.generate(ids, max_new_tokens=10, streamer=TextStreamer(model.tokenizer))
    assert capsys.readouterr().out == TEXTS[0] + text + "\n"
    streamer = TextIteratorStreamer(model.tokenizer, skip_prompt=True, timeout=30)
    thread = threading.Thread(target=model.generate, args=(ids,), kwargs={"max_new_tokens": 10, "streamer": streamer})
    thread.start()
    assert "".join(streamer) == text
    thread.join()
    with pytest.raises(errors.ArgumentError, match="one row"):
        model.generate([[1], [2]], max_new_tokens=1, streamer=TextStreamer(model.tokenizer))


# ---- the end of a model ----------------------------------------------------------------------------------------------------------


def generate_through(model):
    model.generate([[1, 2]], max_new_tokens=3)


def stream_to_the_end(model):
    assert list(model.stream([1, 2], max_new_tokens=3, eos_token_id=[]))


def leave_a_stream(model):
    for _ in model.stream([1, 2], max_new_tokens=30, eos_token_id=[]):
        break


def never_start_a_stream(model):
    model.stream([1, 2], max_new_tokens=3)


def be_refused(model):
    with pytest.raises(errors.ContextOverflowError):
        model.generate([[1, 2]], max_new_tokens=600)


def fail_amid(model):
    class Full:
        def put(self, value):
            if value.ndim == 1:
                raise OSError("full")

        def end(self):
            pass

    with pytest.raises(OSError, match="full"):
        model.generate([[1, 2]], max_new_tokens=30, streamer=Full())


def run_out_of_memory(model):
    with pytest.raises(errors.BudgetError):
        model.generate([[1] * 300] * 64, max_new_tokens=2)


def be_cancelled(model):
    stream = model.stream([1, 2], max_new_tokens=300, eos_token_id=[])
    next(stream)
    model.cancel()
    with pytest.raises(errors.CancelledError):
        list(stream)


@pytest.mark.parametrize(
    "use",
    [generate_through, stream_to_the_end, leave_a_stream, never_start_a_stream, be_refused, fail_amid, run_out_of_memory, be_cancelled],
)
def test_a_model_goes_with_its_last_reference(use):
    """By counting alone: weights and threads do not wait for the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        model = load(io="direct", max_ram="6MiB")
        use(model)
        gone, pool_gone = weakref.ref(model), weakref.ref(model._pool)
        del model
        assert gone() is None and pool_gone() is None
    finally:
        gc.enable()


# ---- reuse -----------------------------------------------------------------------------------------------------------------------


def test_a_known_beginning_is_not_computed_again(fresh):
    first = fresh.generate([list(range(50, 90))], max_new_tokens=10, eos_token_id=[])[0].tolist()
    assert fresh.stats()["reused_tokens"] == 0
    longer = [*first, 7, 8, 9]
    again = fresh.generate([longer], max_new_tokens=5, eos_token_id=[])[0].tolist()
    assert fresh.stats()["reused_tokens"] == len(first) - 1  # the last token was never computed
    fresh.forget()
    assert fresh.generate([longer], max_new_tokens=5, eos_token_id=[])[0].tolist() == again


def test_a_text_that_goes_on_differently_leaves_the_other_one_known(fresh):
    base = list(range(100, 130))
    a = fresh.generate([[*base, 1, 2]], max_new_tokens=4, eos_token_id=[])[0].tolist()
    fresh.generate([[*base, 3, 4]], max_new_tokens=4, eos_token_id=[])
    assert fresh.stats()["reused_tokens"] == len(base)
    fresh.generate([[*a, 9]], max_new_tokens=4, eos_token_id=[])
    assert fresh.stats()["reused_tokens"] == len(a) - 1


def test_the_same_prompt_again_computes_one_token(fresh):
    ids = [list(range(200, 240))]
    want = fresh.generate(ids, max_new_tokens=6, eos_token_id=[])
    np.testing.assert_array_equal(fresh.generate(ids, max_new_tokens=6, eos_token_id=[]), want)
    assert fresh.stats()["reused_tokens"] == 39


def test_idle_sequences_give_way_when_the_budget_asks():
    with load(io="direct", max_ram="5.5MiB") as model:
        rng = np.random.default_rng(3)
        for _ in range(4):
            model.generate(rng.integers(0, 4096, (1, 400)), max_new_tokens=3, eos_token_id=[])
        assert model.stats()["held_by"]["KV cache"] > 0
        out = model.generate(rng.integers(0, 4096, (1, 500)), max_new_tokens=3, eos_token_id=[])
        assert out.shape == (1, 503)
        assert model.stats()["held"] <= model.stats()["budget"]


def test_few_idle_sequences_are_kept(fresh):
    rng = np.random.default_rng(4)
    for _ in range(20):
        fresh.generate(rng.integers(0, 4096, (1, 70)), max_new_tokens=2, eos_token_id=[])
    from airpy.sequences import MOST_IDLE

    assert len(fresh._pool._idle) <= MOST_IDLE
    fresh.forget()
    assert fresh.stats()["held_by"]["KV cache"] == 0


# ---- threads ---------------------------------------------------------------------------------------------------------------------


def test_threads_get_what_one_after_the_other_gets(fresh):
    want = [alone(fresh, text, 16, seed=9, do_sample=True) for text in TEXTS]
    fresh.forget()
    got = [None] * len(TEXTS)

    def body(i):
        got[i] = alone(fresh, TEXTS[i], 16, seed=9, do_sample=True)

    threads = [threading.Thread(target=body, args=(i,)) for i in range(len(TEXTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == want


# ---- figures ---------------------------------------------------------------------------------------------------------------------


def test_stats_count_what_happened():
    with load(io="direct", max_ram="6MiB") as model:
        model.generate([[5, 6, 7], [8, 9, 10]], max_new_tokens=6, eos_token_id=[])
        stats = model.stats()
        assert (stats["prompt_tokens"], stats["new_tokens"], stats["reused_tokens"]) == (6, 12, 0)
        assert stats["pass_ms"] > 0 and stats["tok_s"] > 0 and stats["stall_ms"] >= 0 and stats["between_ms"] > 0
        weights = model.plan["weight_bytes"] / 2  # a pass serves two rows
        assert 0.9 * weights < stats["bytes_disk_per_token"] + stats["bytes_ram_per_token"] < 1.3 * weights
        assert stats["achieved_over_predicted"] > 0 and stats["predicted_tok_s"] > 0
        assert stats["peak_ram"] > 0 and stats["budget"] == 6 << 20
        assert len(stats["layer_busy_ms"]) == len(stats["layer_stall_ms"]) == 7


def test_stats_of_a_model_that_did_nothing():
    with load(DEMO) as model:
        stats = model.stats()
        assert stats["tok_s"] is None and stats["pass_ms"] is None and stats["new_tokens"] == 0
        model.generate([[5]], max_new_tokens=1)
        assert model.stats()["tok_s"] > 0 and model.stats()["between_ms"] is None  # one pass has nothing after it


def test_what_takes_the_text_counts_between_passes_not_in_them():
    with load(DEMO) as model:
        for _ in model.stream([5, 6, 7], max_new_tokens=9, eos_token_id=[]):
            time.sleep(0.02)
        stats = model.stats()
        assert stats["between_ms"] > 5
        assert math.isclose(stats["tok_s"], 1e3 / (stats["pass_ms"] + stats["between_ms"]))  # as whoever waits has it
        share = stats["achieved_over_predicted"]
        assert math.isclose(share, 1e3 / stats["predicted_tok_s"] / stats["pass_ms"], rel_tol=1e-6)  # of passes alone
