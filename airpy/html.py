"""Small pieces of HTML, for notebooks. Inline styles, no scripts; text has the page's colours, so that dark pages stay dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from airpy.sizes import format_size
from airpy.text import printable

_COLOURS = ("#4c9be8", "#e8a33d", "#8f8f8f", "#5cb87a", "#b57edc")  # readable on white and on black
_CELL = "padding:1px 8px;text-align:{};white-space:nowrap;color:inherit;background:transparent;border:0"


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Cell = str | int | float | Html


def text(value: Cell) -> str:
    """A cell's HTML: whatever a file calls its tensors, it is text."""
    return value if isinstance(value, Html) else escape(printable(str(value)))


def table_of(title: str, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table under a line. Numbers and what is behind the first column stand on the right, bars on the left."""
    parts = [f'<div style="font-size:90%;color:inherit"><div style="padding:2px 8px">{text(title)}</div>']
    if rows:
        parts.append('<table style="border-collapse:collapse;color:inherit;background:transparent;margin:2px 0">')
        if head:
            parts.append(f"<tr>{''.join(_cell('th', name, i > 0) for i, name in enumerate(head))}</tr>")
        parts += [f"<tr>{''.join(_cell('td', cell, i > 0) for i, cell in enumerate(row))}</tr>" for row in rows]
        parts.append("</table>")
    return "".join([*parts, "</div>"])


def _cell(tag: str, value: Cell, right: bool) -> str:
    side = "right" if right and not isinstance(value, Html) else "left"
    return f'<{tag} style="{_CELL.format(side)}">{text(value)}</{tag}>'


def bars(parts: Sequence[tuple[str, float]], whole: float, width: int = 220) -> Html:
    """Parts of a whole side by side, each as long as its share, with its name where the pointer rests on it."""
    cells = []
    for i, (name, value) in enumerate(parts):
        share = max(0.0, min(1.0, value / whole)) if whole > 0 else 0.0
        style = f"display:inline-block;height:0.9em;width:{share * width:.1f}px;background:{_COLOURS[i % len(_COLOURS)]}"
        cells.append(f'<span title="{escape(printable(name), quote=True)}" style="{style}"></span>' if share else "")
    return Html(f'<span style="white-space:nowrap;font-size:100%">{"".join(cells)}</span>')


def homes_of(title: str, homes: Mapping[str, int]) -> str:
    """A bar of what lies where, under a line: bytes by place."""
    whole = sum(homes.values())
    row = [bars(list(homes.items()), whole, 420), legend([(name, format_size(size)) for name, size in homes.items()])]
    return table_of(title, [], [row])


def legend(parts: Sequence[tuple[str, str]]) -> Html:
    """Names and what is to be said of each, beside the colours of bars()."""
    cells = []
    for i, (name, said) in enumerate(parts):
        square = f'<span style="display:inline-block;width:0.8em;height:0.8em;background:{_COLOURS[i % len(_COLOURS)]}"></span>'
        cells.append(f"{square}&nbsp;{text(name)} {text(said)}")
    return Html("&emsp;".join(cells))
