"""Against llama.cpp itself, for every pre-tokenizer it knows: vocabularies in which any two neighbours may join, so that a word
cut elsewhere gives other ids, on texts made to be cut wrongly. Skips where llama-cpp-python is not installed.

Some expressions llama.cpp can only approximate (std::regex knows no \\p{Lu} and splits differently on combining marks); there the
model's own expression is ours and the texts leave out the characters on which the two differ.
"""

from __future__ import annotations

import ctypes
import random
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizer_fixtures import gpt2_spelling, write_gguf
from vocab_files import read_metadata, shared_vocab

from airpy.tokenizer import Tokenizer
from airpy.tokenizer.pretokenizers import PRE_NAMES, find_pre

llama_cpp = pytest.importorskip("llama_cpp")

ALPHABET = list("aAbBsStTzZ  019.,!?'-_/(`$+<[\n\r\t\"") + list("éÉßǅʰ漢字かﾟ가ㄱ…。、|٣½²\u0301\u3000\u00a0😀’—¿ิ\u200d")
CASED = set("Éǅʰßéｶかﾟㄱ가漢字ิ\u0301")
UPPER = set("ABSTZ")
DIGITS = set("0123456789٣½²")
# Left out where llama.cpp approximates: letter case and marks (o200k and its kin), case altogether, wide spaces, digits (its
# cut by threes takes what stands before the digits along).
LEFT_OUT = (
    dict.fromkeys(("tekken", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2", "granite-embed-multi-97m"), CASED)
    | dict.fromkeys(("youtu", "kimi-k2"), CASED | UPPER)
    | dict.fromkeys(("tiny_aya", "cohere2moe"), CASED | UPPER | DIGITS)
    | {"deepseek-coder": {"\u3000"}, "deepseek-llm": {"\u3000"}}
    | dict.fromkeys(("afmoe",), DIGITS)
    | {name: {"가"} for name in ("wpm", "bert-bge")}  # accents come off by NFD, and llama.cpp takes only the first letter of a syllable
)  # fmt: skip
DIGIT_TEXTS = ["1", "12", "123", "1234", "12345", "1234567 ", "a1234", "ab12345678", "1" * 100]
RAW = [
    name for name in PRE_NAMES if not find_pre(name).byte_level and name != "whitespace"
]  # that one aborts under "gpt2"
BYTE_LEVEL = [name for name in PRE_NAMES if find_pre(name).byte_level]
WORDS = [
    " the",
    "Hello",
    "aaaa",
    "0190",
    "  \n",
    "漢字",
    "éÉ",
    "'s a",
]  # tokens no merge makes: ignore_merges alone finds them
EXTRA_TEXTS = [
    "Hello the world's  HELLO'S we'Ll 1234567\n\n  x", "aaaa the Hello<|stop|>a<sep>b", "0190", "漢字", "IMGIMGABCZ <sentinel:12>",
    " " * 700 + "x", "1" * 100, "a\n \n  \n", "", " ", "\n", "<sep><sep>  <|stop|>", "  <sep>  ",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quiet():
    @llama_cpp.llama_log_callback
    def ignore(level, text, data):
        pass

    llama_cpp.llama_log_set(ignore, ctypes.c_void_p(0))
    yield
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(), ctypes.c_void_p(0))


def texts(pre: str, count: int = 400) -> list[str]:
    rng = random.Random(pre)
    out = LEFT_OUT.get(pre, set())
    letters = [c for c in ALPHABET if c not in out]
    made = ["".join(rng.choices(letters, k=rng.randint(1, 24))) for _ in range(count)] + [
        text for text in EXTRA_TEXTS if not out & set(text)
    ]
    return made + DIGIT_TEXTS


def byte_level_metadata() -> dict[str, Any]:
    spell = gpt2_spelling
    used = sorted({b for c in ALPHABET + list("hetlorwdvm") for b in c.encode()})
    pairs = [(spell(bytes([x])), spell(bytes([y]))) for x in used for y in used]
    random.Random(5).shuffle(pairs)
    tokens = [spell(bytes([b])) for b in range(256)] + [x + y for x, y in pairs]
    have = set(tokens)
    tokens += [word for word in (spell(w.encode()) for w in WORDS) if word not in have]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [*tokens, "<|stop|>", "<sep>"],
        "tokenizer.ggml.merges": [f"{x} {y}" for x, y in pairs],
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3, 4],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
    }


def raw_metadata() -> dict[str, Any]:
    letters = sorted({c for c in ALPHABET if c not in " \n"} | set("▁hetlorwdvm"))
    pairs = [(x, y) for x in letters for y in letters]
    random.Random(6).shuffle(pairs)
    tokens = [f"<0x{b:02X}>" for b in range(256)] + letters[:-6] + [x + y for x, y in pairs] + ["\n", "\n\n"]
    tokens = list(dict.fromkeys(tokens + letters))
    types = [6] * 256 + [1] * (len(tokens) - 256)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [*tokens, "<|stop|>", "<sep>"],
        "tokenizer.ggml.merges": [f"{x} {y}" for x, y in pairs] + ["\n \n"],
        "tokenizer.ggml.token_type": [*types, 3, 4],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
    }


