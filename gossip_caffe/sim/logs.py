"""The event logs of a simulated job, in memory: one list per name, to which each life of the name appends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gossip_caffe.clock import Clock
from gossip_caffe.observe.log.events import Event

Lines = list[dict[str, Any]]

_in_one_line = json.JSONEncoder(separators=(",", ":")).encode


class LifeLog:
    """The log of one life of a name. ``thin_s``: the shortest time between two logged ``progress`` events (s).

    Its lines are at every moment those that a reader of the files would get: held batches stand in them one by one,
    until the line of their run replaces them.
    """

    def __init__(self, lines: Lines, peer: str, clock: Clock, thin_s: float = 0.0) -> None:
        self._lines = lines
        self._peer = peer
        self._clock = clock
        self._thin_s = thin_s
        self._progress_at = float("-inf")
        self._dead = False
        self._held: list[dict[str, Any]] = []

    def emit(self, event: Event, **fields: object) -> None:
        """Append the event, unless the writer is dead."""
        if self._dead:
            return
        now = self._clock.monotonic()
        if event is Event.PROGRESS:
            if now - self._progress_at < self._thin_s:
                return
            self._progress_at = now
        if event is Event.TRAINED:
            self._replace_held()
        self._lines.append(self._line(event, now, fields))

    def hold(self, event: Event, **fields: object) -> bool:
        """Append an event that the next one of its kind replaces."""
        if not self._dead:
            self._held.append(self._line(event, self._clock.monotonic(), fields))
            self._lines.append(self._held[-1])
        return True

    def _replace_held(self) -> None:
        for line in reversed(self._held):
            place = next(at for at in range(len(self._lines) - 1, -1, -1) if self._lines[at] is line)
            del self._lines[place]
        self._held.clear()

    def _line(self, event: Event, now: float, fields: Mapping[str, object]) -> dict[str, Any]:
        return {
            "t": round(self._clock.wall(), 6),
            "m": round(now, 6),
            "peer": self._peer,
            "event": event.value,
            **fields,
        }

    def die(self) -> None:
        """Ignore all later events."""
        self._dead = True


def digest(logs: Mapping[str, Sequence[Mapping[str, Any]]], seen: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of a whole history, over the bytes that its files would have."""
    whole = hashlib.sha256()
    for name in sorted(logs):
        whole.update(f"\n{name}\n".encode())
        for line in logs[name]:
            whole.update(_in_one_line(line).encode())
    for line in seen:
        whole.update(_in_one_line(line).encode())
    return whole.hexdigest()


def write(
    folder: Path,
    logs: Mapping[str, Sequence[Mapping[str, Any]]],
    seen: Sequence[Mapping[str, Any]],
    observer: str,
) -> None:
    """Write a history as the files of a run folder."""
    (folder / "events").mkdir(parents=True, exist_ok=True)
    for name, lines in logs.items():
        text = "".join(_in_one_line(line) + "\n" for line in lines)
        (folder / "events" / f"{name}.jsonl").write_text(text)
    (folder / observer).write_text("".join(json.dumps(line) + "\n" for line in seen))
