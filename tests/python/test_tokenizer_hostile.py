"""Vocabularies that contradict themselves are refused with the key and the number; texts made to be slow are not."""

from __future__ import annotations

import time

import numpy as np
import pytest
from tokenizer_fixtures import gpt2_spelling
from vocab_files import bert_metadata, tiny_metadata, unigram_metadata

from airpy.errors import FormatError, UnsupportedError
from airpy.tokenizer import Tokenizer
from airpy.tokenizer.pretokenizers import PRE_NAMES, find_pre

SPM = tiny_metadata()
N = len(SPM["tokenizer.ggml.tokens"])


# Quadratic expressions took minutes on the first two; linear ones stay below a second.
SLOW_TEXTS = {
    "spaces": " " * 300_000 + "x", "digits": "1" * 300_000 + "a", "letters": "a" * 40_000, "capitals": "A" * 40_000,
    "line ends": "\n" * 40_000, "marks": "\u0301" * 20_000, "Han": "漢" * 20_000, "punctuation": "!" * 40_000,
    "humps": "aA" * 20_000, "words": "a " * 20_000, "apostrophes": "'" * 40_000, "ends": " \n" * 20_000,
    "starts of a token": "<|" * 20_000,
}  # fmt: skip


def gpt2_metadata(**changes: object) -> dict[str, object]:
    tokens = [gpt2_spelling(bytes([b])) for b in range(256)] + ["aa", "aaaa", "Ġa", "<|end|>"]
    metadata: dict[str, object] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "merges": ["a a", "aa aa", "Ġ a"],
        "token_type": [1] * (len(tokens) - 1) + [3],
        "eos_token_id": len(tokens) - 1,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (metadata | changes).items()}


def refused(metadata: dict[str, object], *words: str) -> None:
    with pytest.raises(FormatError) as caught:
        Tokenizer.from_metadata(metadata)
    for word in words:
        assert word in str(caught.value)


def spm(**changes: object) -> dict[str, object]:
    return SPM | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": []}, ["tokens", "empty"]),
        ({"tokens": None}, ["tokens", "absent"]),
        ({"tokens": "abc"}, ["tokens", "expected an array"]),
        ({"tokens": [1, 2, 3]}, ["tokens", "int"]),
        ({"tokens": ["a", "b", "a"], "scores": [0.0] * 3, "token_type": [1] * 3}, ["tokens[2]", "'a'", "tokens[0]"]),
        ({"scores": [0.0] * (N + 1)}, ["scores", str(N + 1), str(N)]),
        ({"scores": [0.0] * (N - 1)}, ["scores", str(N - 1), str(N)]),
        ({"scores": [0.0] * (N - 1) + [float("nan")]}, [f"scores[{N - 1}]"]),
        ({"scores": ["x"] * N}, ["scores", "numbers"]),
        ({"scores": [[1.0]] * N}, ["scores", "flat"]),
        ({"scores": [[1.0], 2.0] * N}, ["scores"]),
        ({"scores": 3}, ["scores", "array"]),
        ({"token_type": [1] * (N - 2)}, ["token_type", str(N - 2)]),
        ({"token_type": [1.5] * N}, ["token_type", "integers"]),
        ({"bos_token_id": N}, ["bos_token_id", str(N)]),
        ({"eos_token_id": -2}, ["eos_token_id", "-2"]),
        ({"padding_token_id": 2**40}, ["padding_token_id", str(2**40)]),
        ({"eot_token_id": "3"}, ["eot_token_id", "integer"]),
        ({"eom_token_id": True}, ["eom_token_id", "integer"]),
        ({"add_bos_token": 1}, ["add_bos_token", "true or false"]),
        ({"model": None}, ["model", "absent"]),
        ({"model": 7}, ["model", "string"]),
    ],
)
def test_a_contradiction_is_named(changes, words):
    refused(spm(**changes), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"merges": []}, ["merges", "empty"]),
        ({"merges": None}, ["merges", "absent"]),
        ({"merges": ["a a", "q zz"]}, ["merges[1]", "'zz'"]),
        ({"merges": ["a b"]}, ["merges[0]", "'ab'"]),
        ({"merges": ["a a", "aa"]}, ["merges[1]", "'aa'"]),
        ({"merges": ["a "]}, ["merges[0]"]),
        ({"merges": [""]}, ["merges[0]"]),
        ({"merges": ["a a", "Ġ a", "a a"]}, ["merges[2]", "merges[0]"]),
        ({"merges": [1]}, ["merges", "int"]),
        ({"pre": 3}, ["pre", "string"]),
    ],
)
def test_a_bad_merge_is_named(changes, words):
    refused(gpt2_metadata(**changes), *words)


