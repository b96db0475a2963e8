"""Weights in messages of MPI, piece by piece: between machines, and for codecs whose payload is not in memory.

Each direction is a sequence of pairs of messages: a head (the exchange's ticket, the length and the CRC-32 of the data,
both uint32 little-endian), and the data. A head of length 0, without data, is the last message.

Every piece is copied into a slot before it is sent. MPI may read a buffer for as long as the partner has not received
it, and a partner may never do so: the slot then outlives the swap, and the peer's weights do not have to.

A received piece is taken only when its half overwrites no values that are not sent yet; see ``protocol.swap`` for the
proof that both sides always get on. It holds here as well: a slot is free as soon as the partner has received its
piece, and the partner has a receipt open for each piece beyond the one that it may not take yet.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator

import numpy as np
from isal import isal_zlib

from gossip_caffe.gossip.codecs.message import FramesCorrupt
from gossip_caffe.gossip.protocol.swap import PIECE_BYTES, BothWays
from gossip_caffe.gossip.transport.mpi.communicator import Communicator
from gossip_caffe.gossip.transport.mpi.way import Route, Slot

SLOTS = 4
"""The number of pieces that are on their way in each direction."""
_HEAD = struct.Struct("<16sII")


class Pieces:
    """A ``Way`` by messages alone."""

    instead = None

    def __init__(self, communicator: Communicator, swap: BothWays, route: Route) -> None:
        self._communicator = communicator
        self._swap = swap
        self._route = route
        self._pieces: Iterator[memoryview] | None = swap.leaving.pieces()
        self._free = [_slot() for _ in range(SLOTS)]
        self._sending: deque[Slot] = deque()
        self._receiving: deque[Slot] = deque()
        self._has_come = False

    @property
    def sending(self) -> list[Slot]:
        """The slots of the pieces on their way to the partner."""
        return list(self._sending)

    @property
    def receiving(self) -> list[Slot]:
        """The slots of the open receipts."""
        return list(self._receiving)

    @property
    def all_sent(self) -> bool:
        """Whether the last piece was sent."""
        return self._pieces is None

    @property
    def is_whole(self) -> bool:
        """Whether both ends have come."""
        return self._has_come and self._pieces is None and not self._sending

    def let_go(self) -> None:
        """Do nothing: the partner uses none of this side's memory."""

    def open(self) -> None:
        """Open the receipts."""
        for _ in range(SLOTS):
            self._receive_into(_slot())

    def move(self) -> bool:
        """Send and take at most one piece each."""
        moved = self._send_next()
        return self._take_next() or moved

    def _receive_into(self, slot: Slot) -> None:
        route = self._route
        slot.requests = tuple(
            self._communicator.receive(into, route.partner, route.from_partner)
            for into in (slot.head, slot.data)
        )
        self._receiving.append(slot)

    def _send_next(self) -> bool:
        moved = False
        while self._sending and self._sending[0].is_free:
            self._free.append(self._sending.popleft())
            moved = True
        if self._pieces is None or not self._free:
            return moved
        slot, route, send = self._free.pop(), self._route, self._communicator.send
        if (piece := next(self._pieces, None)) is None:
            self._pieces = None
            _HEAD.pack_into(slot.head.data, 0, route.ticket, 0, 0)
            slot.requests = (send(slot.head, route.partner, route.to_partner, until_met=True),)
        else:
            data = slot.data[: len(piece)]
            data[:] = np.frombuffer(piece, dtype=np.uint8)
            _HEAD.pack_into(slot.head.data, 0, route.ticket, len(piece), isal_zlib.crc32(data))
            slot.requests = tuple(send(part, route.partner, route.to_partner) for part in (slot.head, data))
        self._sending.append(slot)
        return True

    def _take_next(self) -> bool:
        if self._has_come:
            return False
        slot = self._receiving[0]
        head, data = slot.requests
        if not head.is_done():
            return False
        ticket, length, crc32 = _HEAD.unpack_from(slot.head.data)
        came_bytes = self._swap.arriving.came_bytes
        if ticket != self._route.ticket:
            raise FramesCorrupt(f"a message of another exchange after {came_bytes} bytes of weights")
        if length == 0:
            self._has_come = True
            return True
        if length > PIECE_BYTES:
            raise FramesCorrupt(f"a piece of {length} bytes at {came_bytes}, and the limit is {PIECE_BYTES}")
        if not data.is_done():
            return False
        piece = slot.data[:length].data
        if self._swap.arriving.would_wait(piece):
            return False
        if isal_zlib.crc32(piece) != crc32:
            raise FramesCorrupt(f"the checksum of the piece at {came_bytes} does not fit")
        self._swap.arriving.take(piece)
        self._receive_into(self._receiving.popleft())
        return True


def _slot() -> Slot:
    return Slot(_HEAD.size, PIECE_BYTES)
