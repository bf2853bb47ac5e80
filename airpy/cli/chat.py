"""airpy chat: a conversation, by the template in the file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airpy.cli import common
from airpy.errors import ArgumentError, BudgetError, ContextOverflowError, TemplateError
from airpy.text import one_line

if TYPE_CHECKING:
    from airpy.model import Model

_EXAMPLES = """\
  airpy chat model.gguf
  airpy chat model.gguf --system "You answer in one sentence." --temp 0
  printf 'Hello\\nAnd you?\\n' | airpy chat model.gguf --json

In the conversation: /reset forgets it, /exit (or Ctrl-D) ends it, Ctrl-C stops an answer."""
_HINT = "/reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops an answer."


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands, "chat", "a conversation",
        "Answers line by line, from the terminal or from stdin. What was said is not read again.", _EXAMPLES,
    )  # fmt: skip
    common.add_model(parser)
    parser.add_argument("--system", type=common.text, metavar="TEXT", help="what the model is told first")
    parser.add_argument(
        "--template", type=common.text, metavar="NAME", help="one of the model's templates, a file with a Jinja template, or its text"
    )
    common.add_sampling(parser, temperature=0.7)
    common.add_engine(parser)
    common.add_trace(parser)
    common.add_json(parser, "one JSON object for each answer")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    arguments = common.generation_arguments(args)
    with common.open_from(args) as model:
        template = find_template(args.template, model.tokenizer.chat_templates)
        talk = Conversation(model, args.system, template, arguments)
        try:
            talk.render(["check"])  # a missing or broken template is found before anybody types
        except TemplateError as error:
            raise TemplateError(str(error).replace("chat_template=", "--template")) from None
        interactive = sys.stdin is not None and sys.stdin.isatty() and not args.json
        if interactive:
            print(_HINT)
        with common.traced(args, model):
            return _converse_on(talk, args.json, interactive)


def find_template(chosen: str | None, known: Mapping[str, str]) -> str | None:
    """What apply_chat_template() takes for --template. Raises ArgumentError for what would be nothing but a text to repeat."""
    if chosen is None or chosen in known or _is_template(chosen):
        return chosen
    try:
        with open(chosen, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        names = f"none of the model's ({', '.join(known)})" if known else "the model has none"
        raise ArgumentError(f"--template {chosen!r}: {names}, no file, and no Jinja template, which has {{{{ or {{% in it") from None
    if not _is_template(text):
        raise ArgumentError(f"--template {chosen!r} is a file without a Jinja template, which has {{{{ or {{% in it")
    return text


def _is_template(text: str) -> bool:
    return "{{" in text or "{%" in text


def _converse_on(talk: Conversation, as_json: bool, interactive: bool) -> int:
    while True:
        try:
            return _converse(talk, as_json, interactive)
        except KeyboardInterrupt:  # at the prompt, or a moment before or after an answer: no reason to lose the conversation
            if not interactive:
                raise
            print(f"\n{_HINT}")


def _converse(talk: Conversation, as_json: bool, interactive: bool) -> int:
    """Answers line after line until there are no more; the exit code."""
    failed = False
    while (line := _read_line(interactive)) is not None and line != "/exit":
        if line == "/reset":
            talk.reset()
        elif line == "/help":
            print(_HINT, file=sys.stderr if as_json else sys.stdout)
        elif line:
            failed |= not _answer(talk, line, as_json, interactive)
    return 1 if failed and not interactive else 0


def _read_line(interactive: bool) -> str | None:
    if not interactive:
        line = sys.stdin.readline() if sys.stdin is not None else ""  # it is where a shell closed it: <&-
        return line.strip() if line else None
    import readline  # noqa: F401  # input() then edits lines and remembers them

    try:
        return input("> ").strip()
    except EOFError:
        print()
        return None


def _answer(talk: Conversation, line: str, as_json: bool, interactive: bool) -> bool:
    """Prints an answer; False where there is none: the conversation is too long for context or memory, or the template refuses it."""
    try:
        text = talk.say(line, show=not as_json)
    except (ContextOverflowError, BudgetError, TemplateError) as error:
        print(f"airpy: {one_line(error)}; /reset starts over", file=sys.stderr)
        return False
    except KeyboardInterrupt:
        if not interactive:
            raise
        print(" (stopped)")
        return True
    if as_json:
        stats = talk.model.stats()
        counts = {name: stats[name] for name in ("prompt_tokens", "new_tokens")}
        common.print_json({"role": "assistant", "content": text, **counts, "stats": common.pick_stats(stats)})
    else:
        print(flush=True)
    return True


class Conversation:
    """Messages, and the ids that the model has seen of them: what comes next is appended to these, so that nothing is read twice
    even where a text can be spelt in several ways."""

    def __init__(self, model: Model, system: str | None, template: str | None, arguments: dict[str, Any]) -> None:
        self.model = model
        self._system, self._template, self._arguments = system, template, arguments
        self.reset()

    def reset(self) -> None:
        self._messages: list[dict[str, str]] = [{"role": "system", "content": self._system}] if self._system else []
        self._seen_text, self._seen_ids = "", list[int]()

    def render(self, lines: list[str]) -> str:
        """The text of the conversation with further lines of the user, up to where the answer begins."""
        messages = self._messages + [{"role": "user", "content": line} for line in lines]
        text: str = self.model.tokenizer.apply_chat_template(
            messages, chat_template=self._template, add_generation_prompt=True, tokenize=False
        )
        return text

    def say(self, line: str, *, show: bool) -> str:
        """The answer, printed as it comes where `show`. What was said is forgotten where there is no answer; a stopped answer
        stays as far as it came. Raises ContextOverflowError, BudgetError and TemplateError."""
        tokenizer = self.model.tokenizer
        text = self.render([line])
        known = self._seen_text if text.startswith(self._seen_text) else ""
        ids = (self._seen_ids if known else []) + tokenizer.encode(text[len(known) :], add_special_tokens=False)
        pieces: list[str] = []
        new: list[int] = []
        stream = self.model.stream(ids, on_tokens=new.extend, **self._arguments)
        try:
            for piece in stream:
                pieces.append(piece)
                if show:
                    print(piece, end="", flush=True)
        finally:
            stream.close()
            answer = "".join(pieces)
            if new:
                said = [{"role": "user", "content": line}, {"role": "assistant", "content": answer}]
                seen = text + tokenizer.decode(new)
                # At once, with no call in between during which Ctrl-C could leave them apart.
                self._messages, self._seen_ids, self._seen_text = self._messages + said, ids + new, seen
        return answer
