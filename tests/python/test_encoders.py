"""Models that read a text from both ends, and decoders that make embeddings: hidden states and scores against Hugging Face transformers
in float32, bits, and what is refused."""

from __future__ import annotations

import gc
import re

import numpy as np
import pytest
from gguf import GGUFReader
from models import ENCODER_NAMES, ENCODERS, encoder, golden

from airpy import _core, errors
from airpy.gguf_writer import GGUFWriter, TensorInfo, entries_of

LIMIT = 1e-10  # of the squared error over the squared states
KIB = 1 << 10


class Case:
    """A golden file and its texts."""

    def __init__(self, name):
        data = np.load(ENCODERS / f"{name}.npz")
        self.path, self.hidden, self.scores = encoder(name), data["hidden"], data.get("scores")
        self.texts = np.split(data["input_ids"], np.cumsum(data["lengths"])[:-1])
        self.firsts = data["firsts"].tolist()
        self.ends = np.cumsum(data["lengths"])

    def states(self, which=None, logits=False, **options):
        """Of some of its texts in one call, one after the other."""
        engine = _core.Engine(_core.GGUF(str(self.path)), **{"max_ram": 64 << 20, "kv_dtype": "f32", **options})
        which = range(len(self.texts)) if which is None else which
        items = [(engine.sequence(), self.texts[i], len(self.texts[i]), None, 0, self.firsts[i]) for i in which]
        result = engine.run(items, hidden=not logits, logits=logits)
        found = np.array(result.logits if logits else result.hidden)
        engine.close()
        return found


@pytest.fixture(params=ENCODER_NAMES)
def case(request):
    return Case(request.param)


def error_of(got, want):
    return np.square(got - want, dtype=np.float64).sum() / np.square(want, dtype=np.float64).sum()


@pytest.mark.parametrize("tier", _core.TIERS)
def test_hidden_states_are_those_of_transformers(case, tier):
    error = error_of(case.states(tier=tier), case.hidden)
    print(f"{case.path.stem}: {error:.2e}")
    assert error <= LIMIT


@pytest.mark.parametrize("name", [name for name in ENCODER_NAMES if "rank" in name])
def test_scores_are_those_of_transformers(name):
    case = Case(name)
    first = np.concatenate([[0], case.ends[:-1]])
    at = case.ends - 1 if name.startswith("qwen3") else first  # a decoder has read a text at its last token
    np.testing.assert_allclose(case.states(logits=True)[at], case.scores, atol=1e-5)


def test_a_text_has_the_same_bits_alone_and_among_others_resident_and_streamed(case):
    want = case.states(io="mmap", threads=1)
    for options in (
        {"io": "direct", "max_pins": 0},
        {"io": "direct", "max_pins": 64 * KIB, "tile_bytes": 4 * KIB, "ring_bytes": 96 * KIB, "threads": 3},
        {"max_rows": 100, "threads": 2},  # passes of one text, or two
    ):
        np.testing.assert_array_equal(case.states(**options), want)
    for i, end in enumerate(case.ends):
        alone = case.states([i], threads=3)
        np.testing.assert_array_equal(alone, want[end - len(alone) : end])


@pytest.mark.parametrize(("kind", "most"), [("f16", 1e-5), ("q8_0", 1e-3), ("q4_0", 0.3)])
def test_states_of_other_types_are_near(case, kind, most):
    error = error_of(case.states(kv_dtype=kind), case.hidden)
    assert 0 < error <= most


