r"""How text is cut into words before byte-level BPE: one row per `tokenizer.ggml.pre`.

The names, the flags and which names share an expression are facts of llama.cpp (src/llama-vocab.cpp, llama_vocab::load and
llm_tokenizer_bpe). Each expression is the one the models' own tokenizer.json has, in Oniguruma's syntax, as Hugging Face's
Split applies it: where llama.cpp's std::regex forced an approximation (no \p{Lu}, no (?i:), no possessive quantifiers,
its comments keep the original beside it), the original stands here, because the model was trained on it.

A tuple of expressions is applied one after the other, each cutting the pieces the one before left ("isolated": matches and
what lies between them are pieces). None may take more than linear time on any text: look-aheads over a whole run of
digits or spaces are anchored where the run starts, which changes no match.
"""

from __future__ import annotations

from dataclasses import dataclass

from airpy.errors import UnsupportedError


@dataclass(frozen=True)
class PreTokenizer:
    """patterns: the cuts, in order; expressions, DIGITS or PUNCTUATION. ignore_merges: a word that is a token is taken whole.
    add_bos: the default where the file is silent. byte_level: bytes are spelt as GPT-2 does, else raw UTF-8 with <0xXX> for
    what is missing. escape_spaces: a space is spelt U+2581."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    byte_level: bool = True
    escape_spaces: bool = False


# openai/gpt-2 src/encoder.py; also what ByteLevel(use_regex=true) in Hugging Face's tokenizers applies.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"

# meta-llama/Meta-Llama-3-8B tokenizer.json (tiktoken's cl100k_base with digits in threes).
_LLAMA3 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
# Qwen/Qwen2-7B tokenizer.json: Llama 3's, digits one by one.
_QWEN2 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_SYMBOLS}|{_SPACES}"
# Qwen/Qwen3.5 tokenizer.json: Qwen 2's, combining marks stay with their letters.
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
# inceptionai/Jais-2 tokenizer.json: Llama 3's, runs of white space cut into powers of two. Its \s*[\r\n]+ would look for a line
# end through the rest of the run at each of these cuts; past the first there is none, which the look-behind says.
_JAIS2 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_SYMBOLS}|(?<![^\S\r\n])\s*[\r\n]+|"
    + "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4))
    + r"|\s{1,2}(?!\S)|\s{1}"
)
# llama.cpp llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_UFAKZEKA: Qwen 2's without the English contractions.
_UFAKZEKA = rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_SYMBOLS}|{_SPACES}"
# openbmb/MiniCPM5-1B tokenizer.json, second expression; the first has cut the digits in threes already.
_MINICPM5 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}+|{_SYMBOLS}|{_SPACES}"
# ByteDance-Seed/Seed-Coder-8B tokenizer.json.
_SEED_CODER = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
# inclusionAI/Ling-lite tokenizer.json (possessive quantifiers are its own).
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
# LGAI-EXAONE/K-EXAONE tokenizer.json: words joined by single spaces are one piece.
_EXAONE_MOE = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)


def _cased(letters_up: str, letters_low: str, contraction: str, digits: str, tail: str) -> str:
    """The family of tiktoken's o200k_base: a word is upper case then lower case, so camelCase is cut at its humps."""
    head = r"[^\r\n\p{L}\p{N}]?"
    return (
        f"{head}{letters_up}*{letters_low}+{contraction}|{head}{letters_up}+{letters_low}*{contraction}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+{tail}|{_SPACES}"
    )


_UP, _LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
# mistralai/Mistral-Nemo-Instruct-2407 tokenizer.json.
_TEKKEN = _cased(_UP, _LOW, "", r"\p{N}", r"[\r\n/]*")
# openai/tiktoken openai_public.py, o200k_base; CohereLabs/tiny-aya and ibm-granite's multilingual embeddings use the same.
_GPT4O = _cased(_UP, _LOW, rf"{_CONTRACTION}?", r"\p{N}{1,3}", r"[\r\n/]*")
# tencent/Youtu-LLM tokenizer.json, second expression.
_YOUTU = _cased(_UP, _LOW, rf"{_CONTRACTION}?", r"\p{N}", r"[\r\n/]*")
# The first: Hangul, full-width punctuation, Bopomofo, Han with kana.
_YOUTU_SCRIPTS = (
    r"[\x{AC00}-\x{D7A3}\x{3131}-\x{318E}]+"
    r"|[\x{FF01}\x{2026}\x{201C}\x{201D}\x{2018}\x{2019}\x{2014}\x{FF1A}\x{FF1B}\x{FF0C}\x{3001}-\x{303F}\x{FE30}-\x{FE4F}]+"
    r"|[\x{3105}-\x{312F}]+|[\x{4E00}-\x{9FA5}\x{3040}-\x{30FF}]+"
)
# moonshotai/Kimi-K2-Instruct tokenization_kimi.py: Han runs apart, then o200k_base without Han.
_KIMI_K2 = r"\p{Han}+|" + _cased(
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]",
    rf"{_CONTRACTION}?",
    r"\p{N}{1,3}",
    r"[\r\n]*",
)

