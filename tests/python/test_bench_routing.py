"""tests/bench/routing.py: policies replayed on what routers chose, held against the engine's own cache and against what must be."""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from airpy import _core
from tests.bench import routing
from tools import make_gguf

LAYERS, EXPERTS, USED = 3, 32, 4


def drawn(tokens: int, skew: float) -> routing.Choices:
    rng = np.random.default_rng(5)
    share = (np.arange(EXPERTS) + 1.0) ** -skew
    share /= share.sum()
    return np.array([[rng.choice(EXPERTS, USED, False, share) for _ in range(LAYERS)] for _ in range(tokens)], np.int16)


def test_the_last_used_stays_under_lru_and_the_next_used_under_the_optimum():
    requests = np.array([[0], [1], [2], [0], [1], [2]])
    assert routing.replay(requests, 3, 2, routing.recent, 0) == 0
    assert routing.replay(requests, 3, 2, routing.optimum(requests, 3), 0) == 2 / 6       # 0 hits at 3, and 1 or 2 once
    assert routing.replay(requests, 3, 3, routing.recent, 3) == 1


@pytest.mark.parametrize("skew", [0, 0.7])
@pytest.mark.parametrize("slots", [USED, 30, 64])
def test_no_policy_beats_the_optimum(skew: float, slots: int):
    found = routing.compare(drawn(60, skew), EXPERTS, slots)
    assert max(found.values()) == found["optimum"]
    if skew and slots == 30:
        assert found["LFU"] > found["LRU"]


def test_what_all_fit_in_is_hit_always():
    assert set(routing.compare(np.tile(drawn(1, 0), (8, 1, 1)), EXPERTS, LAYERS * USED).values()) == {1.0}


def test_the_engine_hits_as_often_as_its_policy_replayed(tmp_path: Path):
    file = tmp_path / "moe.gguf"
    sizes = {"layers": LAYERS, "embd": 256, "heads": 4, "kv_heads": 2, "head_dim": 64, "vocab": 512, "ctx": 512}
    make_gguf.write(file, shape="moe", arch="qwen3moe", experts=EXPERTS, used=USED, expert_ff=512, router_skew=0.4, **sizes)
    engine = _core.Engine(_core.GGUF(str(file)), max_ram=24 << 20, io="direct", n_ctx=256, lookahead=False)
    sequence, trace, rows = engine.sequence(), [], engine.expert_rows()
    for token in np.random.default_rng(3).integers(3, 512, 160):
        if len(trace) == 80:
            middle = engine.stats()
        engine.run([(sequence, np.array([token], np.int32), 1, {"temperature": 0}, sequence.length)])
        now = engine.expert_rows()
        trace.append(routing.chosen(rows, now))
        rows = now
    end, plan = engine.stats(), engine.plan
    hits, misses = (end[f"pager_expert_{key}"] - middle[f"pager_expert_{key}"] for key in ("hits", "misses"))
    slots = int(end["held_by"]["experts"] / (plan["expert_weight_bytes"] / (LAYERS * EXPERTS)))
    assert USED < slots < LAYERS * EXPERTS and misses > 100
    replayed = routing.compare(np.array(trace, np.int16), EXPERTS, slots)[f"half-life {routing.OURS}"]
    assert hits / (hits + misses) == pytest.approx(replayed, abs=0.03)          # equal heats give way in another order