BERT_TOKENS = bert_metadata()["tokenizer.ggml.tokens"]
BERT, UNIGRAM = len(BERT_TOKENS), len(unigram_metadata()["tokenizer.ggml.tokens"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unknown_token_id": None}, ["unknown_token_id", "absent", "'bert'"]),  # 100, where BERT's is, is beyond this vocabulary
        ({"unknown_token_id": 0xFFFFFFFF}, ["unknown_token_id", "absent"]),
        ({"cls_token_id": BERT}, ["cls_token_id", str(BERT)]),
        ({"seperator_token_id": "3"}, ["seperator_token_id", "integer"]),
        ({"normalizer.lowercase": 1}, ["normalizer.lowercase", "true or false"]),
        ({"normalizer.strip_accents": "x"}, ["normalizer.strip_accents", "true or false"]),
        ({"add_sep_token": 1}, ["add_sep_token", "true or false"]),
        ({"tokens": [*BERT_TOKENS[:-1], "▁[CLS]"]}, [f"tokens[{BERT - 1}]", "'▁[CLS]'", "tokens[2]", "'[CLS]'"]),
        ({"tokens": [*BERT_TOKENS[:-1], "▁##b"]}, [f"tokens[{BERT - 1}]", "tokens[10]", "'b'"]),
    ],
)
def test_a_contradiction_of_wordpiece_is_named(changes, words):
    refused(bert_metadata(**changes), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unknown_token_id": 0xFFFFFFFF}, ["unknown_token_id", "absent", "'t5'"]),
        ({"scores": None}, ["scores", "absent"]),
        ({"scores": [0.0] * 4 + [float("-inf")] + [0.0] * (UNIGRAM - 5)}, ["scores[4]", "-inf"]),
        ({"scores": [0.0] * (UNIGRAM + 1)}, ["scores", str(UNIGRAM + 1), str(UNIGRAM)]),
        ({"remove_extra_whitespaces": 1}, ["remove_extra_whitespaces", "true or false"]),
        ({"add_space_prefix": "x"}, ["add_space_prefix", "true or false"]),
        ({"precompiled_charsmap": "abc"}, ["precompiled_charsmap", "expected an array"]),
        ({"precompiled_charsmap": ["a"]}, ["precompiled_charsmap", "bytes"]),
        ({"precompiled_charsmap": [1.0]}, ["precompiled_charsmap", "bytes"]),
        ({"precompiled_charsmap": [256]}, ["precompiled_charsmap", "bytes"]),
        ({"precompiled_charsmap": np.zeros(0, np.uint8)}, ["precompiled_charsmap", "0 bytes"]),
    ],
)
def test_a_contradiction_of_unigram_is_named(changes, words):
    refused(unigram_metadata(**changes), *words)


def charsmap(units: list[int], texts: bytes, size: int | None = None) -> np.ndarray:
    """A map of characters; by default its array is as long as it says."""
    data = (4 * len(units) if size is None else size).to_bytes(4, "little") + np.array(units, "<u4").tobytes() + texts
    return np.frombuffer(data, np.uint8)


# "a" becomes "bb": the root's children lie at 0 ^ 256, so "a" is unit 256 ^ 97, whose own base, 256, holds the value.
A_TO_BB = [256 << 10] + [0] * 511
A_TO_BB[256 ^ 97] = (97 << 10) | (1 << 8) | 97
A_TO_BB[256] = 1 << 31


