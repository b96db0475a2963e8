"""The use of MPI by a peer's transport: which partners are ranks of its launch, and whether MPI still serves.

MPI is used for a partner only while it has not failed with it lately, and for none once a rank has died or MPI has
reported an error: no rule of MPI tells what survives that.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from gossip_caffe.background import checked_by_owner, owned, surely_ended
from gossip_caffe.gossip.protocol.swap import BothWays
from gossip_caffe.gossip.protocol.transport import Prepare
from gossip_caffe.gossip.transport.mpi.communicator import Communicator, MpiFailed, Rank
from gossip_caffe.gossip.transport.mpi.mpi_thread import MpiThread
from gossip_caffe.gossip.transport.mpi.transfer import Transfer
from gossip_caffe.gossip.transport.mpi.way import Route
from gossip_caffe.gossip.transport.weights_socket import SwapInterrupted
from gossip_caffe.membership.members import PeerRecord

BY_MPI = "mpi"
AVOIDED_FOR = 64
"""The number of exchanges with a rank that go by another way after MPI has failed with it."""
STUCK_S = 1.0
"""A swap that is given up after so long a silence counts as a failure of MPI."""
LEAVING = frozenset({"draining", "left"})
"""The states of a peer that ends in order."""


class Ranks(Protocol):
    """The ranks of this peer's launch, as its transport uses them."""

    @property
    def own(self) -> Rank | None:
        """The rank of this process; None if no weights go by MPI."""
        ...

    def is_at(self, address: str) -> bool:
        """Whether the weights of the next exchange with the peer at this address are to go by MPI."""
        ...

    def is_apart(self, address: str) -> bool:
        """Whether the rows of rounds are to go by MPI to the peer at this address: a rank of another machine."""
        ...

    def serves(self, partner: Rank | None) -> bool:
        """Whether weights can go by MPI to the rank that a partner says it is."""
        ...

    def tag(self) -> int:
        """The first of two tags for one exchange that this peer answers."""
        ...

    async def swap(self, partner: Rank, tag: int, ticket: bytes, prepare: Prepare, *, answers: bool) -> None:
        """Swap weights with a rank, both ways at once. ``answers``: this side gave the tag and the ticket out.

        Raises SwapInterrupted, and the errors of ``prepare``.
        """
        ...

    def changed(self, was: PeerRecord | None, now: PeerRecord | None) -> None:
        """Note a change of a member's record; a listener of a ``MembersView``."""
        ...

    def unreachable(self, address: str) -> None:
        """Note that no process answers at the address of a member."""
        ...

    def until(self, finished: Callable[[], bool]) -> None:
        """Take no rank for dead once ``finished`` is true: all ranks end in order then."""
        ...


class NoRanks:
    """The ``Ranks`` of a peer that sends no weights by MPI."""

    own: Rank | None = None

    def is_at(self, address: str) -> bool:
        """False."""
        del address
        return False

    def is_apart(self, address: str) -> bool:
        """False."""
        del address
        return False

    def serves(self, partner: Rank | None) -> bool:
        """False."""
        del partner
        return False

    def tag(self) -> int:
        """No tag: there is no exchange to give it to."""
        raise NotImplementedError

    async def swap(self, partner: Rank, tag: int, ticket: bytes, prepare: Prepare, *, answers: bool) -> None:
        """No swap: there is no rank."""
        raise NotImplementedError

    def changed(self, was: PeerRecord | None, now: PeerRecord | None) -> None:
        """Do nothing."""

    def unreachable(self, address: str) -> None:
        """Do nothing."""

    def until(self, finished: Callable[[], bool]) -> None:
        """Do nothing."""


