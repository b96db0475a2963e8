"""Check of recorded changes of the weights: each half, and each step of a round, is added once, as it was computed."""

from __future__ import annotations

from collections.abc import Iterator

from gossip_caffe.observe.checker.finding import Violation
from gossip_caffe.observe.history.run import Life, Line
from gossip_caffe.observe.log.events import Event

APART = 1e-4
_PARTS = {Event.EXCHANGED: "half", Event.ROUND: "step"}
"""Kind of event → the word for that by which it changes the weights."""


def corrections(life: Life, kind: Event) -> Iterator[Violation]:
    """Check the changes of one life, as far as they were recorded.

    ``kind``: EXCHANGED or ROUND. The violations of that kind are returned; a change that belongs to no event counts as
    one of exchanges.
    """
    for of_kind, violation in _all(life):
        if of_kind is kind:
            yield violation


def _all(life: Life) -> Iterator[tuple[Event, Violation]]:
    added: Line | None = None
    seen = any(True for _ in life.of(Event.CORRECTED))
    for event in life.of(Event.CORRECTED, *_PARTS) if seen else ():
        if event["event"] == Event.CORRECTED:
            if added is not None:
                yield _of_nothing(life, added)
            added = event
        elif event["outcome"] == "applied":
            kind = Event(event["event"])
            part = _PARTS[kind]
            if added is None:
                said = f"{life.peer} logged that it applied a {part}, and its weights did not change"
                yield kind, Violation(said, (event,))
            elif not _same(added, event, part):
                said = f"{life.peer} applied another correction than its {part}"
                yield kind, Violation(said, (added, event))
            added = None
    if added is not None and life.left is not None:
        yield _of_nothing(life, added)


def _of_nothing(life: Life, added: Line) -> tuple[Event, Violation]:
    said = f"the weights of {life.peer} were changed by what is no exchange's half"
    return Event.EXCHANGED, Violation(said, (added,))


def _same(added: Line, event: Line, part: str) -> bool:
    share = float(event.get("share", 1.0))  # of a half that was too long
    total, norm = share * float(event[f"{part}_sum"]), share * float(event[f"{part}_norm"])
    apart = max(abs(added["half_sum"] - total), abs(added["half_norm"] - norm))
    return bool(apart <= APART * norm)
