"""Text from other programs, made safe for a terminal or a log: control characters are escaped.

Names, reasons and errors come from the store, from partners and from files. An escape sequence in such text can set a
terminal's title or hide a line. A carriage return or a direction override can make a line look like another one.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from typing import Any

_JOINERS = "\u200c\u200d"
"""Two characters that are needed inside words of several scripts and inside emoji."""
_TO_LOOK_AT = re.compile(r"[^\n\x20-\x7e]")


def printable(text: str) -> str:
    r"""``text`` with every control character but newlines escaped as in Python: ``\x1b`` and ``\u202e``, for example.

    Control characters are those of Unicode's categories Cc, Cf, Cs, Zl and Zp, except two joiners.
    """
    return _TO_LOOK_AT.sub(_shown, text)


def printable_line(text: str) -> str:
    """The same for text of one line, or of one cell of a table: newlines are escaped, too."""
    return printable(text).replace("\n", r"\n")


def _shown(found: re.Match[str]) -> str:
    character = found[0]
    if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode()


def json_text(value: Any, **how: Any) -> str:
    """JSON in ASCII without control characters other than the newlines of ``indent``: DEL is escaped, too."""
    return json.dumps(value, **how).replace("\x7f", "\\u007f")


class PrintableFormatter(logging.Formatter):
    """A formatter for the log messages of libraries, which may contain other programs' text."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one text without control characters."""
        return printable(super().format(record))
