"""The memory and the arithmetic of one member's round: it collects parts, makes the mean of its segment, and the step.

Member k owns segment k. Row k holds what member k sent: first its part of the own segment, later the mean of segment k.
So a round takes one more vector of the model's size than the snapshot. Sums are in the order of the members, in
float32: the same contributions give the same mean, to the bit, in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from gossip_caffe.gossip.averaging import compiled
from gossip_caffe.gossip.averaging.average import HalfStats, HalfStatsBuilder, blocks
from gossip_caffe.gossip.codecs.message import FramesCorrupt
from gossip_caffe.gossip.protocol.swap import PIECE_BYTES
from gossip_caffe.gossip.rounds.segments import segments

Flat = NDArray[np.float32]

ABSURD = 1e15
"""No weight of a net that learns has this magnitude; the squares of such weights have room in a float64."""


@dataclass(frozen=True, slots=True)
class SegmentMean:
    """The figures of the mean of the own segment.

    ``square``: its squared length; ``apart``: member → the squared distance of its part; ``checksum``: the CRC-32.
    """

    square: float
    apart: dict[int, float]
    checksum: int


class Row:
    """One row that is received piece by piece. ``came_bytes``: the bytes so far; ``is_wild``: a value is not usable."""

    def __init__(self, values: Flat) -> None:
        self.came_bytes = 0
        self.by = ""
        self.is_wild = False
        self._values = values

    def take(self, piece: memoryview) -> None:
        """Take the next piece. Raises FramesCorrupt if more comes than the row holds, or a part of a value."""
        stop = self.came_bytes + len(piece)
        if stop > self._values.nbytes or len(piece) % 4:
            raise FramesCorrupt(f"{stop} bytes of a segment of {self._values.nbytes}")
        part = self._values[self.came_bytes // 4 : stop // 4]
        part[:] = np.frombuffer(piece, np.float32)
        self.is_wild = self.is_wild or not compiled.magnitude(part) <= ABSURD
        self.came_bytes = stop

    def expect_plain(self) -> None:
        """Do nothing: a row is always of float32."""

    def would_wait(self, piece: memoryview) -> bool:
        """False: a row is not where the sent bytes are."""
        del piece
        return False

    @property
    def is_whole(self) -> bool:
        """Whether all of the row has come."""
        return self.came_bytes == self._values.nbytes


class Sent:
    """The count of the bytes that were sent of a row."""

    def __init__(self) -> None:
        self.sent_bytes = 0

    def give_up(self) -> None:
        """Do nothing: no thread waits for what was sent."""


class LeavingRow:
    """A row that is sent piece by piece; a ``Leaving`` of a swap."""

    def __init__(self, values: Flat) -> None:
        self.gone = Sent()
        self._values = values

    @property
    def plain(self) -> Flat:
        """The row where it lies."""
        return self._values

    def note_read(self, read_bytes: int) -> None:
        """Count the bytes that were sent."""
        self.gone.sent_bytes = read_bytes

    def pieces(self) -> Iterator[memoryview]:
        """The bytes in order."""
        whole = self._values.view(np.uint8).data
        for start in range(0, len(whole), PIECE_BYTES):
            piece = whole[start : start + PIECE_BYTES]
            self.gone.sent_bytes += len(piece)
            yield piece


@dataclass(frozen=True, slots=True)
class RowSwap:
    """The two directions of one trade of rows."""

    leaving: LeavingRow
    arriving: Row


class Room:
    """The rows of one member in a round of ``members``; ``snapshot``: its weights, shape (exchanged,), float32.

    ``rows``: memory of an earlier room, which is used again if it is large enough.
    """

    def __init__(self, snapshot: Flat, index: int, members: int, rows: Flat | None = None) -> None:
        self.index = index
        self.snapshot = snapshot
        self.segments = segments(snapshot.size, members)
        self._longest = self.segments[0].stop
        needed = members * self._longest
        self.memory: Flat = rows if rows is not None and rows.size >= needed else np.empty(needed, np.float32)

    def part_for(self, member: int) -> Flat:
        """The own part of the segment that ``member`` owns."""
        return self.snapshot[self.segments[member]]

    def row(self, member: int, segment: int) -> Flat:
        """The row of a member, as long as the given segment."""
        start = member * self._longest
        length = self.segments[segment].stop - self.segments[segment].start
        return self.memory[start : start + length]

    def mean(self, counting: Sequence[int]) -> SegmentMean:
        """Make the mean of the own segment from the rows of the ``counting`` members, in the own row.

        Raises ZeroDivisionError if no member counts.
        """
        own = self.row(self.index, self.index)
        parts = {
            member: self.part_for(member) if member == self.index else self.row(member, self.index)
            for member in counting
        }
        count, square, checksum = np.float32(len(counting)), 0.0, 0
        if not counting:
            raise ZeroDivisionError("no member counts in this round")
        apart = dict.fromkeys(counting, 0.0)
        scratch: Flat = np.empty(min(compiled.BLOCK, max(1, own.size)), np.float32)
        for block in blocks(own.size):
            made = own[block]
            first, *others = counting
            np.copyto(made, parts[first][block])
            with np.errstate(over="ignore", invalid="ignore"):
                for member in others:
                    made += parts[member][block]
                made /= count
                for member in counting:
                    squares, mine, _ = compiled.halve(made, parts[member][block], scratch[: made.size])
                    apart[member] += 4 * squares
            square += mine
            checksum = isal_zlib.crc32(made.view(np.uint8).data, checksum)
        return SegmentMean(square, apart, checksum)

    def checksum(self, member: int) -> int:
        """The CRC-32 of the mean of the segment that ``member`` owns, as it is here."""
        return isal_zlib.crc32(self.row(member, member).view(np.uint8).data)

    def step(self) -> HalfStats:
        """Turn the snapshot into the way from it to the mean, once all rows hold means. Returns half of the figures.

        The figures are those of half the way: its length compares with the half of an exchange.
        """
        tally = HalfStatsBuilder()
        for member, segment in enumerate(self.segments):
            mean, own = self.row(member, member), self.snapshot[segment]
            if own.size:
                tally.add(*compiled.halve(own, mean, own))
                own *= np.float32(2.0)
        return tally.result()
