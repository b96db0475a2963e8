"""One swap of weights between two ranks, step by step: no step waits, so one thread carries several swaps."""

from __future__ import annotations

import threading
from collections.abc import Callable

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.protocol.swap import BothWays
from gossip_caffe.gossip.transport.mpi.communicator import Communicator, MpiFailed
from gossip_caffe.gossip.transport.mpi.pieces import Pieces
from gossip_caffe.gossip.transport.mpi.straight import Straight
from gossip_caffe.gossip.transport.mpi.way import Route, Slot, Way
from gossip_caffe.gossip.transport.weights_socket import SILENCE_S, ConnectionClosed, SwapInterrupted


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
        self._partner = route.partner
        self._monotonic = monotonic
        self._on_end = on_end
        self._lock = threading.Lock()
        self._way: Way
        if (pid := communicator.nearby.get(route.partner)) is not None:
            self._way = Straight(communicator, swap, route, pid)
        else:
            self._way = Pieces(communicator, swap, route)
        self._left: list[Slot] = []
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
        way = self._way
        slots = [*self._left, *way.sending, *way.receiving]
        try:
            for slot in way.receiving:
                for request in slot.requests:
                    if not request.is_done():
                        request.cancel()
            return [slot for slot in slots if not slot.is_free]
        except MpiFailed:
            return slots

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
            interrupted = SwapInterrupted(error.message, self._way.all_sent, is_cut)
            interrupted.__cause__ = error
            self._end(interrupted)
        else:
            self._end(error)
        self._on_end()

    def _end(self, error: BaseException | None) -> None:
        if not self.is_over:
            self._way.let_go()
            self.error, self.is_over = error, True

    def _open(self) -> bool:
        self._way.open()
        return True

    def _moved(self) -> bool:
        moved = self._way.move()
        if (instead := self._way.instead) is not None:
            self._left += self._way.sending
            self._way.let_go()
            self._way = instead()
            self._way.open()
        now = self._monotonic()
        if moved:
            self._moved_at = now
        elif now - self._moved_at > SILENCE_S:
            raise ConnectionClosed(f"rank {self._partner} sent and took nothing for {SILENCE_S:g} s")
        if self._way.is_whole:
            self._end(None)
            self._on_end()
        return moved
