"""Engine, Sequence and Result of airpy._core: arguments, lifetimes, threads, signals, fork."""

from __future__ import annotations

import array
import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from airpy import _core, errors

DEMO = Path(_core.__file__).parent / "assets" / "demo-q8_0.gguf"
PROMPT = np.arange(40, 60, dtype=np.int32)
GREEDY = {"temperature": 0}
LATENCY = 0.25  # seconds; the best of three tries counts, so that a busy machine does not decide
SLOW = "rate=4000000"  # bytes per second: a pass over the demo model's 6 MB takes over a second
DIRECT = {"io": "direct", "max_ram": 64 << 20, "max_pins": 0}


@pytest.fixture
def engine():
    engine = _core.Engine(_core.GGUF(DEMO), max_ram=64 << 20)
    yield engine
    engine.close()


@pytest.fixture
def slow_engine():
    engine = _core.Engine(_core.GGUF(DEMO), source=SLOW, **DIRECT)
    yield engine
    engine.close()


def generate(engine, sequence, prompt, n, sampling=GREEDY):
    tokens, ids = prompt, []
    for _ in range(n):
        ids += engine.run([(sequence, tokens, 1, sampling, len(prompt))]).sampled
        tokens = np.array(ids[-1:], np.int32)
    return ids


# ---- what it computes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [10 << 20, 64 << 20])
def test_an_engine_that_waits_for_its_first_batch_reads_ahead(budget):
    engine = _core.Engine(_core.GGUF(DEMO), io="direct", max_ram=budget)
    everything = sum(weight[2] for weight in engine.plan["weights"] if weight[3])
    expected = everything if engine.plan["pin_bytes"] >= everything else engine.plan["ring_bytes"] // 2
    deadline = time.monotonic() + 10
    while engine.stats()["pager_disk_bytes"] < expected:
        assert time.monotonic() < deadline and not engine.stats()["passes"]
        time.sleep(0.005)
    ahead = -1
    while ahead < (ahead := engine.stats()["pager_disk_bytes"]):  # whole blocks count, so that the last ones may still be on their way
        time.sleep(0.2)
    generate(engine, engine.sequence(), PROMPT[:1], 1)
    if expected == everything:  # nothing but a row of the embedding was left to read
        assert engine.stats()["pager_disk_bytes"] - ahead < 64 << 10
    engine.close()


def test_run_appends_tokens_and_gives_what_was_asked_for(engine):
    sequence = engine.sequence()
    result = engine.run([(sequence, PROMPT, 3, GREEDY, len(PROMPT))], logits=True, hidden=True)
    logits, hidden = np.asarray(result.logits), np.asarray(result.hidden)
    assert logits.shape == (3, 4096) and logits.dtype == np.float32 and hidden.shape == (3, 256)
    assert result.sampled == [int(logits[-1].argmax())]
    top = logits[-1].astype(np.float64)
    np.testing.assert_allclose(result.logprobs, [top.max() - top.max() - np.log(np.exp(top - top.max()).sum())], atol=1e-4)
    assert sequence.length == len(PROMPT) and sequence.bytes > 0
    np.testing.assert_array_equal(np.asarray(sequence.tokens()), PROMPT)


def test_a_result_says_what_its_own_passes_cost():
    engine = _core.Engine(_core.GGUF(DEMO), max_rows=8, max_ram=64 << 20, io="direct", max_pins=0, bandwidths={"disk": 1e9, "memory": 1e10})
    sequence, before = engine.sequence(), engine.stats()
    prompt = engine.run([(sequence, PROMPT, 1, GREEDY, len(PROMPT))])  # 20 tokens, 8 a pass
    token = engine.run([(sequence, np.array(prompt.sampled, np.int32), 1, GREEDY, len(PROMPT))])
    after = engine.stats()
    engine.close()
    for i, name in enumerate(("passes", "pass_ns", "pager_disk_bytes", "pager_ram_bytes", "pager_stall_ns")):
        total = after[name] - before[name]
        assert prompt.cost[i] + token.cost[i] <= total <= 1.5 * (prompt.cost[i] + token.cost[i]) + 1e6, name  # reads ahead count later
    assert (prompt.cost[0], token.cost[0]) == (3, 1) and token.cost[1] == after["last_pass_ns"]
    assert token.cost[5] == after["last_predicted_s"] > 0 and prompt.cost[5] > 2 * token.cost[5]


