"""Who owned, trained and settled what: single-owner, full-coverage and durable-done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from gossip_caffe.observe.checker.finding import Finding, Line, Standing, Violation, concluded
from gossip_caffe.observe.checker.run import Life, Run
from gossip_caffe.observe.events import Event

Chunk = tuple[int, int]
"""Epoch, and number of the chunk."""


# ── single-owner ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Claim:
    """One chunk owned by one life since a revision of the store, as long as its lease lives."""

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
    """Lease → the last revision at which it is known to have lived, and the line that says so."""
    unclaimed: list[Violation] = field(default_factory=list)


def single_owner(run: Run) -> Finding:
    """Claims of a chunk must not overlap, and only the claim that stands may settle it.

    Who owns a chunk is the store's word, and revisions order what it said: one that forgets has given two words for one
    revision, and nothing can be told from them.
    """
    if (forgot := run.store_forgot) is not None:
        why = (
            "the store forgot writes that it had acknowledged, so that it may have given a chunk to two peers"
        )
        return Finding("single-owner", Standing.UNSEEN, why, (forgot,))
    owned = _ownership(run)
    return concluded(
        "single-owner",
        _ownership_violations(run, owned),
        seen=lambda: bool(owned.claims),
        holds=f"{sum(map(len, owned.claims.values())):,} claims of {len(owned.claims):,} chunks, none of them overlap",
        unseen="no claim says at which revision of the store it was made",
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
    """Whether the job went back between the two, to before the chunk was done."""
    return any(
        settled.revision < back.revision <= later.revision and not back.keeps(*settled.chunk)
        for back in run.gone_back
    )


# ── full-coverage ─────────────────────────────────────────────────────────────────────────────────────────────────────

_DISTURBANCES = (
    Event.SOLVER_DIED,
    Event.LEASE_LOST,
    Event.BORROWED,
    Event.RESUMED,
    Event.UNKNOWN,
    Event.SKIPPED,
)


def full_coverage(run: Run) -> Finding:
    """Every record of the budget is learned; trained twice is nothing while nobody dies."""
    found = run.account
    lasted = run.finished and found is not None
    return concluded(
        "full-coverage",
        _coverage_violations(run) if lasted else (),
        seen=lambda: lasted,
        holds=f"{found.records_trained:,} records learned, 0 lost, {found.records_twice:,} trained twice"
        if found is not None
        else "",
        unseen="no log says that the job is finished"
        if found is not None
        else "no log says what there was to train",
    )


def _coverage_violations(run: Run) -> Iterator[Violation]:
    found = run.account
    if found is None or run.work is None:
        return
    if found.records_lost:
        yield Violation(
            f"{found.records_lost:,} of {run.work.budget_samples:,} records were learned by nobody",
            _about_lost(run),
        )
    undisturbed = (
        not run.killed()
        and not any(True for life in run.lives for _ in life.of(*_DISTURBANCES))
        and not any(life.left is not None and life.left.get("error") for life in run.lives)
    )
    if found.records_twice and undisturbed:
        yield Violation(
            f"{found.records_twice:,} records were trained twice although nobody died", _about_twice(run)
        )


def _trained(run: Run) -> Iterator[tuple[Chunk, int, int, Line]]:
    """Every range of records of one chunk that was trained: chunk, start, stop, line."""
    size = run.work.data.chunk_records if run.work is not None else 1
    for life in run.lives:
        for event in life.of(Event.TRAINED):
            for chunk, start, stop in _pieces(event, size):
                yield chunk, start, stop, event


def _pieces(trained: Line, size: int) -> Iterator[tuple[Chunk, int, int]]:
    """The record ranges of a trained batch, cut at the chunks of ``size`` records."""
    for epoch, start, stop in trained["parts"]:
        for number in range(start // size, -(-stop // size)):
            yield (epoch, number), max(start, number * size), min(stop, (number + 1) * size)


def _about_lost(run: Run) -> tuple[Line, ...]:
    """All that was written of the first chunk with a record that nobody trained, or that nobody settled."""
    if run.work is None:
        return ()
    size, records = run.work.data.chunk_records, run.work.data.records
    learned: dict[Chunk, set[int]] = defaultdict(set)
    for chunk, start, stop, _ in _trained(run):
        learned[chunk].update(range(start, stop))
    settled = {chunk for life in run.lives for event in life.of(Event.DONE) for chunk in _chunks(event)}
    for epoch in range(-(-run.work.budget_samples // records)):
        for number in range(-(-records // size)):
            whole = min(size, records - number * size)
            if (epoch, number) not in settled or len(learned[epoch, number]) < whole:
                lines = _about(run, (epoch, number))
                if lines:
                    return lines
    return ()


def _about_twice(run: Run) -> tuple[Line, ...]:
    """Two lines that trained the same record."""
    before: dict[Chunk, list[tuple[int, int, Line]]] = defaultdict(list)
    for chunk, start, stop, line in _trained(run):
        for first, last, earlier in before[chunk]:
            if start < last and first < stop:
                return (earlier, line)
        before[chunk].append((start, stop, line))
    return ()


def _chunks(event: Line) -> list[Chunk]:
    return [(event["epoch"], number) for number in event["chunks"]]


def _about(run: Run, chunk: Chunk) -> tuple[Line, ...]:
    kinds = (Event.CLAIMED, Event.BORROWED, Event.DONE, Event.UNKNOWN, Event.RELEASED)
    own = [event for life in run.lives for event in life.of(*kinds) if chunk in _chunks(event)]
    trained = [line for part, _, _, line in _trained(run) if part == chunk]
    return tuple(sorted((*own, *trained), key=lambda line: line.get("t", 0.0)))


# ── durable-done ──────────────────────────────────────────────────────────────────────────────────────────────────────


def durable_done(run: Run) -> Finding:
    """A chunk is done when an answered exchange or a checkpoint of its trainer holds all that it trained of it."""
    settled = sum(len(event["chunks"]) for life in run.lives for event in life.of(Event.DONE))
    return concluded(
        "durable-done",
        _durability_violations(run),
        seen=lambda: bool(settled),
        holds=f"{settled:,} chunks were done once their learning had left the peer",
        unseen="no chunk was settled",
    )


def _durability_violations(run: Run) -> Iterator[Violation]:
    answered = {
        event["exchange"]
        for life in run.lives
        for event in life.of(Event.EXCHANGED)
        if event.get("side") == "answered" and event["outcome"] == "applied"
    }
    ends, size = _last_chunks(run), run.work.data.chunk_records if run.work is not None else 1
    for life in run.lives:
        carriers: dict[str, Line] = {}
        trained: dict[Chunk, list[tuple[int, int, int]]] = defaultdict(list)
        for event in life.events:
            match event["event"]:
                case Event.TRAINED:
                    for chunk, start, stop in _pieces(event, size):
                        trained[chunk].append((start, stop, event["sequence"]))
                case Event.EXCHANGED if event.get("side") != "answered" and event["outcome"] == "applied":
                    carriers[event.get("exchange", "")] = event
                case Event.CHECKPOINTED:
                    carriers[event["checkpoint"]] = event
                case Event.DONE:
                    yield from _settled_early(run, life, event, carriers, answered)
                    yield from _settled_untrained(run, event, carriers.get(event["via"]), trained, ends)


def _settled_early(
    run: Run, life: Life, done: Line, carriers: dict[str, Line], answered: set[str]
) -> Iterator[Violation]:
    what = f"{life.peer} settled chunks {done['chunks']} of epoch {done['epoch']} via {done['via']}"
    carrier = carriers.get(done["via"])
    if carrier is None:
        yield Violation(
            f"{what}, which is no exchange that was answered to it and no checkpoint of its own", (done,)
        )
        return
    if carrier["event"] == Event.CHECKPOINTED or done["via"] in answered:
        return
    partners = run.of_peer.get(carrier["partner"])
    if partners is not None and not any(partner.torn for partner in partners):
        yield Violation(f"{what}, which {carrier['partner']} never applied", (carrier, done))


def _settled_untrained(
    run: Run,
    done: Line,
    carrier: Line | None,
    trained: dict[Chunk, list[tuple[int, int, int]]],
    ends: dict[Chunk, int],
) -> Iterator[Violation]:
    if run.work is None or carrier is None:
        return
    size, records = run.work.data.chunk_records, run.work.data.records
    held = carrier.get("batches")
    for chunk in _chunks(done):
        start, stop = chunk[1] * size, min((chunk[1] + 1) * size, records)
        stop = ends.get(chunk, stop)
        at = start
        for first, last, sequence in sorted(trained[chunk]):
            if first <= at and (held is None or sequence < held):
                at = max(at, last)
        if at < stop:
            why = "were not trained, or not in what was shared"
            yield Violation(
                f"records {at} to {stop} of epoch {chunk[0]} {why}, when {done['peer']} settled chunk {chunk[1]}",
                (carrier, done),
            )


def _last_chunks(run: Run) -> dict[Chunk, int]:
    """Where the chunks of the last epoch end: the budget cuts one of them short; who trained it knows which."""
    if run.work is None:
        return {}
    last = -(-run.work.budget_samples // run.work.data.records) - 1
    ends: dict[Chunk, int] = {}
    for chunk, _, stop, _ in _trained(run):
        if chunk[0] == last:
            ends[chunk] = max(stop, ends.get(chunk, 0))
    return ends
