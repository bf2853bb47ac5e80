"""Tokenizers of Hugging Face's and SentencePiece's files as GGUF's vocabularies: ids are those of their own libraries."""

from __future__ import annotations

import functools
import io
import json
import sys

import pytest
from models import GOLDEN

from airpy import errors
from airpy.conversion.config import Config
from airpy.conversion.special import sampling_entries, tokenizer_entries
from airpy.conversion.vocabulary import check_ids, read_vocab
from airpy.tokenizer import Tokenizer

sys.path.insert(0, str(GOLDEN))
import checkpoints
import make_tokenizers

NAMES = [*make_tokenizers.TRAINERS, *make_tokenizers.FRONTS]
TEXTS = [*make_tokenizers.made_text(11, 60), "", " ", "  a  b \n\n c", "x<|im_end|>y</s>[SEP] z", "camelCase don't 12345 的一 é 😀"]


@functools.cache
def trained(name):
    make = make_tokenizers.TRAINERS.get(name)
    return make() if make else make_tokenizers.train_byte_level(name)


def metadata(folder, n_vocab, **config):
    """Keys and values of the file that would be written."""
    vocab = read_vocab(str(folder), n_vocab)
    entries = tokenizer_entries(str(folder), vocab, Config(config, "config.json"))
    check_ids(vocab, entries, str(folder))
    return {key: value for key, _, value in entries}


def write(folder, **files):
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_tokenizer_json(name, tmp_path):
    hf, described = trained(name)
    hf.save(str(tmp_path / "tokenizer.json"))
    found = metadata(tmp_path, hf.get_vocab_size() + 3)
    ours = Tokenizer.from_metadata(found)
    same = sorted if name == "unigram" else list  # whose scores may tie
    for text in TEXTS:
        assert same(ours.encode(text, add_special_tokens=False)) == same(hf.encode(text, add_special_tokens=False).ids), text
        assert same(ours.encode(text)) == same(hf.encode(text).ids), text
    assert len(ours) == hf.get_vocab_size() + 3 and found["tokenizer.ggml.tokens"][-1] == f"[PAD{len(ours) - 1}]"
    pre = {"tiny_aya": "cohere2moe"}.get(name, described.get("tokenizer.ggml.pre"))
    assert found["tokenizer.ggml.model"] == described["tokenizer.ggml.model"] and found.get("tokenizer.ggml.pre") == pre
    assert found["tokenizer.ggml.tokens"][:-3] == described["tokenizer.ggml.tokens"]


def test_vocab_json_and_merges_are_gpt_2s(tmp_path):
    hf, described = trained("gpt-2")
    (tmp_path / "vocab.json").write_text(json.dumps(hf.get_vocab()))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *described["tokenizer.ggml.merges"], ""]))
    found = metadata(tmp_path, hf.get_vocab_size())
    ours = Tokenizer.from_metadata(found)
    assert found["tokenizer.ggml.pre"] == "gpt-2" and found["tokenizer.ggml.merges"] == described["tokenizer.ggml.merges"]
    for text in TEXTS:
        assert ours.encode(text.replace("<|im_end|>", "")) == hf.encode(text.replace("<|im_end|>", "")).ids


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_ids_are_those_of_sentencepieces_model(kind, tmp_path):
    spm = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(make_tokenizers.made_text(7, 800)), model_writer=model, vocab_size=900, model_type=kind, byte_fallback=True,
        character_coverage=0.9995, minloglevel=2, num_threads=1, hard_vocab_limit=False,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    theirs = spm.SentencePieceProcessor(model_proto=model.getvalue())
    write(tmp_path, tokenizer_config={"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": {"content": "</s>"},
                                      "added_tokens_decoder": {str(theirs.vocab_size()): {"content": "<|im_end|>", "special": True}}})
    found = metadata(tmp_path, theirs.vocab_size() + 1)
    ours = Tokenizer.from_metadata(found)
    same = sorted if kind == "unigram" else list
    for text in ("ab 12345 camelCase", *TEXTS[:60]):
        assert same(ours.encode(text)) == same([theirs.bos_id(), *theirs.encode(text)]), text
    assert ours.encode("a<|im_end|>", add_special_tokens=False)[-1] == theirs.vocab_size()
    assert ours.eos_token_id == theirs.eos_id() and found["tokenizer.ggml.token_type"][-1] == 3


