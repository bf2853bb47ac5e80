"""Chat templates: messages to the text a model was trained on."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from airpy.chat.renderer import Limits, Renderer
from airpy.errors import ArgumentTypeError, TemplateError

__all__ = ["Limits", "Renderer", "choose_template", "render_chat"]


@functools.cache
def _renderer() -> Renderer:
    return Renderer()  # one for the process: its worker keeps several templates


def choose_template(templates: Mapping[str, str], chosen: str | None, has_tools: bool) -> str:
    """The source of a template: by name, or `chosen` itself where no name matches, or the file's own ("tool_use" where there are
    tools and it is there, as transformers chooses). Raises TemplateError where there is none."""
    if chosen is not None:
        return templates.get(chosen, chosen)
    if has_tools and "tool_use" in templates:
        return templates["tool_use"]
    if "default" in templates:
        return templates["default"]
    if templates:
        raise TemplateError(
            f"the file has no default chat template; choose one with chat_template=: {', '.join(templates)}"
        )
    raise TemplateError("the file has no chat template; give one with chat_template=")


def render_chat(template: str, messages: Any, variables: Mapping[str, Any]) -> str:
    """The text of the messages, a list of {"role", "content", …}. Raises TemplateError; see Renderer.render."""
    if not isinstance(messages, (list, tuple)) or not all(isinstance(message, Mapping) for message in messages):
        raise ArgumentTypeError("messages is a list of dicts with 'role' and 'content'")
    return _renderer().render(template, {**variables, "messages": messages})
