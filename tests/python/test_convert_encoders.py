"""Encoders' directories as GGUF files, with what sentence-transformers has beside them: states and scores are those of transformers; and
the golden models again, from checkpoints in BERT's names."""

from __future__ import annotations

import contextlib
import json
import sys

import numpy as np
import pytest
from models import ENCODERS, GOLDEN, load

import airpy
from airpy import _core, errors
from airpy.conversion import sentence

sys.path.insert(0, str(GOLDEN))
import checkpoints

gguf = pytest.importorskip("gguf")

# transformers' modeling_bert.py, which RoBERTa's has the names of.
NAMES = {"token_embd.weight": "embeddings.word_embeddings.weight", "position_embd.weight": "embeddings.position_embeddings.weight",
         "token_types.weight": "embeddings.token_type_embeddings.weight", "token_embd_norm": "embeddings.LayerNorm",
         "attn_output_norm": "attention.output.LayerNorm", "layer_output_norm": "output.LayerNorm", "attn_q": "attention.self.query",
         "attn_k": "attention.self.key", "attn_v": "attention.self.value", "attn_output": "attention.output.dense",
         "ffn_up": "intermediate.dense", "ffn_down": "output.dense"}  # fmt: skip
CONFIG = {"hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 4, "layer_norm_eps": 1e-5,
          "hidden_act": "gelu"}  # fmt: skip


CLASSES = sorted(path.stem for path in checkpoints.ENCODERS.glob("*.json"))
LIMIT = 1e-6  # of the squared error over the squared states


def run(path, data, **what):
    """States or logits of all texts, one after the other."""
    engine = _core.Engine(_core.GGUF(str(path)), kv_dtype="f32")
    texts = np.split(data["input_ids"], np.cumsum(data["lengths"])[:-1])
    items = [(engine.sequence(), ids, len(ids), None, 0, first) for ids, first in zip(texts, data["firsts"].tolist(), strict=True)]
    result = engine.run(items, **what)
    found = np.array(result.hidden if "hidden" in what else result.logits, dtype=np.float64)
    engine.close()
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_states_and_scores_are_those_of_transformers(name, tmp_path):
    description = checkpoints.describe(name, checkpoints.ENCODERS)
    checkpoints.write_checkpoint(tmp_path / "checkpoint", description, shards=1 + description["seed"] % 3)
    path = airpy.convert(tmp_path / "checkpoint", tmp_path / "model.gguf", progress=False)
    data = np.load(checkpoints.ENCODERS / f"{name}.npz")
    error = np.square(run(path, data, hidden=True) - data["hidden"]).sum() / np.square(data["hidden"].astype(np.float64)).sum()
    print(f"{name}: {error:.2e}")
    assert error <= LIMIT
    if "scores" in data:
        ends = np.cumsum(data["lengths"])
        at = ends - 1 if name.startswith("qwen3") else ends - data["lengths"]  # a decoder has read a text at its last token
        np.testing.assert_allclose(run(path, data, logits=True)[at], data["scores"], atol=1e-3)
        keys = _core.GGUF(path).metadata
        assert keys[f"{keys['general.architecture']}.pooling_type"] == 4
        assert keys[f"{keys['general.architecture']}.classifier.output_labels"] == [f"LABEL_{i}" for i in range(data["scores"].shape[1])]


def test_matrices_behind_a_model_are_in_the_file(tmp_path):
    description = checkpoints.describe("gemma-embedding", checkpoints.ENCODERS)
    checkpoints.write_checkpoint(tmp_path / "m", description)
    path = airpy.convert(tmp_path / "m", tmp_path / "m.gguf", progress=False)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for i, matrix in enumerate(checkpoints.dense_of(description), 2):
        got = found[f"dense_{i}.weight"]
        np.testing.assert_allclose(gguf.quants.dequantize(got.data, got.tensor_type), matrix, rtol=1e-3, atol=1e-6)
    keys = _core.GGUF(path).metadata
    assert [keys[f"gemma-embedding.dense_{i}_feat_{end}"] for i in (2, 3) for end in ("in", "out")] == [24, 72, 72, 24]
    assert keys["gemma-embedding.pooling_type"] == 1


