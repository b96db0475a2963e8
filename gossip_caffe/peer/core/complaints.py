"""Lines about partners that are alive and wrong: enough lines to find them, too few to fill a log."""

from __future__ import annotations

from collections.abc import Callable

from gossip_caffe.clock import Clock
from gossip_caffe.printable import printable_line

QUIET_S = 60.0
"""Seconds during which a partner is named at most once …"""
MOST_NAMED = 10
"""… and the number of partners that are named at most: a process that is no member may use a new name in each call."""
LONGEST_NAME = 64


class Complaints:
    """The lines of one peer about its partners: at most one for each partner in QUIET_S seconds."""

    def __init__(self, say: Callable[[str], None], clock: Clock) -> None:
        self._say = say
        self._clock = clock
        self._named_at: dict[str, float] = {}

    def about(self, partner: str, line: str) -> bool:
        """Say ``line``, with the partner's name in the place of NAME.

        Returns False, and says nothing, when the partner was named within QUIET_S, or MOST_NAMED partners were.
        """
        now = self._clock.monotonic()
        for named, at in list(self._named_at.items()):
            if now - at >= QUIET_S:
                del self._named_at[named]
        if partner in self._named_at or len(self._named_at) >= MOST_NAMED:
            return False
        self._named_at[partner] = now
        self._say(line.replace("NAME", printable_line(_short(partner))))
        return True


def _short(name: str) -> str:
    """Cut a name to LONGEST_NAME characters: another process chose it, of any length."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