def test_a_walk_reads_what_a_pass_reads_and_computes_nothing():
    options = {"max_rows": 8, "max_ram": 64 << 20, "io": "direct", "max_pins": 2 << 20, "bandwidths": {"disk": 1e9, "memory": 1e10}}
    engine = _core.Engine(_core.GGUF(DEMO), **options)
    sequence = engine.sequence()
    engine.run([(sequence, PROMPT[:8], 1, GREEDY, 8)])
    walk = engine.walk()
    assert walk.sampled == [] and walk.logits is None and sequence.length == 8
    read = [engine.run([(sequence, PROMPT[8:9], 1, GREEDY, 8)]).cost[2], engine.walk().cost[2], engine.walk().cost[2]]
    assert walk.cost[0] == 1 and engine.stats()["pager_pinned_bytes"] > 0 and engine.stats()["rows"] == 9
    streamed = engine.plan["weight_bytes"] - engine.stats()["pager_pinned_bytes"]
    for bytes in read:  # what is read ahead for the next counts here or there
        assert 0.5 * streamed < bytes < 1.5 * streamed
    with pytest.raises(errors.StateError):
        engine.close() or engine.walk()


def test_a_walk_ends_when_told_to(slow_engine):
    canceller = threading.Timer(0.1, slow_engine.cancel)
    canceller.start()
    with pytest.raises(errors.CancelledError):
        slow_engine.walk()
    canceller.join()
    assert slow_engine.walk().cost[0] == 1  # from the first weight again


def test_what_is_not_asked_for_is_none(engine):
    result = engine.run([(engine.sequence(), PROMPT, 1, None, 0)])
    assert result.logits is None and result.hidden is None and result.sampled == [-1]
    assert engine.stats()["held_by"]["logits"] == 0


def test_scratch_of_sampling_is_booked_and_planned():
    file = _core.GGUF(DEMO)
    engine = _core.Engine(file, max_ram=64 << 20, fixed_bytes=1000)
    assert engine.stats()["held_by"]["fixed"] == 1000 + 3 * 4 * 4096  # a float and a candidate for each token of the vocabulary
    assert engine.plan["fixed"] >= engine.stats()["held_by"]["fixed"]
    engine.close()


def test_a_batch_gives_each_item_its_own(engine):
    alone = [generate(engine, engine.sequence(), p, 5) for p in (PROMPT, PROMPT[3:], PROMPT[:7])]
    sequences = [engine.sequence() for _ in range(3)]
    tokens, ids = [PROMPT, PROMPT[3:], PROMPT[:7]], [[], [], []]
    lengths = [len(t) for t in tokens]
    for _ in range(5):
        sampled = engine.run((s, t, 1, GREEDY, n) for s, t, n in zip(sequences, tokens, lengths, strict=True)).sampled
        for kept, token in zip(ids, sampled, strict=True):
            kept.append(token)
        tokens = [np.array([t], np.int32) for t in sampled]
    assert ids == alone


def test_truncate_and_fork_go_back_to_the_same_text(engine):
    sequence = engine.sequence()
    first = generate(engine, sequence, PROMPT, 6)
    sequence.truncate(len(PROMPT) - 1)
    fork = sequence.fork()
    assert generate(engine, sequence, PROMPT[-1:], 6) == first
    assert generate(engine, fork, PROMPT[-1:], 6) == first
    with pytest.raises(errors.ArgumentError):
        sequence.truncate(sequence.length + 1)
    with pytest.raises(errors.ArgumentError, match="length is -1"):
        sequence.truncate(-1)


def test_tokens_may_come_in_any_int32_buffer(engine):
    want = engine.run([(engine.sequence(), PROMPT, 1, GREEDY, 0)]).sampled
    for tokens in (array.array("i", PROMPT), memoryview(PROMPT), PROMPT.astype("<i4"), np.repeat(PROMPT, 2)[::2].copy()):
        assert engine.run([(engine.sequence(), tokens, 1, GREEDY, 0)]).sampled == want


