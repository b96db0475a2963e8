"""The keys of a terminal, read one by one. The terminal is set back at the end of the block, however it ends."""

from __future__ import annotations

import asyncio
import os
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1bOH": "home",
    b"\x1bOF": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
}
INTERRUPT = "ctrl+c"
_ALONE = {b"\r": "enter", b"\n": "enter", b"\x1b": "escape", b"\x03": INTERRUPT, b"\x04": "q"}


class Interrupted(Exception):
    """Ctrl-C as a key. A task must not raise KeyboardInterrupt: that would tear the event loop."""


def keys_of(typed: bytes) -> list[str]:
    """Return the names of the keys in the bytes that a terminal sent at once. Unknown sequences are no keys."""
    found = []
    while typed:
        known = next((known for known in _SEQUENCES if typed.startswith(known)), b"")
        if known:
            found.append(_SEQUENCES[known])
            typed = typed[len(known) :]
        elif typed[:1] == b"\x1b" and len(typed) > 1:
            typed = b""  # another sequence: its end is unknown
        else:
            one, typed = typed[:1], typed[1:]
            name = _ALONE.get(one) or one.decode("ascii", "replace")
            if name.isprintable():
                found.append(name)
    return found


@contextmanager
def keyboard(descriptor: int, pressed: Callable[[str], None]) -> Iterator[None]:
    """Call ``pressed`` with each key, within the running event loop. No key is shown, and none is a signal.

    The end of the terminal is the key "q".
    """
    before = termios.tcgetattr(descriptor)
    raw = termios.tcgetattr(descriptor)
    raw[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    loop = asyncio.get_running_loop()

    def readable() -> None:
        try:
            typed = os.read(descriptor, 1024)
        except BlockingIOError:
            return
        except OSError:
            typed = b""
        if not typed:
            loop.remove_reader(descriptor)
        for key in keys_of(typed) if typed else ["q"]:
            pressed(key)

    try:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, raw)
        loop.add_reader(descriptor, readable)
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
