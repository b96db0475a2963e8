"""The one thread of a peer that calls MPI: it begins MPI, carries all swaps in turns, and ends MPI.

MPI need not know of other threads then, whichever library it is. A call that does not return, for instance because
another rank was never started, holds up this thread alone: the peer gives it up after a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from gossip_caffe.background import thread
from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.gossip.transport.mpi.communicator import Communicator, MpiFailed
from gossip_caffe.gossip.transport.mpi.transfer import Transfer
from gossip_caffe.gossip.transport.mpi.way import Slot

SOON = 50
"""The number of looks in vain at messages on their way, after which the thread sleeps between two looks."""
SHORTEST_SLEEP_S, LONGEST_SLEEP_S = 20e-6, 1e-3
LINGER_S = 0.1
"""The time for which MPI goes on after the last swap: the partner may still need a word that MPI holds back."""
ABANDONED_LOOK_S = 0.2
"""The pause between two looks at the messages of swaps that were given up."""


class MpiThread:
    """The thread. ``connect`` begins MPI; it may raise, or never return.

    ``connected`` is called by the thread when MPI has begun, or has failed to: ``communicator`` or ``error`` is set.
    """

    def __init__(self, connect: Callable[[], Communicator], connected: Callable[[], None]) -> None:
        self.communicator: Communicator | None = None
        self.error: Exception | None = None
        self._connect = connect
        self._connected = connected
        self._new: list[Transfer] = []
        self._is_closing = False
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = thread(self._run, "MPI")

    def begin(self, transfer: Transfer) -> None:
        """Carry one more swap."""
        with self._news:
            self._new.append(transfer)
            self._news.notify()

    def close(self, patience_s: float) -> None:
        """End MPI, unless the other ranks do not let it end within ``patience_s``. Blocks for that time at most."""
        with self._news:
            self._is_closing = True
            self._news.notify()
        if self._thread is not None:
            self._thread.join(patience_s)

    def _run(self) -> None:
        try:
            communicator = self._connect()
        except Exception as error:  # whatever the library and its binding raise: the peer goes on without MPI
            self.error = error
            self._connected()
            if not isinstance(error, GossipCaffeError | ImportError | RuntimeError):
                raise
            return
        self.communicator = communicator
        self._connected()
        abandoned = self._carry(communicator)
        if not abandoned:
            try:
                communicator.close()
            except MpiFailed:
                pass  # another rank has died: this process ends without an end of MPI

    def _carry(self, communicator: Communicator) -> list[Slot]:
        """Carry swaps until ``close``; returns the slots that MPI may still use."""
        transfers: list[Transfer] = []
        abandoned: list[Slot] = []
        idle, lingers_until = 0, 0.0
        while True:
            if not transfers:
                lingers = time.monotonic() < lingers_until
                self._wait(LONGEST_SLEEP_S if lingers else ABANDONED_LOOK_S if abandoned else None)
                if lingers:
                    _progress(communicator)
            with self._news:
                new, self._new = self._new, []
                if self._is_closing:
                    return _still_used([*abandoned, *_ended(transfers), *_ended(new)])
            for transfer in new:
                transfer.begin()
            transfers += new
            moved = [transfer.step() for transfer in transfers]
            if over := [transfer for transfer in transfers if transfer.is_over]:
                transfers = [transfer for transfer in transfers if not transfer.is_over]
                abandoned += _ended(over)
                lingers_until = time.monotonic() + LINGER_S
            if abandoned:
                abandoned = _still_used(abandoned)
            if transfers:
                idle = 0 if any(moved) else idle + 1
                _rest(idle)

    def _wait(self, most_s: float | None) -> None:
        """Wait for a new swap or for ``close``, for ``most_s`` at most."""
        with self._news:
            if not (self._new or self._is_closing):
                self._news.wait(most_s)


def _rest(idle: int) -> None:
    """Let the other threads of this process and of this core run, and sleep longer and longer after many vain looks."""
    if idle:
        time.sleep(min(LONGEST_SLEEP_S, SHORTEST_SLEEP_S * max(0, idle - SOON)))


def _progress(communicator: Communicator) -> None:
    try:
        communicator.progress()
    except MpiFailed:
        pass  # the next swap reports it


def _ended(transfers: list[Transfer]) -> list[Slot]:
    """End swaps, and return the slots that MPI may still use."""
    left: list[Slot] = []
    for transfer in transfers:
        transfer.fail(MpiFailed("MPI ends"))
        left += transfer.abandoned()
    return left


def _still_used(slots: list[Slot]) -> list[Slot]:
    try:
        return [slot for slot in slots if not slot.is_free]
    except MpiFailed:
        return slots
