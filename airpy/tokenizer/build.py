"""Hugging Face `tokenizers` objects out of a checked vocabulary.

One model holds the table; it is shared by two front ends, one that recognises control tokens in text and one that
does not. Both are immutable after this, so any number of threads may encode with them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from airpy.errors import FormatError
from airpy.tokenizer.pretokenizers import DIGITS, PUNCTUATION
from airpy.tokenizer.unigram import build_unigram, set_unigram_front
from airpy.tokenizer.vocab import NORMAL, PREFIX, SPACE, USER_DEFINED, Vocabulary, is_utf8
from airpy.tokenizer.wordpiece import build_wordpiece, set_wordpiece_front, text_of_added


@dataclass(frozen=True)
class Front:
    """Text to ids. `numbers`: the vocabulary's ids of tokens that the library numbered itself, for the model hides them from text."""

    tokenizer: Tokenizer
    numbers: Mapping[int, int]

    def ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return [self.numbers.get(i, i) for i in found] if self.numbers else found


def build_model(vocab: Vocabulary) -> models.Model:
    """The table of tokens or merges. Raises FormatError where a merge names no token, or two tokens are spelt alike."""
    if vocab.is_wordpiece:
        return build_wordpiece(vocab)
    if vocab.is_unigram:
        return build_unigram(vocab)
    if vocab.is_spm:
        unk = vocab.tokens[vocab.ids["unk"]] if "unk" in vocab.ids else None
        return _bpe(vocab, _spm_merges(vocab), unk_token=unk, byte_fallback=True, fuse_unk=True)
    assert vocab.pre is not None
    options = {"byte_fallback": not vocab.pre.byte_level, "ignore_merges": vocab.pre.ignore_merges}
    try:
        # The common case unchecked, for speed: whatever is wrong with a pair makes the table refuse it.
        return models.BPE(vocab.index, _Pairs(vocab.merges), **options)
    except Exception:  # what tokenizers raises depends on what it met; the careful way finds the reason
        return _bpe(vocab, _split_merges(vocab.merges), **options)


def memory_bytes(vocab: Vocabulary) -> int:
    """About what the tokenizer of this vocabulary holds, by the sizes of its tables: whatever else the process allocates."""
    tokens, index = len(vocab.tokens), sys.getsizeof(vocab.index)
    spelt = sum(map(len, vocab.tokens))
    python = tokens * (64 + 8 + 32 + 1) + index  # spelling, place in the list, number
    rust = tokens * 2 * 32 + 2 * 33 * _slots(tokens)  # two spellings, both ways
    if vocab.is_wordpiece:
        return python + rust + 3 * spelt + index + 64 * tokens  # spelt anew for the table
    if vocab.is_unigram:
        # A trie of bytes, a hash table a node: measured, 84 bytes for each of all tokens; and the pairs the table was made of, freed.
        return python + rust + 84 * len("".join(vocab.tokens).encode("utf-8", "surrogateescape")) + (56 + 24 + 8) * tokens
    merges = len(vocab.merges) or 2 * tokens  # SentencePiece has about two cuts a token
    freed = 112 * merges  # a pair of spellings each, while the table was made: the heap keeps it
    return python + rust + 17 * _slots(merges) + 3 * spelt + freed  # pairs by pair


