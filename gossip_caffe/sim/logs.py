"""The event logs of a simulated job, in memory: one list for each name, written on by each life of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gossip_caffe.clock import Clock
from gossip_caffe.observe.events import Event

Lines = list[dict[str, Any]]

_in_one_line = json.JSONEncoder(separators=(",", ":")).encode


class LifeLog:
    """One life's hand on the log of its name. ``thin_s``: progress is written down at most so often."""

    def __init__(self, lines: Lines, peer: str, clock: Clock, thin_s: float = 0.0) -> None:
        self._lines = lines
        self._peer = peer
        self._clock = clock
        self._thin_s = thin_s
        self._progress_at = float("-inf")
        self._dead = False

    def emit(self, event: Event, **fields: object) -> None:
        """Append the event, unless the writer is dead."""
        if self._dead:
            return
        now = self._clock.monotonic()
        if event is Event.PROGRESS:
            if now - self._progress_at < self._thin_s:
                return
            self._progress_at = now
        self._lines.append(
            {
                "t": round(self._clock.wall(), 6),
                "m": round(now, 6),
                "peer": self._peer,
                "event": event.value,
                **fields,
            }
        )

    def die(self) -> None:
        """Nothing more is written."""
        self._dead = True


def digest(logs: Mapping[str, Sequence[Mapping[str, Any]]], seen: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of a whole history, byte for byte as its files would be."""
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