class MpiRanks:
    """The ``Ranks`` of a peer that a launcher of MPI has started. It serves from ``use`` on.

    ``ended`` is called once, with the reason, when MPI is not used any more. ``carries_rounds``: the rows of rounds go
    by MPI between machines; else over the connections that are kept for them, which are faster where MPI uses TCP, too.
    """

    def __init__(
        self,
        ended: Callable[[str], None],
        rng: random.Random,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        carries_rounds: bool = True,
    ) -> None:
        self.end = ""
        """The reason why MPI is not used any more; "" while it is used."""
        self.some_left = False
        """Whether another rank has ended: the end of MPI would wait for it in vain."""
        self._ended = ended
        self._rng = rng
        self._monotonic = monotonic
        self._carries_rounds = carries_rounds
        self._thread: MpiThread | None = None
        self._communicator: Communicator | None = None
        self._tags = 0
        self._members: dict[str, tuple[Rank, str]] = {}
        self._avoided: dict[int, int] = {}
        self._finished: Callable[[], bool] = lambda: False

    def until(self, finished: Callable[[], bool]) -> None:
        """Take no rank for dead once ``finished`` is true."""
        self._finished = finished

    def use(self, mpi: MpiThread, communicator: Communicator) -> None:
        """Send weights by MPI from now on."""
        self._thread, self._communicator = mpi, communicator
        self._tags = self._rng.randrange(communicator.most_tag // 2)

    @property
    def own(self) -> Rank | None:
        """The rank of this process; None before MPI is used, and after its end."""
        return self._communicator.own if self._communicator is not None and not self.end else None

    def is_at(self, address: str) -> bool:
        """Whether a rank of this launch is at the address, with which MPI has not failed lately."""
        rank, _ = self._members.get(address, (None, ""))
        return self.serves(rank) and not self._is_avoided(rank)

    def is_apart(self, address: str) -> bool:
        """Whether a rank of this launch is at the address that cannot share its rows, as those of one machine do."""
        rank, _ = self._members.get(address, (None, ""))
        if rank is None or self._communicator is None or rank.number in self._communicator.nearby:
            return False
        if not self._carries_rounds:
            return False
        return self.serves(rank) and not self._avoided.get(rank.number, 0)

    def serves(self, partner: Rank | None) -> bool:
        """Whether ``partner`` is another rank of this launch, and MPI is used."""
        own, communicator = self.own, self._communicator
        if own is None or communicator is None or partner is None:
            return False
        is_of_launch = partner.communicator == own.communicator and partner.number < communicator.size
        return is_of_launch and partner != own

    def tag(self) -> int:
        """An even tag that was not given out for as long as there are others; the next one is for the way back."""
        if self._communicator is None:
            raise MpiFailed("MPI is not used")
        self._tags = (self._tags + 1) % ((self._communicator.most_tag - 1) // 2)
        return 2 * self._tags

    def _is_avoided(self, rank: Rank | None) -> bool:
        if rank is None or (left := self._avoided.get(rank.number, 0)) == 0:
            return False
        self._avoided[rank.number] = left - 1
        return True

    async def swap(self, partner: Rank, tag: int, ticket: bytes, prepare: Prepare, *, answers: bool) -> None:
        """Swap weights with a rank."""
        if not self.serves(partner):
            raise SwapInterrupted(
                f"no weights go to rank {partner.number} by MPI", all_sent=False, is_cut=True
            )
        preparing = owned(prepare(), "weights that are made ready", checked_by_owner)
        try:
            swap = await preparing
        finally:
            await surely_ended(preparing)  # a thread may still write into the snapshot
        swap.arriving.by = BY_MPI
        to_partner, from_partner = (tag + 1, tag) if answers else (tag, tag + 1)
        await self._carried(Route(partner.number, to_partner, from_partner, ticket), swap)

    async def _carried(self, route: Route, swap: BothWays) -> None:
        if self._thread is None or self._communicator is None:
            raise MpiFailed("MPI is not used")
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        transfer = Transfer(
            self._communicator,
            swap,
            route,
            self._monotonic,
            partial(in_loop, loop, over),
        )
        self._thread.begin(transfer)
        try:
            await over.wait()
        finally:
            if not transfer.is_over:
                if transfer.silent_s >= STUCK_S:
                    self._avoided[route.partner] = AVOIDED_FOR
                # A step holds the lock for the time of one piece; the loop does not wait for that.
                await surely_ended(loop.run_in_executor(None, transfer.stop))
            self._learn_from(transfer.error, route.partner)
        if transfer.error is not None:
            raise transfer.error

    def _learn_from(self, error: BaseException | None, partner: int) -> None:
        if not isinstance(error, SwapInterrupted):
            return
        self._avoided[partner] = AVOIDED_FOR
        if isinstance(error.__cause__, MpiFailed):
            self.give_up(error.__cause__.message)

    def changed(self, was: PeerRecord | None, now: PeerRecord | None) -> None:
        """Learn the rank at a member's address; give MPI up if a rank has died.

        A rank whose record goes has died unless it was leaving. An outage of etcd takes all records: that cannot be
        told apart, and costs the use of MPI.
        """
        gone = None
        if was is not None and (now is None or now.address != was.address):
            gone, _ = self._members.pop(was.address, (None, ""))
        if now is not None and (rank := Rank.parse(now.mpi)) is not None:
            self._members[now.address] = rank, now.state
            if gone == rank:
                gone = None
        if gone is None or was is None or not self.serves(gone) or self._finished():
            return
        self.some_left = True
        if was.state not in LEAVING:
            self.give_up(f"rank {gone.number} ({was.peer}) has died")

    def unreachable(self, address: str) -> None:
        """Give MPI up if a rank was at the address that was not leaving."""
        rank, state = self._members.get(address, (None, ""))
        if rank is not None and self.serves(rank) and state not in LEAVING and not self._finished():
            self.some_left = True
            self.give_up(f"rank {rank.number} at {address} does not answer")

    def give_up(self, why: str) -> None:
        """Use MPI no more. The swaps under way end as they may."""
        if not self.end and self._communicator is not None:
            self.end = why
            self._ended(why)


def in_loop(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    """Set an event of a loop from another thread."""
    try:
        loop.call_soon_threadsafe(event.set)
    except RuntimeError:
        pass  # the loop is closed: no one waits