DENSE = {  # file, what changes, what the error says
    "a function": ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.Tanh"}, "UnsupportedError",
                   "only with '.*Identity'"),
    "a bias": ("2_Dense/config.json", {"bias": True}, "UnsupportedError", "bias is true"),
    "another place": ("modules.json", [{"path": "4_Dense", "type": "sentence_transformers.models.Dense"}], "UnsupportedError",
                      "dense module in '4_Dense'"),
    "a place elsewhere": ("modules.json", [{"path": "../2_Dense", "type": "a.Dense"}], "UnsupportedError", "dense module in"),
    "no list": ("modules.json", {"path": "2_Dense"}, "FormatError", "no list of JSON objects"),
    "no objects": ("modules.json", [2], "FormatError", "no list of JSON objects"),
    "no widths": ("2_Dense/config.json", {"out_features": None}, "FormatError", "out_features is None"),
}  # fmt: skip


def reranker(folder, name="qwen3"):
    """A checkpoint of a model that generates, with the words that a Qwen3-Reranker answers."""
    checkpoints.write_checkpoint(folder, checkpoints.describe(name))
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    words, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    for old in sorted(words, key=words.get)[-3:]:
        del words[old]
    words |= {"no": 269, "ye": 270, "yes": 271}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1024}))
    tokenizer["model"]["merges"] = [*merges[:-3], ["n", "o"], ["y", "e"], ["ye", "s"]]
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("name", ["qwen3", "qwen3-untied"])
def test_a_qwen3_reranker_gives_the_share_of_yes(name, tmp_path):
    """Against the logits of both words that transformers computes from the same checkpoint, which generates."""
    reranker(tmp_path / "Qwen3-Reranker-tiny", name)
    data = np.load(checkpoints.FOLDER / f"{name}.npz")
    path = airpy.convert(tmp_path / "Qwen3-Reranker-tiny", progress=False)
    with load(path, kv_dtype="f32", n_ctx=128) as model:
        both = data["logits"][:, [271, 269]].astype(np.float64)
        want = np.exp(both) / np.exp(both).sum(1, keepdims=True)
        scores = model.embed([data["input_ids"][: row + 1] for row in checkpoints.ROWS])
        np.testing.assert_allclose(scores, want, atol=1e-5)
        with pytest.raises(errors.UnsupportedError, match="classifier"):
            model.generate([[1, 2, 3]])


def test_a_pair_is_put_into_the_files_own_text(tmp_path):
    """As the model was trained to read it, in one piece; texts are no places for others. Without room, the answer's end goes."""
    reranker(tmp_path / "qwen3-reranker")
    with load(airpy.convert(tmp_path / "qwen3-reranker", progress=False), n_ctx=512, bandwidths=None) as model:
        template = model.tokenizer.chat_templates["rerank"]
        query, document = "who {document} is", "{query} the cat é"
        before, between, after = template.partition("{query}")[0], "\n<Document>: ", template.partition("{document}")[2]
        whole = f"{before}{query}{between}{document}{after}"
        ids = model.tokenizer.encode(whole, add_special_tokens=False)
        assert ids.count(model.tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3
        np.testing.assert_array_equal(model.embed([(query, document)]), model.embed([ids]))
        most = model.n_ctx
        with pytest.raises(errors.ContextOverflowError, match="text 0 has"):
            model.embed([(query, "é" * most)])
        cut = model.embed([(query, "é" * most)], truncate=True)
        room = (most - len(model.tokenizer.encode(f"{before}{query}{between}{after}", add_special_tokens=False))) // 2
        np.testing.assert_allclose(cut, model.embed([(query, "é" * room)]), atol=1e-6)
        with pytest.raises(errors.ArgumentError, match="puts nothing between two texts"):
            model.embed([(query, document)], "last")  # which are no scores
        with pytest.raises(errors.ContextOverflowError):
            model.embed(["é" * most], truncate=False)


def test_a_qwen3_reranker_knows_both_words(tmp_path):
    checkpoints.write_checkpoint(tmp_path / "Qwen3-Reranker-x", checkpoints.describe("qwen3"))
    with pytest.raises(errors.ModelError, match="no 'yes', which a Qwen3-Reranker answers; rename the folder"):
        airpy.convert(tmp_path / "Qwen3-Reranker-x", progress=False)
    (tmp_path / "Qwen3-Reranker-x").rename(tmp_path / "x")
    assert "qwen3.pooling_type" not in _core.GGUF(airpy.convert(tmp_path / "x", progress=False)).metadata


@pytest.mark.parametrize("name", DENSE)
def test_what_is_behind_a_model_and_has_no_place_is_refused(name, tmp_path):
    file, change, error, message = DENSE[name]
    checkpoints.write_checkpoint(tmp_path / "m", checkpoints.describe("gemma-embedding", checkpoints.ENCODERS))
    path = tmp_path / "m" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change} if "Dense/" in file else change))
    with pytest.raises(getattr(errors, error), match=message):
        airpy.convert(tmp_path / "m", tmp_path / "m.gguf", progress=False)


