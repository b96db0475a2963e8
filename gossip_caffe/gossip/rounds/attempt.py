"""One member's part in one round: it scatters its weights to the owners of the segments, and gathers their means.

Between the two phases the leader hears what each owner has measured, and commits the round or aborts it. Every pair of
members trades both ways at the same time, in the messages of an exchange, or over a connection of its own if the model
is large. A trade may be asked for again: it changes nothing that has come whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.background import within
from gossip_caffe.clock import Clock
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.averaging import compiled
from gossip_caffe.gossip.averaging.average import HalfStats
from gossip_caffe.gossip.codecs.message import FramesCorrupt, Message, Refusal
from gossip_caffe.gossip.policy.deadline import first_deadline_s
from gossip_caffe.gossip.protocol.local_peer import LocalPeer
from gossip_caffe.gossip.protocol.swap import BothWays, Refused
from gossip_caffe.gossip.protocol.transport import Carry, Transport
from gossip_caffe.gossip.rounds.room import ABSURD, LeavingRow, Room, Row, RowSwap
from gossip_caffe.gossip.rounds.segments import calls_of
from gossip_caffe.gossip.rounds.words import Figure, Member, Word, WordKind

Flat = NDArray[np.float32]

SCATTER, GATHER = "scatter", "gather"
SWAP_FROM_VALUES = 1_000_000
"""From so many values of the model on, parts travel over connections of their own."""
AT_ONCE = 2
"""The number of such parts that a member asks for at one time: while one travels, the next connection is made."""
AGAIN_S = 0.05
PATIENCE_S = 10.0
"""A partner that cannot be traded with for so long ends the attempt: it is reported to the leader."""
CODEC = "float32"


class AttemptFailed(ExchangeFailed):
    """This member cannot finish the round. ``lost``: the members that it could not trade with."""

    def __init__(self, reason: str, lost: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.lost = lost


class Attempt:
    """One member's part in one round, from its snapshot to the step that takes it to the mean.

    ``members``: all members, sorted, this one among them; ``counts``: whether the own weights count in the mean.
    """

    def __init__(
        self,
        *,
        round_id: str,
        members: tuple[Member, ...],
        peer: LocalPeer,
        transport: Transport,
        snapshot: Flat,
        counts: bool,
        rows: Flat | None,
    ) -> None:
        self.round = round_id
        self.members = members
        self.names = tuple(member.peer for member in members)
        self.committed: asyncio.Future[Word] = asyncio.get_running_loop().create_future()
        self._peer = peer
        self._transport = transport
        self._clock: Clock = peer.clock
        self.counts = counts
        self._own = self.names.index(peer.name)
        self.room = Room(snapshot, self._own, len(members), rows)
        self._contributes: dict[int, bool] = {self._own: counts}
        self._wild: set[int] = set()
        self._gathered: set[int] = {self._own}
        self._changed = asyncio.Event()
        self._checksum: int | None = None
        large = snapshot.size >= SWAP_FROM_VALUES
        self._places = asyncio.Semaphore(AT_ONCE if large else max(1, len(members)))
        self._carrying = 0
        self.ended = ""

    # ── the phases ────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, say: Callable[[Word], Awaitable[None]]) -> HalfStats:
        """Take part to the end. Returns the figures of the step, which is in the snapshot's memory then.

        ``say`` tells the leader a word. Raises AttemptFailed, and ExchangeFailed if the leader is gone.
        """
        await self._trade_with_all(SCATTER)
        counting = [index for index in range(len(self.members)) if self._contributes[index]]
        if not counting:
            raise AttemptFailed("no member of the round has anything to give")
        if self.counts and not compiled.magnitude(self.room.part_for(self._own)) <= ABSURD:
            self._wild.add(self._own)
        mean = await self._peer.compute(self.room.mean, counting)
        self._checksum = mean.checksum
        figures = tuple(
            Figure(self.names[index], index not in self._wild, _known(mean.apart[index]))
            for index in counting
        )
        await say(
            Word(
                WordKind.SCATTERED,
                round=self.round,
                checksums=(mean.checksum,),
                figures=figures,
                square=_known(mean.square),
            )
        )
        await asyncio.shield(self.committed)
        self._note()
        await self._trade_with_all(GATHER)
        return await self._peer.compute(self.room.step)

    @property
    def is_quiet(self) -> bool:
        """Whether no trade of this attempt may still write into its memory."""
        return not self._carrying

    @property
    def digest(self) -> str:
        """The checksums of all segments of the mean, as one text: equal for all members that apply the round."""
        return "".join(f"{checksum:08x}" for checksum in self.committed.result().checksums)

    def needs(self, peer: str) -> bool:
        """Whether this member still has to receive anything from ``peer``."""
        return peer in self.names and self.names.index(peer) not in self._gathered

    def end(self, reason: str) -> None:
        """Refuse further trades of this attempt, except of means that are committed here."""
        self.ended = reason
        self._note()

    def _note(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _trade_with_all(self, phase: str) -> None:
        """Call the members that this one calls, and wait for the calls of the others."""
        called = calls_of(self._own, len(self.members))
        if called:
            async with within(*(self._call(index, phase) for index in called)) as calls:
                for call in calls:
                    await call
        while not self._has_all(phase):
            await self._changed.wait()

    def _has_all(self, phase: str) -> bool:
        have = self._contributes if phase == SCATTER else self._gathered
        return len(have) == len(self.members)

    # ── calling ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _call(self, index: int, phase: str) -> None:
        """Trade with one member. Raises AttemptFailed after PATIENCE_S in vain."""
        member, began = self.members[index], self._clock.monotonic()
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
            await self._clock.sleep(AGAIN_S)

    async def _ask(self, index: int, member: Member, phase: str) -> None:
        leaving, arriving = self._leaving(index, phase), self._row(index, phase)
        header = self._header(phase, leaving)
        deadline_s = first_deadline_s(8 * leaving.size)
        is_large = self.room.snapshot.size >= SWAP_FROM_VALUES
        if self._transport.swaps(member.address, is_large=is_large):

            async def prepare() -> BothWays:
                return RowSwap(LeavingRow(leaving), arriving)

            answer = await self._transport.swap(member.address, header, prepare, deadline_s)
        else:
            offer = replace(header, payload=leaving.view(np.uint8).data)
            answer = await self._transport.exchange(member.address, offer, deadline_s)
        if answer.refusal is not Refusal.NONE:
            raise Refused(answer.refusal, answer.reason)
        if answer.exchange_id != self.round or answer.phase != phase:
            raise FramesCorrupt(f"an answer to {answer.exchange_id}")
        self._take_whole(arriving, answer)
        self._accept(index, phase, arriving, answer)

    def _header(self, phase: str, leaving: Flat) -> Message:
        return Message(
            exchange_id=self.round,
            peer=self._peer.name,
            job=self._peer.job,
            fingerprint=self._peer.fingerprint,
            codec=CODEC,
            values=leaving.size,
            phase=phase,
            contributes=self.counts,
        )

    def _leaving(self, index: int, phase: str) -> Flat:
        return self.room.part_for(index) if phase == SCATTER else self.room.row(self._own, self._own)

    def _row(self, index: int, phase: str) -> Row:
        return Row(self._row_values(index, phase))

    def _row_values(self, index: int, phase: str) -> Flat:
        return self.room.row(index, self._own if phase == SCATTER else index)

    def _take_whole(self, row: Row, message: Message) -> None:
        """Take the weights that a message carries, if it carries any. Raises FramesCorrupt unless the row is whole."""
        if message.payload:
            if message.codec != CODEC:
                raise FramesCorrupt(f"weights in {message.codec!r}")
            row.take(memoryview(message.payload))
        if not row.is_whole:
            raise FramesCorrupt(f"{row.came_bytes} bytes of a segment came")

    def _accept(self, index: int, phase: str, row: Row, message: Message) -> None:
        """Note that a row has come whole. Raises FramesCorrupt for a mean that is not the committed one."""
        if phase == SCATTER:
            if row.is_wild:
                self._wild.add(index)
            self._contributes.setdefault(index, message.contributes)
        else:
            if self.room.checksum(index) != self.committed.result().checksums[index]:
                raise FramesCorrupt(f"the mean that {self.names[index]} sent is not the committed one")
            self._gathered.add(index)
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
            self._accept(index, phase, row, offer)
        return replace(self._header(phase, leaving), payload=leaving.view(np.uint8).data)

    async def answer_swap(self, header: Message, carry: Carry) -> Message:
        """Answer a call whose weights ``carry`` brings. Raises Refused and FramesCorrupt."""
        index, phase = self._caller(header), header.phase
        await self._until_open(phase)
        leaving, row = self._leaving(index, phase), self._row(index, phase)
        if repeated := self._is_there(index, phase):
            row = Row(np.empty_like(self._row_values(index, phase)))

        async def prepare() -> BothWays:
            return RowSwap(LeavingRow(leaving), row)

        self._carrying += 1
        await carry(prepare)
        self._carrying -= 1  # not after an error: a thread may still write into the row then
        if not repeated:
            self._take_whole(row, header)
            self._accept(index, phase, row, header)
        return self._header(phase, leaving)

    def _caller(self, header: Message) -> int:
        if header.peer not in self.names or header.peer == self._peer.name:
            raise Refused(Refusal.OTHER_ROUND, f"{header.peer} is not in round {self.round}")
        return self.names.index(header.peer)

    def _is_there(self, index: int, phase: str) -> bool:
        return index in (self._contributes if phase == SCATTER else self._gathered)

    async def _until_open(self, phase: str) -> None:
        """Wait until this member can answer in that phase. Raises Refused once it never will."""
        while True:
            if phase == GATHER and self.committed.done() and not self.committed.cancelled():
                return
            if self.ended or phase not in {SCATTER, GATHER}:
                raise Refused(Refusal.OTHER_ROUND, self.ended or f"no phase {phase!r}")
            if phase == SCATTER:
                return
            await self._changed.wait()


def _known(figure: float) -> float:
    """A figure; 0.0 if wild values have made it infinite or NaN: their member is named by another flag."""
    return figure if np.isfinite(figure) else 0.0
