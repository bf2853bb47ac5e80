"""Encoders' directories as GGUF files: the golden models again, from checkpoints in BERT's names, with sentence-transformers' pooling."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from models import ENCODERS, GOLDEN, load
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import airpy
from airpy import _core, errors

sys.path.insert(0, str(GOLDEN))
import checkpoints
from encoder_families import WORDS

gguf = pytest.importorskip("gguf")

# transformers' modeling_bert.py, which RoBERTa's has the names of.
NAMES = {"token_embd.weight": "embeddings.word_embeddings.weight", "position_embd.weight": "embeddings.position_embeddings.weight",
         "token_types.weight": "embeddings.token_type_embeddings.weight", "token_embd_norm": "embeddings.LayerNorm",
         "attn_output_norm": "attention.output.LayerNorm", "layer_output_norm": "output.LayerNorm", "attn_q": "attention.self.query",
         "attn_k": "attention.self.key", "attn_v": "attention.self.value", "attn_output": "attention.output.dense",
         "ffn_up": "intermediate.dense", "ffn_down": "output.dense"}  # fmt: skip
CONFIG = {"hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 4, "layer_norm_eps": 1e-5,
          "hidden_act": "gelu"}  # fmt: skip


def wordpiece():
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(WORDS[:5])
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return made


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
    (wordpiece() if name == "bert" else checkpoints.tokenizer(272)).save(str(folder / "tokenizer.json"))
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


def test_two_ways_of_pooling_are_refused(checkpoint, tmp_path):
    folder, _ = checkpoint
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}))
    with pytest.raises(errors.UnsupportedError, match="2 ways of pooling"):
        airpy.convert(folder, tmp_path / "m.gguf", progress=False)
