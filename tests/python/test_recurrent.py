"""Layers with a recurrent state: one that cannot be cut back, of whose sequences all is asked that is asked of others."""

from __future__ import annotations

import os

import numpy as np
import pytest
from models import GOLDEN, RECURRENT, golden, load

from airpy import _core
from airpy.forecast import forecast

IDS = np.arange(7, 75, dtype=np.int32) * 3 % 272
OTHER = np.arange(5, 60, dtype=np.int32) * 5 % 272
WAYS = [
    {"threads": 1, "max_rows": 1},
    {"threads": 2, "max_rows": 7},
    {"threads": 3, "io": "direct", "max_pins": 0, "max_rows": 40},
    {"threads": 2, "io": "mmap"},
]


def engine_of(name: str, **options: object) -> _core.Engine:
    return _core.Engine(_core.GGUF(os.fspath(golden(name))), **{"max_ram": 64 << 20, **options})


def append(engine: _core.Engine, sequence: _core.Sequence, ids: np.ndarray, want: int = 1, n_prompt: int = 0) -> np.ndarray:
    return np.array(engine.run([(sequence, ids, want, None, n_prompt)], logits=True).logits)


@pytest.fixture(params=RECURRENT)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("tier", _core.TIERS)
def test_bits_depend_on_neither_passes_nor_threads_nor_where_weights_lie(name: str, tier: str) -> None:
    engine = engine_of(name, threads=1, tier=tier)
    want = append(engine, engine.sequence(), IDS, len(IDS), len(IDS))
    for way in WAYS:
        other = engine_of(name, tier=tier, **way)
        np.testing.assert_array_equal(append(other, other.sequence(), IDS, len(IDS), len(IDS)), want)
        other.close()


def test_token_by_token_is_as_all_at_once(name: str) -> None:
    engine = engine_of(name)
    want, sequence = append(engine, engine.sequence(), IDS, len(IDS)), engine.sequence()
    np.testing.assert_array_equal(np.concatenate([append(engine, sequence, IDS[i : i + 1]) for i in range(len(IDS))]), want)


def test_sequences_of_a_batch_are_as_each_alone(name: str) -> None:
    engine = engine_of(name, max_rows=30)
    texts = [IDS[:40], OTHER, IDS[3:20], OTHER[:1]]
    sequences = [engine.sequence() for _ in texts]
    together = np.array(engine.run([(s, ids, 1, None, len(ids)) for s, ids in zip(sequences, texts, strict=True)], logits=True).logits)
    next_ones = np.array(engine.run([(s, ids[:1], 1, None, 0) for s, ids in zip(sequences, texts, strict=True)], logits=True).logits)
    for i, ids in enumerate(texts):
        alone = engine.sequence()
        np.testing.assert_array_equal(append(engine, alone, ids, 1, len(ids))[0], together[i])
        np.testing.assert_array_equal(append(engine, alone, ids[:1])[0], next_ones[i])


def test_a_fork_goes_its_own_way(name: str) -> None:
    engine = engine_of(name)
    first, alone = engine.sequence(), engine.sequence()
    append(engine, first, IDS[:30])
    fork = first.fork()
    append(engine, fork, OTHER[:9])
    got = append(engine, first, IDS[30:50])
    append(engine, alone, IDS[:30])
    np.testing.assert_array_equal(append(engine, alone, IDS[30:50]), got)
    first.close()
    again = engine.sequence()
    append(engine, again, np.concatenate([IDS[:30], OTHER[:9]]))
    np.testing.assert_array_equal(append(engine, fork, IDS[:4]), append(engine, again, IDS[:4]))


def test_a_cut_goes_back_to_before_the_prompts_last_token_or_to_the_beginning(name: str) -> None:
    engine = engine_of(name, max_rows=16)
    sequence = engine.sequence()
    append(engine, sequence, IDS[:30], 1, 30)
    append(engine, sequence, IDS[30:40])
    assert [sequence.reach(n) for n in (0, 28, 29, 30, 39, 40)] == [0, 0, 29, 29, 29, 40]
    fork = sequence.fork()
    sequence.truncate(35)
    assert sequence.length == 29 and list(np.asarray(sequence.tokens())) == list(IDS[:29])
    want = append(engine, engine.sequence(), np.concatenate([IDS[:29], OTHER[:6]]))
    np.testing.assert_array_equal(append(engine, sequence, OTHER[:6]), want)
    sequence.truncate(20)
    assert sequence.length == 0
    np.testing.assert_array_equal(append(engine, sequence, IDS[:20]), append(engine, engine.sequence(), IDS[:20]))
    np.testing.assert_array_equal(append(engine, fork, IDS[:2]), append(engine, engine.sequence(), np.concatenate([IDS[:40], IDS[:2]])))