def test_sample_draws_as_run_does(engine):
    for sampling in (GREEDY, {"temperature": 0.9, "seed": 4}, {"temperature": 2.0, "top_k": 40, "top_p": 0.9, "seed": 5}):
        result = engine.run([(engine.sequence(), PROMPT, 1, sampling, 0)], logits=True)
        assert engine.sample(np.asarray(result.logits)[0], len(PROMPT), sampling) == result.sampled[0]
    logits = np.zeros(4096, np.float32)
    logits[7] = 1
    assert engine.sample(logits, 3, {"temperature": 0, "repetition_penalty": 5.0}) == 7  # the caller's, as are the others


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros(4095, np.float32), 1, GREEDY), errors.ArgumentError, "logits must be 4096 of float32"),
        ((np.zeros(4096), 1, GREEDY), errors.ArgumentError, "logits must be 4096 of float32"),
        ((np.zeros(8192, np.float32)[::2], 1, GREEDY), ValueError, "contiguous"),
        ((np.full(4096, np.nan, np.float32), 5, GREEDY), errors.NumericError, "a logit after 5 tokens is not a finite number"),
        ((np.zeros(4096, np.float32), -1, GREEDY), errors.ArgumentError, "n is -1"),
        ((np.zeros(4096, np.float32), 1, {"temperature": -1}), errors.ArgumentError, "temperature is -1"),
        ((np.zeros(4096, np.float32), 1, 5), TypeError, "sampling must be a mapping"),
        ((5, 1, GREEDY), TypeError, "bytes-like"),
    ],
)
def test_sample_refuses_what_makes_no_sense(engine, arguments, error, message):
    with pytest.raises(error, match=message):
        engine.sample(*arguments)


# ---- what it says about itself ---------------------------------------------------------------------------------------------------


def test_hparams_plan_and_stats_agree_with_the_file(engine):
    assert engine.hparams["arch"] == "llama" and engine.hparams["n_vocab"] == 4096 and engine.hparams["tied_output"] is True
    plan = engine.plan
    weights = {name: (kind, size) for name, kind, size, tiles, *_ in plan["weights"] if tiles}
    held = {t[0]: (t[1], t[5]) for t in _core.GGUF(DEMO).tensors}
    assert weights and all(held[name] == seen for name, seen in weights.items())
    assert plan["weight_bytes"] == sum(size for _, size in weights.values())
    assert plan["n_tiles"] == sum(row[3] for row in plan["weights"])
    engine.run([(engine.sequence(), PROMPT, 1, None, 0)])
    stats = engine.stats()
    assert stats["passes"] == 1 and stats["rows"] == len(PROMPT) and stats["held"] == sum(stats["held_by"].values())
    busy, stall = engine.layer_times()
    assert len(busy) == len(stall) == engine.hparams["n_layers"] + 1 and sum(busy) > 0


def test_pinned_tiles_of_the_plan_are_those_that_fit():
    plan = _core.solve_plan(_core.GGUF(DEMO), io="direct", max_ram=6 << 20, n_ctx=64, ring_bytes=1 << 20, tile_bytes=64 << 10)
    pinned = sum(row[4] for row in plan["weights"])
    tiles = sum(row[3] for row in plan["weights"])
    assert 0 < pinned < tiles and plan["pin_bytes"] < plan["weight_bytes"]


def test_solve_plan_is_the_plan_of_the_engine(engine):
    assert _core.solve_plan(_core.GGUF(DEMO), max_ram=64 << 20) == engine.plan
    fast = _core.solve_plan(
        _core.GGUF(DEMO), bandwidths={"disk": 1e9, "memory": 2e10, "product": {"Q8_0": 1e10}, "depth": 4, "block_bytes": 1 << 20}
    )
    assert fast["pass_s"] > 0


def test_each_tier_can_be_chosen():
    for tier in _core.TIERS:
        engine = _core.Engine(_core.GGUF(DEMO), tier=tier, threads=1)
        assert engine.stats()["kernels"].startswith(tier) and engine.stats()["threads"] == 1
        engine.close()