def test_state_is_kept_for_one_layer_and_in_f32_where_none_is_read_again():
    plans = {name: _core.solve_plan(_core.GGUF(str(encoder(name))), max_ram=64 << 20) for name in ("eurobert", "qwen3")}
    assert plans["eurobert"]["kv_dtype"] == "f32" and plans["qwen3"]["kv_dtype"] == "f16"
    positions, heads, head = 128, 2, 10
    assert plans["eurobert"]["state_bytes_full"] == -(-64 * heads * 4 * (head + 16) // 4096) * 4096 * positions // 64
    assert plans["qwen3"]["state_bytes_full"] >= 2 * 64 * (32 + 32) * 2 * positions // 64


def test_a_text_is_in_one_pass_whatever_the_budget():
    case = Case("bert")
    plan = _core.solve_plan(_core.GGUF(str(case.path)), max_ram=64 << 20, max_rows=50)
    assert plan["n_ctx"] == plan["max_rows"] == 50
    with pytest.raises(errors.ContextOverflowError, match=r"0 tokens and 64 more exceed the context of 50"):
        case.states([2], max_rows=50)
    small = _core.solve_plan(_core.GGUF(str(case.path)), max_ram=400 * KIB, io="direct")
    assert small["n_ctx"] == small["max_rows"] == 64
    with pytest.raises(errors.BudgetError, match=r"max_ram .* too small .*n_ctx 128.* raise max_ram to 0"):
        _core.solve_plan(_core.GGUF(str(case.path)), max_ram=330 * KIB, io="direct", n_ctx=128)


def test_a_text_cannot_be_gone_on_with():
    engine = _core.Engine(_core.GGUF(str(encoder("bert"))), max_ram=64 << 20)
    sequence, ids = engine.sequence(), np.array([5, 6, 7], np.int32)
    engine.run([(sequence, ids, 0, None, 0)])
    with pytest.raises(errors.ArgumentError, match="its sequence holds 3 tokens, which cannot be gone on with"):
        engine.run([(sequence, ids, 0, None, 0)])
    with pytest.raises(errors.ArgumentError, match="n_first is 4 of 3 tokens"):
        engine.run([(engine.sequence(), ids, 0, None, 0, 4)])
    for arguments in ({"logits": True}, {}):
        with pytest.raises(errors.UnsupportedError, match="makes embeddings: it foretells no token"):
            engine.run([(engine.sequence(), ids, 1, None if arguments else {}, 0)], **arguments)
    engine.close()
    engine = _core.Engine(_core.GGUF(str(encoder("bert-rank"))), max_ram=64 << 20)
    with pytest.raises(errors.UnsupportedError, match="a classifier of 1 labels: it foretells no token"):
        engine.run([(engine.sequence(), ids, 1, {}, 0)])
    engine.close()


def test_a_decoders_states_need_no_logits():
    """The output matrix is passed by, and takes part in no sum."""
    engine = _core.Engine(_core.GGUF(str(golden("qwen3-untied"))), max_ram=64 << 20)
    ids = np.arange(5, 25, dtype=np.int32)
    both = engine.run([(engine.sequence(), ids, 20, None, 20)], logits=True, hidden=True)
    alone = engine.run([(engine.sequence(), ids, 20, None, 20)], hidden=True)
    np.testing.assert_array_equal(np.asarray(alone.hidden), np.asarray(both.hidden))
    assert alone.logits is None and both.logits is not None
    engine.close()


def test_every_allocation_may_fail():
    """Opening and reading two texts with the n-th allocation failing, for every n: a typed error, and nothing is leaked."""
    case = Case("bert-rank")
    file = _core.GGUF(str(case.path))

    def attempt(n):
        engine, states = None, None
        _core.alloc_fail_at(n)
        try:
            engine = _core.Engine(file, io="mmap", threads=1)
            items = [(engine.sequence(), case.texts[i], len(case.texts[i]), None, 0, case.firsts[i]) for i in (0, 1)]
            states = np.array(engine.run(items, hidden=True).hidden)
        except (errors.OutOfMemoryError, errors.ThreadError, MemoryError):
            states = None
        finally:
            came = _core.alloc_failed()
            _core.alloc_fail_at(0)
            if engine:
                engine.close()
        return states, came

    want, _ = attempt(0)
    gc.collect()
    live, failures, n, came = _core.alloc_live(), 0, 0, True
    while came:
        n += 1
        got, came = attempt(n)
        failures += got is None
        assert came if got is None else np.array_equal(got, want), f"allocation {n}"
        assert _core.alloc_live() == live, f"allocation {n}"
    assert failures > 40


# -- what files say -------------------------------------------------------------------------------------------------------


def changed(source, target, keys=None, tensors=None):
    """A copy with other keys (None: without) and float32 tensors."""
    header, data = _core.GGUF(str(source)), {t.name: np.array(t.data) for t in GGUFReader(source).tensors}
    data |= tensors or {}
    data = {name: value for name, value in data.items() if value is not None}
    infos = [TensorInfo(name, "F32", tuple(reversed(value.shape))) for name, value in data.items()]
    with GGUFWriter(target, list(entries_of(header.metadata, header.types, keys or {})), infos) as writer:
        for i, value in enumerate(data.values()):
            writer.write(i, 0, np.ascontiguousarray(value, dtype=np.float32).data)
        writer.commit()
    return target


def refused(name, tmp_path, **changes):
    with pytest.raises(errors.AirpyError) as caught:
        _core.Engine(_core.GGUF(str(changed(encoder(name), tmp_path / "m.gguf", **changes))), max_ram=64 << 20).close()
    return caught.value


@pytest.mark.parametrize(
    ("name", "changes", "kind", "message"),
    [
        ("bert", {"keys": {"bert.pooling_type": (("u32", None), 9)}}, errors.FormatError, r"bert\.pooling_type .*9"),
        ("bert", {"keys": {"bert.attention.causal": (("u32", None), 0)}}, errors.FormatError, r"bert\.attention\.causal"),
        ("bert", {"tensors": {"token_types.weight": np.zeros((2, 8))}}, errors.ModelError, r"token_types\.weight is \[8, 2\]"),
        ("bert", {"tensors": {"token_types.weight": np.zeros((257, 40))}}, errors.ModelError, r"at most 256 rows"),
        ("bert", {"tensors": {"position_embd.weight": np.zeros((9, 40))}}, errors.ModelError, r"position_embd\.weight is \[40, 9"),
        ("bert", {"tensors": {"blk.1.layer_output_norm.weight": None}}, errors.ModelError, r"no tensor blk\.1\.layer_output_norm"),
        ("bert-rank", {"tensors": {"cls.output.weight": np.zeros((1, 16))}}, errors.ModelError, r"cls\.output\.weight is \[16, 1\]"),
        ("bert-rank", {"tensors": {"cls.weight": np.zeros((8, 40))}}, errors.ModelError, r"cls\.weight is \[40, 8"),
        ("modern-bert", {"keys": {"modern-bert.hidden_activation": (("string", None), "relu")}}, errors.UnsupportedError, r'"relu"'),
        ("jina-bert-v2", {"tensors": {"blk.1.attn_norm_2.weight": np.ones(40)}}, errors.UnsupportedError, r"blk\.1\.attn_norm_2"),
        ("nomic-bert-moe", {"tensors": {"blk.1.ffn_down_exps.weight": None}}, errors.ModelError, r"no tensor blk\.1\.ffn_down_exps"),
        ("gemma-embedding", {"tensors": {"dense_3.weight": np.zeros((24, 8))}}, errors.ModelError, r"dense_3\.weight is \[8, 24"),
    ],
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_refused(name, changes, kind, message, tmp_path):
    error = refused(name, tmp_path, **changes)
    assert isinstance(error, kind) and re.search(message, str(error)), error


def test_modern_bert_may_have_another_activation(tmp_path):
    path = changed(encoder("modern-bert"), tmp_path / "m.gguf", keys={"modern-bert.hidden_activation": (("string", None), "silu")})
    case, other = Case("modern-bert"), Case("modern-bert")
    other.path = path
    assert error_of(other.states(), case.hidden) > 1e-3
    other.path = changed(encoder("modern-bert"), tmp_path / "m.gguf", keys={"modern-bert.hidden_activation": (("string", None), "gelu")})
    np.testing.assert_array_equal(other.states(), case.states())


def test_a_bert_that_is_causal_sees_nothing_ahead(tmp_path):
    case = Case("bert")
    case.path = changed(case.path, tmp_path / "m.gguf", keys={"bert.attention.causal": (("bool", None), True)})
    states = case.states([4])
    case.texts[4] = case.texts[4].copy()
    case.texts[4][60] = 9
    other = case.states([4])
    np.testing.assert_array_equal(other[:60], states[:60])
    assert np.abs(other[60:] - states[60:]).max() > 1e-2
