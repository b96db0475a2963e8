"""The audit of the store: now and then the leading peer removes the records of the job that no peer has written.

Only the peer that leads does this, so the cost does not grow with the number of peers.
"""

from __future__ import annotations

from gossip_caffe.checkpoint.duty import CHECKPOINTS
from gossip_caffe.membership.etcd.polling import poll_interval_s
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.removal import removed
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.shards.audit import (
    Stray,
    stray_holder,
    strays_among_members,
    strays_in_ledger,
    to_remove,
)

AUDIT_EVERY_S = 10.0
ACTS_AS_LEADER_EVERY_S = 30.0


class Auditing:
    """The audits of one peer."""

    def __init__(self, world: PeerDependencies) -> None:
        self._world = world
        self._at = world.clock.monotonic() + AUDIT_EVERY_S
        self._before: dict[str, int] = {}
        self._acts_as_leader_at = world.clock.monotonic() + ACTS_AS_LEADER_EVERY_S * world.rng.uniform(
            1.0, 2.0
        )

    def acts_as_leader(self) -> bool:
        """Whether this peer, which does not lead, audits in the leader's place now: once in 30 to 60 s.

        The record with the lowest name may belong to no peer at all, and then no peer would lead.
        """
        now, every_s = self._world.clock.monotonic(), ACTS_AS_LEADER_EVERY_S
        if now < self._acts_as_leader_at:
            return False
        self._acts_as_leader_at = now + every_s * self._world.rng.uniform(1.0, 2.0)
        return True

    async def look(self, writer: FencedWriter, folded: int, living: int) -> None:
        """Audit the store, if an audit is due.

        ``folded``: the number of epochs that are done; ``living``: the number of peers that train. Raises StoreError.
        """
        now = self._world.clock.monotonic()
        if now < self._at:
            return
        self._at = now + poll_interval_s(AUDIT_EVERY_S, living)
        store, keys = self._world.store, self._world.keys
        # The order matters: the owner of a claim that was read is a member still, or has just left; and every member
        # that was read has a fence.
        ledger = (await store.list(keys.ledger)).items
        holders = [await store.get(key) for key in (keys.duty(CHECKPOINTS), keys.founder)]
        members = (await store.list(keys.peers)).items
        fences = {
            item.key.removeprefix(keys.fences): item.lease for item in (await store.list(keys.fences)).items
        }
        strange = strays_among_members(members, keys, fences)
        ours = {item.lease for item in members} - {stray.item.lease for stray in strange if stray.surely}
        found = [
            *strays_in_ledger(ledger, keys, self._world.epochs, folded, ours),
            *strange,
            *(stray for item in holders if (stray := stray_holder(item, ours)) is not None),
        ]
        await self._remove(to_remove(found, self._before), writer)
        self._before = {stray.item.key: stray.item.mod_revision for stray in found}

    async def _remove(self, strays: list[Stray], writer: FencedWriter) -> None:
        why = {stray.item.key: stray.why for stray in strays}
        for item in await removed(writer, [stray.item for stray in strays]):
            self._world.ignored.put_right(item.key, item.mod_revision, why[item.key])
