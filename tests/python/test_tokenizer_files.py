"""Against other people's vocabularies and the ids their own tokenizers gave (llama.cpp's models/ggml-vocab-*.gguf)."""

from __future__ import annotations

import pytest
from vocab_files import VOCAB_NAMES, read_metadata, shared_vocab, vocab_cases

from airpy.tokenizer import Tokenizer


@pytest.fixture(scope="module", params=VOCAB_NAMES)
def vocab(request):
    path = shared_vocab(request.param)
    return Tokenizer.from_metadata(read_metadata(path)), vocab_cases(path)


def test_every_text_gives_the_expected_ids(vocab):
    tokenizer, cases = vocab
    assert len(cases) > 40
    for text, want in cases:
        assert tokenizer.encode(text, add_special_tokens=False) == want, text


def test_every_text_comes_back(vocab):
    tokenizer, cases = vocab
    for text, ids in cases:
        assert tokenizer.decode(ids) == text
        with_bos = tokenizer.encode(text)
        assert tokenizer.decode(with_bos, skip_special_tokens=True) == text


def test_pieces_joined_are_the_text_where_no_character_is_cut(vocab):
    tokenizer, _ = vocab
    ids = tokenizer.encode("Hello, world! 3 plain words", add_special_tokens=False)
    assert "".join(tokenizer.pieces(ids)).removeprefix(" ") == "Hello, world! 3 plain words"
    assert [tokenizer.convert_tokens_to_ids(t) for t in tokenizer.convert_ids_to_tokens(ids)] == ids


def test_streaming_gives_the_text_without_half_characters(vocab):
    tokenizer, cases = vocab
    for text, ids in cases:
        stream = tokenizer.stream_decoder()
        parts = [stream.push(i) for i in ids]
        assert not any("\ufffd" in part for part in parts)
        assert "".join(parts) + stream.flush() == text


def test_begin_of_sequence_as_the_file_says():
    llama = Tokenizer.from_metadata(read_metadata(shared_vocab("llama-spm")))
    assert llama.encode("") == [1]
    assert llama.encode("hi") == [1, 7251]
    assert llama.encode("hi</s>") == [1, 7251, 2]
    assert 2 not in llama.encode("hi</s>", parse_special=False)
    assert llama.bos_token == "<s>" and llama.eos_token_ids == [2] and llama.all_special_ids == [0, 1, 2]
    gpt2 = Tokenizer.from_metadata(read_metadata(shared_vocab("gpt-2")))
    assert gpt2.encode("hi") == [5303]
    assert gpt2.encode("<|endoftext|>") == [50256]
    assert gpt2.decode([5303, 50256], skip_special_tokens=True) == "hi"


def test_wordpiece_gives_the_expected_ids():
    path = shared_vocab("bert-bge")
    tokenizer, cases = Tokenizer.from_metadata(read_metadata(path)), vocab_cases(path)
    assert len(cases) > 40
    for text, want in cases:
        assert tokenizer.encode(text, add_special_tokens=False) == want, text
    assert tokenizer.encode("Hello World") == [101, 7592, 2088, 102]
    assert tokenizer.decode([101, 7592, 2088, 102]) == "[CLS] hello world [SEP]"


def test_unigram_reads_many_scripts():
    tokenizer = Tokenizer.from_metadata(read_metadata(shared_vocab("nomic-bert-moe")))
    assert tokenizer.encode("Hello world") == [0, 35378, 8999, 2]
    assert tokenizer.tokenize("ｶﾞ １２\u3000 e\u0301") == ["▁", "ガ", "▁12", "▁é"]
    assert tokenizer.decode(tokenizer.encode("Grüße, 世界!"), skip_special_tokens=True) == "Grüße, 世界!"
