"""The ``Store`` on a real etcd, version 3.4 or newer."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from gossip_caffe.clock import Clock
from gossip_caffe.errors import ReplyTooLarge, StoreError, WritesRefused
from gossip_caffe.membership.etcd.etcd_channel import EtcdConnection, EtcdSettings
from gossip_caffe.membership.etcd.etcd_keepalive import KeepAlive
from gossip_caffe.membership.etcd.etcd_roles import authenticates
from gossip_caffe.membership.etcd.etcd_watch import WatchHub
from gossip_caffe.membership.etcd.etcd_watch_state import key_bytes, key_text, key_value, prefix_end
from gossip_caffe.membership.etcd.refusals import refused_by_alarm
from gossip_caffe.membership.etcd.store import (
    Absent,
    CreatedAt,
    Delete,
    DeletePrefix,
    Exists,
    Guard,
    KeyValue,
    Lease,
    Listing,
    ModifiedAt,
    Operation,
    Put,
    TxnResult,
    WatchItem,
    checked_size,
)
from gossip_caffe.security.security import PLAIN, Security
from gossip_caffe.system.unix_sockets import folder_of_sockets
from gossip_caffe.wire import etcd_pb2 as pb

PAGE_KEYS = 1000
"""Keys per page of a listing. A page has fewer keys where large values of another writer exceed one reply."""
DEFRAGMENT_TIMEOUT_S = 120.0
"""Time limit of a defragmentation, in seconds: etcd copies all live data, and serves no requests meanwhile."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The size of one member's file, and of the live data in it, in bytes."""

    file_bytes: int
    used_bytes: int


