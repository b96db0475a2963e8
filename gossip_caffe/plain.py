"""Text from other programs: whether it is valid as a name, and how it is shown in a message.

The same rule applies to text from the store, from another peer and from a file.
"""

from __future__ import annotations

import re

MOST_PLAIN = 128
"""Limit of a plain name, in characters. File systems permit 255 bytes, and an unfinished checkpoint has a prefix."""
MOST_SHOWN = 80
_PLAIN = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MOST_PLAIN - 1}}}")


def is_plain(name: str) -> bool:
    """True if the text is safe as the name of an entry in a folder.

    A plain name has ASCII letters and digits, '.', '_' and '-', and begins with a letter or digit. It cannot lead out
    of the folder, is not hidden, is never equal to another name on any file system, and looks the same on every
    terminal.
    """
    return _PLAIN.fullmatch(name) is not None


def is_text(text: str, most: int) -> bool:
    """True if the text has at most ``most`` characters and is printable in one line."""
    return len(text) <= most and text.isprintable()


def shown(text: str | bytes) -> str:
    """The text in quotes, shortened, and without terminal control characters."""
    if isinstance(text, bytes):
        text = text[: 4 * MOST_SHOWN].decode(errors="replace")
    return ascii(text[:MOST_SHOWN]) + ("…" if len(text) > MOST_SHOWN else "")