def spm_metadata(**more: Any) -> dict[str, Any]:
    rng = random.Random(7)
    letters = sorted({c for c in ALPHABET if c not in " \n\t\r🦙"} | set("▁hetlorwdvm"))
    words = list(
        dict.fromkeys("".join(rng.choices(letters[:30] + ["▁"] * 3, k=rng.randint(2, 4))) for _ in range(6000))
    )
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + letters + words
    scores = [0.0] * 259 + rng.sample([-float(n) for n in range(1, 20000)], len(letters) + len(words))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*tokens, "<|stop|>", "<sep>", "  "],
        "tokenizer.ggml.scores": [*scores, 0.0, -1000.0, -1000.0],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(letters) + len(words)) + [3, 4, 4],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    } | more


def compare(metadata: dict[str, Any], path: Path, cases: list[str]) -> None:
    write_gguf(path, metadata)
    compare_file(metadata, path, cases)


def compare_file(metadata: dict[str, Any], path: Path, cases: list[str]) -> None:
    theirs = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    ours = Tokenizer.from_metadata(metadata)
    for text in cases:
        for special in (True, False):
            want = theirs.tokenize(text.encode(), add_bos=True, special=special)
            got = ours.encode(text, parse_special=special)
            assert got == want, (text, ours.convert_ids_to_tokens(got), ours.convert_ids_to_tokens(want))


@pytest.mark.parametrize("pre", BYTE_LEVEL)
def test_byte_level_ids_are_llama_cpps(pre, tmp_path):
    compare(byte_level_metadata() | {"tokenizer.ggml.pre": pre}, tmp_path / "v.gguf", texts(pre))


@pytest.mark.parametrize("pre", RAW)
def test_raw_ids_are_llama_cpps(pre, tmp_path):
    compare(raw_metadata() | {"tokenizer.ggml.pre": pre}, tmp_path / "v.gguf", texts(pre))


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("eos", [True, False])
def test_sentencepiece_ids_are_llama_cpps(prefix, eos, tmp_path):
    more = {"tokenizer.ggml.add_space_prefix": prefix, "tokenizer.ggml.add_eos_token": eos}
    compare(spm_metadata(**more), tmp_path / "v.gguf", texts("spm", 2000))


def wordpiece_metadata(lowercase: bool = True) -> dict[str, Any]:
    rng = random.Random(8)
    letters = sorted({c for c in ALPHABET if not c.isspace()} | set("hetlorwdvme漢字"))
    words = list(dict.fromkeys("".join(rng.choices(letters, k=rng.randint(1, 3))) for _ in range(4000)))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *(f"▁{word}" for word in words), *words[::2]]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 5 + [1] * (len(tokens) - 5),
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.mask_token_id": 4,
        "tokenizer.ggml.normalizer.lowercase": lowercase,
    }


def unigram_metadata(**more: Any) -> dict[str, Any]:
    base = spm_metadata()
    rng = random.Random(9)
    tokens = base["tokenizer.ggml.tokens"][259:-3]
    return {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": ["<pad>", "</s>", "<unk>", *tokens, "<|stop|>", "<sep>"],
        "tokenizer.ggml.scores": [0.0] * 3 + [-rng.randint(1, 10**6) / 2**16 for _ in tokens] + [0.0, 0.0],
        "tokenizer.ggml.token_type": [3, 3, 2] + [1] * len(tokens) + [3, 4],
    } | more


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece_ids_are_llama_cpps(lowercase, tmp_path):
    compare(wordpiece_metadata(lowercase), tmp_path / "v.gguf", [text + "[MASK]" for text in texts("wpm", 2000)])


# Where llama.cpp is not SentencePiece (test_tokenizer_sentencepiece.py): with spaces merged and none put first it puts one first
# nevertheless, and before spaces alone it puts none.
@pytest.mark.parametrize(("prefix", "merge"), [(True, True), (True, False), (False, False)])
def test_unigram_ids_are_llama_cpps(prefix, merge, tmp_path):
    more = {"tokenizer.ggml.add_space_prefix": prefix, "tokenizer.ggml.remove_extra_whitespaces": merge}
    cases = [text for text in texts("ugm", 2000) if not re.search("(^|>) +(<|$)", text)]
    compare(unigram_metadata(**more), tmp_path / "v.gguf", cases)


@pytest.mark.parametrize("name", ["bert-bge", "nomic-bert-moe"])
def test_real_ids_are_llama_cpps(name):
    path = shared_vocab(name)
    compare_file(read_metadata(path), path, texts(name, 2000))


def test_real_sentencepiece_ids_are_llama_cpps(tmp_path):
    metadata = read_metadata(shared_vocab("llama-spm"))
    compare(metadata, tmp_path / "v.gguf", texts("real", 2000))


def test_every_name_llama_cpp_takes_is_known(tmp_path):
    for name in PRE_NAMES:
        write_gguf(tmp_path / "v.gguf", byte_level_metadata() | {"tokenizer.ggml.pre": name})
        llama_cpp.Llama(str(tmp_path / "v.gguf"), vocab_only=True, verbose=False)
    write_gguf(tmp_path / "v.gguf", byte_level_metadata() | {"tokenizer.ggml.pre": "nonesuch"})
    with pytest.raises(ValueError):
        llama_cpp.Llama(str(tmp_path / "v.gguf"), vocab_only=True, verbose=False)