ODD = {  # checkpoint, changes of its configuration, what the error says
    "ModernBERT with other layers": ("modern-bert", {"layer_types": ["full_attention"] * 4}, "every third layer full is known"),
    "a causal Gemma": ("gemma-embedding", {"use_bidirectional_attention": False}, "use_bidirectional_attention is False"),
    "experts of Nomic's": ("nomic-bert", {"num_experts": 8}, "num_experts is '8'"),
    "labels by other numbers": ("qwen3-rank", {"id2label": {"1": "yes", "2": "no"}}, "expected texts by number, from 0 on"),
    "no labels": ("qwen3-rank", {"id2label": {}}, "expected texts by number"),
    "labels that are no texts": ("bert-rank", {"id2label": {"0": 7}}, "expected texts by number"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_an_encoder_that_would_compute_something_else_is_refused(name, tmp_path):
    base, change, message = ODD[name]
    description = checkpoints.describe(base, checkpoints.ENCODERS)
    checkpoints.write_checkpoint(tmp_path / "m", {**description, "config": {**description["config"], **change}})
    with pytest.raises((errors.UnsupportedError, errors.FormatError), match=message):
        airpy.convert(tmp_path / "m", tmp_path / "m.gguf", progress=False)


def test_nomics_first_configurations_say_the_same(tmp_path):
    """GPT-2's names of it, as its makers' own code has them."""
    description = checkpoints.describe("nomic-bert", checkpoints.ENCODERS)
    own = {"architectures": ["NomicBertModel"], "n_embd": 40, "n_inner": 72, "n_layer": 2, "n_head": 4, "n_positions": 128,
           "vocab_size": description["config"]["vocab_size"], "type_vocab_size": 2, "activation_function": "swiglu",
           "layer_norm_epsilon": 1e-5, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "prenorm": False}  # fmt: skip
    files = []
    for name, config in (("new", description["config"]), ("old", own)):
        checkpoints.write_checkpoint(tmp_path / name, {**description, "config": config})
        files.append(_core.GGUF(airpy.convert(tmp_path / name, tmp_path / f"{name}.gguf", progress=False)).metadata)
    keys = [{key: value for key, value in file.items() if key.startswith("nomic-bert.")} for file in files]
    assert keys[0] == keys[1]


def their_name(name):
    if not name.startswith("blk."):
        return NAMES.get(name) or f"{NAMES[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}"
    _, layer, kind, part = name.split(".")
    return f"encoder.layer.{layer}.{NAMES[kind]}.{part}"


@pytest.fixture(params=["bert", "roberta"])
def checkpoint(request, tmp_path):
    """A golden model in the names of its checkpoints, with what these have beside; the model's name."""
    name, folder = request.param, tmp_path / "model"
    found = {their_name(t.name): np.array(t.data) for t in gguf.GGUFReader(ENCODERS / f"{name}.gguf").tensors}
    positions = "embeddings.position_embeddings.weight"
    if name == "roberta":  # rows of padding and of what is before it
        found[positions] = np.concatenate([np.ones((2, 40), np.float32), found[positions]])
    found |= {"pooler.dense.weight": np.ones((40, 40), np.float32), "pooler.dense.bias": np.ones(40, np.float32)}
    tensors = {n: ("F32", w.shape, w.astype(np.float32).tobytes()) for n, w in found.items()}
    tensors["embeddings.position_ids"] = ("I64", (1, 128), bytes(8 * 128))
    (folder / "1_Pooling").mkdir(parents=True)
    checkpoints.write_safetensors(folder / "model.safetensors", tensors)
    own = {"vocab_size": len(found["embeddings.word_embeddings.weight"]), "max_position_embeddings": len(found[positions])}
    own |= ({"architectures": ["BertModel"], "type_vocab_size": 2, "pad_token_id": 0} if name == "bert" else
            {"architectures": ["XLMRobertaModel"], "type_vocab_size": 1, "pad_token_id": 1})  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**CONFIG, **own}))
    pooling = {"pooling_mode_cls_token": name == "bert", "pooling_mode_mean_tokens": name != "bert"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (checkpoints.wordpiece() if name == "bert" else checkpoints.tokenizer(272)).save(str(folder / "tokenizer.json"))
    return folder, name


def test_a_checkpoint_is_the_golden_model_again(checkpoint, tmp_path):
    folder, name = checkpoint
    path = airpy.convert(folder, tmp_path / "m.gguf", progress=False)
    golden = ENCODERS / f"{name}.gguf"
    ours, theirs = ({t.name: t.data.tobytes() for t in gguf.GGUFReader(file).tensors} for file in (path, golden))
    assert ours == theirs
    keys = [_core.GGUF(str(file)).metadata for file in (path, golden)]
    same = [key for key in keys[1] if key.startswith("bert.")]
    same += [f"tokenizer.ggml.{name}" for name in ("model", "tokens", "token_type_count")]
    assert {key: keys[0][key] for key in same} == {key: keys[1][key] for key in same}
    texts = ["the cat sat", "a dog, 3 cats!"]
    with load(path) as new, load(golden) as old:
        ids = [[model.tokenizer.encode(text, add_special_tokens=False) for text in texts] for model in (new, old)]
        assert ids[0] == ids[1]
        if name == "bert":  # the other's golden file says nothing of what is around a text
            np.testing.assert_array_equal(new.embed(texts), old.embed(texts))


@pytest.mark.parametrize(("said", "kind"), [
    ({"pooling_mode": "mean"}, 1), ({"pooling_mode": ["cls"]}, 2), ({"pooling_mode": "lasttoken", "pooling_mode_cls_token": True}, 3),
    ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, 3), ({"pooling_mode_cls_token": False}, 1), ({}, 1),
])  # fmt: skip
def test_ways_of_pooling_are_read_as_sentence_transformers_reads_them(tmp_path, said, kind):
    """By modules/pooling.py of its 6.2: one name or several, or of before a flag for each; none is the mean."""
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": 40, **said}))
    assert sentence.pooling(str(tmp_path)) == kind


