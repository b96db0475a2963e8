"""One member's part in one round: it scatters its weights to the owners of the segments, and gathers their means.

Between the two phases the leader hears what each owner has measured, and commits the round or aborts it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np

from gossip_caffe.gossip.averaging.average import HalfStats
from gossip_caffe.gossip.protocol.local_peer import LocalPeer
from gossip_caffe.gossip.protocol.transport import Transport
from gossip_caffe.gossip.rounds.room import Room, RoundMemory
from gossip_caffe.gossip.rounds.rows import Row
from gossip_caffe.gossip.rounds.trades import GATHER, SCATTER, AttemptFailed, Trades
from gossip_caffe.gossip.rounds.words import Figure, Member, Word, WordKind


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
        memory: RoundMemory,
        counts: bool,
    ) -> None:
        self.round = round_id
        self.members = members
        self.names = tuple(member.peer for member in members)
        self.committed: asyncio.Future[Word] = asyncio.get_running_loop().create_future()
        self.counts = counts
        self.room = Room(memory, self.names.index(peer.name), len(members))
        self.trades = Trades(
            round_id=round_id, members=members, peer=peer, transport=transport, room=self.room, counts=counts
        )
        self._peer = peer

    async def run(self, say: Callable[[Word], Awaitable[None]]) -> HalfStats:
        """Take part to the end. Returns the figures of the step, which is in the snapshot's memory then.

        ``say`` tells the leader a word. Raises AttemptFailed, and ExchangeFailed if the leader is gone.
        """
        trades, room = self.trades, self.room
        await trades.with_all(SCATTER)
        counting = [index for index in range(len(self.members)) if trades.contributes[index]]
        if not counting:
            raise AttemptFailed("no member of the round has anything to give")
        mean = await self._peer.compute(room.mean, counting)
        self._check_still(room.parts)
        figures = tuple(
            Figure(self.names[index], index not in mean.wild, _known(mean.apart[index])) for index in counting
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
        committed = await asyncio.shield(self.committed)
        trades.commit(committed.checksums)
        await trades.with_all(GATHER)
        half = await self._peer.compute(room.step)
        self._check_still(room.means)
        return half

    def _check_still(self, rows: dict[int, Row]) -> None:
        """Raises AttemptFailed unless all rows were what came until now, when they have been used."""
        for index, row in rows.items():
            if not row.is_still:
                raise AttemptFailed(f"{self.names[index]} has begun another round")

    @property
    def is_quiet(self) -> bool:
        """Whether no trade of this attempt may still write into its memory."""
        return self.trades.is_quiet

    def needs(self, peer: str) -> bool:
        """Whether this member still has to receive anything from ``peer``."""
        return peer in self.names and self.names.index(peer) not in self.trades.gathered

    def end(self, reason: str) -> None:
        """Refuse further trades of this attempt, except of means that are committed here."""
        if self.committed.done() and not self.committed.cancelled():
            self.trades.commit(self.committed.result().checksums)
        self.trades.end(reason)


def _known(figure: float) -> float:
    """A figure; 0.0 if wild values have made it infinite or NaN: their member is named by another flag."""
    return figure if np.isfinite(figure) else 0.0
