"""The tokenizer a model file describes, with the manners of a Hugging Face tokenizer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from airpy.chat import choose_template, render_chat
from airpy.errors import ArgumentError, FormatError
from airpy.tokenizer.batch import BatchEncoding, Tensors, pad, to_tensors
from airpy.tokenizer.build import build_front, build_model, memory_bytes
from airpy.tokenizer.decode import Decoder, StreamDecoder
from airpy.tokenizer.vocab import Vocabulary

if TYPE_CHECKING:
    import tokenizers

_TEMPLATE_KEY = "tokenizer.chat_template"
# Arguments of Hugging Face's method that would otherwise pass for variables of the template.
_NOT_FOR_TEMPLATES = {
    "continue_final_message", "padding", "truncation", "max_length", "tokenizer_kwargs", "return_assistant_tokens_mask",
}  # fmt: skip


class Tokenizer:
    """Text to ids and back. Immutable once made: any number of threads may use one. memory_bytes: about what it holds.

    Made by from_metadata() or from_gguf(). Raises FormatError for metadata that contradicts itself, UnsupportedError for a
    kind of vocabulary airpy does not have.
    """

    def __init__(self, vocab: Vocabulary, templates: Mapping[str, str] | None = None) -> None:
        self._model = build_model(vocab)
        self.memory_bytes = memory_bytes(vocab)
        self._vocab = vocab = replace(vocab, merges=[])  # they are in the model now
        self._fronts: dict[bool, tokenizers.Tokenizer] = {}
        self._lock = threading.Lock()
        self._decoder = Decoder(vocab)
        self._templates = dict(templates or {})
        self._front(True)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> Tokenizer:
        """From GGUF keys and values; strings that are not UTF-8 carry their bytes as surrogateescape does."""
        return cls(Vocabulary.from_metadata(metadata), _templates(metadata))

    @classmethod
    def from_gguf(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """From a file, which may hold nothing but a vocabulary. Raises what opening it raises, too."""
        from airpy import _core

        return cls.from_metadata(_core.GGUF(os.fspath(path)).metadata)

    # -- text to ids ----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: bool | Literal["left", "right", "longest", "max_length"] = False,
        add_special_tokens: bool = True,
        return_tensors: Tensors = None,
        truncation: bool = False,
        max_length: int | None = None,
    ) -> BatchEncoding:
        """input_ids and attention_mask of one text or several: lists, or int64 [texts, tokens] with return_tensors.

        padding=True fills on the left, where generation wants it; "right" fills on the right, "max_length" on the left up to
        max_length. truncation=True drops what is beyond max_length.
        """
        single = isinstance(text, str)
        if not isinstance(text, (str, Iterable)):
            raise TypeError(f"text is {type(text).__name__}; expected a str or several of them")
        texts = [text] if isinstance(text, str) else list(text)
        rows = [self.encode(t, add_special_tokens=add_special_tokens) for t in texts]
        if truncation or padding == "max_length":
            if max_length is None or max_length < 1:
                raise ValueError(f"truncation and padding='max_length' need max_length ≥ 1, not {max_length}")
        elif max_length is not None:
            raise ValueError("max_length does nothing without truncation=True or padding='max_length'")
        if truncation:
            rows = [row[:max_length] for row in rows]
        if padding not in (False, True, "left", "right", "longest", "max_length"):
            raise ValueError(f"padding={padding!r}; expected False, True, 'left', 'right', 'longest' or 'max_length'")
        mask = [[1] * len(row) for row in rows]
        if padding is not False:
            width = max_length if padding == "max_length" else None
            rows, mask = pad(rows, "right" if padding == "right" else "left", self.pad_token_id or 0, width)
        if single and return_tensors is None:
            return BatchEncoding(input_ids=rows[0], attention_mask=mask[0])
        return BatchEncoding(
            input_ids=to_tensors(rows, return_tensors), attention_mask=to_tensors(mask, return_tensors)
        )

    def encode(self, text: str, *, add_special_tokens: bool = True, parse_special: bool = True) -> list[int]:
        """The ids of text. add_special_tokens: BOS and EOS where the file asks for them. parse_special: the texts of control
        tokens, such as "<|im_end|>", become these tokens; else they are spelt out like any text. Raises ValueError for lone
        surrogates, which no encoding has."""
        if not isinstance(text, str):
            raise TypeError(f"text is {type(text).__name__}; expected str")
        try:
            ids: list[int] = self._front(parse_special).encode(text, add_special_tokens=False).ids
        except TypeError:
            _refuse_surrogates(text)
            raise
        if add_special_tokens:
            if self._vocab.add_bos:
                ids.insert(0, self._vocab.ids["bos"])
            if self._vocab.add_eos:
                ids.append(self._vocab.ids["eos"])
        return ids

    # -- ids to text ----------------------------------------------------------------------------------------------------

    def decode(self, ids: Any, *, skip_special_tokens: bool = False) -> str:
        """The text of one id or a row of them (list, array, tensor). Bytes that are no UTF-8 become U+FFFD. Raises ValueError
        for an id out of range."""
        data, _ = self._decoder.walk(_row(ids), skip_special_tokens, True)
        return data.decode("utf-8", "replace")

    def batch_decode(self, sequences: Iterable[Any], *, skip_special_tokens: bool = False) -> list[str]:
        """decode() of each row."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in sequences]

    def stream_decoder(self, prompt: Any = (), *, skip_special_tokens: bool = True) -> StreamDecoder:
        """A decoder for the ids that follow `prompt`, one push at a time."""
        return StreamDecoder(self._decoder, _row(prompt), skip_special_tokens=skip_special_tokens)

    def pieces(self, ids: Any) -> list[str]:
        """The text of each id by itself; U+FFFD where a piece is only part of a character."""
        return [self._decoder.bytes_of(i).decode("utf-8", "replace") for i in _row(ids)]

    def convert_ids_to_tokens(self, ids: Any) -> list[str]:
        """The vocabulary's own spelling of each id, such as "Ġworld" or "▁world"."""
        row = _row(ids)
        for i in row:
            self._decoder.bytes_of(i)  # refuses ids out of range
        return [self._vocab.tokens[i] for i in row]

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """The id of a token in the vocabulary's own spelling; None if there is none."""
        return self._vocab.index.get(token)

    # -- chat -----------------------------------------------------------------------------------------------------------

    @property
    def chat_template(self) -> str | None:
        """The file's default template, as Jinja source."""
        return self._templates.get("default")

    @property
    def chat_templates(self) -> dict[str, str]:
        """All of the file's templates by name; the one without a name is "default"."""
        return dict(self._templates)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
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
        unsupported = _NOT_FOR_TEMPLATES & variables.keys()
        if unsupported:
            raise TypeError(f"apply_chat_template() does not support {', '.join(sorted(unsupported))}")
        source = choose_template(self._templates, chat_template, bool(tools))
        known = {**self.special_tokens_map, "tools": tools, "documents": documents}
        text = render_chat(source, messages, **(known | variables), add_generation_prompt=add_generation_prompt)
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
    def pad_token_id(self) -> int | None:
        """The file's, or end of sequence where it has none."""
        return self._vocab.ids.get("pad", self.eos_token_id)

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
    def pad_token(self) -> str | None:
        return self._text(self.pad_token_id)

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
        return {name: text for name, text in named.items() if text is not None}

    def __repr__(self) -> str:
        return f"Tokenizer({self._vocab.model}, {len(self)} tokens)"

    def _text(self, i: int | None) -> str | None:
        return None if i is None else self._vocab.tokens[i]

    def _front(self, parse_special: bool) -> tokenizers.Tokenizer:
        front = self._fronts.get(parse_special)
        if front is None:
            with self._lock:
                front = self._fronts.setdefault(parse_special, build_front(self._vocab, self._model, parse_special))
        return front


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
        raise TypeError(f"token ids are whole numbers in one flat row, not {type(i).__name__}") from None


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
