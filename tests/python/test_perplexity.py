"""Perplexity: of the bundled models on held-out text what llama.cpp and PyTorch measured (tools/demo_model/README.md); windows, BOS and
strides by the definition, over logits that are whole; and how it shares passes, fits budgets and is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gguf
import numpy as np
import pytest
from models import DEMO, RATES, load, run_python
from reference_llama import logits as reference_logits

import airpy
from airpy.errors import ArgumentError, BudgetError, StateError
from airpy.perplexity import Windows, score

ROOT = Path(__file__).resolve().parents[2]
ASSETS = Path(airpy.__file__).parent / "assets"
TEXT = (ROOT / "tests/golden/demo_val.txt").read_text()


@pytest.fixture(scope="module")
def model():
    with load() as model:
        yield model


def losses(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Of each id under its row, -log of its softmax, in double."""
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return np.log(np.exp(x).sum(-1)) - x[np.arange(len(ids)), ids]


def by_definition(rows: list[np.ndarray], first: int, logits) -> tuple[float, float, int]:
    """exp of the mean, its standard error, and how many: each token behind number `first` of its window, given those before it."""
    nll = np.concatenate([losses(logits(row)[first:-1], row[first + 1 :]) for row in rows])
    value = np.exp(nll.mean())
    return value, value * nll.std() / np.sqrt(nll.size - 1), nll.size


@pytest.mark.parametrize(("name", "want", "error"), [("demo-q8_0", 30.1689, 0.512), ("draft-q8_0", 39.8814, 0.644)])
def test_perplexity_is_that_of_the_other_implementations(name, want, error):
    with load(ASSETS / f"{name}.gguf") as model:
        found = model.perplexity(TEXT)
    assert (found.windows, found.tokens, found.ctx, found.stride) == (105, 105 * 255, 512, 512)
    assert found.perplexity == pytest.approx(want, rel=2e-3) and found.error == pytest.approx(error, rel=5e-3)
    assert found.nll == pytest.approx(np.log(found.perplexity))


@pytest.mark.parametrize(("kv_dtype", "rel"), [("q8_0", 5e-3), ("q4_0", 5e-3)])
def test_perplexity_with_quantised_state_is_near_that_in_f16(model, kv_dtype, rel):
    with load(kv_dtype=kv_dtype) as other:
        got, want = other.perplexity(TEXT, chunks=8).perplexity, model.perplexity(TEXT, chunks=8).perplexity
    print(f"{kv_dtype}: {got:.4f}, f16 {want:.4f}")
    assert got == pytest.approx(want, rel=rel)


def test_perplexity_is_that_of_a_forward_pass_in_float64(model):
    ids = np.array(model.tokenizer.encode(TEXT)[:256], np.int32)
    want = by_definition(list(ids.reshape(4, 64)), 32, lambda row: reference_logits(DEMO, row))
    found = model.perplexity(ids, ctx=64)
    assert found.perplexity == pytest.approx(want[0], rel=3e-3) and (found.windows, found.tokens) == (4, want[2])


@pytest.mark.parametrize(("ctx", "stride", "first", "starts"), [
    (64, None, 32, [0, 64, 128]), (65, None, 32, [0, 65, 130]), (64, 16, 47, range(0, 144, 16)), (4, None, 2, range(0, 204, 4)),
])  # fmt: skip
def test_windows_and_what_is_scored_of_them_are_as_defined(model, ctx, stride, first, starts):
    ids = np.array(model.tokenizer.encode(TEXT)[:205], np.int32)
    rows = [ids[at : at + ctx] for at in starts]
    want = by_definition(rows, first, lambda row: model(row[None]).logits[0])
    found = model.perplexity(ids, ctx=ctx, stride=stride)
    assert (found.perplexity, found.error) == pytest.approx(want[:2], rel=1e-5)
    assert (found.windows, found.tokens, found.stride) == (len(rows), want[2], stride or ctx)


def with_bos(path: Path) -> Path:
    """A copy of the demo model whose texts begin with BOS."""
    reader, writer = gguf.GGUFReader(DEMO), gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in ("general.architecture", "tokenizer.ggml.add_bos_token"):
            kind = field.types[0]
            writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    writer.add_add_bos_token(True)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_windows_begin_with_bos_where_texts_do_but_for_strides(tmp_path):
    with load(with_bos(tmp_path / "bos.gguf")) as model:
        bos = model.tokenizer.bos_token_id
        ids = np.array(model.tokenizer.encode(TEXT)[:192], np.int32)
        assert ids[0] == bos and not (ids[64::64] == bos).any()
        rows = [row.copy() for row in ids.reshape(3, 64)]
        for row in rows:
            row[0] = bos
        want = by_definition(rows, 32, lambda row: model(row[None]).logits[0])
        assert model.perplexity(ids, ctx=64).perplexity == pytest.approx(want[0], rel=1e-5)
        plain = by_definition([ids[at : at + 64] for at in range(0, 128, 32)], 31, lambda row: model(row[None]).logits[0])
        assert model.perplexity(ids, ctx=64, stride=32).perplexity == pytest.approx(plain[0], rel=1e-5)


def test_special_tokens_in_a_text_are_text(model):
    text = TEXT[:3000] + "<|endoftext|>" + TEXT[3000:6000]
    ids = model.tokenizer.encode(text, parse_special=False)
    assert model.perplexity(text, ctx=128) == model.perplexity(ids, ctx=128)