# ---- what it refuses -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_rom": 1}, TypeError, "no option 'max_rom'"),
        ({"max_ram": -1}, errors.ArgumentError, "max_ram is -1"),
        ({"max_ram": 1 << 64}, errors.ArgumentError, "max_ram is 18446744073709551616"),
        ({"max_ram": 1.5}, TypeError, "max_ram must be an int"),
        ({"max_ram": "4GiB"}, TypeError, "max_ram must be an int"),
        ({"max_ram": 1000}, errors.BudgetError, "max_ram"),
        ({"io": "fast"}, errors.ArgumentError, "io is 'fast', but must be one of auto, direct, mmap"),
        ({"io": None}, TypeError, "io must be a str"),
        ({"kv_dtype": "f64"}, errors.ArgumentError, "kv_dtype is 'f64', but must be one of f16, f32, q8_0, q4_0"),
        ({"tier": "sse"}, errors.ArgumentError, "tier is 'sse'"),
        ({"threads": -1}, errors.ArgumentError, "threads is -1"),
        ({"threads": 10**6}, errors.ArgumentError, "threads is 1000000"),
        ({"n_ctx": -5}, errors.ArgumentError, "n_ctx is -5"),
        ({"n_ctx": 1 << 40}, errors.ArgumentError, "trained"),
        ({"max_pins": -2}, errors.ArgumentError, "max_pins is -2"),
        ({"bandwidths": {"dask": 1}}, TypeError, "bandwidths has no 'dask'"),
        ({"bandwidths": {"disk": -1.0}}, errors.ArgumentError, "disk is -1.0"),
        ({"bandwidths": {"disk": float("nan")}}, errors.ArgumentError, "disk is nan"),
        ({"bandwidths": {"product": {"Q9": 1}}}, errors.ArgumentError, "'Q9' is not a tensor type"),
        ({"bandwidths": [1]}, TypeError, "bandwidths must be a mapping"),
        ({"bandwidths": {"helpers": 3}}, TypeError, "not iterable"),
        ({"bandwidths": {"helpers": [3]}}, TypeError, "an item of bandwidths' helpers must be a mapping"),
        ({"bandwidths": {"helpers": [{"disk": 1}]}}, TypeError, "bandwidths of a device have no 'disk'"),
        ({"bandwidths": {"helpers": [{"link": -1}]}}, errors.ArgumentError, "link is -1"),
        ({"bandwidths": {"helpers": [{}] * 8}}, errors.ArgumentError, "helpers of bandwidths are 8, but may be 7 at most"),
        ({"bandwidths": {"deciding": 3}}, TypeError, "bandwidths' deciding must be a mapping"),
        ({"bandwidths": {"deciding": {"disk": -1}}}, errors.ArgumentError, "disk is -1"),
        ({"io": "direct", "source": "speed=1"}, errors.ArgumentError, "speed"),
        ({"source": 1}, TypeError, "source must be a str"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options, error, message):
    file = _core.GGUF(DEMO)
    live = _core.alloc_live()
    with pytest.raises(error, match=re.escape(message)):
        _core.Engine(file, **options)
    assert _core.alloc_live() == live


@pytest.mark.parametrize("arguments", [(), (1,), (DEMO,), (None, None)])
def test_an_engine_takes_a_gguf(arguments):
    with pytest.raises(TypeError, match="GGUF"):
        _core.Engine(*arguments)


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (lambda s: (s, PROMPT, 1, None), TypeError, "(sequence, tokens, want, sampling, n_prompt[, n_first])"),
        (lambda s: [s, PROMPT, 1, None, 0], TypeError, "must be a tuple"),
        (lambda s: (None, PROMPT, 1, None, 0), TypeError, "not a Sequence"),
        (lambda s: (s, [1, 2], 1, None, 0), TypeError, "bytes-like"),
        (lambda s: (s, PROMPT.astype(np.int64), 1, None, 0), TypeError, "must be int32 in one dimension, not format 'l'"),
        (lambda s: (s, PROMPT.astype(np.float32), 1, None, 0), TypeError, "not format 'f'"),
        (lambda s: (s, PROMPT.astype(">i4"), 1, None, 0), TypeError, "not format '>i'"),
        (lambda s: (s, PROMPT.reshape(4, 5), 1, None, 0), TypeError, "in 2"),
        (lambda s: (s, b"1234", 1, None, 0), TypeError, "int32"),
        (lambda s: (s, PROMPT[::2], 1, None, 0), errors.ArgumentError, "contiguous"),
        (lambda s: (s, PROMPT[:0], 0, None, 0), errors.ArgumentError, "no tokens"),
        (lambda s: (s, PROMPT, -1, None, 0), errors.ArgumentError, "want is -1"),
        (lambda s: (s, PROMPT, 21, None, 0), errors.ArgumentError, "21"),
        (lambda s: (s, PROMPT, 1, None, 99), errors.ArgumentError, "n_prompt is 99"),
        (lambda s: (s, PROMPT, 0, GREEDY, 0), errors.ArgumentError, "sampling needs want"),
        (lambda s: (s, PROMPT, 1, {"temprature": 1}, 0), TypeError, "sampling has no 'temprature'"),
        (lambda s: (s, PROMPT, 1, {1: 1}, 0), TypeError, "a key of sampling"),
        (lambda s: (s, PROMPT, 1, "hot", 0), TypeError, "sampling"),
        (lambda s: (s, PROMPT, 1, {"top_p": "1"}, 0), TypeError, "top_p must be a number"),
        (lambda s: (s, PROMPT, 1, {"top_p": 2.0}, 0), errors.ArgumentError, "top_p"),
        (lambda s: (s, PROMPT, 1, {"temperature": 1e300}, 0), errors.ArgumentError, "temperature"),
        (lambda s: (s, PROMPT, 1, {"top_k": -1}, 0), errors.ArgumentError, "top_k is -1"),
        (lambda s: (s, PROMPT, 1, {"seed": -1}, 0), errors.ArgumentError, "seed is -1"),
        (lambda s: (s, np.array([4096], np.int32), 1, None, 0), errors.ArgumentError, "4096"),
        (lambda s: (s, np.array([-1], np.int32), 1, None, 0), errors.ArgumentError, "-1"),
        (lambda s: (s, np.zeros(513, np.int32), 1, None, 0), errors.ContextOverflowError, "513"),
    ],
)
def test_a_wrong_item_is_refused_and_changes_nothing(engine, item, error, message):
    sequence = engine.sequence()
    gc.collect()  # what an earlier test left in a cycle must not end in between
    live = _core.alloc_live()
    with pytest.raises(error, match=re.escape(message)):
        engine.run([item(sequence)])
    assert _core.alloc_live() == live and sequence.length == 0 and engine.stats()["passes"] == 0
    engine.run([(sequence, PROMPT, 1, None, 0)])  # not left in use


