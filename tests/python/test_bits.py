"""The first invariant: a row's bits do not depend on budget, I/O, ring, tiles, threads, chunks or neighbours."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from models import DEMO, golden

from airpy import _core

RNG = np.random.default_rng(11)
PROMPT = RNG.integers(0, 4096, 75).astype(np.int32)
DECODED = RNG.integers(0, 4096, 4).astype(np.int32)
NEIGHBOURS = [RNG.integers(0, 4096, n).astype(np.int32) for n in (3, 64, 71)]
KIB, MIB = 1 << 10, 1 << 20

PLACES = [
    {"io": "mmap"},
    {"io": "direct", "max_ram": 64 * MIB},  # all stays
    {"io": "direct", "max_ram": 6 * MIB},  # some stays
    {"io": "direct", "max_pins": 0},  # nothing stays
    {"io": "direct", "max_pins": 0, "ring_bytes": 6 * MIB, "tile_bytes": MIB},
    {"io": "direct", "max_pins": 3 * MIB, "tile_bytes": 40 * KIB, "ring_bytes": 512 * KIB},
    {
        "io": "direct",
        "max_pins": 0,
        "tile_bytes": 17 * KIB,
        "ring_bytes": 256 * KIB,
        "bandwidths": {"block_bytes": 32768, "depth": 1},
    },
]
WAYS = [
    {"threads": 1},
    {"threads": 2},
    {"threads": 3, "max_rows": 16},
    {"threads": 2, "max_rows": 7},
    {"threads": 1, "max_rows": 1},
]
CROWDS = [False, True]
COMBINATIONS = list(itertools.product(PLACES, WAYS, CROWDS))


def bits(gguf, place, way, crowd, prompt=PROMPT, decoded=DECODED):
    """Logits after the prompt and after each decoded token, alone or beside three neighbours."""
    engine = _core.Engine(gguf, **{"max_ram": 64 * MIB, **place, **way})
    sequence = engine.sequence()
    others = [(engine.sequence(), ids) for ids in NEIGHBOURS] if crowd else []
    out = []
    for step, tokens in enumerate([prompt, *decoded[:, None]]):
        beside = [(other, ids if step == 0 else ids[step % 3 :][:1] % 200, 1, None, 0) for other, ids in others]
        items = [*beside[:1], (sequence, tokens, 1, None, 0), *beside[1:]]
        logits = np.asarray(engine.run(items, logits=True).logits)
        out.append(np.array(logits[1 if crowd else 0]))
    engine.close()
    return np.stack(out)


@pytest.fixture(scope="module")
def gguf():
    return _core.GGUF(str(DEMO))


@pytest.fixture(scope="module")
def want(gguf):
    return bits(gguf, {"io": "mmap"}, {"threads": 1}, False)


def test_there_are_at_least_sixty_combinations():
    assert len(COMBINATIONS) >= 60


@pytest.mark.parametrize("crowd", CROWDS, ids=["alone", "crowd"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: ",".join(f"{k}={v}" for k, v in way.items()))
@pytest.mark.parametrize("place", range(len(PLACES)))
def test_bits_are_the_same(gguf, want, place, way, crowd):
    np.testing.assert_array_equal(bits(gguf, PLACES[place], way, crowd), want)


@pytest.mark.parametrize("kv_dtype", ["f16", "f32", "q8_0", "q4_0"])
@pytest.mark.parametrize("tier", _core.TIERS)
@pytest.mark.parametrize("name", ["llama-gqa", "qwen2", "qwen3", "qwen2moe", "qwen3moe"])
def test_bits_are_the_same_for_other_families_tiers_and_states(name, tier, kv_dtype):
    gguf = _core.GGUF(str(golden(name)))
    prompt, decoded = PROMPT % 272, DECODED % 272
    first = bits(gguf, {"io": "mmap", "tier": tier, "kv_dtype": kv_dtype}, {"threads": 1}, False, prompt, decoded)
    for place in (
        {"io": "direct", "max_pins": 0},
        {"io": "direct", "max_pins": 64 * KIB, "tile_bytes": 4 * KIB, "ring_bytes": 96 * KIB},
        {"io": "direct", "max_pins": 200 * KIB, "tile_bytes": 4 * KIB, "ring_bytes": 96 * KIB, "lookahead": False},
    ):
        got = bits(gguf, {**place, "tier": tier, "kv_dtype": kv_dtype}, {"threads": 3, "max_rows": 5}, False, prompt, decoded)
        np.testing.assert_array_equal(got, first)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: ",".join(f"{k}={v}" for k, v in way.items()))
def test_bits_are_the_same_with_state_in_q8_0(gguf, way):
    want = bits(gguf, {"io": "mmap", "kv_dtype": "q8_0"}, {"threads": 1}, False)
    got = bits(gguf, {**PLACES[5], "kv_dtype": "q8_0"}, way, True)
    np.testing.assert_array_equal(got, want)


def test_a_prompt_in_two_calls_has_the_bits_of_one(gguf, want):
    for cut in (1, 31, 64, 74):
        engine = _core.Engine(gguf, max_ram=64 * MIB)
        sequence = engine.sequence()
        engine.run([(sequence, PROMPT[:cut], 0, None, 0)])
        logits = np.asarray(engine.run([(sequence, PROMPT[cut:], 1, None, 0)], logits=True).logits)
        np.testing.assert_array_equal(logits[0], want[0])
        logits = np.array(engine.run([(sequence, DECODED[:1], 1, None, 0)], logits=True).logits)
        np.testing.assert_array_equal(logits[0], want[1])
        engine.close()


def test_a_forked_and_cut_sequence_has_the_bits_of_a_new_one(gguf, want):
    engine = _core.Engine(gguf, max_ram=64 * MIB)
    first = engine.sequence()
    engine.run([(first, np.concatenate([PROMPT, NEIGHBOURS[1]]), 0, None, 0)])
    fork = first.fork()
    fork.truncate(len(PROMPT) - 20)
    first.truncate(10)
    engine.run([(first, NEIGHBOURS[0], 0, None, 0)])  # writes where the fork shares
    logits = np.asarray(engine.run([(fork, PROMPT[-20:], 1, None, 0)], logits=True).logits)
    np.testing.assert_array_equal(logits[0], want[0])
    engine.close()
