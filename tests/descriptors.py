"""Which files, pipes and sockets this process has open."""

from __future__ import annotations

import contextlib
from pathlib import Path


def open_descriptors() -> set[tuple[str, str]]:
    """Each with its number and what it is of; no two pipes or sockets are called the same.

    What an earlier test left to the garbage collector may go at any time: to look for a leak ask what is new, not how
    many there are.
    """
    found: set[tuple[str, str]] = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.add((link.name, str(link.readlink())))
    return found
