"""Models that are no plain decoders on the CUDA backend, emulated (tests/cuda_emu) or with AIRPY_TEST_GPU=1 the real one: those that read a
text from both ends, and those with a recurrent state. Hidden states and logits against transformers' in float32, bits, budgets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models import ENCODER_NAMES, encoder, golden, load
from on_cuda import CONTEXT, SMALL_RAM, error_of
from test_encoders import Case
from test_recurrent import IDS, OTHER, append

from airpy import _core, errors
from airpy.device import cuda_plugin

pytestmark = pytest.mark.timeout(900)


def states(case: Case, which: Any = None, logits: bool = False, **options: Any) -> np.ndarray:
    options = {"max_ram": SMALL_RAM + (64 << 20), **options}
    return case.states(which, logits, plugin=cuda_plugin(), device=0, **options)


# ---- models that read a text from both ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_hidden_states_are_those_of_transformers(cuda, name):
    case = Case(name)
    error = error_of(states(case), case.hidden)
    print(f"{name}: {error:.2e}")
    assert error <= 1e-10


@pytest.mark.parametrize("name", ["bert-rank", "qwen3-rank"])
def test_scores_are_those_of_transformers(cuda, name):
    case = Case(name)
    at = case.ends - 1 if name.startswith("qwen3") else np.concatenate([[0], case.ends[:-1]])
    np.testing.assert_allclose(states(case, logits=True)[at], case.scores, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("bert", "f32"), ("modern-bert", "f16")])
def test_a_text_has_its_bits_alone_and_among_others(cuda, name, kind):
    case = Case(name)
    want = states(case, [1, 3], kv_dtype=kind)
    first = len(case.texts[1])
    np.testing.assert_array_equal(states(case, [1], kv_dtype=kind), want[:first])
    in_turns = states(case, [3, 1], kv_dtype=kind, max_rows=66)
    np.testing.assert_array_equal(in_turns, np.concatenate([want[first:], want[:first]]))


def test_short_texts_take_turns_where_vram_has_no_room_for_a_block_of_each(cuda):
    """And one that is as long as the context has room."""
    texts = [np.array([5 + i, 7], np.int32) for i in range(30)] + [np.arange(60, dtype=np.int32)]
    found, passes = [], []
    for megabytes in (64, 0.6):
        memory = {"max_ram": SMALL_RAM, "max_vram": CONTEXT + int(megabytes * (1 << 20))}
        engine = _core.Engine(_core.GGUF(str(encoder("bert"))), n_ctx=64, plugin=cuda_plugin(), device=0, **memory)
        items = [(engine.sequence(), text, len(text), None, len(text)) for text in texts]
        found.append(np.array(engine.run(items, hidden=True).hidden))
        passes.append(engine.stats()["passes"])
        engine.close()
    assert passes[0] == 1 < passes[1]
    np.testing.assert_array_equal(*found)


def test_texts_are_embedded_as_by_the_cpu(cuda):
    texts = ["the cat sat", "on", ("a cat", "the end")]
    with load(encoder("bert")) as model:
        want = model.embed(texts)
    for device in ("cuda", "auto"):
        with load(encoder("bert"), device=device) as model:
            assert model.device == "cuda:0"
            np.testing.assert_allclose(model.embed(texts), want, atol=1e-5)


def test_the_output_does_not_cross_the_link_for_embeddings(cuda):
    """First of all, and later; a pass with logits then finds what it needs."""
    memory: dict[str, Any] = {"device": "cuda", "io": "direct", "n_ctx": 128, "max_ram": SMALL_RAM}
    with load(n_ctx=128) as model:
        want, logits = model.embed(["the cat", "a dog"]), model([[1, 2, 3]]).logits
    with load(**memory) as model:
        all_of_it = model.plan["device_fixed"] + sum(model.plan[f"device_{name}_bytes"] for name in ("state", "activation", "pin"))
    for vram in (all_of_it + (8 << 20), all_of_it - (3 << 20)):
        with load(**memory, max_vram=vram) as model:
            for _ in range(2):
                read = []
                for call in (lambda: model.embed(["the cat", "a dog"]), lambda: model([[1, 2, 3]]).logits):
                    before = model.stats()
                    found = call()
                    after = model.stats()
                    read.append(sum(after[f"{where}_bytes"] - before[f"{where}_bytes"] for where in ("disk", "ram")))
                    assert error_of(found, want if len(read) == 1 else logits) < 1e-4
            if model.plan.linked_bytes:
                assert 0 < read[0] < read[1]


# ---- layers with a recurrent state -------------------------------------------------------------------------------------------------


def engine_of(name: str, **options: Any) -> _core.Engine:
    options = {"max_ram": SMALL_RAM + (64 << 20), "n_ctx": 128, "plugin": cuda_plugin(), "device": 0, **options}
    return _core.Engine(_core.GGUF(str(golden(name))), **options)


@pytest.mark.parametrize("name", ["granitehybrid", "lfm2", "qwen3next"])
def test_bits_do_not_depend_on_how_a_text_is_cut_into_passes(cuda, name):
    engine = engine_of(name)
    ids, prompt = IDS[:24], 20
    whole = append(engine, engine.sequence(), ids, 5, prompt)
    by_passes = engine_of(name, max_rows=7)
    np.testing.assert_array_equal(append(by_passes, by_passes.sequence(), ids, 5, prompt), whole)
    sequence = engine.sequence()
    found = [append(engine, sequence, ids[:prompt], 1, prompt), *(append(engine, sequence, ids[i : i + 1]) for i in range(prompt, 24))]
    np.testing.assert_array_equal(np.concatenate(found), whole)  # a token each: the last ones are one graph
    sequence.truncate(22)
    assert sequence.length == prompt - 1  # where its state was kept
    np.testing.assert_array_equal(append(engine, sequence, ids[prompt - 1 :], 5, prompt), whole)


def smallest(name: str, **options: Any) -> _core.Engine:
    """With as little VRAM as it opens with, to a part of a MiB."""
    for sixteenths in range(1, 200):
        try:
            return engine_of(name, max_vram=CONTEXT + (sixteenths << 16), **options)
        except errors.BudgetError:
            continue
    raise AssertionError("it does not open")


@pytest.mark.parametrize("name", ["granitehybrid", "qwen3next"])
def test_states_that_vram_has_no_room_for_are_in_ram_and_come_back(cuda, name):
    """Many sequences, in one call and by turns, and forks of them, which go their own ways."""
    engine, small = engine_of(name), smallest(name, n_ctx=64, max_rows=8)
    texts = [IDS[:9], OTHER[:9], IDS[3:12], OTHER[1:2], IDS[5:14], OTHER[7:16]]
    found = []
    for each in (engine, small):
        sequences = [each.sequence() for _ in texts]
        calls = [(s, ids, 1, None, len(ids)) for s, ids in zip(sequences, texts, strict=True)]
        logits = [np.array(each.run(calls, logits=True).logits)]
        logits.append(np.array(each.run([(s, ids[:1], 1, None, 0) for s, ids in zip(sequences, texts, strict=True)], logits=True).logits))
        forks = [s.fork() for s in sequences[:3]]
        logits += [append(each, fork, OTHER[:2]) for fork in forks]
        logits += [append(each, s, IDS[:1]) for s in sequences]
        found.append(np.concatenate(logits))
        held = each.stats()["held_by"]["KV cache"]
        assert (held > 0) == (each is small), held  # of RAM
    np.testing.assert_array_equal(*found)
