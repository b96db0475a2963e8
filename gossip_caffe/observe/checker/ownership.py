"""Check of ``single-owner``: the owners of chunks, by the store's revisions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from gossip_caffe.observe.checker.finding import Finding, InvariantStatus, Violation, concluded
from gossip_caffe.observe.history.run import Chunk, Life, Line, Run
from gossip_caffe.observe.log.events import Event


@dataclass(slots=True)
class _Claim:
    """The ownership of one chunk by one life, from a revision of the store until the end of its lease."""

    life: Life
    chunk: Chunk
    revision: int
    lease: int
    line: Line
    done: Line | None = None
    released: Line | None = None


@dataclass(slots=True)
class _Ownership:
    claims: dict[Chunk, list[_Claim]] = field(default_factory=lambda: defaultdict(list))
    lease_seen: dict[int, tuple[int, Line]] = field(default_factory=dict)
    """Lease → the last revision at which it is known to have lived, and the event that shows it."""
    unclaimed: list[Violation] = field(default_factory=list)


def single_owner(run: Run) -> Finding:
    """Check that claims of a chunk do not overlap, and that only the valid claim settles it.

    The store decides the owner of a chunk, and its revisions order these decisions. A store that lost writes has
    assigned the same revision twice; then nothing can be concluded.
    """
    if run.store_forgot:
        why = "the store lost writes that it had acknowledged, so it may have given a chunk to two peers"
        return Finding("single-owner", InvariantStatus.UNSEEN, why, run.store_forgot)
    owned = _ownership(run)
    return concluded(
        "single-owner",
        _ownership_violations(run, owned),
        seen=lambda: bool(owned.claims),
        holds=f"{sum(map(len, owned.claims.values())):,} claims of {len(owned.claims):,} chunks, none of them overlap",
        unseen="no claim has the store's revision",
    )


def _ownership(run: Run) -> _Ownership:
    owned = _Ownership()
    for life in run.lives:
        mine: dict[tuple[Chunk, int], _Claim] = {}
        for event in life.of(Event.CLAIMED, Event.DONE, Event.RELEASED):
            for index, number in enumerate(event["chunks"]):
                chunk = (event["epoch"], number)
                if event["event"] == Event.RELEASED:
                    for claim in owned.claims.get(chunk, ()):
                        if claim.life is life and claim.done is None:
                            claim.released = event
                    continue
                if "revisions" not in event:
                    continue
                revision = event["revisions"][index]
                if event["event"] == Event.CLAIMED:
                    claim = _Claim(life, chunk, revision, event["lease"], event)
                    owned.claims[chunk].append(claim)
                    mine[chunk, revision] = claim
                    last = owned.lease_seen.get(claim.lease)
                    if last is None or revision > last[0]:
                        owned.lease_seen[claim.lease] = revision, event
                elif (known := mine.get((chunk, revision))) is None:
                    reason = f"{life.peer} settled chunk {chunk[1]} of epoch {chunk[0]} and never owned it"
                    owned.unclaimed.append(Violation(reason, (event,)))
                elif known.done is not None:
                    reason = f"{life.peer} settled chunk {chunk[1]} of epoch {chunk[0]} twice"
                    owned.unclaimed.append(Violation(reason, (known.line, known.done, event)))
                else:
                    known.done = event
    return owned


def _ownership_violations(run: Run, owned: _Ownership) -> Iterator[Violation]:
    yield from owned.unclaimed
    for (epoch, number), claims in owned.claims.items():
        if len(claims) == 1:
            continue
        claims.sort(key=lambda claim: claim.revision)
        what = f"chunk {number} of epoch {epoch}"
        for first, second in pairwise(claims):
            who = f"{first.life.peer} (revision {first.revision}) and {second.life.peer} ({second.revision})"
            if first.revision == second.revision:
                yield Violation(f"{what} was claimed at once by {who}", (first.line, second.line))
                continue
            seen_at, seen = owned.lease_seen[first.lease]
            if seen_at > second.revision and first.done is None and first.released is None:
                yield Violation(
                    f"{what} was owned by {who}: the first one's lease lived at revision {seen_at}",
                    (first.line, second.line, seen),
                )
        for index, settled in enumerate(claims):
            if settled.done is None:
                continue
            for later in claims[index + 1 :]:
                if later.revision > settled.revision and not _freed(run, settled, later):
                    yield Violation(
                        f"{what} was settled by {settled.life.peer} as owned since revision {settled.revision}, "
                        f"and claimed by {later.life.peer} at revision {later.revision}",
                        (settled.line, later.line, settled.done),
                    )
                    break


def _freed(run: Run, settled: _Claim, later: _Claim) -> bool:
    """True if a rollback between the two events freed the chunk."""
    return any(
        settled.revision < back.revision <= later.revision and not back.keeps(*settled.chunk)
        for back in run.gone_back
    )