_ASCII_PUNCTUATION = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_CJK_KANA = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{30FF}]+"
# deepseek-ai/DeepSeek-V3 tokenizer.json, third expression.
_DEEPSEEK3 = (
    _ASCII_PUNCTUATION
    + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_SPARK2_5: as DeepSeek V3, line ends one by one.
_SPARK = _ASCII_PUNCTUATION + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"
# deepseek-ai/deepseek-llm-7b-base tokenizer.json: the cased letters of Unicode, spelt out.
_DEEPSEEK_LETTERS = (
    r"\s?["
    r"A-Za-z\x{00B5}\x{00C0}-\x{00D6}\x{00D8}-\x{00F6}\x{00F8}-\x{01BA}\x{01BC}-\x{01BF}\x{01C4}-\x{0293}"
    r"\x{0295}-\x{02AF}\x{0370}-\x{0373}\x{0376}\x{0377}\x{037B}-\x{037D}\x{037F}\x{0386}\x{0388}-\x{038A}\x{038C}"
    r"\x{038E}-\x{03A1}\x{03A3}-\x{03F5}\x{03F7}-\x{0481}\x{048A}-\x{052F}\x{0531}-\x{0556}\x{10A0}-\x{10C5}"
    r"\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}"
    r"\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}"
    r"\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}"
    r"\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}"
    r"\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}"
    r"\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}"
    r"\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}"
    r"\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}"
    r"\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}"
    r"\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}"
    r"]+"
)
_DEEPSEEK_PUNCTUATION = r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+"
_CJK_HANGUL = r"[\x{0800}-\x{9FA5}\x{AC00}-\x{D7FF}]+"
# arcee-ai/AFM (AFMoE) tokenizer.json, second expression: scripts written without spaces.
_AFMOE_SCRIPTS = (
    r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{F900}-\x{FAFF}\x{3040}-\x{30FF}\x{FF65}-\x{FF9F}\x{2F00}-\x{2FDF}"
    r"\x{0E40}-\x{0EFF}\x{1780}-\x{17FF}\x{1000}-\x{109F}\x{AA60}-\x{AA7F}\x{A9E0}-\x{A9FF}\x{AC00}-\x{D7AF}\x{1100}-\x{11FF}]+"
)

# Digits in threes from the right. Where a model looks ahead over the rest of the run at every digit, here each run is measured once.
# arcee-ai/AFM counts numbers of any kind (llama.cpp's unicode_regex_split_custom_afmoe): the run, its first one or two, then threes.
_NUMBERS_BY_THREE = (r"\p{N}+", r"\A\p{N}{1,2}(?=(?:\p{N}{3})++\z)", r"\p{N}{3}")
# CohereLabs/tiny-aya's \d{1,3}(?=(?:\d{3})*\b) matches all of a run of \d, if that ends at a \b (² is no part of a word, Ⅷ is),
# and no part of another; the expression after it finds the threes.
_DIGITS_BY_THREE_AT_WORD_END = (r"(?<!\d)\d++\b", r"\A\d{1,2}(?=(?:\d{3})++\z)")
# allenai/OLMo SuperBPE's \p{N}+, then cuts at (?=(\d{3})+(?!\d)): once a run where its threes begin, then between them. What
# precedes a run's first cut or follows its last three, such as ², stays with them.
_SUPERBPE = (r"\p{N}+", r"(?<!\d)\d{0,2}\K(?=(?:\d{3})++(?!\d))", r"\d{3}(?=\d)")

# bigscience/bloom tokenizer.json; Poro and Viking kept it.
_BLOOM = r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{0964}\x{06D4}\x{060C})]+"
_NEWLINES = r"[^\n]+|\n+"
# Hugging Face's own pre-tokenizers, where a tokenizer.json names them: their tables are of other versions of Unicode than \p{N} and
# \p{P}. bigcode/starcoder has Digits(individual_digits=true), tiiuae/falcon-7b has Punctuation(contiguous).
DIGITS, PUNCTUATION = "<Digits>", "<Punctuation>"

