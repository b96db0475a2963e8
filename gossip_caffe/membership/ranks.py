"""Numbers of a job's peers: each living peer has its own number, and the number of a dead peer is used again.

Where the net makes its own data, numbers become ranks: the first ``count`` numbers are the ranks, and a peer with a
higher number shares a rank with another peer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from gossip_caffe.clock import Clock
from gossip_caffe.membership.etcd.store import Absent, Guard, ModifiedAt, Put, Store
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.log.ignored import Note, discard_note

_LOOK_EVERY_S = 0.5

Pick = Callable[[Sequence[int]], int]
"""Picks one of several numbers, which are in ascending order."""


@dataclass(frozen=True, slots=True)
class RankChoice:
    """A number to claim, and the reason for it."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """The peer that claims a number, and the lease to which the claim is attached."""

    peer: str
    lease: int


def choose_number(
    taken: Collection[int], count: int, wanted: int | None = None, pick: Pick = min
) -> RankChoice:
    """The number to claim, out of those that no living peer has.

    It is the peer's earlier number if that is free, else a free rank chosen by ``pick``, else a number above the
    ranks.
    """
    if wanted is not None and wanted not in taken:
        return RankChoice(wanted, "it had that before")
    if free := [number for number in range(count) if number not in taken]:
        return RankChoice(pick(free), f"{len(free)} of {count} ranks are free")
    beyond = [number for number in range(count, count + len(taken) + 1) if number not in taken]
    return RankChoice(pick(beyond), f"all {count} ranks are taken")


class Ranks:
    """The numbers of one job, and this peer's way to claim one.

    A key that is attached to no lease belongs to no peer: it is overwritten, and ``put_right`` is called for it.
    """

    def __init__(
        self,
        store: Store,
        keys: JobKeys,
        count: int,
        clock: Clock,
        pick: Pick,
        put_right: Note = discard_note,
    ) -> None:
        self._store = store
        self._keys = keys
        self._count = count
        self._clock = clock
        self._pick = pick
        self._put_right = put_right

    async def take(
        self,
        writer: FencedWriter,
        hold: Hold,
        patience_s: float,
        wanted: int | None = None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> RankChoice:
        """Claim a number: the lowest free one, or, after another peer was faster, one chosen by ``pick``.

        If all ranks are taken, it waits up to ``patience_s`` seconds for one: a dead peer's lease may not have ended
        yet. ``on_wait`` is called when the wait begins. Raises LeaseLost or StoreUnavailable.
        """
        pick: Pick = min
        give_up_at, waits = self._clock.monotonic() + patience_s, False
        while True:
            items = {
                self._keys.rank_of(item.key): item
                for item in (await self._store.list(self._keys.ranks)).items
            }
            taken = {number for number, item in items.items() if number is not None and item.lease}
            choice = choose_number(taken, self._count, wanted, pick)
            is_rank = choice.number < self._count or choice.number == wanted
            if not is_rank and self._clock.monotonic() < give_up_at:
                if not waits:
                    waits = True
                    on_wait()
                await self._clock.sleep(_LOOK_EVERY_S)
                continue
            key, foreign = self._keys.rank(choice.number), items.get(choice.number)
            guard: Guard = ModifiedAt(key, foreign.mod_revision) if foreign is not None else Absent(key)
            if (await writer.transact([guard], [Put(key, hold.peer.encode(), hold.lease)])).succeeded:
                if foreign is not None:
                    self._put_right(key, foreign.mod_revision, "a rank that is attached to no peer's lease")
                return choice
            pick = self._pick