def test_a_prompt_that_ends_where_a_pass_does_is_kept_all_the_same(name: str) -> None:
    engine = engine_of(name, max_rows=10)
    sequence = engine.sequence()
    append(engine, sequence, IDS[:21], 1, 21)
    sequence.truncate(20)
    assert sequence.length == 20
    want = append(engine, engine.sequence(), np.concatenate([IDS[:20], OTHER[:3]]))
    np.testing.assert_array_equal(append(engine, sequence, OTHER[:3]), want)


def test_a_call_that_fails_changes_nothing(name: str) -> None:
    """A disk that fails at one read, whichever pass of the two calls has it."""
    engine, failed = engine_of(name), 0
    want = append(engine, engine.sequence(), IDS[:40])
    for read in range(1, 4000, 29):
        try:
            bad = engine_of(name, io="direct", max_pins=0, max_rows=4, source=f"fail_at={read}")
        except _core.FileIOError:  # of what stays
            continue
        sequence = bad.sequence()
        try:
            append(bad, sequence, IDS[:20], 1, 20)
            append(bad, sequence, IDS[20:40], 1, 40)
        except _core.FileIOError:
            failed += sequence.length == 20
            np.testing.assert_array_equal(append(bad, sequence, IDS[sequence.length : 40]), want)
            bad.close()
        else:  # there are no more
            break
    assert failed > 1


def test_generate_reads_a_prompt_again_from_where_its_state_was_kept(name: str) -> None:
    prompt, data = OTHER[:40].tolist(), np.load(GOLDEN / f"{name}.npz")
    with load(golden(name), kv_dtype="f32") as model:
        first = model.generate([prompt], max_new_tokens=6)
        assert model.stats()["reused_tokens"] == 0
        np.testing.assert_array_equal(model.generate([prompt], max_new_tokens=6), first)
        assert model.stats()["reused_tokens"] == 39  # all but the last token
        longer = [*first[0].tolist(), 9, 10]
        after = model.generate([longer], max_new_tokens=3)
        assert model.stats()["reused_tokens"] == 45  # what the answer added too
        other = [*prompt[:20], 1, 2, 3]
        elsewhere = model.generate([other], max_new_tokens=6)
        assert model.stats()["reused_tokens"] == 0  # it differs before what was kept
        golden_ids = model.generate([data["input_ids"].tolist()] * 2, max_new_tokens=24, eos_token_id=[])[:, 48:]
        np.testing.assert_array_equal(golden_ids, [data["greedy_ids"]] * 2)
    with load(golden(name), kv_dtype="f32") as model:
        np.testing.assert_array_equal(model.generate([longer], max_new_tokens=3), after)
    with load(golden(name), kv_dtype="f32") as model:
        np.testing.assert_array_equal(model.generate([other], max_new_tokens=6), elsewhere)


def test_the_plan_counts_what_sequences_hold(name: str) -> None:
    with load(golden(name)) as model:
        model.generate([IDS[:9].tolist()], max_new_tokens=2)
        state, plan = model.stats()["held_by"]["KV cache"], model.plan
        block = plan["state_bytes_full"] // -(-plan["n_ctx"] // 64)
        assert state == block + plan["recurrent_bytes"] > block  # one now, one for the next step, one kept
        assert "recurrent state" in str(plan)


def test_a_gpu_has_it_beside_its_keys_and_values(name: str) -> None:
    plan = forecast(golden(name), {"max_vram": 1 << 30, "n_ctx": 64}, {})
    assert plan.on_device and plan["device_state_bytes"] > 0 and plan["recurrent_bytes"] > 0
    assert "recurrent state" in str(plan)
