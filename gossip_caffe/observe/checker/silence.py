"""Check of ``no-silent-end``: background tasks whose end went unnoticed.

A task that ends for good inside a peer must end the peer, or be started again. Two symptoms show a violation. A peer
reports for a while that its lease no longer protects its claims, without having noticed that its lease is lost. And,
outside of any log, a job hangs because a task waits for another one that has ended.
"""

from __future__ import annotations

from collections.abc import Iterator

from gossip_caffe.observe.checker.finding import Finding, Violation, concluded
from gossip_caffe.observe.history.run import Life, Line, Run
from gossip_caffe.observe.log.events import Event

UNNOTICED_S = 5.0
"""Within this many seconds a reporting peer has logged that its lease is lost: the renewing task ends with the lease.
"""
ASLEEP_S = 5.0
"""A peer with longer gaps between its reports was frozen, and could notice nothing."""
_REGISTERED = frozenset({"syncing", "training"})


def no_silent_end(run: Run) -> Finding:
    """Check that a peer whose lease is over has noticed it: its renewing task does not end silently."""
    return concluded(
        "no-silent-end",
        (violation for life in run.lives for violation in _without_lease(life)),
        seen=lambda: any("owns" in event for life in run.lives for event in life.of(Event.PROGRESS)),
        holds="no peer continued without its lease unknowingly",
        unseen="no peer reported the state of its lease",
    )


def _without_lease(life: Life) -> Iterator[Violation]:
    since: Line | None = None
    last: Line | None = None
    unaware = False
    for event in life.of(Event.PROGRESS, Event.STATE, Event.LEASE_LOST):
        if event["event"] != Event.PROGRESS:
            unaware = event["event"] == Event.STATE and event["new"] in _REGISTERED
            since = last = None
            continue
        if "m" not in event or "owns" not in event:
            continue
        if not unaware or event["owns"] or (last is not None and event["m"] - last["m"] > ASLEEP_S):
            since = None
        if unaware and not event["owns"]:
            since = since or event
            if event["m"] - since["m"] >= UNNOTICED_S:
                yield Violation(
                    f"{life.peer} had no lease for {event['m'] - since['m']:.0f} s, and did not notice it",
                    (since, event),
                )
                unaware = False
        last = event
