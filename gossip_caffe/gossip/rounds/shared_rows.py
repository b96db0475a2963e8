"""The rows of a round in memory that peers of one machine share: a partner reads them where they are.

A peer keeps one such memory: a stamp, its snapshot, and the mean of its own segment. The descriptor of the memory goes
to a partner over their connection, which is a Unix socket of one user. Each round writes another stamp before it writes
anything else. A partner that finds, after it has read, the stamp that it was told has read only what belongs to that
round. The memory can be neither shortened nor lengthened, so no reading can fail.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import secrets
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.gossip.codecs.message import FramesCorrupt
from gossip_caffe.gossip.rounds.segments import ALIGNED

Flat = NDArray[np.float32]

STAMP_BYTES = 64
"""The stamp has a cache line of its own."""
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row is: the ``memory``'s number, its ``stamp``, and the row's ``offset`` and ``length`` in bytes."""

    memory: int
    stamp: int
    offset: int
    length: int


class OwnRows:
    """This peer's snapshot of ``values`` weights, and the mean of its segment, in memory that partners may read.

    Raises OSError if there is no such memory.
    """

    def __init__(self, values: int) -> None:
        longest = math.ceil(math.ceil(values / 2) / ALIGNED) * ALIGNED
        size_bytes = STAMP_BYTES + 4 * (values + longest)
        self.number = secrets.randbits(63)
        self.fd = os.memfd_create("gossip-caffe-rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, size_bytes)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)
            whole = np.frombuffer(mmap.mmap(self.fd, size_bytes), np.uint8)
        except OSError:
            os.close(self.fd)
            raise
        self._whole = whole
        self._stamp = whole[:8].view(np.uint64)
        rows = whole[STAMP_BYTES:].view(np.float32)
        self.snapshot: Flat = rows[:values]
        self.mean: Flat = rows[values:]

    def __del__(self) -> None:
        if hasattr(self, "_stamp"):
            os.close(self.fd)  # the pages stay for as long as an array, or a partner, uses them

    def begin(self) -> None:
        """Begin another round: from now on no partner may use what it reads of an earlier one."""
        self._stamp[0] = secrets.randbits(63)

    def place(self, row: Flat) -> Place:
        """Where a row of this memory is."""
        offset = row.ctypes.data - self._whole.ctypes.data
        return Place(self.number, int(self._stamp[0]), offset, row.nbytes)


class TheirRows:
    """The memory of a partner, to read only. It owns ``fd``. Raises FramesCorrupt if it is no memory of that kind."""

    def __init__(self, fd: int) -> None:
        try:
            if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS != SEALS:
                raise FramesCorrupt("the memory of the partner's rows could become shorter")
            size_bytes = os.fstat(fd).st_size
            self._whole = np.frombuffer(mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ), np.uint8)
        except OSError as error:
            raise FramesCorrupt(f"the partner's rows cannot be mapped ({error.strerror})") from None
        finally:
            os.close(fd)
        if size_bytes < STAMP_BYTES:
            raise FramesCorrupt(f"{size_bytes} bytes are too few for rows")
        self._stamp = self._whole[:8].view(np.uint64)

    def row(self, place: Place) -> Flat:
        """The row at a place. Raises FramesCorrupt if it is not within the memory."""
        stop = place.offset + place.length
        if (
            place.offset % 4
            or place.length % 4
            or not STAMP_BYTES <= place.offset <= stop <= self._whole.size
        ):
            raise FramesCorrupt(f"no row at {place.offset} of {self._whole.size} bytes")
        return self._whole[place.offset : stop].view(np.float32)

    def is_still(self, place: Place) -> bool:
        """Whether the partner has not begun another round since."""
        return int(self._stamp[0]) == place.stamp
