"""One incarnation of a peer: a lease, and everything that ends with it. Another one follows when the lease is lost."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gossip_caffe.errors import Conflict, LeaseLost
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.members import PeerRecord, Registration
from gossip_caffe.membership.ranks import Hold, Ranks
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.core.lifecycle import State
from gossip_caffe.shards.ledger import Ledger

LEASES_END_IN = 1.5
"""Times to live after which the lease of a killed peer has ended, also when the store notices it late."""


@dataclass(frozen=True, slots=True)
class Incarnation:
    """The lease, the fenced writer, the record and the ledger of one incarnation.

    ``number``: its own number among the living peers, where the net makes its own data; else 0. ``store_forgot``: the
    store has lost writes of the incarnation before this one.
    """

    session: LeaseSession
    writer: FencedWriter
    registration: Registration
    ledger: Ledger
    number: int = 0
    store_forgot: bool = False

    @classmethod
    async def begin(
        cls, world: PeerDependencies, record: PeerRecord, state: State, number: int | None = None
    ) -> Incarnation:
        """Get a lease and register under it, with the former ``number`` if no other peer has it now.

        Raises Conflict when a peer of that name lives, LeaseLost when this process was stopped for longer than its
        lease lasts, or StoreError.
        """
        ttl_s = world.spec.settings.lease_ttl_s
        session = LeaseSession(world.store, world.clock, ttl_s)
        await session.start()
        try:
            writer = FencedWriter(world.store, session, world.keys.fence(record.peer), world.clock)
            try:
                await writer.open()
            except LeaseLost:
                if not session.owns():
                    raise
                raise Conflict(
                    f"a peer {record.peer!r} of job {world.spec.name!r} is running already "
                    f"(or ended less than {ttl_s:g} s ago)",
                    remedy="choose another --name, or none (with 'cluster up --etcd' it makes the names of the peers)",
                ) from None
            registration = Registration(writer, session, world.keys, record)
            await registration.publish(state=state.value)
            told = world.ignored.put_right
            ledger = Ledger(world.store, writer, world.keys, world.epochs, record.peer, told)
            await ledger.refresh()
            if world.spec.ranks:
                number = await _number(world, writer, Hold(record.peer, session.id), number)
        except BaseException:
            await session.close()
            raise
        return cls(session, writer, registration, ledger, number or 0)

    async def again(self, world: PeerDependencies, record: PeerRecord, state: State) -> Incarnation:
        """End this incarnation and begin the next one; log the writes of this one that the store has lost.

        Raises as ``begin``; Conflict also while the store has not noticed yet that this incarnation has ended.
        """
        await self.writer.check_last_write()
        await self.session.close()
        following = await Incarnation.begin(world, record, state, self.number)
        before, now = self.writer.revision, following.writer.revision
        forgotten = self.writer.forgotten or ((before, now) if now <= before else None)
        if forgotten is not None:
            written, found = forgotten
            world.log.emit(Event.STORE_FORGOT, written=written, found=found)
        return replace(following, store_forgot=forgotten is not None)


async def _number(world: PeerDependencies, writer: FencedWriter, hold: Hold, wanted: int | None) -> int:
    """Take a number that no other living peer has; the rank depends on it. Raises LeaseLost or StoreError."""
    count, ttl_s = world.spec.ranks, world.spec.settings.lease_ttl_s
    ranks = Ranks(world.store, world.keys, count, world.clock, world.rng.choice, world.ignored.put_right)

    def waits() -> None:
        world.say_once(f"{hold.peer}: the job's {count} ranks are all taken; it waits a moment for one")

    return (await ranks.take(writer, hold, LEASES_END_IN * ttl_s, wanted, waits)).number
