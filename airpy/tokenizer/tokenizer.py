"""The tokenizer a model file describes, with the manners of a Hugging Face tokenizer."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np

from airpy.errors import ArgumentError, ArgumentTypeError, FormatError, UnsupportedError
from airpy.spans import Spans, span
from airpy.tokenizer.batch import BatchEncoding, Tensors, pad, to_tensors
from airpy.tokenizer.decode import Decoder, StreamDecoder
from airpy.tokenizer.vocab import Vocabulary

if TYPE_CHECKING:
    from airpy.tokenizer.build import Front

Side = Literal["left", "right"]
Padding = bool | Literal["left", "right", "longest", "max_length", "do_not_pad"] | None
Truncation = bool | Literal["longest_first", "only_first", "do_not_truncate"] | None

_TEMPLATE_KEY = "tokenizer.chat_template"
_NO_LIMIT = int(1e30)  # transformers' model_max_length where nothing says how much it is
# Arguments of Hugging Face's method that would otherwise pass for variables of the template; None and False are as if not given.
_NOT_FOR_TEMPLATES = {
    "continue_final_message", "padding", "truncation", "max_length", "tokenizer_kwargs", "return_assistant_tokens_mask", "messages",
}  # fmt: skip


class Tokenizer:
    """Text to ids and back; any number of threads may use one. What may be assigned to: padding_side, pad_token, pad_token_id,
    chat_template. May be pickled and copied. memory_bytes: about what it holds.

    Made by from_metadata() or from_gguf(). Raises FormatError for metadata that contradicts itself, UnsupportedError for a
    kind of vocabulary airpy does not have.
    """

    __slots__ = (
        "_decoder", "_fronts", "_lock", "_model", "_pad_id", "_padding_side", "_templates", "_vocab", "memory_bytes", "model_max_length",
        "spans",
    )  # fmt: skip

    def __init__(self, vocab: Vocabulary, templates: Mapping[str, str] | None = None, model_max_length: int = _NO_LIMIT) -> None:
        from airpy.tokenizer.build import build_model, memory_bytes

        self._model = build_model(vocab)
        self._vocab = replace(vocab, merges=[])  # they are in the model now
        self._templates = dict(templates or {})
        # What generates continues its text; texts of the other two kinds are read by encoders, which count positions from the left.
        self._padding_side: Side = "right" if vocab.is_wordpiece or vocab.is_unigram else "left"
        self._pad_id = vocab.ids.get("pad", vocab.ids.get("eos"))
        self.memory_bytes, self.model_max_length = memory_bytes(vocab), model_max_length
        self._make_rest()
        self._front(True)

    def _make_rest(self) -> None:
        """What follows from the vocabulary, and is neither pickled nor shared."""
        self._decoder = Decoder(self._vocab)
        self._fronts: dict[bool, Front] = {}
        self._lock = threading.Lock()
        self.spans: Spans | None = None  # a profile's

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name not in ("_decoder", "_fronts", "_lock", "spans")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._make_rest()

    def __deepcopy__(self, memo: object) -> Tokenizer:
        return copy.copy(self)  # what two share never changes

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> Tokenizer:
        """From GGUF keys and values; strings that are not UTF-8 carry their bytes as surrogateescape does."""
        return cls(*cls.parts(metadata))

    @staticmethod
    def parts(metadata: Mapping[str, object]) -> tuple[Vocabulary, dict[str, str], int]:
        """What from_metadata() hands to the constructor, which takes most of the time."""
        n_ctx = metadata.get(f"{metadata.get('general.architecture')}.context_length")
        return Vocabulary.from_metadata(metadata), _templates(metadata), n_ctx if isinstance(n_ctx, int) else _NO_LIMIT

    @classmethod
    def from_gguf(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """From a file, which may hold nothing but a vocabulary, or a directory with one. Raises what opening it raises, too."""
        from airpy import _core
        from airpy.files import find_model

        return cls.from_metadata(_core.GGUF(find_model(path)).metadata)

    # -- text to ids ----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: Padding = False,
        padding_side: Side | None = None,
        add_special_tokens: bool = True,
        return_tensors: Tensors = None,
        truncation: Truncation = False,
        max_length: int | None = None,
        return_attention_mask: bool | None = None,
    ) -> BatchEncoding:
        """input_ids and attention_mask (unless return_attention_mask=False) of one text or several: lists, or int64 [texts, tokens] with
        return_tensors.

        padding=True fills up to the longest, "max_length" up to max_length, on padding_side: the call's, else the tokenizer's;
        padding="left" and "right" are True and a side. truncation=True drops what of the text is beyond max_length; the token that
        ends it, such as [SEP], stays. Raises ArgumentError.
        """
        single = isinstance(text, str)
        if not isinstance(text, (str, Iterable)):
            raise ArgumentTypeError(f"text is {type(text).__name__}; expected a str or several of them")
        texts = [text] if isinstance(text, str) else list(text)
        rows = [self.encode(t, add_special_tokens=add_special_tokens) for t in texts]
        fills = _choice("padding", padding, (True, "left", "right", "longest", "max_length"), (None, False, "do_not_pad"))
        cuts = _choice("truncation", truncation, (True, "longest_first", "only_first"), (None, False, "do_not_truncate"))
        side = _side(padding if padding in ("left", "right") else self._padding_side if padding_side is None else padding_side)
        if cuts or padding == "max_length":
            if not _is_whole(max_length) or max_length < 1:
                raise ArgumentError(f"max_length is {max_length!r}; truncation and padding='max_length' need 1 or more")
        elif max_length is not None:
            raise ArgumentError("max_length does nothing without truncation=True or padding='max_length'")
        if cuts:
            rows = [self._cut(row, int(max_length), add_special_tokens) for row in rows]  # type: ignore[arg-type]
        masked = _choice("return_attention_mask", return_attention_mask, (None, True), (False,))
        mask = [[1] * len(row) for row in rows]
        if fills:
            rows, mask = pad(rows, side, self._pad_id or 0, max_length if padding == "max_length" else None)
        as_lists = single and return_tensors is None
        encoding = BatchEncoding(input_ids=rows[0] if as_lists else to_tensors(rows, return_tensors))
        if masked:
            encoding["attention_mask"] = mask[0] if as_lists else to_tensors(mask, return_tensors)
        return encoding

    def _cut(self, row: list[int], length: int, special: bool) -> list[int]:
        """A row of encode's, no longer than `length`: what it put behind the text stays there, if there is room for more."""
        behind = 1 if special and self._vocab.last_id is not None and length > 1 else 0
        return row if len(row) <= length else row[: length - behind] + row[len(row) - behind :]

    def encode(
        self, text: str, *, add_special_tokens: bool = True, parse_special: bool = True, return_tensors: Tensors = None
    ) -> Any:
        """The ids of text, a list, or int64 [1, tokens] with return_tensors. add_special_tokens: BOS and EOS, or [CLS] and [SEP], where
        the file asks for them. parse_special: the texts of control tokens, such as "<|im_end|>", become these tokens; else they are
        spelt out like any text. Raises ArgumentError for lone surrogates, which no encoding has."""
        if not isinstance(text, str):
            raise ArgumentTypeError(f"text is {type(text).__name__}; expected str")
        try:
            with span(self.spans, "tokenize"):
                ids = self._front(parse_special).ids(text)
        except TypeError:
            _refuse_surrogates(text)
            raise
        if add_special_tokens:
            first, last = self._vocab.first_id, self._vocab.last_id
            ids = [*(() if first is None else (first,)), *ids, *(() if last is None else (last,))]
        return ids if return_tensors is None else to_tensors([ids], return_tensors)

    def encode_pair(self, first: str, second: str, *, max_length: int | None = None) -> tuple[list[int], int]:
        """Two texts as a classifier reads them, [CLS] first [SEP] second [SEP], or with two separators between where the vocabulary is
        Unigram's, as XLM-RoBERTa has it; and how many ids are the first text's. max_length: ids at most, at the cost of the longer text's
        end. Raises ArgumentError where the vocabulary has nothing to put between texts, or max_length is too small for that."""
        begin, end = self._vocab.first_id, self._vocab.last_id
        if end is None:
            raise ArgumentError("this vocabulary puts nothing between two texts; write them into one, as the model learned to read them")
        head = [] if begin is None else [begin]
        between = [end, end] if self._vocab.is_unigram else [end]
        a, b = (self.encode(text, add_special_tokens=False) for text in (first, second))
        if max_length is not None:
            room = max_length - len(head) - len(between) - 1
            if room < 0:
                raise ArgumentError(f"max_length is {max_length}; what is put around two texts takes {max_length - room} ids")
            a, b = _shorter(a, b, room)
        return [*head, *a, *between, *b, end], len(head) + len(a) + 1

    def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[str]:
        """The tokens of text in the vocabulary's own spelling."""
        return [self._vocab.tokens[i] for i in self.encode(text, add_special_tokens=add_special_tokens)]

    # -- ids to text ----------------------------------------------------------------------------------------------------

    def decode(
        self, ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """The text of one id or a row of them (list, array, tensor). Bytes that are no UTF-8 become U+FFFD. Raises ArgumentError
        for an id out of range, UnsupportedError for clean_up_tokenization_spaces=True: text is as the tokens spell it."""
        refuse_clean_up(clean_up_tokenization_spaces)
        with span(self.spans, "detokenize"):
            data, _ = self._decoder.walk(_row(ids), skip_special_tokens, True)
        return data.decode("utf-8", "replace")

    def batch_decode(
        self, sequences: Iterable[Any], skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        """decode() of each row."""
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in sequences]

    def stream_decoder(self, prompt: Any = (), *, skip_special_tokens: bool = True) -> StreamDecoder:
        """A decoder for the ids that follow `prompt`, one push at a time."""
        return StreamDecoder(self._decoder, _row(prompt), skip_special_tokens=skip_special_tokens)

    def pieces(self, ids: Any) -> list[str]:
        """The text of each id by itself; U+FFFD where a piece is only part of a character."""
        return [self._decoder.bytes_of(i).decode("utf-8", "replace") for i in _row(ids)]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The vocabulary's own spelling of one id, such as "Ġworld" or "▁world", or of each of a row."""
        row = _row(ids)
        for i in row:
            self._decoder.bytes_of(i)  # refuses ids out of range
        if _is_whole(ids):
            return self._vocab.tokens[ids]
        special = frozenset(self._vocab.special) if skip_special_tokens else ()
        return [self._vocab.tokens[i] for i in row if i not in special]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """The id of a token in the vocabulary's own spelling, or of each of several; None if there is none."""
        if isinstance(tokens, str):
            return self._vocab.index.get(tokens)
        return [self._vocab.index.get(token) for token in tokens]

    # -- chat -----------------------------------------------------------------------------------------------------------

    @property
    def chat_template(self) -> str | None:
        """The default template, as Jinja source: the file's, unless another one was assigned. A dict assigned is chat_templates."""
        return self._templates.get("default")

    @chat_template.setter
    def chat_template(self, template: str | Mapping[str, str] | None) -> None:
        others = {name: text for name, text in self._templates.items() if name != "default"}
        named = {**others, "default": template} if isinstance(template, str) else others if template is None else template
        if not isinstance(named, Mapping) or not all(isinstance(text, str) for pair in named.items() for text in pair):
            raise ArgumentError(f"chat_template is {type(template).__name__}; expected Jinja source, a dict of it by name, or None")
        self._templates = dict(named)

    @property
    def chat_templates(self) -> dict[str, str]:
        """All templates by name; the one without a name is "default"."""
        return dict(self._templates)

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_tensors: Tensors = None,
        return_dict: bool = False,
        **variables: Any,
    ) -> Any:
        """Messages as the model was trained to read them: ids, with return_tensors int64 [1, tokens], with return_dict a
        BatchEncoding; or the text with tokenize=False.

        chat_template: the name of one of chat_templates, or a template. What else is given, the template sees (such as
        enable_thinking=False). Raises TemplateError, see airpy.chat.
        """
        from airpy.chat import choose_template, render_chat

        foreign = {name: variables.pop(name) for name in sorted(_NOT_FOR_TEMPLATES & variables.keys())}
        if unsupported := [name for name, value in foreign.items() if value is not None and value is not False]:
            raise ArgumentTypeError(f"apply_chat_template() does not support {', '.join(unsupported)}")
        source = choose_template(self._templates, chat_template, bool(tools))
        known = {**self.special_tokens_map, "tools": tools, "documents": documents}
        with span(self.spans, "chat template"):
            text = render_chat(source, conversation, {**known, **variables, "add_generation_prompt": add_generation_prompt})
        if not tokenize:
            return text
        encoded = self(text, add_special_tokens=False, return_tensors=return_tensors)
        return encoded if return_dict else encoded["input_ids"]

    # -- what the vocabulary says ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._vocab.tokens)

    @property
    def vocab_size(self) -> int:
        return len(self._vocab.tokens)

    def get_vocab(self) -> dict[str, int]:
        """Ids by token, in the vocabulary's own spelling."""
        return dict(self._vocab.index)

    @property
    def padding_side(self) -> Side:
        """Where padding goes unless a call says otherwise: "left", and generate() takes no other; for WordPiece and Unigram, whose
        models read texts and continue none, "right"."""
        return self._padding_side

    @padding_side.setter
    def padding_side(self, side: Side) -> None:
        self._padding_side = _side(side)

    @property
    def bos_token_id(self) -> int | None:
        return self._vocab.ids.get("bos")

    @property
    def eos_token_id(self) -> int | None:
        return self._vocab.ids.get("eos")

    @property
    def eos_token_ids(self) -> list[int]:
        """Every id that ends a generation: end of sequence, of turn, of message; in order."""
        return list(self._vocab.end_ids)

    @property
    def unk_token_id(self) -> int | None:
        return self._vocab.ids.get("unk")

    @property
    def cls_token_id(self) -> int | None:
        return self._vocab.ids.get("cls")

    @property
    def sep_token_id(self) -> int | None:
        return self._vocab.ids.get("sep")

    @property
    def mask_token_id(self) -> int | None:
        return self._vocab.ids.get("mask")

    @property
    def pad_token_id(self) -> int | None:
        """The file's, or end of sequence where it has none, unless another one was assigned."""
        return self._pad_id

    @pad_token_id.setter
    def pad_token_id(self, i: int) -> None:
        if not _is_whole(i) or not 0 <= i < len(self):
            raise ArgumentError(f"pad_token_id is {i!r}; expected a token id, 0 to {len(self) - 1}")
        self._pad_id = int(i)

    @property
    def bos_token(self) -> str | None:
        return self._text(self.bos_token_id)

    @property
    def eos_token(self) -> str | None:
        return self._text(self.eos_token_id)

    @property
    def unk_token(self) -> str | None:
        return self._text(self.unk_token_id)

    @property
    def cls_token(self) -> str | None:
        return self._text(self.cls_token_id)

    @property
    def sep_token(self) -> str | None:
        return self._text(self.sep_token_id)

    @property
    def mask_token(self) -> str | None:
        return self._text(self.mask_token_id)

    @property
    def pad_token(self) -> str | None:
        return self._text(self.pad_token_id)

    @pad_token.setter
    def pad_token(self, token: str) -> None:
        if not isinstance(token, str) or token not in self._vocab.index:
            raise ArgumentError(f"pad_token is {token!r}, which is no token of the vocabulary; take one, such as eos_token")
        self._pad_id = self._vocab.index[token]

    @property
    def all_special_ids(self) -> list[int]:
        """Control and unknown tokens: what decode(skip_special_tokens=True) leaves out."""
        return list(self._vocab.special)

    @property
    def add_bos_token(self) -> bool:
        return self._vocab.add_bos

    @property
    def add_eos_token(self) -> bool:
        return self._vocab.add_eos

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens a chat template may name, where the file has them."""
        named = {f"{name}_token": self._text(i) for name, i in self._vocab.ids.items()}
        if "pad" in self._vocab.ids or self._pad_id != self.eos_token_id:
            named["pad_token"] = self.pad_token
        return {name: text for name, text in named.items() if text is not None}

    def __repr__(self) -> str:
        return f"Tokenizer({self._vocab.model}, {len(self)} tokens)"

    def _text(self, i: int | None) -> str | None:
        return None if i is None else self._vocab.tokens[i]

    def _front(self, parse_special: bool) -> Front:
        front = self._fronts.get(parse_special)
        if front is None:
            from airpy.tokenizer.build import build_front

            with self._lock:
                front = self._fronts.setdefault(parse_special, build_front(self._vocab, self._model, parse_special))
        return front


def _shorter(a: list[int], b: list[int], most: int) -> tuple[list[int], list[int]]:
    """Of two rows as many ids as may be, taken from the end of the longer one."""
    if len(a) + len(b) <= most:
        return a, b
    half = most // 2
    of_a = min(len(a), max(most - half, most - len(b)))
    return a[:of_a], b[: most - of_a]


def refuse_clean_up(value: bool | None) -> None:
    """For clean_up_tokenization_spaces, which transformers takes wherever it decodes."""
    if value not in (None, False):
        raise UnsupportedError(f"clean_up_tokenization_spaces={value!r} is not supported; text stays as the tokens spell it")


def _choice(name: str, value: Any, yes: tuple[Any, ...], no: tuple[Any, ...]) -> bool:
    for answer, values in ((True, yes), (False, no)):
        if any(value is known or (isinstance(value, str) and value == known) for known in values):
            return answer
    raise ArgumentError(f"{name} is {value!r}; expected one of {', '.join(map(repr, (*yes, *no)))}")


def _is_whole(value: Any) -> TypeGuard[int]:
    """Python's int or numpy's; True is neither."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _side(value: Any) -> Side:
    if value not in ("left", "right"):
        raise ArgumentError(f"padding_side is {value!r}; expected 'left' or 'right'")
    side: Side = value
    return side


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(
            f"text has a lone surrogate, U+{ord(text[error.start]):04X}, at {error.start}, which is no character; replace such by "
            f"text.encode('utf-8', 'replace').decode()"
        ) from None


def _row(ids: Any) -> list[int]:
    """One id, or a flat row of them in whatever holds it, as a list of int."""
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
    if isinstance(ids, int):
        return [ids]
    row = list(ids)
    if set(map(type, row)) - {int}:
        row = [_one(i) for i in row]
    return row


def _one(i: Any) -> int:
    try:
        return i.__index__()  # type: ignore[no-any-return]
    except AttributeError:
        raise ArgumentTypeError(f"token ids are whole numbers in one flat row, not {type(i).__name__}") from None


def _templates(metadata: Mapping[str, object]) -> dict[str, str]:
    """tokenizer.chat_template and tokenizer.chat_template.<name>."""
    found: dict[str, str] = {}
    for key, value in metadata.items():
        name = key.removeprefix(_TEMPLATE_KEY)
        if key == name or (name and not name.startswith(".")):
            continue
        if not isinstance(value, str):
            raise FormatError(f"{key} is {repr(value)[:80]}; expected a string")
        found[name[1:] or "default"] = value
    return found