class EtcdStore:
    """A client of an etcd cluster. ``endpoints``: "host:port" or "unix:PATH"; when one fails, the next is used.

    ``sockets``: the folder of a local cluster's Unix sockets, which its peers use, too; None for any other etcd.
    ``security``: the identity of this client, with which it also reaches peers.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        clock: Clock,
        rng: random.Random,
        settings: EtcdSettings | None = None,
        security: Security = PLAIN,
    ) -> None:
        self.sockets = folder_of_sockets(endpoints)
        self.security = security
        self._connection = EtcdConnection(endpoints, clock, rng, settings, security)
        self._watches = WatchHub(self._connection, self.list)
        self._keepalive = KeepAlive(self._connection)

    @property
    def endpoint(self) -> str:
        """The endpoint of the member in use."""
        return self._connection.endpoint

    @property
    def certificates_changed(self) -> int:
        """How often a connection was replaced by one with newer certificate files."""
        return self._connection.certificates_changed

    async def get(self, key: str) -> KeyValue | None:
        """The key's newest value, or None."""
        reply = await self._connection.call("KV/Range", pb.RangeRequest(key=key_bytes(key)), pb.RangeResponse)
        return key_value(reply.kvs[0]) if reply.kvs else None

    async def list(self, prefix: str, *, limit: int = 0) -> Listing:
        """All keys under the prefix with their values, read in pages at one revision."""
        revision = 0
        items: list[KeyValue] = []
        async for reply in self._pages(prefix, limit=limit):
            revision = revision or reply.header.revision
            items += map(key_value, reply.kvs)
        return Listing(revision, tuple(items))

    async def keys(self, prefix: str) -> tuple[str, ...]:
        """All keys under the prefix without values, read in pages at one revision."""
        keys: list[str] = []
        async for reply in self._pages(prefix, keys_only=True):
            keys += [key_text(item.key) for item in reply.kvs]
        return tuple(keys)

    async def _pages(
        self, prefix: str, *, keys_only: bool = False, limit: int = 0
    ) -> AsyncIterator[pb.RangeResponse]:
        start, end = key_bytes(prefix), prefix_end(key_bytes(prefix))
        revision = seen = 0
        most = PAGE_KEYS
        while True:
            page = min(most, limit - seen) if limit else most
            request = pb.RangeRequest(
                key=start, range_end=end, limit=page, revision=revision, keys_only=keys_only
            )
            try:
                reply = await self._connection.call("KV/Range", request, pb.RangeResponse)
            except ReplyTooLarge:
                if page == 1:
                    raise
                most = page // 2
                continue
            yield reply
            revision, seen = revision or reply.header.revision, seen + len(reply.kvs)
            if not reply.more or seen == limit:
                return
            start = reply.kvs[-1].key + b"\0"

    async def count(self, prefix: str) -> int:
        """The number of keys under the prefix."""
        start = key_bytes(prefix)
        request = pb.RangeRequest(key=start, range_end=prefix_end(start), count_only=True)
        return int((await self._connection.call("KV/Range", request, pb.RangeResponse)).count)

    async def transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        """Apply all operations if all guards hold. If one does not, read the guarded keys at that revision.

        The read is a second request. As the else branch of the transaction it would be written to etcd's log every
        time, and would be nearly half of the log.
        """
        checked_size(guards, operations)
        request = pb.TxnRequest(
            compare=[_compare(guard) for guard in guards],
            success=[_request(operation) for operation in operations],
        )
        try:
            reply = await self._connection.call("KV/Txn", request, pb.TxnResponse, repeatable=False)
        except StoreError as error:
            if "requested lease not found" in error.message:
                return TxnResult(False, 0)
            raise
        if reply.succeeded:
            return TxnResult(True, reply.header.revision)
        return TxnResult(False, reply.header.revision, await self._found(guards, reply.header.revision))

    async def _found(self, guards: Sequence[Guard], revision: int) -> tuple[KeyValue, ...]:
        """The guarded keys that existed at a revision. Raises StoreUnavailable."""
        keys = dict.fromkeys(key_bytes(guard.key) for guard in guards)
        reads = [pb.RangeRequest(key=key, limit=1, revision=revision) for key in keys]
        request = pb.TxnRequest(success=[pb.RequestOp(request_range=read) for read in reads])
        try:
            try:
                reply = await self._connection.call("KV/Txn", request, pb.TxnResponse)
                ranges = [response.response_range for response in reply.responses]
            except ReplyTooLarge:
                ranges = [await self._connection.call("KV/Range", read, pb.RangeResponse) for read in reads]
        except (
            WritesRefused
        ) as error:  # the revision is compacted, after a pause of this process: nothing was written
            raise self._connection.unavailable(
                f"the keys of a failed guard cannot be read: {error.message}"
            ) from error
        return tuple(key_value(item) for found in ranges for item in found.kvs)

    async def grant(self, ttl_s: float) -> Lease:
        """Create a lease. If the reply is lost, a lease remains that nothing renews; it ends by itself."""
        request = pb.LeaseGrantRequest(TTL=max(1, round(ttl_s)))
        reply = await self._connection.call("Lease/LeaseGrant", request, pb.LeaseGrantResponse)
        return Lease(reply.ID, float(reply.TTL))

    async def renew(self, lease_id: int) -> float:
        """Renew a lease on the client's single keep-alive stream, which is opened again after a failure."""
        return await self._keepalive.renew(lease_id)

    async def revoke(self, lease_id: int) -> None:
        """End a lease now, and with it the keys that are attached to it."""
        try:
            await self._connection.call(
                "Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=lease_id), pb.LeaseRevokeResponse
            )
        except StoreError as error:
            if "requested lease not found" not in error.message:
                raise

    def watch(self, prefix: str) -> AsyncIterator[WatchItem]:
        """All keys under the prefix, then every change."""
        return self._watches.watch(prefix)

    async def version(self) -> str:
        """The server's version; the check of a first connection. Raises StoreUnavailable when no member answers."""
        return str((await self._status()).version)

    async def compact(self, revision: int) -> None:
        """Discard the history before a revision."""
        request = pb.CompactionRequest(revision=revision)
        await self._connection.call("KV/Compact", request, pb.CompactionResponse)

    async def sizes(self) -> Sizes:
        """The sizes of the file of the member in use. Compaction alone does not shrink the file."""
        status = await self._status()
        return Sizes(status.dbSize, status.dbSizeInUse)

    async def defragment(self) -> None:
        """Shrink the member's file to its live data.

        The member serves no requests meanwhile: only for an etcd of our own.
        """
        await self._connection.call(
            "Maintenance/Defragment",
            pb.DefragmentRequest(),
            pb.DefragmentResponse,
            repeatable=False,
            timeout_s=DEFRAGMENT_TIMEOUT_S,
        )

    async def refusal(self) -> str:
        """Why etcd refuses every write, according to its alarms; "" while there is no such alarm."""
        error = refused_by_alarm(" ".join((await self._status()).errors))
        return str(error) if error is not None else ""

    async def _status(self) -> pb.StatusResponse:
        reply: pb.StatusResponse = await self._connection.call(
            "Maintenance/Status", pb.StatusRequest(), pb.StatusResponse
        )
        return reply

    async def guards_writes(self) -> bool:
        """True if etcd lets only known users write, each what its roles allow, and this client is sure that it is etcd.

        Without TLS another program may answer in its place. Raises StoreUnavailable.
        """
        return self.security.tls is not None and await authenticates(self._connection)

    async def close(self) -> None:
        """End all watches and close all connections."""
        self._connection.closed = True
        await self._watches.close()
        self._keepalive.close()
        await self._connection.close()


def _compare(guard: Guard) -> Any:
    key = key_bytes(guard.key)
    match guard:
        case Absent():
            return pb.Compare(key=key, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=0)
        case Exists():
            return pb.Compare(
                key=key, target=pb.Compare.CREATE, result=pb.Compare.NOT_EQUAL, create_revision=0
            )
        case CreatedAt(_, revision):
            return pb.Compare(
                key=key, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=revision
            )
        case ModifiedAt(_, revision):
            return pb.Compare(key=key, target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=revision)


def _request(operation: Operation) -> Any:
    match operation:
        case Put(key, value, lease):
            return pb.RequestOp(request_put=pb.PutRequest(key=key_bytes(key), value=value, lease=lease))
        case Delete(key):
            return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key_bytes(key)))
        case DeletePrefix(prefix):
            start = key_bytes(prefix)
            request = pb.DeleteRangeRequest(key=start, range_end=prefix_end(start))
            return pb.RequestOp(request_delete_range=request)