_BY_NAME: dict[str, PreTokenizer] = {}


def _row(names: str, *patterns: str, **flags: bool) -> None:
    for name in names.split():
        _BY_NAME[name] = PreTokenizer(patterns, **flags)


_row("default", r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")
_row("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", _LLAMA3,
     ignore_merges=True, add_bos=True)  # fmt: skip
_row("dbrx smaug-bpe chatglm-bpe", _LLAMA3)
_row("glm4 glm5", _LLAMA3, ignore_merges=True)
_row("jais-2", _JAIS2)
_row("minicpm5", r"\p{N}{1,3}", _MINICPM5, ignore_merges=True)
# An end-of-piece look-ahead at every space of a run would be quadratic: (?<!\s) lets it be tried once per run.
_row("deepseek-llm", r"[\r\n]", _DEEPSEEK_LETTERS, _DEEPSEEK_PUNCTUATION, r"(?<!\s)\s++$", _CJK_HANGUL, r"\p{N}+")
_row("deepseek-coder", r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_HANGUL, r"\p{N}")
_row("deepseek-v3 hunyuan-dense joyai-llm hy_v4", r"\p{N}{1,3}", _CJK_KANA, _DEEPSEEK3)
_row("spark2_5", r"\p{N}{1,3}", _CJK_KANA, _SPARK, r"\p{N}")
_row("youtu", _YOUTU_SCRIPTS, _YOUTU, ignore_merges=True)
_row("falcon", PUNCTUATION, _GPT2, r"[0-9][0-9][0-9]")
_row("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", DIGITS, _GPT2)
_row("gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert jina-v1-en jina-v2-code "
     "roberta-bpe exaone4 mpt olmo jais trillion granite-docling", _GPT2)  # fmt: skip
_row("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", _QWEN2)
_row("qwen35", _QWEN35)
_row("poro-chat bloom gpt3-finnish", _BLOOM)
_row("viking", _BLOOM, r"\p{N}")
_row("tekken", _TEKKEN, ignore_merges=True, add_bos=True)
# facebook/chameleon-7b tokenizer.json.
_row("chameleon", r"<sentinel:[0-9]+>", r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"\p{N}",
     r"[\p{P}!-/:-@\[-`{-~]", _GPT2, add_bos=True)  # fmt: skip
_row("gpt-4o llama4 kanana2 talkie minimax-m2", _GPT4O)
_row("granite-embed-multi-97m", _GPT4O, ignore_merges=True)
_row("tiny_aya cohere2moe", *_DIGITS_BY_THREE_AT_WORD_END, _GPT4O)
_row("kimi-k2", _KIMI_K2)
# No words at all.
_row("superbpe", *_SUPERBPE)
_row("bailingmoe bailingmoe2 llada-moe", _BAILING)
_row("seed-coder", _SEED_CODER)
_row("ufakzeka", _UFAKZEKA)
_row("afmoe", *_NUMBERS_BY_THREE, _AFMOE_SCRIPTS, _DEEPSEEK3)
_row("laguna", _NEWLINES, _QWEN2)
_row("exaone-moe", _EXAONE_MOE)
_row("gemma4 granite-embed-multi-311m", _NEWLINES, add_bos=True, byte_level=False, escape_spaces=True)
_row("sarvam-moe", _NEWLINES, byte_level=False, escape_spaces=True)
_row("whitespace", r"\S+", byte_level=False)

PRE_NAMES: tuple[str, ...] = tuple(sorted(_BY_NAME))


def find_pre(name: str) -> PreTokenizer:
    """The row of that name. Raises UnsupportedError naming it and those there are."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnsupportedError(
            f"tokenizer.ggml.pre {name[:80]!r} is not known; known are {', '.join(PRE_NAMES)}"
        ) from None
