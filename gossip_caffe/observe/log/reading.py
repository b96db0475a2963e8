"""The history of each peer, read from all parts of its log as one."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossip_caffe.observe.log.events import COMPRESSED, Event, is_torn, read_events
from gossip_caffe.observe.log.parts import Part, parts_of, peers_in, tail_of
from gossip_caffe.observe.log.runs import BESIDE, has_line

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PeerHistory:
    """The events of one peer, of all its processes, in order.

    ``torn``: its last line is torn, because its writer was killed there. ``missing``: one sentence for each run of
    parts that are missing or damaged.
    """

    events: Sequence[Line]
    torn: bool = False
    missing: tuple[str, ...] = ()


def read_histories(folder: Path) -> dict[str, PeerHistory]:
    """The history of each peer with a log in ``folder``, by name."""
    return {peer: read_history(folder, peer) for peer in peers_in(folder)}


def read_history(folder: Path, peer: str) -> PeerHistory:
    """The history of one peer. A peer without a log has no events."""
    while True:
        parts = parts_of(folder, peer)
        history = _history(folder, peer, parts)
        if [part.number for part in parts_of(folder, peer)] == [part.number for part in parts]:
            return history
        # The peer runs, and has closed a part meanwhile.


def _history(folder: Path, peer: str, parts: Sequence[Part]) -> PeerHistory:
    events: list[Line] = []
    missing = _missing(peer, [part.number for part in parts])
    for part in parts:
        try:
            events += [event for event in _read(part.path) if event["event"] != Event.LOG_PART]
        except (OSError, EOFError, zlib.error, KeyError) as error:
            missing.append(f"part {part.number} of the log of {peer} is damaged ({error})")
    torn = bool(parts) and _ends_torn(parts[-1])
    return PeerHistory(_with_tail(events, tail_of(folder, peer)), torn, tuple(missing))


def _read(path: Path) -> list[Line]:
    """The events of a part. Raises OSError, EOFError or zlib.error for a damaged one."""
    try:
        events = list(read_events(path))
        if not events and path.suffix == COMPRESSED:
            raise EOFError("it is empty")
        return events
    except FileNotFoundError:
        return list(read_events(path.with_name(f"{path.name}{COMPRESSED}")))  # it was compressed meanwhile


def logs_of(histories: Mapping[str, PeerHistory]) -> dict[str, Sequence[Line]]:
    """The events of each peer."""
    return {peer: history.events for peer, history in histories.items()}


def _missing(peer: str, numbers: Iterable[int]) -> list[str]:
    found, expected = [], 1
    for number in numbers:
        if number == expected + 1:
            found.append(f"part {expected} of the log of {peer} is missing")
        elif number > expected:
            found.append(f"parts {expected} to {number - 1} of the log of {peer} are missing")
        expected = number + 1
    return found


def _ends_torn(part: Part) -> bool:
    try:
        return not part.compressed and is_torn(part.path)
    except FileNotFoundError:
        return False  # it was compressed meanwhile


def _with_tail(events: list[Line], tail: Path) -> list[Line]:
    """The events, with the batches of a run that has no line, because its writer was killed or still runs."""
    try:
        held = list(read_events(tail))
    except OSError:
        return events
    # The tail is of the newest process. The times of an earlier one may be those of another boot.
    newest = itertools.takewhile(lambda event: event["event"] != Event.STARTED, reversed(events))
    last = next((event for event in newest if event["event"] == Event.TRAINED), None)
    held = [event for event in held if not has_line(event, last)]
    if not held:
        return events
    # Only events that end no run can be newer than a held batch.
    after = len(events)
    while after and events[after - 1]["event"] in BESIDE and events[after - 1]["m"] >= held[0]["m"]:
        after -= 1
    return events[:after] + sorted([*held, *events[after:]], key=lambda event: float(event["m"]))
