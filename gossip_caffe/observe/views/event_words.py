"""Events of the log as lines for people."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.tested import ConsensusTest

NOTABLE = frozenset(Event) - {
    *(Event.TRAINED, Event.CLAIMED, Event.BORROWED, Event.DONE, Event.UNKNOWN, Event.RELEASED),
    *(Event.OFFERED, Event.EXCHANGED, Event.CORRECTED, Event.PROGRESS, Event.DISPLAYED, Event.WEIGHED),
    Event.LOG_PART,
}
"""Events that are rare enough to be read one by one."""
MOST_CHARACTERS = 60
"""Limit of one value in a line."""
_HEAD = frozenset({"t", "m", "peer", "event"})


def line_of(event: Mapping[str, Any]) -> str:
    """Return an event as one line, with this machine's local time: "2026-11-30 15:04:05 p0 joined checkpoint=…"."""
    try:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(event.get("t", 0.0))))
    except (ValueError, OverflowError, OSError, TypeError):
        when = "?"
    return f"{when} {event.get('peer', '?')} {event.get('event', '?')} {words_of(event)}".rstrip()


def words_of(event: Mapping[str, Any]) -> str:
    """Describe the fields of an event. An event of another version gets its fields as they are."""
    match event:
        case {"event": Event.STATE, "old": old, "new": new, "reason": reason}:
            return f"{old} → {new} ({reason})"
        case {"event": Event.MEMBER, "member": member, "old": old, "new": new}:
            lost = "; its lease ended while it trained" if event.get("lost") else ""
            return f"sees {member}: {old or 'nothing'} → {new or 'gone'}{lost}"
        case {"event": Event.TESTED, "iteration": int(iteration)}:
            return f"iteration {iteration:,}: {_of_test(event)}"
    return " ".join(f"{name}={_short(value)}" for name, value in event.items() if name not in _HEAD)


def _of_test(event: Mapping[str, Any]) -> str:
    known = {name: event[name] for name in ConsensusTest.__dataclass_fields__ if name in event}
    try:
        return ConsensusTest.from_record(known).words()
    except ValueError:
        return "an output of another version"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
