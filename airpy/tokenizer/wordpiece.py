"""WordPiece, BERT's: words are cut at spaces and punctuation, then into the longest tokens there are, from left to right."""

from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from airpy.errors import FormatError
from airpy.tokenizer.vocab import PREFIX, SPACE, USER_DEFINED, Vocabulary, is_utf8

_CONTINUES = "##"
_LONGEST_WORD = 100  # characters; longer ones are unknown as a whole (the default of transformers' BertTokenizer)


def build_wordpiece(vocab: Vocabulary) -> models.WordPiece:
    """The table. Raises FormatError where two tokens are spelt alike."""
    spellings = vocab_spellings(vocab)
    unk = spellings[vocab.ids["unk"]]
    table = dict(zip(spellings, range(len(spellings)), strict=True))
    return models.WordPiece(table, unk_token=unk, max_input_chars_per_word=_LONGEST_WORD, continuing_subword_prefix=_CONTINUES)


def set_wordpiece_front(front: Tokenizer, vocab: Vocabulary) -> None:
    front.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=vocab.strip_accents, lowercase=vocab.lowercase
    )
    front.pre_tokenizer = pre_tokenizers.BertPreTokenizer()


def text_of_added(vocab: Vocabulary, i: int) -> str:
    """What of a text becomes a control or user-defined token: converters put the mark of a word's begin before the latter as well."""
    token = vocab.tokens[i]
    return token[1:] if vocab.types[i] == USER_DEFINED and len(token) > 1 and token[0] == SPACE else token


def vocab_spellings(vocab: Vocabulary) -> list[str]:
    """As BERT's vocab.txt has them, by id: GGUF marks tokens that begin a word, vocab.txt those that do not. Tokens that words must not
    become are spelt with a space, which no word has."""
    added = {i: text_of_added(vocab, i) for i in (*vocab.special, *vocab.user_defined)}
    seen: dict[str, int] = {}
    spellings: list[str] = []
    for i, token in enumerate(vocab.tokens):
        begins = len(token) > 1 and token[0] == SPACE
        plain = added.get(i) or (token[1:] if begins else _CONTINUES + token)
        if plain in seen:
            raise FormatError(f"{PREFIX}tokens[{i}] {token[:40]!r} is spelt as tokens[{seen[plain]}] {vocab.tokens[seen[plain]][:40]!r} is")
        seen[plain] = i
        spellings.append(f" {i}" if i in added or not is_utf8(token) else plain)
    return spellings
