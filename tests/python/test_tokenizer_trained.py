"""Against Hugging Face's own ids and text, on tokenizers trained here (tests/golden/make_tokenizers.py)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizer_fixtures import write_gguf
from vocab_files import read_metadata

from airpy.tokenizer import Tokenizer

SCRIPT = Path(__file__).parents[1] / "golden" / "make_tokenizers.py"
spec = importlib.util.spec_from_file_location("make_tokenizers", SCRIPT)
make_tokenizers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_tokenizers)

NAMES = [*make_tokenizers.TRAINERS, *make_tokenizers.FRONTS]
TRAINED = {}


def trained(name):
    if name not in TRAINED:
        make = make_tokenizers.TRAINERS.get(name)
        hf, metadata = make() if make else make_tokenizers.train_byte_level(name)
        TRAINED[name] = hf, Tokenizer.from_metadata(metadata), metadata
    return TRAINED[name]


NEARBY = "abcst'ABST 0123456789\n\r\t.,!?/_-()éàß的一あ가ก٣½²³①Ⅷ५’\u0301\u200d\u3000\u00a0\u0085😀<|>▁"
TEXT = st.one_of(
    st.text(st.sampled_from(NEARBY), max_size=60),
    st.text(max_size=40),
    st.lists(st.sampled_from(list(make_tokenizers.made_text(4, 40))), max_size=3).map("\n\n".join),
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=400, deadline=None)
@given(text=TEXT)
@example(text="")
@example(text=" ")
@example(text="  12345678 ab1234  \n \n")
@example(text="341² 3412² 341½ 341Ⅷ 341① 1234567² ²1234 12345a 12345_ 1234\u0301")
@example(text=" \u2e43\u1b4e \u166d \U00011de0\U00011de1")
@example(text="\x00\x1c\u2028 é漢")
def test_ids_and_text_are_hugging_faces(name, text):
    hf, ours, _ = trained(name)
    want = hf.encode(text, add_special_tokens=False).ids
    got = ours.encode(text, add_special_tokens=False)
    assert got == want
    assert ours.decode(got) == hf.decode(want, skip_special_tokens=False)
    assert ours.encode(text) == hf.encode(text).ids
    if name in make_tokenizers.FRONTS:  # of the others, SentencePiece's has U+2581 come back as a space, and two normalise
        assert ours.decode(got) == text


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_ids_decode_as_hugging_faces_and_as_they_stream(name, data):
    hf, ours, _ = trained(name)
    first = {"sentencepiece": 3, "unigram": 3, "wordpiece": 5}.get(name, 2)
    ids = data.draw(st.lists(st.integers(first, len(ours) - 1), max_size=30))
    text = ours.decode(ids)
    if name != "sentencepiece":  # Hugging Face turns stray bytes there into one U+FFFD each, across whole characters
        want = hf.decode(ids, skip_special_tokens=False)  # which shows that a first word continues another
        assert text == (want.removeprefix("##") if name == "wordpiece" else want)
    cut = data.draw(st.integers(0, len(ids)))
    stream = ours.stream_decoder()
    assert stream.push(ids[:cut]) + "".join(stream.push(i) for i in ids[cut:]) + stream.flush() == text


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_continues_its_prompt(name):
    _, ours, _ = trained(name)
    prompt = ours.encode("camelCase don't", add_special_tokens=False)
    rest = ours.encode(" 的一 1234567 é 😀", add_special_tokens=False)
    stream = ours.stream_decoder(prompt)
    said = "".join(stream.push(i) for i in rest) + stream.flush()
    assert ours.decode(prompt, skip_special_tokens=True) + said == ours.decode(prompt + rest, skip_special_tokens=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_metadata_survives_a_file(name, tmp_path):
    _, ours, metadata = trained(name)
    write_gguf(tmp_path / "v.gguf", metadata)
    again = Tokenizer.from_metadata(read_metadata(tmp_path / "v.gguf"))
    text = "camelCase don't 12345 的一 é<|im_end|></s>"
    assert again.encode(text) == ours.encode(text)
