"""Unigram against SentencePiece itself: models trained here with its own normalisation, read back and described as a GGUF file would."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airpy.errors import FormatError
from airpy.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
from make_tokenizers import made_text

sentencepiece = pytest.importorskip("sentencepiece")

# Options of SentencePiece's trainer.
MODELS = {
    "t5": {"normalization_rule_name": "nmt_nfkc"},
    "lower case": {"normalization_rule_name": "nfkc_cf"},
    "bytes": {"byte_fallback": True},
    "as it is": {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False},
    "all spaces": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "no prefix": {"add_dummy_prefix": False},
}
TRAINED = {}


def fields(data: bytes):
    """The fields of a protobuf message: numbers and values, bytes where they have a length."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while at < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
        else:
            length = varint() if kind == 2 else {1: 8, 5: 4}[kind]
            yield number, data[at : at + length]
            at += length


def trained(name: str):
    if name not in TRAINED:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=made_text(8), model_writer=model, model_type="unigram", vocab_size=1000, hard_vocab_limit=False,
            pad_id=3, minloglevel=9, **MODELS[name],
        )  # fmt: skip
        theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        normalizer = dict(fields(dict(fields(model.getvalue()))[3]))  # sentencepiece_model.proto: normalizer_spec
        ids = range(len(theirs))
        types = [2 if theirs.is_unknown(i) else 3 if theirs.is_control(i) else 6 if theirs.is_byte(i) else 1 for i in ids]
        metadata = {
            "tokenizer.ggml.model": "t5",
            "tokenizer.ggml.tokens": [theirs.id_to_piece(i) for i in ids],
            "tokenizer.ggml.scores": [theirs.get_score(i) for i in ids],
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.unknown_token_id": theirs.unk_id(),
            "tokenizer.ggml.eos_token_id": theirs.eos_id(),
            "tokenizer.ggml.padding_token_id": theirs.pad_id(),
            "tokenizer.ggml.add_space_prefix": bool(normalizer.get(3, True)),
            "tokenizer.ggml.remove_extra_whitespaces": bool(normalizer.get(4, True)),
        }
        if charsmap := normalizer.get(2):
            metadata["tokenizer.ggml.precompiled_charsmap"] = np.frombuffer(charsmap, np.uint8)
        TRAINED[name] = theirs, Tokenizer.from_metadata(metadata), metadata
    return TRAINED[name]


NEARBY = "abcst'ABST 0123456789\n\r\t.,<>x▁éàßﬁ的一あｶﾞか\u3099가ᄀ\u1161\u11a8Å½²①Ⅷ’"
NEARBY += "\u0301\u0308\u0323\u200b\u200d\ufeff\u3000\u00a0\u0085😀\x00\x07"
TEXT = st.one_of(
    st.text(st.sampled_from(NEARBY), max_size=40), st.text(max_size=40),
    st.lists(st.sampled_from(list(made_text(9, 40))), max_size=3).map("\n ".join),
)  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=600, deadline=None)
@given(text=TEXT)
@example(text="")
@example(text=" ")
@example(text=" a  b ")
@example(text="ｶﾞ e\u0301\u0323 \u1100\u1161\u11a8")
@example(text="▁")
@example(text="▁ a▁ ▁")
@example(text="<0x41> <0x4a><0x")
@example(text="ﷺ\u0301 ﬃ")
def test_ids_and_text_are_sentencepieces(name, text):
    theirs, ours, _ = trained(name)
    want = theirs.encode(text)
    got = ours.encode(text, parse_special=False, add_special_tokens=False)
    assert got == want, (ours.convert_ids_to_tokens(got), theirs.id_to_piece(want))
    if theirs.unk_id() not in want and "▁" not in text:  # SentencePiece writes " ⁇ " for it, and drops that one where a text begins
        assert ours.decode(got) == theirs.decode(want)


@pytest.mark.parametrize("name", MODELS)
def test_no_text_takes_more_than_linear_time(name):
    _, ours, _ = trained(name)
    for text in ("ａ" * 50_000, "e\u0301" * 30_000, " " * 100_000 + "x", "a " * 50_000, "ﷺ" * 3000, "漢" * 30_000, "<0x41>" * 10_000):
        start = time.process_time()
        ours.encode(text)
        assert time.process_time() - start < 5, text[:8]


def test_a_damaged_map_is_refused_or_harmless():
    """Whatever a byte of the map becomes: a FormatError that names the key, or a tokenizer that takes any text."""
    _, _, metadata = trained("t5")
    key = "tokenizer.ggml.precompiled_charsmap"
    whole, rng = metadata[key], np.random.default_rng(3)
    refused = 0
    for _ in range(60):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 1 << int(rng.integers(0, 14)))] = rng.integers(0, 256)
        try:
            tokenizer = Tokenizer.from_metadata(metadata | {key: damaged})
        except FormatError as error:
            assert "precompiled_charsmap" in str(error)
            refused += 1
        else:
            for text in ("".join(map(chr, rng.integers(32, 0xD7FF, 200))), "e\u0301 ｶﾞ ①", "abc" * 50):
                tokenizer.encode(text)
    assert refused
    for end in (0, 3, 4, 8, 1000, len(whole) - 1):
        with pytest.raises(FormatError, match="precompiled_charsmap"):
            Tokenizer.from_metadata(metadata | {key: whole[:end]})
