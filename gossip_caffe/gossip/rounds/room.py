"""The memory and the arithmetic of one member's round: it collects parts, makes the mean of its segment, and the step.

Member k owns segment k. Row k holds what member k sent: first its part of the own segment, later the mean of segment k.
So a round takes one more vector of the model's size than the snapshot. Rows of partners of the same machine are read
where they are. Sums are in the order of the members, in float32: the same contributions give the same mean, to the bit,
in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from gossip_caffe.gossip.averaging import compiled
from gossip_caffe.gossip.averaging.average import HalfStats, HalfStatsBuilder, blocks
from gossip_caffe.gossip.rounds.rows import Row
from gossip_caffe.gossip.rounds.segments import segments
from gossip_caffe.gossip.rounds.shared_rows import OwnRows

Flat = NDArray[np.float32]

ABSURD = 1e15
"""No weight of a net that learns has this magnitude; the squares of such weights have room in a float64."""


@dataclass(frozen=True, slots=True)
class SegmentMean:
    """The figures of the mean of the own segment.

    ``square``: its squared length; ``apart``: member → the squared distance of its part; ``wild``: the members whose
    part holds a value that is not usable; ``checksum``: the CRC-32.
    """

    square: float
    apart: dict[int, float]
    wild: frozenset[int]
    checksum: int


class RoundMemory:
    """The memory of one member's rounds, one after another.

    ``snapshot``: its weights, shape (values,), float32; ``rows``: shared memory of this machine, if there is any.
    """

    def __init__(self, values: int) -> None:
        try:
            self.rows: OwnRows | None = OwnRows(values)
        except OSError:
            self.rows = None  # every row is sent then
        self.snapshot: Flat = self.rows.snapshot if self.rows is not None else np.empty(values, np.float32)
        self._received: Flat = np.empty(0, np.float32)

    def begin(self) -> None:
        """Begin another round: no partner may go on to read the rows of an earlier one."""
        if self.rows is not None:
            self.rows.begin()

    def own_mean(self, length: int) -> Flat:
        """The memory of the mean of the own segment."""
        return self.rows.mean[:length] if self.rows is not None else np.empty(length, np.float32)

    def received(self, length: int) -> Flat:
        """Memory for the rows of others."""
        if self._received.size < length:
            self._received = np.empty(length, np.float32)
        return self._received


class Room:
    """The rows of one member in a round of ``members``.

    ``parts``: member → its part of the own segment; ``means``: member → the mean of its segment.
    """

    def __init__(self, memory: RoundMemory, index: int, members: int) -> None:
        self.index = index
        self.snapshot = memory.snapshot
        self.rows = memory.rows
        self.segments = segments(self.snapshot.size, members)
        self.parts: dict[int, Row] = {}
        self.means: dict[int, Row] = {}
        self._longest = self.segments[0].stop
        self._received = memory.received(members * self._longest)
        self._checksum = 0
        own = self.segments[index]
        self.own_mean = memory.own_mean(own.stop - own.start)

    def part_for(self, member: int) -> Flat:
        """The own part of the segment that ``member`` owns."""
        return self.snapshot[self.segments[member]]

    def row(self, member: int, segment: int) -> Flat:
        """Memory for what a member sends, as long as the given segment."""
        start = member * self._longest
        length = self.segments[segment].stop - self.segments[segment].start
        return self._received[start : start + length]

    def mean(self, counting: Sequence[int]) -> SegmentMean:
        """Make the mean of the own segment from the parts of the ``counting`` members, in ``own_mean``.

        Raises ZeroDivisionError if no member counts.
        """
        if not counting:
            raise ZeroDivisionError("no member counts in this round")
        parts = [
            self.part_for(member) if member == self.index else self.parts[member].values
            for member in counting
        ]
        square, figures = compiled.mean(parts, self.own_mean)
        wild = (member for member, (_, most) in zip(counting, figures, strict=True) if not most <= ABSURD)
        apart = {member: apart for member, (apart, _) in zip(counting, figures, strict=True)}
        self._checksum = isal_zlib.crc32(self.own_mean.view(np.uint8).data)
        return SegmentMean(square, apart, frozenset(wild), self._checksum)

    @property
    def digest(self) -> str:
        """The checksums of all means that are here, as one text: equal for all members that apply the same mean."""
        checksums = {
            self.index: self._checksum,
            **{member: row.checksum for member, row in self.means.items()},
        }
        return "".join(f"{checksums[member]:08x}" for member in sorted(checksums))

    def step(self) -> HalfStats:
        """Turn the snapshot into the way from it to the mean, once all means are there. Returns half of the figures.

        The figures are those of half the way: its length compares with the half of an exchange.
        """
        tally = HalfStatsBuilder()
        for member, segment in enumerate(self.segments):
            mean = self.own_mean if member == self.index else self.means[member].values
            own = self.snapshot[segment]
            for block in blocks(own.size):
                part = own[block]
                tally.add(*compiled.halve(part, mean[block], part))
                part *= np.float32(2.0)
        return tally.result()
