"""When a row is done: an end token, a stop string or its length."""

from __future__ import annotations

from collections.abc import Sequence

from airpy.tokenizer import StreamDecoder, Tokenizer


class StopStrings:
    """Looks for stop strings in one row's new text, across the borders of tokens. Control tokens count with their text."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stops: Sequence[str]) -> None:
        self._decoder: StreamDecoder = tokenizer.stream_decoder(prompt, skip_special_tokens=False)
        self._stops = stops
        self._keep = max(map(len, stops)) - 1  # characters that a match may yet begin in
        self._tail = ""

    def push(self, token: int) -> bool:
        """Whether this token completes a stop string."""
        text = self._tail + self._decoder.push(token)
        self._tail = text[max(0, len(text) - self._keep) :]
        return any(stop in text for stop in self._stops)


class TextCutter:
    """Text of one row as it comes, without the stop string that ends it: what may begin one is held back until it is known."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """What of the text so far is certain to be shown and has not been."""
        if self.stopped:
            return ""
        held = self._held + text
        found = [at for at in (held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return held[: min(found)]
        cut = len(held) - self._open(held)
        self._held = held[cut:]
        return held[:cut]

    def flush(self) -> str:
        """What was held back, when nothing more comes."""
        held, self._held = self._held, ""
        return held

    def _open(self, text: str) -> int:
        """Length of the longest end of text that begins a stop string."""
        most = 0
        for stop in self._stops:
            for n in range(min(len(stop) - 1, len(text)), most, -1):
                if text.endswith(stop[:n]):
                    most = n
                    break
        return most