def test_windows_share_passes(model):
    before = model.stats()["passes"]
    found = model.perplexity(TEXT, ctx=128, chunks=12)
    assert model.plan["max_rows"] == 512  # four windows, each without its last token
    assert found.windows == 12 and model.stats()["passes"] - before == 3


@pytest.mark.parametrize("io", ["direct", "mmap"])
def test_little_memory_and_streaming_change_nothing(model, io):
    want = model.perplexity(TEXT, chunks=6)
    with load(max_ram="12MiB", io=io) as small:
        assert small.perplexity(TEXT, chunks=6) == want
        stats = small.stats()
    assert stats["peak_ram"] <= stats["budget"] + max(0.02 * stats["budget"], 16 << 20)


def test_logits_that_do_not_fit_come_in_pieces(model):
    """Whatever the largest number of rows that fits, the figures are the same, and a budget for not even one is an error."""
    ids = np.array(model.tokenizer.encode(TEXT)[:384], np.int32)
    windows = Windows(list(ids.reshape(6, 64)), 31, 64, 64)
    want = model.perplexity(ids, ctx=64)
    seen: list[int] = []

    def run_at_most(rows):
        def run(items):
            wanted = sum(item[2] for item in items)
            if wanted > rows:
                raise BudgetError("too many")
            seen.append(wanted)
            return model._engine.run(items, logits=True)

        return run

    def measure(rows):
        engine = model._engine
        return score(windows, engine=engine, make=engine.sequence, run=run_at_most(rows), done=lambda figures: None)

    for rows in (200, 100, 31, 30, 5, 1):
        seen.clear()
        assert measure(rows).perplexity == pytest.approx(want.perplexity, rel=1e-9), rows
        assert sum(seen) == 6 * 31 and max(seen) <= rows
    with pytest.raises(BudgetError, match="too many"):
        measure(0)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"ctx": 513}, "ctx is 513, but the model was trained for 512 positions; lower ctx"),
    ({"ctx": 3}, "ctx is 3; a window has at least 4 tokens"),
    ({"ctx": 0}, "ctx is 0; expected a whole number from 1"),
    ({"ctx": 64, "stride": 64}, "stride is 64, but must be less than ctx, 64"),
    ({"ctx": 64, "chunks": 0}, "chunks is 0"),
    ({"text": "A few words."}, "the text has 4 tokens, less than one window of 512; give a longer one, or lower ctx"),
    ({"text": ""}, "the text is empty"),
    ({"text": np.empty(0, np.int32)}, "the text is empty"),
    ({"text": [[1] * 600, [2] * 600]}, "ids have 2 rows; expected one text"),
    ({"text": [4096] * 600}, "4096"),
])  # fmt: skip
def test_what_has_no_perplexity_is_refused(model, arguments, message):
    text = arguments.pop("text", TEXT)
    with pytest.raises(ArgumentError, match=message):
        model.perplexity(text, **arguments)


def test_windows_beyond_the_context_are_refused():
    with load(n_ctx=128) as model, pytest.raises(ArgumentError, match="open with a context of 128; lower ctx, or give a larger n_ctx"):
        model.perplexity(TEXT, ctx=129)


def test_a_closed_model_has_none():
    model = load()
    model.close()
    with pytest.raises(StateError, match="closed"):
        model.perplexity(TEXT)


def test_progress_counts_windows():
    calls: list[tuple[int, ...]] = []
    with load(progress=lambda *call: calls.append(call)) as model:
        model.perplexity(TEXT, ctx=64, chunks=64)
    assert calls and all(0 <= done <= total == 64 and rest == [0, 1] for done, total, *rest in calls)
    assert calls[-1][0] == 64 and [done for done, *_ in calls] == sorted(done for done, *_ in calls)


# ---- the command -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def text_file(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRPY_BANDWIDTHS", json.dumps(RATES))
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return os.fspath(path)


def test_the_command_prints_the_figure(airpy, text_file, model):
    want = model.perplexity(TEXT, chunks=3)
    code, out, err = airpy("perplexity", DEMO, text_file, "--chunks", "3")
    assert (code, out) == (0, f"perplexity = {want.perplexity:.4f} ± {want.error:.4f}\n")
    assert err.startswith("765 tokens scored in 3 windows of 512 tokens; ")
    code, out, err = airpy("perplexity", DEMO, text_file, "--chunks", "3", "--json")
    answer = json.loads(out)
    assert code == 0 and err == "" and answer["perplexity"] == pytest.approx(want.perplexity, rel=1e-9)
    assert (answer["windows"], answer["tokens"], answer["ctx"], answer["stride"]) == (3, 765, 512, 512) and answer["stats"]["passes"] >= 1


def test_the_command_keeps_max_ram_however_long_the_text(text_file):
    Path(text_file).write_text(3 * TEXT)
    code = "import sys; from airpy.cli.main import main; main(['perplexity', *sys.argv[1:], '--json'])"
    done = run_python(code, os.fspath(DEMO), text_file, "--chunks", "2", "--max-ram", "12MiB")
    assert done.returncode == 0, done.stderr
    stats = json.loads(done.stdout)["stats"]
    assert stats["peak_ram"] <= stats["budget"] + (16 << 20)


def test_the_command_says_what_is_wrong(airpy, text_file, tmp_path):
    code, out, err = airpy("perplexity", DEMO, text_file, "--ctx", "600")
    assert code == 1 and out == "" and "512" in err
    code, out, err = airpy("perplexity", DEMO, str(tmp_path / "none.txt"))
    assert code == 1 and "none.txt" in err
