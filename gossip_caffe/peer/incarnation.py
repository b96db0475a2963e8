"""One incarnation of a peer: a lease, and all that hangs on it. When the lease is lost a new one takes its place."""

from __future__ import annotations

from dataclasses import dataclass

from gossip_caffe.errors import Conflict, LeaseLost
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.members import PeerRecord, Registration
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.observe.events import Event
from gossip_caffe.peer.lifecycle import State
from gossip_caffe.peer.world import World
from gossip_caffe.shards.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Incarnation:
    """The lease, the guarded writes, the record and the hand on the ledger of one incarnation."""

    session: LeaseSession
    writer: FencedWriter
    registration: Registration
    ledger: Ledger

    @classmethod
    async def begin(cls, world: World, record: PeerRecord, state: State) -> Incarnation:
        """Get a lease and register under it.

        Raises Conflict when a peer of that name lives, LeaseLost when it was stopped for longer than its lease lasts,
        or StoreError.
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
                    remedy="choose another --name, or none",
                ) from None
            registration = Registration(writer, session, world.keys, record)
            await registration.publish(state=state.value)
            ledger = Ledger(world.store, writer, world.keys, world.epochs, record.peer)
            await ledger.refresh()
        except BaseException:
            await session.close()
            raise
        return cls(session, writer, registration, ledger)

    async def again(self, world: World, record: PeerRecord, state: State) -> Incarnation:
        """Let this one end and begin the next; writes down what the store forgot of it.

        Raises as ``begin``; Conflict also while the store does not know yet that this one has ended.
        """
        await self.writer.look_back()
        await self.session.close()
        following = await Incarnation.begin(world, record, state)
        before, now = self.writer.revision, following.writer.revision
        forgotten = self.writer.forgotten or ((before, now) if now <= before else None)
        if forgotten is not None:
            written, found = forgotten
            world.log.emit(Event.STORE_FORGOT, written=written, found=found)
        return following