def test_special_tokens_templates_and_ends_are_kept(tmp_path):
    checkpoints.tokenizer(300).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    write(
        tmp_path, tokenizer_config={"eos_token": "<|endoftext|>", "chat_template": [{"name": "default", "template": "old"},
                                                                                    {"name": "tools", "template": "t"}]},
        generation_config={"eos_token_id": [0, 2, 7, 99999], "temperature": 0.6, "top_k": 20, "top_p": 0.95, "do_sample": True},
    )  # fmt: skip
    found = metadata(tmp_path, 300, bos_token_id=1, eos_token_id=5)
    ours = Tokenizer.from_metadata(found)
    assert ours.chat_templates == {"default": "{{ messages[0]['content'] }}", "tools": "t"}
    assert (ours.bos_token_id, ours.eos_token_id) == (1, 0)
    assert ours._vocab.end_ids == [0, 2, 5, 7]  # by tokenizer_config, by its spelling, by both configurations
    keys = {key: value for key, _, value in sampling_entries(str(tmp_path))}
    assert keys == {"general.sampling.temp": 0.6, "general.sampling.top_p": 0.95, "general.sampling.top_k": 20}


def test_a_word_that_is_a_token_is_told_from_one_that_merges_make(tmp_path):
    """ignore_merges, which the known cut has not: that name only where merges lead to every token."""
    hf, _ = trained("qwen2")
    values = json.loads(hf.to_str())
    values["model"]["ignore_merges"] = True
    write(tmp_path, tokenizer=values)
    assert metadata(tmp_path, hf.get_vocab_size())["tokenizer.ggml.pre"] == "qwen2"
    longest = max((text for text in values["model"]["vocab"] if text.startswith("Ġ")), key=len)
    values["model"]["merges"] = [pair for pair in values["model"]["merges"] if "".join(pair) != longest]
    write(tmp_path, tokenizer=values)
    found = metadata(tmp_path, hf.get_vocab_size())
    assert found["tokenizer.ggml.pre"] != "qwen2"
    word = hf.decode([hf.token_to_id(longest)])
    assert Tokenizer.from_metadata(found).encode(f"a{word} b", add_special_tokens=False)[1] == hf.token_to_id(longest)


def changed(**changes):
    values = json.loads(trained("qwen2")[0].to_str())
    for path, value in changes.items():
        *way, last = path.split("__")
        place = values
        for part in way:
            place = place[part]
        place[last] = value
    return values


UNKNOWN_CUT = {"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": "[aeiou]"}, "behavior": "Isolated", "invert": False},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}  # fmt: skip
REFUSED = {
    "cuts that nobody knows": (changed(pre_tokenizer=UNKNOWN_CUT), "UnsupportedError", r"cuts text like this.*\[aeiou\]"),
    "text made lower": (changed(normalizer={"type": "Lowercase"}), "UnsupportedError", "GGUF has no tokenizer that is like this one"),
    "characters, no bytes": (
        changed(pre_tokenizer=None, decoder=None), "UnsupportedError", "a tokenizer of type 'BPE', without bytes"),
    "no JSON": ("{", "FormatError", "is no tokenizer"),
    "another kind": (changed(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}), "UnsupportedError", "WordLevel"),
    "more tokens than rows": (changed(), "ModelError", r"has \d+ tokens, but the model has 40"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_tokenizer_that_would_give_other_ids_is_refused(name, tmp_path):
    values, error, message = REFUSED[name]
    (tmp_path / "tokenizer.json").write_text(values if isinstance(values, str) else json.dumps(values))
    with pytest.raises(getattr(errors, error), match=message):
        metadata(tmp_path, 40 if "rows" in name else 2000)


def test_a_folder_without_a_tokenizer_says_what_is_read(tmp_path):
    with pytest.raises(errors.ModelError, match=r"tokenizer.json, tokenizer.model, or vocab.json and merges.txt"):
        metadata(tmp_path, 10)


DAMAGED = [b"", b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 40, b"\x0a\x02\x08\x01", bytes(range(256))]


@pytest.mark.parametrize("data", DAMAGED)
def test_a_damaged_sentencepiece_model_is_refused(data, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(errors.UnsupportedError, match=r"tokenizer.model.*tiktoken"):
        metadata(tmp_path, 10)