@pytest.mark.parametrize("said", [
    {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
    {"pooling_mode": "max"}, {"pooling_mode": ["mean", "cls"]}, {"pooling_mode": [["mean"]]}, {"pooling_mode": 1}, {"pooling_mode": []},
])  # fmt: skip
def test_other_ways_of_pooling_are_refused(checkpoint, tmp_path, said):
    folder, _ = checkpoint
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
    with pytest.raises(errors.UnsupportedError, match="GGUF knows one of mean, cls, lasttoken"):
        airpy.convert(folder, tmp_path / "m.gguf", progress=False)


def test_modules_that_would_change_vectors_are_refused(checkpoint, tmp_path):
    folder, _ = checkpoint
    kinds = ("base.modules.transformer.Transformer", "models.Pooling", "models.Normalize", "models.LayerNorm")
    modules = [{"idx": i, "name": str(i), "path": f"{i}_X", "type": f"sentence_transformers.{kind}"} for i, kind in enumerate(kinds)]
    for count, message in ((4, "a module 'LayerNorm'"), (3, None)):
        (folder / "modules.json").write_text(json.dumps(modules[:count]))
        with pytest.raises(errors.UnsupportedError, match=message) if message else contextlib.nullcontext():
            airpy.convert(folder, tmp_path / "m.gguf", progress=False)