def unit(i: int, value: int) -> list[int]:
    return [value if k == i else u for k, u in enumerate(A_TO_BB)]


def test_a_map_of_characters_is_applied():
    tokenizer = Tokenizer.from_metadata(unigram_metadata(precompiled_charsmap=charsmap(A_TO_BB, b"bb\0")))
    assert tokenizer.tokenize("ca") == ["▁c", "b", "b"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (charsmap(A_TO_BB, b"bb"), ["NUL"]),
        (charsmap(A_TO_BB, b"b\xff\0"), ["UTF-8"]),
        (charsmap(A_TO_BB, b"bb\0", 2047), ["2047", "multiple of 4"]),
        (charsmap(A_TO_BB, b"bb\0", 2052), ["2052"]),
        (charsmap(A_TO_BB, b"bb\0", 2**32 - 4), [str(2**32 - 4)]),
        (charsmap([], b"bb\0"), ["takes 0"]),
        (charsmap(unit(256, 1 << 31 | 3), b"bb\0"), ["unit 256", "at 3", "3 bytes"]),
        (charsmap(unit(256, 1 << 31 | 1), "é\0".encode()), ["unit 256", "at 1", "none begins"]),
        (charsmap(unit(256, 0), b"bb\0"), ["unit 353", "unit 256"]),
        (charsmap(unit(353, 1 << 30 | 1 << 9 | 1 << 8 | 97), b"bb\0"), ["unit 353", "none; there are 512"]),
    ],
)
def test_a_map_that_contradicts_itself_is_refused(data, words):
    refused(unigram_metadata(precompiled_charsmap=data), "precompiled_charsmap", *words)


def test_a_map_that_leads_back_into_itself_takes_linear_time():
    loop = [97 << 10 | 97 if k == 353 ^ 97 else 0 for k in range(512)]  # "a" leads to where its own children lie
    loop[0] = 353 << 10
    tokenizer = Tokenizer.from_metadata(unigram_metadata(precompiled_charsmap=charsmap(loop, b"bb\0")))
    start = time.process_time()
    assert len(tokenizer.encode("aé" + "a" * 50_000)) > 20_000
    assert time.process_time() - start < 10


@pytest.mark.parametrize("metadata", [bert_metadata(), unigram_metadata()], ids=["wordpiece", "unigram"])
@pytest.mark.parametrize("text", SLOW_TEXTS.values(), ids=SLOW_TEXTS)
def test_no_text_takes_more_than_linear_time_with_words_or_scores(metadata, text):
    tokenizer = Tokenizer.from_metadata(metadata)
    start = time.process_time()
    tokenizer.decode(tokenizer.encode(text))
    assert time.process_time() - start < 10


def test_a_template_is_text():
    refused(SPM | {"tokenizer.chat_template": 3}, "chat_template", "string")


@pytest.mark.parametrize("model", ["rwkv", "plamo2", "no_vocab", "x" * 1000])
def test_another_kind_of_vocabulary_is_named(model):
    with pytest.raises(UnsupportedError) as caught:
        Tokenizer.from_metadata(spm(model=model))
    assert model[:80] in str(caught.value) and "gpt2" in str(caught.value) and len(str(caught.value)) < 300


def test_an_unknown_pre_tokenizer_is_named_with_those_there_are():
    with pytest.raises(UnsupportedError) as caught:
        Tokenizer.from_metadata(gpt2_metadata(pre="nonesuch"))
    assert "'nonesuch'" in str(caught.value)
    assert all(name in str(caught.value) for name in PRE_NAMES) and len(PRE_NAMES) > 80


def test_a_missing_pre_tokenizer_is_the_default_one():
    metadata = gpt2_metadata()
    del metadata["tokenizer.ggml.pre"]
    assert Tokenizer.from_metadata(metadata).encode("aaaa a") == [257, 258]


