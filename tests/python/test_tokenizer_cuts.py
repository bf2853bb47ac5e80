"""Every pre-tokenizer cuts as the expressions its model's tokenizer.json, or else llama.cpp, has; written out here as they stand
there, apart from airpy's table, whose are made to take linear time."""

from __future__ import annotations

import random

import pytest
from tokenizers import Regex, pre_tokenizers

from airpy.tokenizer.build import build_cut
from airpy.tokenizer.pretokenizers import PRE_NAMES, find_pre

GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + END
QWEN2 = LLAMA3.replace("{1,3}", "")
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+SHORT"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*SHORT"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + END
)
O200K = CASED.replace("SHORT", SHORT + "?")
HAN = CASED.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]").replace("[\\r\\n/]*", "[\\r\\n]*").replace("SHORT", SHORT + "?")
SYMBOL_WORD = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
DEEPSEEK3 = SYMBOL_WORD + r"| ?[\p{P}\p{S}]+[\r\n]*|" + END
SPARK = SYMBOL_WORD + r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"
KANA = "[一-龥぀-ゟ゠-ヿ]+"
CJK = "[一-龥ࠀ-一가-\ud7ff]+"
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
LINES = r"[^\n]+|[\n]+"
JAIS2 = LLAMA3.removesuffix(r"\s+(?!\S)|\s+") + (
    r"\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
)
AFMOE = (
    "[一-鿿㐀-䶿\uf900-\ufaff぀-ゟ゠-ヿ･-ﾟ⼀-\u2fdfเ-\u0e7f\u0e80-\u0effក-\u17ffက-႟ꩠ-ꩿ\ua9e0-\ua9ff가-\ud7afᄀ-ᇿ]+"
)
YOUTU = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"
BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
EXAONE = SHORT + (
    r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
# Some name of each row, and its cuts in order.
DOCUMENTED = {
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "llama3": [LLAMA3], "dbrx": [LLAMA3], "glm4": [LLAMA3], "jais-2": [JAIS2],
    "minicpm5": [r"\p{N}{1,3}", LLAMA3.replace("{1,3}", "+")],
    "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", KANA, DEEPSEEK3], "spark2_5": [r"\p{N}{1,3}", KANA, SPARK, r"\p{N}"],
    "youtu": [YOUTU, O200K.replace("{1,3}", "")],
    "falcon": [pre_tokenizers.Punctuation("contiguous"), GPT2, "[0-9][0-9][0-9]"],
    "starcoder": [pre_tokenizers.Digits(individual_digits=True), GPT2],
    "gpt-2": [GPT2], "qwen2": [QWEN2],
    "qwen35": [QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r" ?[^\s\p{L}\p{N}]", r" ?[^\s\p{L}\p{M}\p{N}]")],
    "bloom": [BLOOM], "viking": [BLOOM, r"\p{N}"],
    "tekken": [CASED.replace("SHORT", "").replace("{1,3}", "")],
    "chameleon": ["<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"\p{N}",
                  r"[\p{P}!-/:-@\[-`{-~]", GPT2],
    "gpt-4o": [O200K], "granite-embed-multi-97m": [O200K], "kimi-k2": [r"\p{Han}+|" + HAN],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", O200K],
    "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    "bailingmoe": [BAILING],
    "seed-coder": [QWEN2.replace(r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*", r"\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+")],
    "ufakzeka": [QWEN2.removeprefix(SHORT + "|")],
    "afmoe": [r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", AFMOE, DEEPSEEK3],
    "laguna": [LINES, QWEN2], "exaone-moe": [EXAONE],
    "gemma4": [LINES], "sarvam-moe": [LINES], "whitespace": [r"\S+"],
}  # fmt: skip
# deepseek-ai/deepseek-llm-7b-base: its letters, 600 characters of ranges, are airpy's; the cut around them is not.
DOCUMENTED["deepseek-llm"] = [
    "[\r\n]", find_pre("deepseek-llm").patterns[1], r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", CJK, r"\p{N}+",
]  # fmt: skip

SPACES = list("  \t\n\r\v\f\x1c\x1f\x85\u00a0\u1680\u2003\u2028\u202f\u3000\u200b\ufeff")
SPACES += ["\r\n", "  \n", "        "]
DIGITS = list("0123456789") + list("٣७５𝟗๔²³¹½¾Ⅷⅷↁ①⑩㉛〇零𐄇𒐀𑷠")
DIGITS += ["123", "4567", "341²", "12345678", "1٣५"]
LETTERS = list("aAbzZsStTdDmMlLrRvVeEſKßÉéŉİıǅʰªéΑσжЖאنकกี漢字龥龦〆かカﾟㄱ가힣가ㄅ𠮷𐐀ꟊ")
LETTERS += ["'s", "'LL", "’s", "'ſ", "aA", "IMGIMGAZ"]
MARKS = list("\u0301\u0308\u20dd\u093e\u0903\u3099\ufe0f\u200d\u200c\u00ad\u1ab0\U000e0101")
SYMBOLS = list("'’‘`\"_-‿＿.,!?/\\()[]{}<>|@#$%^&*+=~:;…。，、।۔،¿§°©←∑₹€")
SYMBOLS += ["<sentinel:12>", "\u166d", "\u2e43", "\ua8fc"]
EMOJI = ["😀", "👍🏽", "👨\u200d👩\u200d👧", "🇩🇪", "1\ufe0f\u20e3", "❤\ufe0f", "Ⓐ", "\ue000", "\U000e0041", "\uffff", "\x00"]
NASTY = [SPACES, DIGITS, LETTERS, MARKS, SYMBOLS, EMOJI]


def nasty_texts(seed: str, count: int) -> list[str]:
    """Short texts, each of few kinds of characters, so that the kinds meet often."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        kinds = rng.choices(NASTY, weights=[2, 4, 3, 1, 2, 1], k=rng.randint(1, 4))
        texts.append("".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randint(1, 20))))
    return texts


def pieces(cuts, text: str) -> list[tuple[int, int]]:
    """Where a text is cut: offsets only, for GPT2 spells the pieces its own way."""
    return [span for _, span in pre_tokenizers.Sequence(cuts).pre_tokenize_str(text)]


def documented(pre: str) -> list[pre_tokenizers.PreTokenizer]:
    row = find_pre(pre)
    name = next(name for name in DOCUMENTED if find_pre(name).patterns == row.patterns)
    cuts = [pre_tokenizers.Split(Regex(cut), "isolated") if isinstance(cut, str) else cut for cut in DOCUMENTED[name]]
    return plain(cuts)


def plain(cuts):
    """GPT2 respells what the cuts after it read; where one follows, its expression stands in."""
    gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(gpt2), "isolated")
    return [split if cut is GPT2 and cut is not cuts[-1] else cut for cut in cuts]


ONE_OF_EACH = {find_pre(name).patterns: name for name in PRE_NAMES}


@pytest.mark.parametrize("pre", ONE_OF_EACH.values())
def test_every_text_is_cut_as_documented(pre):
    want = documented(pre)
    got = [build_cut(pattern) for pattern in find_pre(pre).patterns]
    for text in nasty_texts(pre, 4000):
        assert pieces(got, text) == pieces(want, text), text


@pytest.mark.parametrize("pre", ["tiny_aya", "superbpe", "afmoe"])
def test_digits_beside_other_numbers_are_cut_as_documented(pre):
    want = documented(pre)
    got = [build_cut(pattern) for pattern in find_pre(pre).patterns]
    rng = random.Random(pre)
    for _ in range(4000):
        text = "".join(rng.choices("1234567٣५" * 3 + "²½Ⅷ①a_\u0301. ", k=rng.randint(1, 24)))
        assert pieces(got, text) == pieces(want, text), text