def test_run_refuses_batches_that_make_no_sense(engine):
    sequence = engine.sequence()
    other = _core.Engine(_core.GGUF(DEMO))
    with pytest.raises(errors.ArgumentError, match="another engine"):
        engine.run([(other.sequence(), PROMPT, 1, None, 0)])
    with pytest.raises(errors.AirpyError):
        engine.run([(sequence, PROMPT, 1, None, 0), (sequence, PROMPT, 1, None, 0)])
    with pytest.raises(errors.ArgumentError, match="no items"):
        engine.run([])
    with pytest.raises(TypeError, match="progress must be callable"):
        engine.run([(sequence, PROMPT, 1, None, 0)], progress=1)
    with pytest.raises(TypeError):
        engine.run(None)
    with pytest.raises(TypeError):
        engine.run([(sequence, PROMPT, 1, None, 0)], True)
    other.close()
    assert sequence.length == 0


# ---- lifetimes -------------------------------------------------------------------------------------------------------------------


def test_everything_dies_with_the_last_reference_and_leaves_nothing():
    gc.collect()
    live = _core.alloc_live()
    gc.disable()
    try:
        engine = _core.Engine(_core.GGUF(DEMO))
        sequences = [engine.sequence() for _ in range(3)]
        result = engine.run([(s, PROMPT, 2, GREEDY, 0) for s in sequences], logits=True, hidden=True)
        fork = sequences[0].fork()
        logits = np.asarray(result.logits)
        del engine, sequences, result, fork
        assert logits.shape == (6, 4096) and _core.alloc_live() > live  # logits hold the result, the result the engine
        del logits
        assert _core.alloc_live() == live
    finally:
        gc.enable()


def test_close_frees_sequences_and_leaves_results_readable():
    live = _core.alloc_live()
    engine = _core.Engine(_core.GGUF(DEMO))
    sequence, other = engine.sequence(), engine.sequence()
    result = engine.run([(sequence, PROMPT, 2, GREEDY, 0), (other, PROMPT, 1, None, 0)], logits=True)
    unseen = engine.run([(other, PROMPT, 1, None, 0)], logits=True)
    logits = np.asarray(result.logits)
    copy = logits.copy()
    other.close()
    other.close()
    engine.close()
    engine.close()
    assert engine.closed
    np.testing.assert_array_equal(logits, copy)
    np.testing.assert_array_equal(np.asarray(result.logits), copy)  # also one made after the close
    uses = [
        sequence.tokens,
        sequence.fork,
        lambda s=sequence: s.length,
        lambda s=sequence: s.bytes,
        lambda s=sequence: s.truncate(0),
    ]
    uses += [engine.sequence, engine.stats, engine.layer_times, engine.cancel, lambda e=engine: e.plan, lambda e=engine: e.hparams]
    uses += [lambda s=other: s.length, lambda e=engine, s=sequence: e.run([(s, PROMPT, 1, None, 0)])]
    for use in uses:
        with pytest.raises(errors.StateError, match="closed"):
            use()
    sequence.close()
    del engine, sequence, other, result, unseen, logits, uses, use
    assert _core.alloc_live() == live