def _slots(entries: int) -> int:
    """Of a hash table of Rust's: a power of two of which 7 of 8 are used at most."""
    return 1 << (entries * 8 // 7).bit_length()


class _Pairs(Sequence[tuple[str, str]]):
    """Merges cut in two as they are read: all pairs at once would be the largest thing in memory while a vocabulary loads."""

    def __init__(self, merges: list[str]) -> None:
        self._merges = merges

    def __len__(self) -> int:
        return len(self._merges)

    def __getitem__(self, i: Any) -> Any:
        left, _, right = self._merges[i].partition(" ")
        return left, right

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((left, right) for left, _, right in map(str.partition, self._merges, repeat(" ")))


def build_front(vocab: Vocabulary, model: models.Model, parse_special: bool) -> Front:
    """A tokenizer over `model`; user-defined tokens are always recognised, control tokens where parse_special."""
    front = Tokenizer(model)
    if vocab.is_wordpiece:
        set_wordpiece_front(front, vocab)
    elif vocab.is_unigram:
        set_unigram_front(front, vocab)
    elif vocab.is_spm:
        # Each stretch of text between special tokens gets its own prefix, as llama.cpp does it.
        steps = [normalizers.Prepend(SPACE)] if vocab.add_space_prefix else []
        front.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    else:
        assert vocab.pre is not None
        if vocab.pre.escape_spaces:
            front.normalizer = normalizers.Replace(" ", SPACE)
        cuts = [build_cut(pattern) for pattern in vocab.pre.patterns]
        if vocab.pre.byte_level:
            cuts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        front.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    matched = sorted(vocab.user_defined + vocab.special) if parse_special else vocab.user_defined
    added = {i: _added_token(vocab, i) for i in matched if is_utf8(vocab.tokens[i])}
    if added:
        front.add_tokens(list(added.values()))
    # add_tokens numbers on from the end where the model has no such token, in their order.
    end = len(vocab.tokens)
    return Front(front, dict(enumerate(added, end)) if vocab.is_wordpiece or vocab.is_unigram else {})


def build_cut(pattern: str) -> pre_tokenizers.PreTokenizer:
    """One entry of PreTokenizer.patterns."""
    if pattern == DIGITS:
        return pre_tokenizers.Digits(individual_digits=True)
    if pattern == PUNCTUATION:
        return pre_tokenizers.Punctuation("contiguous")
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _added_token(vocab: Vocabulary, i: int) -> AddedToken:
    text = text_of_added(vocab, i) if vocab.is_wordpiece else vocab.tokens[i]
    return AddedToken(text, normalized=False, lstrip=i in vocab.strip_left, rstrip=i in vocab.strip_right, special=False)


def _bpe(vocab: Vocabulary, merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    index = vocab.index
    if not is_utf8("".join(vocab.tokens)):
        # Tokens that are not UTF-8 cannot match any text: respell them so that the others keep their ids.
        index = {text if is_utf8(text) else f"[not UTF-8: {i}]": i for text, i in index.items()}
        merges = [pair for pair in merges if is_utf8(pair[0]) and is_utf8(pair[1])]
    try:
        return models.BPE(index, merges, **options)
    except Exception as e:  # tokenizers raises plain Exception for a merge out of vocabulary
        raise _merge_error(vocab, merges, e) from None


def _merge_error(vocab: Vocabulary, merges: list[tuple[str, str]], cause: Exception) -> FormatError:
    for i, (left, right) in enumerate(merges):
        for part in (left, right, left + right):
            if part not in vocab.index:
                return FormatError(
                    f"{PREFIX}merges[{i}] {left[:40]!r} + {right[:40]!r} names {part[:80]!r}, which is no token"
                )
    return FormatError(f"{PREFIX}tokens and merges make no tokenizer: {cause}")


def _split_merges(merges: list[str]) -> list[tuple[str, str]]:
    """ "ab cd" becomes ("ab", "cd"); what separates is the first space after the first character."""
    pairs: list[tuple[str, str]] = []
    for i, merge in enumerate(merges):
        cut = merge.find(" ", 1)
        if cut < 0 or cut + 1 == len(merge):
            raise FormatError(f"{PREFIX}merges[{i}] {merge[:80]!r} is not two tokens with a space between them")
        pairs.append((merge[:cut], merge[cut + 1 :]))
    return pairs


def _spm_merges(vocab: Vocabulary) -> list[tuple[str, str]]:
    """SentencePiece joins the two neighbours whose union is the token of the highest score; as a table of merges: every way
    to cut a token into two tokens, ranked by the whole's score. Control, unknown and byte tokens are not spelt by text."""
    assert vocab.scores is not None
    types, index = vocab.types.tolist(), vocab.index
    parts = {text: i for text, i in index.items() if types[i] in (NORMAL, USER_DEFINED)}
    order = (-vocab.scores).argsort(kind="stable").tolist()
    tokens = vocab.tokens
    merges: list[tuple[str, str]] = []
    for i in order:
        token = tokens[i]
        if len(token) < 2 or token not in parts:
            continue
        cuts = [
            (left, right)
            for k in range(1, len(token))
            if (left := token[:k]) in parts and (right := token[k:]) in parts
        ]
        if len(cuts) > 1:
            cuts.sort(key=lambda pair: (parts[pair[0]], parts[pair[1]]))
        merges += cuts
    return merges
