"""Records in the store that this peer ignores. Each is reported once per key and revision, in the log and as a line."""

from __future__ import annotations

from collections.abc import Callable

from gossip_caffe.clock import Clock
from gossip_caffe.observe.log.events import Event, EventLog
from gossip_caffe.plain import shown

MOST_REMEMBERED = 4096
MOST_LINES = 60
IN_S = 60.0
"""At most MOST_LINES lines in this many seconds: a program that writes without end must not fill a disk with lines."""

Note = Callable[[str, int, str], None]
"""Called with (key, revision, reason for ignoring the record)."""


def discard_note(key: str, revision: int, why: str) -> None:
    """A ``Note`` that reports nothing."""
    del key, revision, why


class Ignored:
    """The ignored records of one peer. ``lead``: the beginning of its lines."""

    def __init__(self, say: Callable[[str], None], log: EventLog, clock: Clock, lead: str = "etcd") -> None:
        self._say = say
        self._log = log
        self._clock = clock
        self._lead = lead
        self._known: dict[tuple[str, int, str], None] = {}
        self._since = float("-inf")
        self._lines = 0

    def note(self, key: str, revision: int, why: str) -> None:
        """Report that the value of ``key`` at ``revision`` is ignored, because of ``why``."""
        self._tell(Event.IGNORED, key, revision, why, "is ignored")

    def put_right(self, key: str, revision: int, why: str) -> None:
        """Report that a foreign write or removal of ``key`` was undone."""
        self._tell(Event.PUT_RIGHT, key, revision, why, "is put right")

    def _tell(self, event: Event, key: str, revision: int, why: str, done: str) -> None:
        about = key, revision, done
        if about in self._known:
            return
        self._known[about] = None
        if len(self._known) > MOST_REMEMBERED:
            del self._known[next(iter(self._known))]
        now = self._clock.monotonic()
        if now - self._since > IN_S:
            self._since, self._lines = now, 0
        self._lines += 1
        if self._lines > MOST_LINES + 1:
            return
        if self._lines > MOST_LINES:
            self._say(f"{self._lead}: more than {MOST_LINES} such lines in a minute; others are left out")
            return
        self._log.emit(event, key=key, revision=revision, reason=why)
        at = f" (revision {revision:,})" if revision else ""
        self._say(f"{self._lead}: {shown(key)}{at} {done}: {why}")
