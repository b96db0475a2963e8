"""The rows of a trade: one leaves, one arrives; as bytes, or as a place in memory that peers of one machine share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from gossip_caffe.gossip.codecs.message import FramesCorrupt
from gossip_caffe.gossip.protocol.swap import PIECE_BYTES
from gossip_caffe.gossip.rounds.shared_rows import OwnRows, Place, TheirRows

Flat = NDArray[np.float32]


class Row:
    """One row that is received: piece by piece, or as memory of a partner of this machine (``point``).

    ``came_bytes``: the bytes so far; ``values``: the row, whole at the end; ``checksum``: the CRC-32 of what came, if
    ``is_summed``, else 0.
    """

    def __init__(self, values: Flat, *, is_summed: bool) -> None:
        self.came_bytes = 0
        self.by = ""
        self.values = values
        self.checksum = 0
        self._is_summed = is_summed
        self._rows: TheirRows | None = None
        self._place: Place | None = None
        self._mean: Place | None = None

    def take(self, piece: memoryview) -> None:
        """Take the next piece. Raises FramesCorrupt if more comes than the row holds, or a part of a value."""
        place = self.place(len(piece))
        place[:] = piece
        self.placed(place)

    def place(self, length: int) -> memoryview:
        """The memory of the next ``length`` bytes. Raises FramesCorrupt if the row does not hold so many."""
        stop = self.came_bytes + length
        if stop > self.values.nbytes or length % 4:
            raise FramesCorrupt(f"{stop} bytes of a segment of {self.values.nbytes}")
        return self.values.view(np.uint8).data[self.came_bytes : stop]

    def placed(self, piece: memoryview) -> None:
        """Take in that the next piece is in its place."""
        if self._is_summed:
            self.checksum = isal_zlib.crc32(piece, self.checksum)
        self.came_bytes += len(piece)

    def point(self, rows: TheirRows, place: Place, mean: Place) -> None:
        """Take the row where a partner of this machine has it; ``mean`` is where it will have the mean of its segment.

        Raises FramesCorrupt if there is no such row.
        """
        values = rows.row(place)
        if self.came_bytes or values.size != self.values.size:
            raise FramesCorrupt(f"a row of {values.nbytes} bytes for a segment of {self.values.nbytes}")
        self.values, self._rows, self._place, self._mean = values, rows, place, mean
        self.placed(values.view(np.uint8).data)

    def expect_plain(self) -> None:
        """Do nothing: a row is always of float32."""

    def would_wait(self, piece: memoryview) -> bool:
        """False: a row is not where the sent bytes are."""
        del piece
        return False

    @property
    def is_whole(self) -> bool:
        """Whether all of the row has come."""
        return self.came_bytes == self.values.nbytes

    @property
    def is_pointed(self) -> bool:
        """Whether the row is where a partner of this machine has it."""
        return self._rows is not None

    def mean_of_same(self, values: Flat) -> Row:
        """The mean of the partner's segment, which is as long as ``values``, where the partner has it.

        Raises FramesCorrupt if there is no such row.
        """
        mean = Row(values, is_summed=True)
        if self._rows is None or self._mean is None:
            raise FramesCorrupt("the partner's rows cannot be read")
        mean.point(self._rows, self._mean, self._mean)
        return mean

    @property
    def is_still(self) -> bool:
        """Whether the row is still what came: the memory of a partner is not, once it has begun another round."""
        return self._rows is None or self._place is None or self._rows.is_still(self._place)


class Sent:
    """The count of the bytes that were sent of a row."""

    def __init__(self) -> None:
        self.sent_bytes = 0

    def give_up(self) -> None:
        """Do nothing: no thread waits for what was sent."""


class LeavingRow:
    """A row that is sent piece by piece; a ``Leaving`` of a swap.

    ``rows``: the shared memory in which it is, or None; ``mean``: the mean of the own segment, in the same memory.
    """

    def __init__(self, values: Flat, mean: Flat, rows: OwnRows | None) -> None:
        self.gone = Sent()
        self.rows = rows
        self._values = values
        self._mean = mean

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

    def pointed(self) -> tuple[Place, Place] | None:
        """The places of the row and of the mean, for a partner of this machine; None if they are not shared."""
        if self.rows is None:
            return None
        self.gone.sent_bytes += self._values.nbytes
        return self.rows.place(self._values), self.rows.place(self._mean)


@dataclass(frozen=True, slots=True)
class RowSwap:
    """The two directions of one trade of rows."""

    leaving: LeavingRow
    arriving: Row
