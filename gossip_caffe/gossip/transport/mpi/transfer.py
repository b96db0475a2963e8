"""One swap of weights between two ranks, step by step: no step waits, so one thread carries several swaps.

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
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from isal import isal_zlib

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import FramesCorrupt
from gossip_caffe.gossip.protocol.swap import PIECE_BYTES, BothWays
from gossip_caffe.gossip.transport.mpi.communicator import Bytes, Communicator, MpiFailed, Request
from gossip_caffe.gossip.transport.weights_socket import SILENCE_S, ConnectionClosed, SwapInterrupted

SLOTS = 4
"""The number of pieces that are on their way in each direction."""
_HEAD = struct.Struct("<16sII")


class Route(NamedTuple):
    """The partner's rank, the tags of the messages to it and from it, and the ticket of the exchange."""

    partner: int
    to_partner: int
    from_partner: int
    ticket: bytes


class Slot:
    """The buffers of one piece, and the messages that use them."""

    def __init__(self) -> None:
        self.head: Bytes = np.empty(_HEAD.size, dtype=np.uint8)
        self.data: Bytes = np.empty(PIECE_BYTES, dtype=np.uint8)
        self.requests: tuple[Request, ...] = ()

    @property
    def is_free(self) -> bool:
        """Whether no message uses the buffers. Raises MpiFailed."""
        return all(request.is_done() for request in self.requests)


class Transfer:
    """One swap under way. Every method but ``step``, ``begin`` and ``abandoned`` may be called by any thread.

    ``error``: the reason why the swap ended early, once it is over. ``on_end`` is called at its end by the thread that
    carries it, but not after ``stop``.
    """

    def __init__(
        self,
        communicator: Communicator,
        swap: BothWays,
        route: Route,
        monotonic: Callable[[], float],
        on_end: Callable[[], None],
    ) -> None:
        self.error: BaseException | None = None
        self.is_over = False
        self._communicator = communicator
        self._swap = swap
        self._route = route
        self._monotonic = monotonic
        self._on_end = on_end
        self._lock = threading.Lock()
        self._pieces: Iterator[memoryview] | None = swap.leaving.pieces()
        self._free = [Slot() for _ in range(SLOTS)]
        self._sending: deque[Slot] = deque()
        self._receiving: deque[Slot] = deque()
        self._is_whole = False
        self._moved_at = monotonic()

    @property
    def silent_s(self) -> float:
        """The seconds since a piece was last sent or received."""
        return self._monotonic() - self._moved_at

    def begin(self) -> None:
        """Open the receipts. An error ends the swap."""
        with self._lock:
            if not self.is_over:
                self._unless_failed(self._open)

    def step(self) -> bool:
        """Send and take at most one piece each. Returns whether that was possible; an error ends the swap."""
        with self._lock:
            return not self.is_over and self._unless_failed(self._moved)

    def stop(self) -> None:
        """Give the swap up. Once this returns, its weights are neither read nor written."""
        with self._lock:
            self._end(None)

    def fail(self, error: MpiFailed) -> None:
        """End the swap, because MPI cannot be used any more."""
        with self._lock:
            if not self.is_over:
                self._fail(error)

    def abandoned(self) -> list[Slot]:
        """The slots that MPI may still use after the end of the swap. Receipts are given up as far as possible."""
        try:
            for slot in self._receiving:
                for request in slot.requests:
                    if not request.is_done():
                        request.cancel()
            return [slot for slot in (*self._sending, *self._receiving) if not slot.is_free]
        except MpiFailed:
            return [*self._sending, *self._receiving]

    def _unless_failed(self, do: Callable[[], bool]) -> bool:
        try:
            return do()
        except (
            Exception
        ) as error:  # the edge of the thread: its other swaps go on, and the owner raises the error
            self._fail(error)
            return True

    def _fail(self, error: Exception) -> None:
        if isinstance(error, ExchangeFailed):
            is_cut = isinstance(error, MpiFailed | ConnectionClosed)
            interrupted = SwapInterrupted(error.message, self._pieces is None, is_cut)
            interrupted.__cause__ = error
            self._end(interrupted)
        else:
            self._end(error)
        self._on_end()

    def _end(self, error: BaseException | None) -> None:
        if not self.is_over:
            self.error, self.is_over = error, True

    def _open(self) -> bool:
        for _ in range(SLOTS):
            self._receive_into(Slot())
        return True

    def _receive_into(self, slot: Slot) -> None:
        route = self._route
        slot.requests = tuple(
            self._communicator.receive(into, route.partner, route.from_partner)
            for into in (slot.head, slot.data)
        )
        self._receiving.append(slot)

    def _moved(self) -> bool:
        moved = self._send_next()
        moved = self._take_next() or moved
        now = self._monotonic()
        if moved:
            self._moved_at = now
        elif now - self._moved_at > SILENCE_S:
            raise ConnectionClosed(f"rank {self._route.partner} sent and took nothing for {SILENCE_S:g} s")
        if self._is_whole and self._pieces is None and not self._sending:
            self._end(None)
            self._on_end()
        return moved

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
        if self._is_whole:
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
            self._is_whole = True
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