def test_a_closed_sequence_says_so(engine):
    sequence = engine.sequence()
    sequence.close()
    with pytest.raises(errors.StateError, match="sequence is closed"):
        engine.run([(sequence, PROMPT, 1, None, 0)])


def test_logits_count_against_the_budget_while_they_live(engine):
    result = engine.run([(engine.sequence(), PROMPT, 20, None, 0)], logits=True)
    assert engine.stats()["held_by"]["logits"] >= 20 * 4096 * 4
    logits = np.asarray(result.logits)
    del result
    assert engine.stats()["held_by"]["logits"] >= 20 * 4096 * 4
    del logits
    assert engine.stats()["held_by"]["logits"] == 0


def test_floats_are_zeros_that_weights_give_way_to_while_they_live():
    live = _core.alloc_live()
    engine = _core.Engine(_core.GGUF(DEMO), max_ram=5 << 20, io="direct")
    want = engine.run([(engine.sequence(), PROMPT, 1, GREEDY, 0)]).sampled
    pinned = engine.stats()["held_by"]["pinned weights"]
    array = np.asarray(engine.floats(100, 4096))
    held = engine.stats()["held_by"]
    assert array.shape == (100, 4096) and array.dtype == np.float32 and array.flags.writeable and not array.any()
    assert held["logits"] == array.nbytes and held["pinned weights"] < pinned - array.nbytes // 2 and engine.stats()["held"] <= 5 << 20
    array[:] = 1
    row = array[5]
    assert engine.run([(engine.sequence(), PROMPT, 1, GREEDY, 0)]).sampled == want
    with pytest.raises(errors.BudgetError, match=r"max_ram 5.0 MiB is too small for results of 7.9 MiB: in use .*, of which weights need"):
        engine.floats(500, 4096)
    del array
    assert engine.stats()["held_by"]["logits"] == held["logits"]  # a view of it lives
    del row
    assert engine.stats()["held_by"]["logits"] == 0
    last = np.asarray(engine.floats(2, 3))
    engine.close()
    last[1, 2] = 7  # which outlives the engine
    assert last.sum() == 7
    with pytest.raises(errors.StateError, match="closed"):
        engine.floats(2, 3)
    del engine, last
    assert _core.alloc_live() == live


@pytest.mark.parametrize(("shape", "error", "message"), [
    ((0, 1), errors.ArgumentError, "rows is 0"), ((1, -1), errors.ArgumentError, "cols is -1"),
    ((1 << 62, 8), errors.ArgumentError, "cols is 8"),
    ((1 << 40, 1 << 22), errors.BudgetError, "results"), ((1,), TypeError, "floats"), (("1", 1), TypeError, "rows must be an int"),
])  # fmt: skip
def test_floats_refuse_what_makes_no_sense(engine, shape, error, message):
    with pytest.raises(error, match=message):
        engine.floats(*shape)


@pytest.mark.parametrize("how", ["ok", "refused by the engine", "refused by the binding"])
def test_run_leaks_nothing(engine, how):
    def call():
        sequence = engine.sequence()
        if how == "ok":
            engine.run([(sequence, PROMPT[:2], 1, {"temperature": 0.5, "seed": 3}, 0)], logits=True)
            engine.floats(2, 3)
        elif how == "refused by the engine":
            with pytest.raises(errors.ArgumentError):
                engine.run([(sequence, PROMPT, 99, None, 0)])
        else:
            with pytest.raises(TypeError):
                engine.run([(sequence, PROMPT, 1, {"nothing": 1}, 0)])

    call(), call()
    gc.collect()
    live, blocks = _core.alloc_live(), sys.getallocatedblocks()
    for _ in range(50):
        call()
    gc.collect()
    assert _core.alloc_live() == live and sys.getallocatedblocks() - blocks < 40


# ---- threads and signals ---------------------------------------------------------------------------------------------------------


