"""Check of ``bounded-half``: the distance that exchanges moved peers.

For each half that it applied, a peer logs the half's length relative to its own weights, and the limit for it. The
check compares these with the job's limit, and in the simulator also with the change of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gossip_caffe.observe.checker.finding import Finding, Violation, concluded
from gossip_caffe.observe.history.run import Life, Line, Run
from gossip_caffe.observe.log.events import Event

WARM_AFTER = 16
"""The number of halves after which the job's own limit applies to a peer, once the job has left its warm-up.

docs/internals/protocol.md has the rule.
"""
WARMING = 3.0
"""The factor on the limit before that.

It is larger where the partner's weights are longer; the applying peer logs it.
"""
WIDEST = 1.6
"""The largest factor on the limit after that, reached where halves are long all the time."""
USUAL_LIMIT = 0.25
"""The limit of a job whose logs do not state one."""
ROUNDING = 1e-3
"""Tolerance for a length, for rounding by a codec and for another order of summation."""
MEANWHILE = 2.0
"""The factor by which a peer's weights may become shorter between its snapshot and the addition of the half."""


@dataclass(frozen=True, slots=True)
class _Job:
    """The bound's settings, from the first event of a life."""

    half_limit: float
    warm_after_samples: float


def bounded_half(run: Run) -> Finding:
    """Check that no half beyond the job's limit was applied."""
    return concluded(
        "bounded-half",
        _violations(run),
        seen=lambda: any(
            _job(life) and any(map(_is_applied, life.of(Event.EXCHANGED, Event.ROUND))) for life in run.lives
        ),
        holds="no applied half exceeded the limit",
        unseen="no peer applied an exchange, or the job has no half_limit",
    )


def _job(life: Life) -> _Job | None:
    """The settings of the life's job; None when the job has no limit."""
    started = next(life.of(Event.STARTED), {})
    if not (half_limit := started.get("half_limit", USUAL_LIMIT)):
        return None
    return _Job(half_limit, started.get("warmup", 0.0) * started.get("budget_samples", 0))


def _is_applied(event: Line) -> bool:
    """Whether a half was applied, or the mean of a round by a peer that had the job's weights before."""
    moved = "exchange" in event or ("round" in event and not event.get("guest"))
    return event.get("outcome") == "applied" and moved


def _violations(run: Run) -> Iterator[Violation]:
    for life in run.lives:
        if (job := _job(life)) is not None:
            yield from _of(life, job)


def _of(life: Life, job: _Job) -> Iterator[Violation]:
    applied, progress = 0, 0.0
    added: Line | None = None
    kinds = (Event.JOINED, Event.HEALED, Event.PROGRESS, Event.CORRECTED, Event.EXCHANGED, Event.ROUND)
    for event in life.of(*kinds):
        match event["event"]:
            case Event.JOINED:
                applied, progress = 0, 0.0
            case Event.HEALED:
                applied = 0
            case Event.PROGRESS:
                progress = max(progress, event.get("progress_samples", 0))
            case Event.CORRECTED:
                added = event
            case _ if _is_applied(event):
                is_warm = applied >= WARM_AFTER and progress >= job.warm_after_samples
                yield from _too_far(life, job, event, added, is_warm)
                applied, added = applied + 1, None


def _too_far(life: Life, job: _Job, event: Line, added: Line | None, is_warm: bool) -> Iterator[Violation]:
    ratio = event.get("ratio", math.sqrt(max(0.0, event.get("distance") or 0.0)))
    limit = event.get("limit") or job.half_limit * (1.0 if is_warm else WARMING)
    of_round = event["event"] == Event.ROUND
    how = (
        f"round {event['round']}"
        if of_round
        else f"exchange {event['exchange']} with {event.get('partner', '?')}"
    )
    ways = 2.0 if of_round else 1.0  # the ratio of a round is that of half the way to the mean
    if ratio > limit * (1 + ROUNDING):
        yield Violation(
            f"{life.peer} applied {how}, which moved it by {ratio:.3g}: {limit:.3g} is the most", (event,)
        )
    elif is_warm and limit > WIDEST * job.half_limit * (1 + ROUNDING):
        yield Violation(
            f"{life.peer} applied {how} under a limit of {limit:.3g}, which is {job.half_limit:.3g} in this job",
            (event,),
        )
    elif added is not None and added["half_norm"] > ways * MEANWHILE * limit * added.get(
        "own_norm", math.inf
    ):
        yield Violation(
            f"{life.peer} was moved by {how} by {added['half_norm']:.3g}, its weights being "
            f"{added['own_norm']:.3g} long, and says that this is {ratio:.3g}",
            (added, event),
        )
