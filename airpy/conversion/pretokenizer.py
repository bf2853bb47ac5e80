"""Which row of tokenizer/pretokenizers.py cuts text as a tokenizer.json does: told by the ids that both give to texts.

llama.cpp's converter takes a hash of an encoded text instead, which knows files one by one; comparing ids also recognises a model that
was trained with a known cut and a vocabulary of its own.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from airpy.errors import UnsupportedError
from airpy.tokenizer.build import build_cut
from airpy.tokenizer.pretokenizers import DIGITS, PRE_NAMES, PUNCTUATION, PreTokenizer, find_pre

_SAMPLE = 300  # tokens of a vocabulary that texts are made of

# Of several names for one cut the first here, which other engines have known longest.
_PREFERRED = (
    "llama-bpe", "gpt-2", "qwen2", "starcoder", "falcon", "tekken", "gpt-4o", "deepseek-v3", "deepseek-llm", "deepseek-coder", "bloom",
    "dbrx", "glm4", "command-r",
)  # fmt: skip

# Whatever cuts differ in: numbers of any length and kind, contractions, line ends, runs of spaces, scripts, marks, humps of case, emoji.
PROBES = (
    "Hello world, don't I'LL we've THEY'RE 'tis it's  x'D a'b ' s 's ’s",
    "1 12 123 1234 12345 123456 1234567 12345678901234567890 3.14 1,000,000 0x1F 12a34 a12 ٣٤٥٦ ²³ ½ Ⅷ ①②③ १२३४ 1⁄2",
    "a\nb\n\nc\r\n\r\nd \n e\n  f\t\tg\t h   i    j        k                 l\u00a0m\u2003n\u3000o",
    "  leading and trailing   ", "\n\n\n", "    \n\n   \n x", "                                        indented", " \t \n\t x",
    "camelCase HTTPServer iPhone XMLHttpRequest snake_case SCREAMING_CASE McDonald ÉcoleÉté ǅungla ʰa",
    "Привет, МИР! 12 апреля. Ελληνικά ΚΕΦΑΛΑΙΑ. Türkçe İstanbul ıı. Čeština naïve façade Straße",
    "我们在2024年工作1314151天，你好！「世界」。ひらがなカタカナ漢字 한국어 문장입니다 ㄱㄴㄷ ㄅㄆㄇ 、。…—（）",
    "हिन्दी में लिखा हुआ पाठ। தமிழ் ไทยภาษาสวยงาม ລາວ ខ្មែរ មាន မြန်မာ עברית العربية، ؟ ۔ بنـــــ",
    "e\u0301te\u0301 a\u0308o\u0308 x\u0301\u0302y q\u0307 \u0301lone",
    "🚀 (normal) 😶\u200d🌫️ (several) ✅ 🦙🦙 👨\u200d👩\u200d👧 🇩🇪 a🦙b ❤\ufe0f",
    "------======= ''''''```````\"\"\"\"......!!!!!!?????? //comment\n# x == y != z && a || b; f(x)[i]{j}<T> $5 €5 50% @me #tag ~/.x \\n",
    "https://example.com/path?q=1&r=2#f user@example.org C:\\dir\\file.txt a/b//c /d\n/e",
    "<|im_start|>user <sentinel:12> IMGIMGABZ <0x41> </s> [INST] ▁▁x \u200b \u200e\ufeff \x00\x1f\x7f",
)  # fmt: skip


def find_pre_name(tokenizer: Tokenizer, model: dict[str, Any], pre_tokenizer: Any, path: str) -> str:
    """tokenizer.ggml.pre for a byte-level BPE tokenizer, its model and its pre_tokenizer as the file has them. Raises UnsupportedError
    where no row gives the same ids."""
    ignores = bool(model.get("ignore_merges", False))
    spelt = tuple(_patterns(pre_tokenizer))
    rows = {name: row for name in sorted(PRE_NAMES, key=_known) if (row := find_pre(name)).byte_level}
    texts = probes(tokenizer)
    written = {name: row for name, row in rows.items() if row.patterns == spelt}
    for name in _same_ids(tokenizer, {name: row for name, row in written.items() if row.ignore_merges == ignores}, texts):
        return name
    alike = _same_ids(tokenizer, rows, texts)
    exact = [name for name in alike if name in written] or [name for name in alike if _cuts(tokenizer, rows[name], texts)]
    same_merges = [name for name in alike if rows[name].ignore_merges == ignores]
    if both := [name for name in exact if name in same_merges]:
        return both[0]
    # A word that is a token is taken whole, or not: the same where merges lead to every token.
    if exact and _merges_lead_everywhere(tokenizer, model):
        return exact[0]
    if same_merges:
        return same_merges[0]
    reason = f"ignore_merges is {ignores}" if alike else f"pre_tokenizer {str(pre_tokenizer)[:400]}"
    raise UnsupportedError(f"{path}: no tokenizer that airpy knows cuts text like this: {reason}")


def _same_ids(tokenizer: Tokenizer, rows: dict[str, PreTokenizer], texts: list[str]) -> list[str]:
    """Those that give the tokenizer's ids in the place of its own cut."""
    own, alike = tokenizer.pre_tokenizer, dict[PreTokenizer, bool]()
    wanted = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    try:
        for row in dict.fromkeys(rows.values()):
            tokenizer.pre_tokenizer = _cut_of(row)
            alike[row] = all(tokenizer.encode(text, add_special_tokens=False).ids == ids for text, ids in zip(texts, wanted, strict=True))
    finally:
        tokenizer.pre_tokenizer = own
    return [name for name, row in rows.items() if alike[row]]


