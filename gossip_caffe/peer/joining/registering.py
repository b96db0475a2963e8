"""The registration of a peer, with retries while the store is full or while its own old lease has not ended."""

from __future__ import annotations

from collections.abc import Callable

from gossip_caffe.errors import Conflict, LeaseLost, StoreError, WritesRefused
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.core.lifecycle import State
from gossip_caffe.peer.registration.incarnation import Incarnation
from gossip_caffe.peer.work.claiming import STORE_AWAY_PAUSE_S


async def register(
    world: PeerDependencies,
    record: PeerRecord,
    state: Callable[[], State],
    say_once: Callable[[str], None],
    before: Incarnation | None = None,
) -> Incarnation:
    """Register, in the place of ``before`` if this peer was registered already.

    * A conflict of a peer that has had a lease is retried for 2 × TTL: the conflicting record may belong to its own
      expired lease, which etcd has not removed yet.
    * A store that refuses writes for now, such as a full one (WritesRefused), is retried for ever.
    * Any other error of the store is raised in a first registration, while the person who started the peer is still
      there to read it; after that it is retried.

    Raises StoreError, or Conflict when another peer has this name.
    """
    clock, settings = world.clock, world.spec.settings
    had_a_lease, refused_at = before is not None, None
    while True:
        try:
            if before is not None:
                return await before.again(world, record, state())
            return await Incarnation.begin(world, record, state())
        except Conflict:
            # See above: for 2 × TTL the record may belong to this peer's own expired lease.
            refused_at = clock.monotonic() if refused_at is None else refused_at
            if not had_a_lease or clock.monotonic() > refused_at + 2 * settings.lease_ttl_s:
                raise
        except StoreError as error:
            if isinstance(error, LeaseLost):  # this process was stopped for longer than the lease lasts
                had_a_lease = True
                world.log.emit(Event.LEASE_LOST, reason=error.message)
            if isinstance(error, WritesRefused):
                say_once(f"{error}; it waits, and joins as soon as etcd lets it")
            elif not had_a_lease:
                raise
            refused_at = None
        await clock.sleep(STORE_AWAY_PAUSE_S)
