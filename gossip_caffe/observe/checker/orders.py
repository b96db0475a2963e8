"""Check of ``known-writer``: no peer obeyed a record that another writer put into the store, as far as logs show it.

A peer logs each copy that it removes from its disk, together with the remaining copies. The record of the job's end
names a checkpoint, which a peer must have made. The simulator also checks the files beside the peers' folders.
"""

from __future__ import annotations

from collections.abc import Iterator

from gossip_caffe.observe.checker.finding import Finding, Violation, concluded
from gossip_caffe.observe.history.run import Line, Run
from gossip_caffe.observe.log.events import Event

GRACE_S = 600.0
NEWEST_WHOLE = 2


def known_writer(run: Run) -> Finding:
    """Check that no copy was removed, no end believed and no file touched because a foreign record demanded it."""
    seen_kinds = (Event.FORGOT, Event.IGNORED, Event.PUT_RIGHT, Event.FINISHED)
    return concluded(
        "known-writer",
        _violations(run),
        seen=lambda: any(True for life in run.lives for _ in life.of(*seen_kinds)),
        holds="no copy was removed, no end believed and no file touched because of another writer",
        unseen="no peer removed a copy, and the job has not ended",
    )


def _violations(run: Run) -> Iterator[Violation]:
    made = {
        event["checkpoint"]: event
        for life in run.lives
        for event in life.of(Event.CHECKPOINTED, Event.FOUNDED)
    }
    for life in run.lives:
        for event in life.of(Event.FORGOT):
            if why := _wrongly_forgotten(event):
                yield Violation(f"{life.peer} removed checkpoint {event['checkpoint']}: {why}", (event,))
        for event in life.of(Event.FINISHED):
            if made and event["checkpoint"] not in made:
                named = f"checkpoint {event['checkpoint']}, which no peer made"
                yield Violation(f"{life.peer} believes that the job ended with {named}", (event,))
    for event in run.seen:
        if event["event"] == "disk" and event["touched"]:
            yield Violation(f"outside of the peers' folders {', '.join(event['touched'])} changed", (event,))


def _wrongly_forgotten(event: Line) -> str:
    if event["checkpoint"] in event["kept"]:
        return "it is one of the newest that are whole"
    if len(event["kept"]) < NEWEST_WHOLE:
        return f"{len(event['kept'])} other whole copies are left"
    if not event["by"] and event["waited_s"] < GRACE_S:
        return f"no peer withdrew it, and it was {event['waited_s']:.0f} s ago that it was announced"
    return ""
