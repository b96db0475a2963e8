"""The batches at which a solver dies. After the second death at the same batch its records are named, or left out.

Without this, a record on which Caffe or a layer of the user ends the process would end one peer after the other, and no
line would say which record it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gossip_caffe.shards.stream import ChunkBatch, Part

MOST_IN_A_ROW = 3
"""Iterations in a row that may be left out: a solver that dies at the next one, too, does not die of its records."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """``parts``: the suspected records, none at a first death. ``left_out``: they are not trained again."""

    parts: tuple[Part, ...] = ()
    left_out: bool = False


class SuspectBatches:
    """The batches at which one peer's solver died.

    ``iter_size``: the batches of an iteration, each of which may be the cause. ``leave_out``: leave suspected records
    out; otherwise they are only named.
    """

    def __init__(self, iter_size: int, *, leave_out: bool) -> None:
        self._iter_size = iter_size
        self._leave_out = leave_out
        self._died_at = self._left_until = -1
        self._in_a_row = 0
        self._reasons: dict[int, str] = {}

    def died(self, trained: int, batches: Sequence[ChunkBatch], cause: str) -> Judgement:
        """Judge a death after ``trained`` batches. ``batches``: the ones that were next; ``cause``: Caffe's words."""
        again, self._died_at = trained == self._died_at, trained
        if not again:
            return Judgement()
        suspected = [batch for batch in batches if batch.sequence < trained + self._iter_size]
        parts = tuple(part for batch in suspected for part in self._without(batch.parts))
        in_a_row = self._in_a_row + 1 if trained == self._left_until else 1
        if not (self._leave_out and parts) or in_a_row > MOST_IN_A_ROW:
            return Judgement(parts)
        self._in_a_row, self._left_until = in_a_row, trained + self._iter_size
        for part in parts:
            for record in range(part.start, part.stop):
                self._reasons[record] = f"the solver died twice at its batch ({cause})"
        return Judgement(parts, left_out=True)

    def without(self, parts: Sequence[Part]) -> tuple[tuple[Part, ...], tuple[tuple[int, int, str], ...]]:
        """The parts without the records that are left out, and these records: (epoch, number, reason) of each."""
        if not self._reasons:
            return tuple(parts), ()
        out = tuple(
            (part.epoch, record, self._reasons[record])
            for part in parts
            for record in range(part.start, part.stop)
            if record in self._reasons
        )
        return tuple(self._without(parts)), out

    def _without(self, parts: Sequence[Part]) -> Iterator[Part]:
        for part in parts:
            start = part.start
            for record in range(part.start, part.stop):
                if record in self._reasons:
                    if start < record:
                        yield Part(part.epoch, start, record)
                    start = record + 1
            if start < part.stop:
                yield Part(part.epoch, start, part.stop)
