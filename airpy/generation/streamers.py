"""Tokens as they come: streamers in transformers' form, put() for the prompt and then each step's tokens, end() at the end."""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterator
from typing import Any, Protocol, TextIO

from airpy.errors import ArgumentError
from airpy.tokenizer import StreamDecoder, Tokenizer
from airpy.tokenizer.tokenizer import refuse_clean_up


class Streamer(Protocol):
    """What generate(streamer=) takes. put() gets int64 arrays: [batch, tokens] of the prompts first, then [batch] each step."""

    def put(self, value: Any) -> None: ...
    def end(self) -> None: ...


class TextStreamer:
    """Prints one row's text to `file` (stdout unless given) as it comes, never half a character. Subclasses override
    on_finalized_text()."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        skip_prompt: bool = False,
        *,
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
        file: TextIO | None = None,
    ) -> None:
        refuse_clean_up(clean_up_tokenization_spaces)
        self._tokenizer = tokenizer
        self._skip_prompt, self._skip_special = skip_prompt, skip_special_tokens
        self._file = file
        self._decoder: StreamDecoder | None = None

    def put(self, value: Any) -> None:
        """Raises ArgumentError for more than one row."""
        if len(value.shape) > 1 and value.shape[0] > 1:
            raise ArgumentError(f"a TextStreamer shows one row, not {value.shape[0]}")
        ids = value.reshape(-1).tolist()
        if self._decoder is not None:
            self.on_finalized_text(self._decoder.push(ids))
            return
        self._decoder = self._tokenizer.stream_decoder(ids if self._skip_prompt else (), skip_special_tokens=self._skip_special)
        if not self._skip_prompt:
            self.on_finalized_text(self._decoder.push(ids))

    def end(self) -> None:
        rest = self._decoder.flush() if self._decoder is not None else ""
        self._decoder = None
        self.on_finalized_text(rest, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Gets each piece of text; stream_end is set with the last, which may be empty."""
        if text or stream_end:
            print(text, end="\n" if stream_end else "", file=self._file or sys.stdout, flush=True)


class TextIteratorStreamer(TextStreamer):
    """An iterator over the text of a generate() that runs in another thread. Raises queue.Empty after `timeout` seconds without
    text."""

    def __init__(
        self, tokenizer: Tokenizer, skip_prompt: bool = False, timeout: float | None = None, **decoding: bool | None
    ) -> None:
        """decoding: skip_special_tokens and clean_up_tokenization_spaces, as of a TextStreamer."""
        super().__init__(tokenizer, skip_prompt, **decoding)  # type: ignore[arg-type]
        self._timeout = timeout
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._pieces.put(text)
        if stream_end:
            self._pieces.put(None)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = self._pieces.get(timeout=self._timeout)
        if piece is None:
            raise StopIteration
        return piece