def test_none_written_as_all_ones_is_none():
    assert Tokenizer.from_metadata(spm(padding_token_id=0xFFFFFFFF, bos_token_id=-1)).bos_token_id is None


def test_tokens_that_are_not_utf8_keep_their_ids():
    tokens = [*SPM["tokenizer.ggml.tokens"][:-1], b"\xc3".decode("utf-8", "surrogateescape")]
    tokenizer = Tokenizer.from_metadata(spm(tokens=tokens))
    assert tokenizer.encode("ab c", add_special_tokens=False) == Tokenizer.from_metadata(SPM).encode(
        "ab c", add_special_tokens=False
    )
    assert tokenizer.decode([N - 1]) == "\ufffd"
    assert tokenizer.decode([N - 1, tokens.index("<0xA9>")]) == "é"
    control = [3 if i == N - 1 else t for i, t in enumerate(SPM["tokenizer.ggml.token_type"])]
    assert Tokenizer.from_metadata(spm(tokens=tokens, token_type=control)).decode([N - 1]) == "\ufffd"


@pytest.mark.parametrize("ids", [[N], [-1], N, [2**70], np.array([N]), [0, 1, N]])
def test_ids_out_of_range_are_refused(ids):
    tokenizer = Tokenizer.from_metadata(SPM)
    for use in (tokenizer.decode, tokenizer.pieces, tokenizer.convert_ids_to_tokens, tokenizer.stream_decoder):
        with pytest.raises(ValueError, match="out of range"):
            use(ids)
    with pytest.raises(ValueError, match="out of range"):
        tokenizer.stream_decoder().push(ids if isinstance(ids, int) else list(ids))


@pytest.mark.parametrize("ids", [[1.5], ["a"], [[1]], np.zeros((2, 2), int), None])
def test_ids_that_are_no_row_of_numbers_are_refused(ids):
    with pytest.raises(TypeError):
        Tokenizer.from_metadata(SPM).decode(ids)


def test_text_that_is_no_text_is_refused():
    tokenizer = Tokenizer.from_metadata(SPM)
    with pytest.raises(ValueError):
        tokenizer.encode("\ud800")
    with pytest.raises(TypeError):
        tokenizer.encode(b"ab")


ONE_OF_EACH = {find_pre(name): name for name in PRE_NAMES}


@pytest.mark.parametrize("pre", ONE_OF_EACH.values())
def test_no_text_takes_more_than_linear_time(pre):
    tokenizer = Tokenizer.from_metadata(gpt2_metadata(pre=pre))
    for name, text in SLOW_TEXTS.items():
        start = time.process_time()
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert time.process_time() - start < 10, name
        assert tokenizer.decode(ids) == text or not find_pre(pre).byte_level


@pytest.mark.parametrize("text", SLOW_TEXTS.values(), ids=SLOW_TEXTS)
def test_no_text_takes_more_than_linear_time_with_scores(text):
    start = time.process_time()
    tokenizer = Tokenizer.from_metadata(SPM)
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text
    assert time.process_time() - start < 15


def test_many_special_tokens_load():
    tokens = [f"<{i}>" for i in range(50_000)]
    start = time.process_time()
    tokenizer = Tokenizer.from_metadata(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3] * len(tokens),
        }
    )
    assert tokenizer.encode("<7><49999>", add_special_tokens=False) == [7, 49999]
    assert time.process_time() - start < 10


def test_empty_spellings_hold_the_place_of_their_ids():
    tokens = list(SPM["tokenizer.ggml.tokens"])
    tokens[N - 1] = tokens[N - 3] = ""
    tokenizer = Tokenizer.from_metadata(spm(tokens=tokens))
    assert tokenizer.convert_ids_to_tokens([N - 3, N - 1]) == [f"[EMPTY_{N - 3}]", f"[EMPTY_{N - 1}]"]
    refused(spm(tokens=[*tokens[:-1], f"[EMPTY_{N - 3}]"]), f"tokens[{N - 1}]", "repeats")
