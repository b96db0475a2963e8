"""Checks of ``full-coverage`` and ``durable-done``: the training and settling of chunks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from gossip_caffe.observe.checker.finding import Finding, Violation, concluded
from gossip_caffe.observe.checker.rounds import applied_rounds
from gossip_caffe.observe.history.run import Chunk, Life, Line, Run
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.runs import batches_of, records_in

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
    """Check that every record of the budget is learned, and that none is trained twice while no peer dies."""
    found = run.account
    lasted = run.finished and found is not None
    return concluded(
        "full-coverage",
        _coverage_violations(run) if lasted else (),
        seen=lambda: lasted,
        holds=f"{found.records_trained:,} records learned, 0 lost, {found.records_twice:,} trained twice"
        if found is not None
        else "",
        unseen="no log has the end of the job"
        if found is not None
        else "no log has the job's budget and data",
    )


def _coverage_violations(run: Run) -> Iterator[Violation]:
    found = run.account
    if found is None or run.work is None:
        return
    if found.records_lost:
        yield Violation(
            f"{found.records_lost:,} of {run.work.budget_samples:,} records were learned by no peer",
            _about_lost(run),
        )
    undisturbed = (
        not run.killed()
        and not any(True for life in run.lives for _ in life.of(*_DISTURBANCES))
        and not any(life.left is not None and life.left.get("error") for life in run.lives)
    )
    if found.records_twice and undisturbed:
        yield Violation(
            f"{found.records_twice:,} records were trained twice although no peer died", _about_twice(run)
        )


def _trained(run: Run) -> Iterator[tuple[Chunk, int, int, Line]]:
    """All trained ranges of records, cut at chunks: (chunk, start, stop, event)."""
    size = run.work.data.chunk_records if run.work is not None else 1
    for life in run.lives:
        for event in life.of(Event.TRAINED):
            for chunk, start, stop in _pieces(records_in(event), size):
                yield chunk, start, stop, event


def _pieces(parts: Iterable[Sequence[int]], size: int) -> Iterator[tuple[Chunk, int, int]]:
    """Record ranges (epoch, start, stop), cut at the chunks of ``size`` records."""
    for epoch, start, stop in parts:
        for number in range(start // size, -(-stop // size)):
            yield (epoch, number), max(start, number * size), min(stop, (number + 1) * size)


def _about_lost(run: Run) -> tuple[Line, ...]:
    """All events about the first chunk with a record that no peer trained, or that no peer settled."""
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
    """Two events that trained the same record."""
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
    """Check that a chunk is settled only after an exchange or a checkpoint has taken its training out of the peer.

    The exchange must have been answered, or the checkpoint made by the trainer, and include all training of the chunk.
    """
    settled = sum(len(event["chunks"]) for life in run.lives for event in life.of(Event.DONE))
    return concluded(
        "durable-done",
        _durability_violations(run),
        seen=lambda: bool(settled),
        holds=f"{settled:,} chunks were settled after their training had left the peer",
        unseen="no chunk was settled",
    )


def _durability_violations(run: Run) -> Iterator[Violation]:
    answered = {
        event["exchange"]
        for life in run.lives
        for event in life.of(Event.EXCHANGED)
        if event.get("side") == "answered" and event["outcome"] == "applied"
    }
    rounds = {name: len({id(life) for life, _ in lives}) for name, lives in applied_rounds(run).items()}
    answered |= {name for name, lives in rounds.items() if lives > 1}
    ends, size = _last_chunks(run), run.work.data.chunk_records if run.work is not None else 1
    for life in run.lives:
        carriers: dict[str, Line] = {}
        trained: dict[Chunk, list[tuple[int, int, int]]] = defaultdict(list)
        for event in life.events:
            match event["event"]:
                case Event.TRAINED:
                    for batch in batches_of(event):
                        for chunk, start, stop in _pieces(batch["parts"], size):
                            trained[chunk].append((start, stop, batch["sequence"]))
                case Event.EXCHANGED if event.get("side") != "answered" and event["outcome"] == "applied":
                    carriers[event.get("exchange", "")] = event
                case Event.ROUND if event["outcome"] == "applied":
                    carriers[event["round"]] = event
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
    if carrier["event"] == Event.ROUND:
        if not any(other.torn for other in run.lives):
            yield Violation(f"{what}, which no other peer applied", (carrier, done))
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
    """The ends of the last epoch's chunks. The budget shortens one of them; the logs of its trainer show where."""
    if run.work is None:
        return {}
    last = -(-run.work.budget_samples // run.work.data.records) - 1
    ends: dict[Chunk, int] = {}
    for chunk, _, stop, _ in _trained(run):
        if chunk[0] == last:
            ends[chunk] = max(stop, ends.get(chunk, 0))
    return ends
