"""Weights between ranks of one machine: each side reads the other's straight from its memory, as MPI itself does there.

Each side tells the other by one message where its float32 values lie, and where its state: the exchange's ticket, the
number of bytes that it has read, and whether its values still stand. A second message says that it has read them all.

A half overwrites a value only when the other side has read it; so a side reads AHEAD pieces before it must wait. No
value travels on a wire, so there is no checksum. What could go wrong is that a side gives the swap up, and uses its
memory for something else, while the other reads: it changes its state first, and the other looks at that state after
its last piece. Such a swap fails on both sides.

If one side's values are not float32 in memory (a payload of a narrow codec), both sides use messages instead.
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from gossip_caffe.gossip.codecs.message import FramesCorrupt
from gossip_caffe.gossip.protocol.swap import BothWays
from gossip_caffe.gossip.transport.mpi.communicator import Bytes, Communicator
from gossip_caffe.gossip.transport.mpi.pieces import Pieces
from gossip_caffe.gossip.transport.mpi.way import Route, Slot, Way
from gossip_caffe.gossip.transport.weights_socket import ConnectionClosed
from gossip_caffe.system import ordering, process_memory
from gossip_caffe.system.process_memory import address_of

PIECE_BYTES = 1 << 21
"""The bytes that are read by one call: so many that the calls cost little, so few that they stay in a cache."""
AHEAD = 4
"""The number of pieces that are read before the first of them is taken."""
# Each message ends with its own CRC-32.
_PLACE = struct.Struct("<16sQQQI")
_END = struct.Struct("<16sQI")
_CRC32_BYTES = 4
# The words of a state.
_TICKET, _READ, _STANDS, _WORDS = slice(0, 2), 2, 3, 4


class Straight:
    """A ``Way`` by reading. ``pid``: the partner's process. Each of the two can read the other's memory."""

    def __init__(self, communicator: Communicator, swap: BothWays, route: Route, pid: int) -> None:
        self.instead: Callable[[], Way] | None = None
        self.sending: list[Slot] = []
        self.receiving: list[Slot] = []
        self._communicator = communicator
        self._swap = swap
        self._route = route
        self._pid = pid
        self._values = swap.leaving.plain
        self._state: NDArray[np.uint64] = np.zeros(_WORDS, np.uint64)
        self._seen: NDArray[np.uint64] = np.zeros(_WORDS, np.uint64)
        self._is_met = False
        self._at = self._state_at = self._total = self._read = 0
        self._free: list[Bytes] = []
        self._waiting: deque[tuple[Bytes, int]] = deque()
        self._has_ended = self._has_partner_ended = False

    @property
    def all_sent(self) -> bool:
        """Whether this side has said that it has read all: without that the partner cannot finish."""
        return self._has_ended

    @property
    def is_whole(self) -> bool:
        """Whether both sides have read and said so, and this one has taken all."""
        done = self._has_ended and self._has_partner_ended and not self._waiting
        return done and all(slot.is_free for slot in self.sending)

    def open(self) -> None:
        """Tell the partner the place of the values."""
        values, state, route = self._values, self._state, self._route
        state[_TICKET] = np.frombuffer(route.ticket, np.uint64)
        state[_STANDS] = 1
        ordering.fence()
        at, length = (0, 0) if values is None else (address_of(values), values.nbytes)
        self._expect(_PLACE)
        self._send(_PLACE, at, length, address_of(state))

    def let_go(self) -> None:
        """Say that the values do not stand any more."""
        self._state[:] = 0
        ordering.fence()

    def move(self) -> bool:
        """Read one piece, and take one."""
        if not self._is_met:
            return self._meet()
        moved = self._read_next()
        moved = self._take_next() or moved
        return self._hear_end() or moved

    def _send(self, form: struct.Struct, *fields: int) -> None:
        slot, route = Slot(form.size), self._route
        form.pack_into(slot.head.data, 0, route.ticket, *fields, 0)
        slot.head[-_CRC32_BYTES:].view("<u4")[0] = isal_zlib.crc32(slot.head[:-_CRC32_BYTES])
        slot.requests = (self._communicator.send(slot.head, route.partner, route.to_partner),)
        self.sending.append(slot)

    def _expect(self, form: struct.Struct) -> None:
        slot, route = Slot(form.size), self._route
        slot.requests = (self._communicator.receive(slot.head, route.partner, route.from_partner),)
        self.receiving.append(slot)

    def _heard(self, form: struct.Struct) -> tuple[int, ...] | None:
        """The fields of the partner's next message; None if it has not come yet."""
        if not (slot := self.receiving[0]).is_free:
            return None
        ticket, *fields, crc32 = form.unpack_from(slot.head.data)
        if isal_zlib.crc32(slot.head[:-_CRC32_BYTES]) != crc32:
            raise FramesCorrupt(f"the checksum of a message after {self._read} bytes of weights does not fit")
        if ticket != self._route.ticket:
            raise FramesCorrupt(f"a message of another exchange after {self._read} bytes of weights")
        self.receiving.pop()
        return tuple(fields)

    def _meet(self) -> bool:
        if (place := self._heard(_PLACE)) is None:
            return False
        self._at, self._total, self._state_at = place
        if self._values is None or not self._at:
            self.instead = partial(Pieces, self._communicator, self._swap, self._route)
            return True
        self._expect(_END)
        self._swap.arriving.expect_plain()
        self._free = [np.empty(min(PIECE_BYTES, self._total), np.uint8) for _ in range(AHEAD)]
        self._is_met = True
        return True

    def _read_next(self) -> bool:
        if self._has_ended:
            return False
        if self._read == self._total:
            self._end()
            return True
        if not self._free:
            return False
        scratch = self._free.pop()
        length = min(scratch.size, self._total - self._read)
        self._copy(self._at + self._read, scratch[:length])
        self._read += length
        ordering.fence()
        self._state[_READ] = self._read
        self._waiting.append((scratch, length))
        return True

    def _end(self) -> None:
        self._copy(self._state_at, self._seen.view(np.uint8))
        if not self._is_of_swap or not self._seen[_STANDS]:
            raise ConnectionClosed(f"rank {self._route.partner} gave the swap up while its weights were read")
        self._send(_END, self._read)
        self._has_ended = True

    @property
    def _is_of_swap(self) -> bool:
        return self._seen[_TICKET].tobytes() == self._route.ticket

    def _take_next(self) -> bool:
        if not self._waiting:
            return False
        scratch, length = self._waiting[0]
        piece, arriving = scratch[:length].data, self._swap.arriving
        if arriving.would_wait(piece):
            self._look()
            if arriving.would_wait(piece):
                return False
        arriving.take(piece)
        self._free.append(self._waiting.popleft()[0])
        return True

    def _look(self) -> None:
        """Learn how much the partner has read. At its end it says so in a message, and its state may be gone then."""
        try:
            process_memory.read(self._pid, self._state_at, self._seen.view(np.uint8))
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise self._lost(error) from None
            return
        if self._is_of_swap:
            self._note(int(self._seen[_READ]))

    def _hear_end(self) -> bool:
        if self._has_partner_ended or self._heard(_END) is None:
            return False
        self._has_partner_ended = True
        self._note(self._values.nbytes if self._values is not None else 0)
        return True

    def _note(self, read_bytes: int) -> None:
        values, leaving = self._values, self._swap.leaving
        if values is not None and leaving.gone.sent_bytes < read_bytes <= values.nbytes:
            leaving.note_read(read_bytes)

    def _copy(self, address: int, into: Bytes) -> None:
        try:
            process_memory.read(self._pid, address, into)
        except OSError as error:
            raise self._lost(error) from None

    def _lost(self, error: OSError) -> ConnectionClosed:
        after = f"after {self._read} bytes ({error.strerror})"
        return ConnectionClosed(f"the memory of rank {self._route.partner} cannot be read {after}")
