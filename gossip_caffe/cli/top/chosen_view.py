"""The way in which ``top`` is shown: textual where it is installed, rich without it, lines without a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class View(StrEnum):
    """A way to show the view."""

    TEXTUAL = "textual"
    RICH = "rich"
    LINES = "lines"


@dataclass(frozen=True, slots=True)
class Choice:
    """A view, and the reason for it."""

    view: View
    reason: str


def chosen_view(wanted: str, *, on_terminal: bool, term: str, has_textual: bool) -> Choice:
    """Choose a view. ``wanted``: a View's value, "" for the best one. ``term``: $TERM.

    ``on_terminal``: standard input and output are a terminal.
    """
    if wanted == View.LINES:
        return Choice(View.LINES, "it was asked for")
    if not on_terminal:
        return Choice(View.LINES, "there is no terminal")
    if term in {"", "dumb", "unknown"}:
        return Choice(View.LINES, f"the terminal cannot move its cursor (TERM={term})")
    if wanted:
        return Choice(View(wanted), "it was asked for")
    if has_textual:
        return Choice(View.TEXTUAL, "textual is installed")
    return Choice(View.RICH, "textual is not installed")
