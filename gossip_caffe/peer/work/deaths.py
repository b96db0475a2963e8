"""The deaths of a peer's children: the cause of each, and whether the next child would only end the same way."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Awaitable, Callable, Sequence

from gossip_caffe.data.loader_port import ProcessEnd
from gossip_caffe.errors import DataError, SolverDied
from gossip_caffe.peer.work.suspects import SuspectBatches
from gossip_caffe.shards.stream import Part, RecordStream
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.loop import DIVERGED, FOREIGN_STEPS

NameRecords = Callable[[Sequence[Part]], Awaitable[str]]
"""Returns the places of records in words, for example their files."""
MAX_DEATHS_WITHOUT_PROGRESS = 3
"""Deaths of a child without a batch trained in between, after which another child is not started."""
_FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM})


async def by_number(parts: Sequence[Part]) -> str:
    """Name records by their numbers."""
    return ", ".join(f"records {part.start} to {part.stop - 1}" for part in parts)


def was_killed(end: ProcessEnd) -> bool:
    """Whether a person, or a machine without memory, killed the child: a start that ends so has not failed."""
    return end.code in _FROM_OUTSIDE


def cause_by_half(end: ProcessEnd, board: WeightBoard) -> str:
    """The cause of a solver's end for which a partner's half may be the reason; "" for any other end.

    That is a loss which was not finite within FOREIGN_STEPS steps after a half was added.
    """
    corrected, diverged = board.corrected_at, board.diverged_at
    if corrected is None or diverged is None or diverged - corrected > FOREIGN_STEPS:
        return ""
    steps = diverged - corrected
    return f"{end.cause.removeprefix(DIVERGED)}, {steps} steps after the half of an exchange was added"


class Deaths:
    """All deaths of one peer's children. ``suspects`` judges batches at which the solver dies."""

    def __init__(self, suspects: SuspectBatches, name_records: NameRecords) -> None:
        self._suspects = suspects
        self._name_records = name_records
        self._count = 0
        self._progress = -1

    async def judged(self, end: ProcessEnd, trained: int, stream: RecordStream) -> ProcessEnd:
        """The end, with the suspected records in its cause when the death before was at the same batch.

        ``trained``: the number of batches before this death. ``stream`` holds the batches that were next.
        """
        if end.final or was_killed(end):
            return end
        judged = self._suspects.died(trained, stream.from_sequence(trained), end.cause)
        if not judged.parts:
            return end
        named = await self._name_records(judged.parts)
        if judged.left_out:
            self._count = 0
            return dataclasses.replace(end, cause=f"{end.cause}, again at the same batch, left out: {named}")
        remedy = end.remedy or "look at these records; --set corrupt_records=skip leaves them out"
        return dataclasses.replace(end, cause=f"{end.cause}, again at the same batch: {named}", remedy=remedy)

    def count(self, end: ProcessEnd, error: type[SolverDied | DataError], progress: int) -> None:
        """Raise ``error`` when the next child would only end the same way: the end is final, or one of too many.

        ``progress``: the number of batches that were trained so far.
        """
        self._count = self._count + 1 if progress <= self._progress else 1
        self._progress = max(progress, self._progress)
        if end.final or self._count >= MAX_DEATHS_WITHOUT_PROGRESS:
            raise error(end.cause, remedy=end.remedy or "see the peer's log")