def timed_call(call):
    """What call raised and when it ended, from a thread of its own."""
    seen = {}

    def body():
        try:
            call()
        except BaseException as error:
            seen["error"] = error
        seen["end"] = time.monotonic()

    thread = threading.Thread(target=body)
    thread.start()
    return thread, seen


def test_another_thread_keeps_running_during_a_pass(slow_engine):
    thread, seen = timed_call(lambda: slow_engine.run([(slow_engine.sequence(), PROMPT, 1, None, 0)]))
    ticks, start = 0, time.monotonic()
    while thread.is_alive():
        time.sleep(0.002)
        ticks += 1
    assert "error" not in seen
    assert seen["end"] - start > 0.5 and ticks > 100


def stop_slow_calls(what: str, n: int) -> float:
    """Seconds from what (cancel or close) to the end of the last of n calls, the first of which waits for a slow disk."""
    engine = _core.Engine(_core.GGUF(DEMO), source=SLOW, **DIRECT)
    sequences = [engine.sequence() for _ in range(n)]
    calls = [timed_call(lambda s=s: engine.run([(s, PROMPT, 1, None, 0)])) for s in sequences]
    time.sleep(0.2)
    with pytest.raises(errors.StateError, match="in use"):
        _ = sequences[0].length
    with pytest.raises(errors.StateError, match="in use"):
        sequences[0].close()
    start = time.monotonic()
    getattr(engine, what)()
    for thread, seen in calls:
        thread.join()
        assert isinstance(seen["error"], errors.CancelledError)
    if what == "cancel":
        assert sequences[0].length == 0
        engine.run([(sequences[0], PROMPT[:2], 1, None, 0)])
        assert sequences[0].length == 2
    engine.close()
    return max(seen["end"] for _, seen in calls) - start


@pytest.mark.parametrize("n", [1, 3], ids=["one", "queue"])
@pytest.mark.parametrize("what", ["cancel", "close"])
def test_cancel_and_close_end_passes_that_wait_for_a_slow_disk(what, n):
    assert min(stop_slow_calls(what, n) for _ in range(3)) < LATENCY


def test_an_exception_of_progress_ends_the_pass(slow_engine):
    seen = []

    def progress(*state):
        seen.append(state)
        raise LookupError("enough")

    sequence = slow_engine.sequence()
    start = time.monotonic()
    with pytest.raises(LookupError, match="enough"):
        slow_engine.run([(sequence, PROMPT, 1, None, 0)], progress=progress)
    assert time.monotonic() - start < 1 and len(seen) == 1 and sequence.length == 0


def test_progress_counts_layers(slow_engine):
    seen = []
    slow_engine.run([(slow_engine.sequence(), PROMPT, 1, None, 0)], progress=lambda *state: seen.append(state))
    assert len(seen) >= 5 and {state[1] for state in seen} == {6}
    layers = [state[0] for state in seen]
    assert layers == sorted(layers) and layers[-1] >= 2


def test_close_inside_of_progress_is_refused(slow_engine):
    with pytest.raises(errors.StateError, match="inside"):
        slow_engine.run([(slow_engine.sequence(), PROMPT, 1, None, 0)], progress=lambda *_: slow_engine.close())
    assert not slow_engine.closed