def _cut_of(row: PreTokenizer) -> Any:
    return pre_tokenizers.Sequence([*map(build_cut, row.patterns), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _cuts(tokenizer: Tokenizer, row: PreTokenizer, texts: list[str]) -> bool:
    """Whether the pieces are the same as well, which ids of a small vocabulary do not tell."""
    own, other = tokenizer.pre_tokenizer, _cut_of(row)
    return all(_pieces(other, text) == _pieces(own, text) for text in texts)


def probes(tokenizer: Tokenizer) -> list[str]:
    """Texts to tell tokenizers by: PROBES, and what is spelt by tokens from all over this one's vocabulary."""
    size = tokenizer.get_vocab_size()
    some = [tokenizer.decode([i], skip_special_tokens=False) for i in range(0, size, max(1, size // _SAMPLE))]
    return [*PROBES, "".join(some), " ".join(some)]


def _known(name: str) -> tuple[int, str]:
    return _PREFERRED.index(name) if name in _PREFERRED else len(_PREFERRED), name


def _patterns(pre: Any) -> list[str]:
    """The expressions of a pre_tokenizer in JSON, as far as they are there to be read."""
    if not isinstance(pre, dict):
        return []
    if pre.get("type") == "Sequence" and isinstance(pre.get("pretokenizers"), list):
        return [pattern for each in pre["pretokenizers"] for pattern in _patterns(each)]
    if pre.get("type") == "Split" and isinstance(pre.get("pattern"), dict):
        return [str(pre["pattern"].get("Regex", ""))]
    if pre.get("type") == "Digits" and pre.get("individual_digits"):
        return [DIGITS]
    if pre.get("type") == "Punctuation" and pre.get("behavior") == "Contiguous":
        return [PUNCTUATION]
    if pre.get("type") == "ByteLevel" and pre.get("use_regex", True):
        return list(find_pre("gpt-2").patterns)
    return []


def _pieces(pre: Any, text: str) -> list[str]:
    return [piece for piece, _ in pre.pre_tokenize_str(text)] if pre is not None else [text]


def _merges_lead_everywhere(tokenizer: Tokenizer, model: dict[str, Any]) -> bool:
    merges = [(pair[0], pair[1]) for pair in (m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"])]
    by_merges = models.BPE(model["vocab"], merges)
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    return all(len(by_merges.tokenize(token)) == 1 for token in model["vocab"] if token not in added)
