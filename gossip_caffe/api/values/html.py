"""Tables and boxes as HTML, for notebooks. All text is escaped: names and reasons come from other machines."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from gossip_caffe.printable import printable_line

_CELL = 'style="text-align:left;padding:2px 8px"'


def text(words: str) -> str:
    """Return text of one line as HTML."""
    return escape(printable_line(words))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> str:
    """Return a table, below its ``title``."""
    head = "".join(f"<th {_CELL}>{text(heading)}</th>" for heading in headings)
    body = "".join(
        "<tr>" + "".join(f"<td {_CELL}>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    caption = f"<p><b>{text(title)}</b></p>" if title else ""
    return f"<div>{caption}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