def test_two_threads_give_what_one_after_the_other_gives(engine):
    want = [generate(engine, engine.sequence(), p, 8) for p in (PROMPT, PROMPT[5:])]
    got = [None, None]

    def body(i):
        got[i] = generate(engine, engine.sequence(), (PROMPT, PROMPT[5:])[i], 8)

    threads = [threading.Thread(target=body, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == want


def test_many_threads_may_close_at_once():
    engine = _core.Engine(_core.GGUF(DEMO))
    sequences = [engine.sequence() for _ in range(4)]
    calls = [timed_call(lambda s=s: [engine.run([(s, PROMPT[:1], 1, None, 0)]) for _ in range(200)]) for s in sequences]
    time.sleep(0.02)
    closers = [timed_call(engine.close) for _ in range(4)]
    for thread, seen in closers:
        thread.join()
        assert "error" not in seen
    for thread, seen in calls:
        thread.join()
        assert isinstance(seen.get("error"), (errors.StateError, errors.CancelledError))


def child(code: str, **kwargs) -> subprocess.CompletedProcess:
    head = f"""
        import gc, os, signal, sys, time
        import numpy as np
        from airpy import _core, errors
        file = _core.GGUF({str(DEMO)!r})
        PROMPT = np.arange(40, 60, dtype=np.int32)
    """
    return subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(head) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        **kwargs,
    )


@pytest.mark.parametrize("phase", ["prompt", "decode"])
def test_ctrl_c_returns_within_a_quarter_of_a_second(phase):
    done = child(f"""
        import threading
        engine = _core.Engine(file, io="direct", max_ram=64 << 20, max_pins=0, source={SLOW!r})
        sequence = engine.sequence()
        tokens = PROMPT if {phase!r} == "prompt" else PROMPT[:1]
        took, sent = [], []
        def interrupt():
            time.sleep(0.3)
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
        for _ in range(3):
            threading.Thread(target=interrupt).start()
            try:
                engine.run([(sequence, tokens, 1, None, 0)])
            except KeyboardInterrupt:
                took.append(time.monotonic() - sent[-1])
            assert sequence.length == 0
        engine.run([(sequence, PROMPT[:1], 1, None, 0)])
        assert sequence.length == 1
        print(*took)
    """)
    assert done.returncode == 0, done.stderr
    took = [float(seconds) for seconds in done.stdout.split()]
    assert len(took) == 3 and min(took) < LATENCY


def test_a_forked_child_is_told_to_open_its_own():
    done = child("""
        engine = _core.Engine(file)
        sequence = engine.sequence()
        result = engine.run([(sequence, PROMPT, 1, None, 0)], logits=True)
        pid = os.fork()
        if pid == 0:
            try:
                run = lambda: engine.run([(sequence, PROMPT, 1, None, 0)])
                for use in (engine.stats, engine.sequence, lambda: sequence.length, run):
                    try:
                        use()
                    except errors.StateError as error:
                        assert "fork" in str(error)
                    else:
                        raise AssertionError("no StateError")
                assert np.asarray(result.logits).shape == (1, 4096)
                sequence.close()
                engine.close()
                del result, sequence, engine
                gc.collect()
                own = _core.Engine(file)
                own.run([(own.sequence(), PROMPT, 1, None, 0)])
                own.close()
                os._exit(0)
            except BaseException as error:
                print(repr(error), flush=True)
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        engine.run([(sequence, PROMPT, 1, None, 0)])
        print("fine")
    """)
    assert done.returncode == 0 and done.stdout == "fine\n", done.stdout + done.stderr


def test_the_interpreter_may_end_with_everything_open():
    done = child("""
        import threading
        engine = _core.Engine(file, io="direct", max_ram=64 << 20, max_pins=0, source="rate=4000000")
        keep = engine.run([(engine.sequence(), PROMPT[:1], 1, None, 0)], logits=True)
        print("fine")
    """)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_default_signals_of_other_handlers_are_left_alone():
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    _core.Engine(_core.GGUF(DEMO)).close()
    assert {s: signal.getsignal(s) for s in before} == before and os.getpid() > 0


# ---- every allocation fails once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"io": "mmap"}, DIRECT], ids=["mmap", "direct"])
def test_every_allocation_may_fail(options):
    """Opening and running with the n-th allocation failing, for every n: a typed error, nothing leaked, and the next try works."""
    file = _core.GGUF(DEMO)
    options = {"threads": 2, **options}

    def attempt(n):
        """What was sampled (None: an allocation's failure was reported), and whether the n-th allocation came."""
        engine = None
        _core.alloc_fail_at(n)
        try:
            engine = _core.Engine(file, **options)
            sequence = engine.sequence()
            ids = engine.run([(sequence, PROMPT, 2, {"temperature": 0.7, "seed": 1}, 0)], logits=True).sampled
            ids += engine.run([(sequence.fork(), PROMPT[:1], 1, GREEDY, 0)]).sampled
            engine.floats(2, 3)
        except (errors.OutOfMemoryError, errors.ThreadError, MemoryError):
            ids = None
        finally:
            came = _core.alloc_failed()
            _core.alloc_fail_at(0)
            if engine:
                engine.close()
        return ids, came

    want, _ = attempt(0)
    gc.collect()
    live = _core.alloc_live()
    failures, n, came = 0, 0, True
    while came:
        n += 1
        got, came = attempt(n)
        assert got == want or (got is None and came), f"allocation {n}"
        failures += got is None
        gc.collect()
        assert _core.alloc_live() == live, f"allocation {n} leaks"
    assert failures > 20
