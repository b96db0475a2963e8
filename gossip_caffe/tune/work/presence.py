"""A worker in the store: its lease, its fence, and its record, which all go when it dies."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gossip_caffe.clock import Clock
from gossip_caffe.errors import LeaseLost
from gossip_caffe.membership.etcd.store import CreatedAt, Guard, Operation, Put, Store, TxnResult
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.system.host import host_name
from gossip_caffe.tune.board.keys import StudyKeys


class Presence:
    """One registration of a worker. After a lost lease the worker needs another one."""

    def __init__(self, store: Store, keys: StudyKeys, worker: str, clock: Clock, ttl_s: float) -> None:
        self._keys = keys
        self._worker = worker
        self._session = LeaseSession(store, clock, ttl_s)
        self._writer = FencedWriter(store, self._session, keys.fence(worker), clock)
        self.guard: Guard = CreatedAt(keys.worker(worker), 0)

    async def open(self, pid: int) -> None:
        """Register. Raises StoreError; LeaseLost while another worker of that name lives."""
        await self._session.start()
        await self._writer.open()
        record = json.dumps({"host": host_name(), "pid": pid}).encode()
        key = self._keys.worker(self._worker)
        written = await self._writer.transact([], [Put(key, record, self.lease)])
        self.guard = CreatedAt(key, written.revision)

    @property
    def lease(self) -> int:
        """The lease, to which this worker's keys are attached."""
        return self._session.id

    def check(self) -> None:
        """Raise LeaseLost when the lease is over."""
        if not self._session.owns():
            raise LeaseLost(f"the worker's lease is over ({self._session.reason})", remedy="register again")

    async def transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        """Apply a transaction exactly once, and only while the lease lives. Raises LeaseLost or StoreError."""
        return await self._writer.transact(guards, operations)

    async def close(self) -> None:
        """End the lease: all of this worker's keys go."""
        await self._session.close()
