"""The trades of one member in one round: with every other member one to scatter, and one to gather.

Every pair of members trades both ways at the same time, in the messages of an exchange, or over a connection that is
kept for trades if the model is not tiny. One of the two calls. A trade may be asked for again: it changes nothing that
has come whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.background import within
from gossip_caffe.clock import Clock
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import FramesCorrupt, Message, Payload, Refusal
from gossip_caffe.gossip.policy.deadline import first_deadline_s
from gossip_caffe.gossip.protocol.local_peer import LocalPeer
from gossip_caffe.gossip.protocol.swap import BothWays, Refused
from gossip_caffe.gossip.protocol.transport import Carry, Transport
from gossip_caffe.gossip.rounds.room import Room
from gossip_caffe.gossip.rounds.rows import LeavingRow, Row, RowSwap
from gossip_caffe.gossip.rounds.segments import calls_of
from gossip_caffe.gossip.rounds.words import Member

Flat = NDArray[np.float32]

SCATTER, GATHER = "scatter", "gather"
SWAP_FROM_VALUES = 16_384
"""From so many values of the model on, parts travel over connections that are kept for them."""
AT_ONCE = 2
"""The number of such parts that a member asks for at one time."""
AGAIN_S, LATEST_AGAIN_S = 0.05, 0.8
"""A trade that failed is asked for again after the first time, then after twice as long, up to the last."""
PATIENCE_S = 10.0
"""A partner that cannot be traded with for so long ends the attempt: it is reported to the leader."""
CODEC = "float32"


class AttemptFailed(ExchangeFailed):
    """This member cannot finish the round. ``lost``: the members that it could not trade with."""

    def __init__(self, reason: str, lost: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.lost = lost


class Trades:
    """The trades of the member ``peer`` in a round of ``members``, sorted, with the rows of ``room``.

    ``contributes``: member → whether its weights count in the mean, for the members whose part is there; ``gathered``:
    the members whose mean is there.
    """

    def __init__(
        self,
        *,
        round_id: str,
        members: tuple[Member, ...],
        peer: LocalPeer,
        transport: Transport,
        room: Room,
        counts: bool,
    ) -> None:
        self.room = room
        self.contributes: dict[int, bool] = {room.index: counts}
        self.gathered: set[int] = {room.index}
        self._round = round_id
        self._members = members
        self._names = tuple(member.peer for member in members)
        self._peer = peer
        self._transport = transport
        self._clock: Clock = peer.clock
        self._counts = counts
        self._own = room.index
        self._checksums: tuple[int, ...] | None = None
        self._changed = asyncio.Event()
        self._is_large = room.snapshot.size >= SWAP_FROM_VALUES
        self._places = asyncio.Semaphore(AT_ONCE if self._is_large else max(1, len(members)))
        self._carrying = 0
        self._ended = ""

    @property
    def is_quiet(self) -> bool:
        """Whether no trade may still write into the room."""
        return not self._carrying

    def commit(self, checksums: tuple[int, ...]) -> None:
        """Gather from now on: these are the checksums of the means, in the order of the members."""
        self._checksums = checksums
        self._note()

    def end(self, reason: str) -> None:
        """Refuse further trades, except of means that are committed here."""
        self._ended = reason
        self._note()

    def _note(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def with_all(self, phase: str) -> None:
        """Call the members that this one calls, and wait for the calls of the others. Raises AttemptFailed."""
        have = self.contributes if phase == SCATTER else self.gathered
        if phase == GATHER:
            await self._gather_nearby()
        called = [index for index in calls_of(self._own, len(self._members)) if index not in have]
        if called:
            async with within(*(self._call(index, phase) for index in called)) as calls:
                for call in calls:
                    await call
        while len(have) < len(self._members):
            await self._changed.wait()

    async def _gather_nearby(self) -> None:
        """Take the means of the members of this machine where they are: a committed mean is in its place."""
        for index, part in list(self.room.parts.items()):
            if part.is_pointed and index not in self.gathered:
                try:
                    row = await self._peer.compute(part.mean_of_same, self.room.row(index, index))
                    self._accept(index, GATHER, row)
                except FramesCorrupt as error:
                    raise AttemptFailed(error.message) from None

    # ── calling ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _call(self, index: int, phase: str) -> None:
        """Trade with one member. Raises AttemptFailed after PATIENCE_S in vain."""
        member, began, again_s = self._members[index], self._clock.monotonic(), AGAIN_S
        while True:
            try:
                async with self._places:
                    await self._ask(index, member, phase)
            except ExchangeFailed as error:
                reason = error.message
            else:
                return
            if self._clock.monotonic() - began > PATIENCE_S:
                raise AttemptFailed(f"no {phase} with {member.peer}: {reason}", (member.peer,))
            await self._clock.sleep(again_s)
            again_s = min(2 * again_s, LATEST_AGAIN_S)

    async def _ask(self, index: int, member: Member, phase: str) -> None:
        leaving, arriving = self._leaving(index, phase), self._row(index, phase)
        deadline_s = first_deadline_s(8 * leaving.size)
        if self._transport.swaps(member.address, is_large=self._is_large):

            async def prepare() -> BothWays:
                return RowSwap(LeavingRow(leaving, self.room.own_mean, self.room.rows), arriving)

            answer = await self._transport.swap(
                member.address, self._header(phase, leaving), prepare, deadline_s
            )
        else:
            offer = self._header(phase, leaving, leaving.view(np.uint8).data)
            answer = await self._transport.exchange(member.address, offer, deadline_s)
        if answer.refusal is not Refusal.NONE:
            raise Refused(answer.refusal, answer.reason)
        if answer.exchange_id != self._round or answer.phase != phase:
            raise FramesCorrupt(f"an answer to {answer.exchange_id}")
        self._take_whole(arriving, answer)
        self._accept(index, phase, arriving, contributes=answer.contributes)

    def _header(self, phase: str, leaving: Flat, payload: Payload = b"") -> Message:
        return Message(
            exchange_id=self._round,
            peer=self._peer.name,
            job=self._peer.job,
            fingerprint=self._peer.fingerprint,
            codec=CODEC,
            values=leaving.size,
            payload=payload,
            phase=phase,
            contributes=self._counts,
        )

    def _leaving(self, index: int, phase: str) -> Flat:
        return self.room.part_for(index) if phase == SCATTER else self.room.own_mean

    def _row(self, index: int, phase: str) -> Row:
        values = self.room.row(index, self._own if phase == SCATTER else index)
        return Row(values, is_summed=phase == GATHER)

    def _take_whole(self, row: Row, message: Message) -> None:
        """Take the weights that a message carries, if it carries any. Raises FramesCorrupt unless the row is whole."""
        if message.payload:
            if message.codec != CODEC:
                raise FramesCorrupt(f"weights in {message.codec!r}")
            row.take(memoryview(message.payload))
        if not row.is_whole:
            raise FramesCorrupt(f"{row.came_bytes} bytes of a segment came")

    def _accept(self, index: int, phase: str, row: Row, *, contributes: bool = False) -> None:
        """Note that a row has come whole. Raises FramesCorrupt for a mean that is not the committed one."""
        if phase == SCATTER:
            self.room.parts[index] = row
            self.contributes.setdefault(index, contributes)
        else:
            if self._checksums is None or row.checksum != self._checksums[index]:
                raise FramesCorrupt(f"the mean that {self._names[index]} sent is not the committed one")
            self.room.means[index] = row
            self.gathered.add(index)
        self._note()

    # ── answering ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def answer(self, header: Message, read: Callable[[], Awaitable[Message]]) -> Message:
        """Answer a call that carries its weights; ``read`` brings them. Raises Refused and FramesCorrupt."""
        index, phase = self._caller(header), header.phase
        await self._until_open(phase)
        leaving = self._leaving(index, phase)
        offer = await read()
        if not self._is_there(index, phase):
            row = self._row(index, phase)
            self._take_whole(row, offer)
            self._accept(index, phase, row, contributes=offer.contributes)
        return self._header(phase, leaving, leaving.view(np.uint8).data)

    async def answer_swap(self, header: Message, carry: Carry) -> Message:
        """Answer a call whose weights ``carry`` brings. Raises Refused and FramesCorrupt."""
        index, phase = self._caller(header), header.phase
        await self._until_open(phase)
        leaving, row = self._leaving(index, phase), self._row(index, phase)
        if repeated := self._is_there(index, phase):
            row = Row(np.empty_like(row.values), is_summed=False)

        async def prepare() -> BothWays:
            return RowSwap(LeavingRow(leaving, self.room.own_mean, self.room.rows), row)

        self._carrying += 1
        await carry(prepare)
        self._carrying -= 1  # not after an error: a thread may still write into the row then
        if not repeated:
            self._take_whole(row, header)
            self._accept(index, phase, row, contributes=header.contributes)
        return self._header(phase, leaving)

    def _caller(self, header: Message) -> int:
        if header.peer not in self._names or header.peer == self._peer.name:
            raise Refused(Refusal.OTHER_ROUND, f"{header.peer} is not in round {self._round}")
        return self._names.index(header.peer)

    def _is_there(self, index: int, phase: str) -> bool:
        return index in (self.contributes if phase == SCATTER else self.gathered)

    async def _until_open(self, phase: str) -> None:
        """Wait until this member can answer in that phase. Raises Refused once it never will."""
        while True:
            if phase == GATHER and self._checksums is not None:
                return
            if self._ended or phase not in {SCATTER, GATHER}:
                raise Refused(Refusal.OTHER_ROUND, self._ended or f"no phase {phase!r}")
            if phase == SCATTER:
                return
            await self._changed.wait()
