"""Check of ``whole-round``: the rounds of the synchronous strategy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gossip_caffe.observe.checker.corrections import corrections
from gossip_caffe.observe.checker.finding import Finding, Violation, concluded
from gossip_caffe.observe.history.run import Life, Line, Run
from gossip_caffe.observe.log.events import Event

Applied = Mapping[str, list[tuple[Life, Line]]]
"""Round → the lives that applied it, each with its event."""


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """The figures of all rounds of a run.

    ``applied``: rounds that any peer applied; ``partial``: those of them that not every member applied. ``healed``: the
    steps by which members that had missed a round came back to the others, and ``farthest`` the longest of them, in
    lengths of their own weights.
    """

    applied: int
    partial: int
    healed: int
    farthest: float


def applied_rounds(run: Run) -> Applied:
    """All rounds that any peer applied."""
    found: dict[str, list[tuple[Life, Line]]] = defaultdict(list)
    for life in run.lives:
        for event in life.of(Event.ROUND):
            if event["outcome"] == "applied":
                found[event["round"]].append((life, event))
    return found


def round_figures(run: Run) -> RoundFigures:
    """Count the rounds, and those that only some members applied."""
    found = applied_rounds(run)
    healed = [line["ratio"] for lives in found.values() for _, line in lives if line["healed"]]
    return RoundFigures(
        applied=len(found),
        partial=sum(len(lives) < lives[0][1]["members"] for lives in found.values()),
        healed=len(healed),
        farthest=max(healed, default=0.0),
    )


def whole_round(run: Run) -> Finding:
    """Check that a peer applies the mean of a round once and whole, and that all who apply it apply the same mean."""
    found = applied_rounds(run)
    partial = sum(len(lives) < lives[0][1]["members"] for lives in found.values())
    return concluded(
        "whole-round",
        _violations(run, found),
        seen=lambda: bool(found),
        holds=f"{len(found):,} rounds were applied whole, {partial:,} of them not by every member",
        unseen="no peer applied a round",
    )


def _violations(run: Run, found: Applied) -> Iterator[Violation]:
    for name, lives in found.items():
        digests = {line["digest"]: line for _, line in lives}
        if len(digests) > 1:
            yield Violation(f"the members of round {name} applied different means", tuple(digests.values()))
        if len(lives) > lives[0][1]["members"]:
            yield Violation(
                f"round {name} has {lives[0][1]['members']} members, and {len(lives)} peers applied it",
                tuple(line for _, line in lives),
            )
        of_life: dict[int, Line] = {}
        for life, line in lives:
            if (before := of_life.setdefault(id(life), line)) is not line:
                yield Violation(f"{life.peer} applied round {name} twice", (before, line))
    for life in run.lives:
        if not run.missing:  # a missing part may hold a step, or the change of the weights that belongs to it
            yield from corrections(life, Event.ROUND)
        given_up: dict[str, Line] = {}
        for event in life.of(Event.ROUND):
            if event["outcome"] == "failed":
                given_up[event["round"]] = event
            elif event["outcome"] == "applied" and event["round"] in given_up:
                lines = (given_up[event["round"]], event)
                yield Violation(f"{life.peer} gave round {event['round']} up and applied it", lines)
