"""The store on a real etcd (3.4 and newer)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

from gossip_caffe.clock import Clock
from gossip_caffe.errors import StoreError
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.membership.etcd_channel import EtcdConnection, EtcdSettings
from gossip_caffe.membership.etcd_watch import WatchHub, key_value, prefix_end
from gossip_caffe.membership.store import (
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
from gossip_caffe.wire import etcd_pb2 as pb

PAGE_KEYS = 1000
"""Keys a page: keeps every reply well within gRPC's default message limit."""


class EtcdStore:
    """A client of an etcd cluster. ``endpoints`` are "host:port"; it goes on to the next when one fails."""

    def __init__(
        self, endpoints: Sequence[str], clock: Clock, rng: random.Random, settings: EtcdSettings | None = None
    ) -> None:
        self._connection = EtcdConnection(endpoints, clock, rng, settings)
        self._watches = WatchHub(self._connection, self.list)
        self._keepalive: Any = None
        self._keepalive_lock = asyncio.Lock()

    async def get(self, key: str) -> KeyValue | None:
        """The key's newest value."""
        reply = await self._connection.call("KV/Range", pb.RangeRequest(key=key.encode()), pb.RangeResponse)
        return key_value(reply.kvs[0]) if reply.kvs else None

    async def list(self, prefix: str, *, limit: int = 0) -> Listing:
        """What is under the prefix, read in pages at one revision."""
        revision = 0
        items: list[KeyValue] = []
        async for reply in self._pages(prefix, limit=limit):
            revision = revision or reply.header.revision
            items += map(key_value, reply.kvs)
        return Listing(revision, tuple(items))

    async def keys(self, prefix: str) -> tuple[str, ...]:
        """The keys under the prefix, read in pages at one revision."""
        keys: list[str] = []
        async for reply in self._pages(prefix, keys_only=True):
            keys += [item.key.decode(errors="replace") for item in reply.kvs]
        return tuple(keys)

    async def _pages(
        self, prefix: str, *, keys_only: bool = False, limit: int = 0
    ) -> AsyncIterator[pb.RangeResponse]:
        start, end = prefix.encode(), prefix_end(prefix.encode())
        revision = seen = 0
        while True:
            page = min(PAGE_KEYS, limit - seen) if limit else PAGE_KEYS
            request = pb.RangeRequest(
                key=start, range_end=end, limit=page, revision=revision, keys_only=keys_only
            )
            reply = await self._connection.call("KV/Range", request, pb.RangeResponse)
            yield reply
            revision, seen = revision or reply.header.revision, seen + len(reply.kvs)
            if not reply.more or seen == limit:
                return
            start = reply.kvs[-1].key + b"\0"

    async def count(self, prefix: str) -> int:
        """How many keys are under the prefix."""
        start = prefix.encode()
        request = pb.RangeRequest(key=start, range_end=prefix_end(start), count_only=True)
        return int((await self._connection.call("KV/Range", request, pb.RangeResponse)).count)

    async def transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        """Apply all operations if all guards hold; reads the guarded keys when one does not."""
        checked_size(guards, operations)
        request = pb.TxnRequest(
            compare=[_compare(guard) for guard in guards],
            success=[_request(operation) for operation in operations],
            failure=[
                pb.RequestOp(request_range=pb.RangeRequest(key=guard.key.encode(), limit=1))
                for guard in guards
            ],
        )
        try:
            reply = await self._connection.call("KV/Txn", request, pb.TxnResponse, repeatable=False)
        except StoreError as error:
            if "requested lease not found" in error.message:
                return TxnResult(False, 0)
            raise
        if reply.succeeded:
            return TxnResult(True, reply.header.revision)
        found = [item for response in reply.responses for item in response.response_range.kvs]
        return TxnResult(False, reply.header.revision, tuple(map(key_value, found)))

    async def grant(self, ttl_s: float) -> Lease:
        """Make a lease; a lost reply leaves one behind that ends by itself."""
        request = pb.LeaseGrantRequest(TTL=max(1, round(ttl_s)))
        reply = await self._connection.call("Lease/LeaseGrant", request, pb.LeaseGrantResponse)
        return Lease(reply.ID, float(reply.TTL))

    async def renew(self, lease_id: int) -> float:
        """Renew on the client's one keep-alive stream, which is opened again when it failed."""
        async with self._keepalive_lock:
            endpoint = self._connection.endpoint
            try:
                async with self._connection.clock.timeout(self._connection.settings.call_timeout_s):
                    if self._keepalive is None:
                        self._keepalive = self._connection.channel().stream_stream(
                            "/etcdserverpb.Lease/LeaseKeepAlive",
                            request_serializer=pb.LeaseKeepAliveRequest.SerializeToString,
                            response_deserializer=pb.LeaseKeepAliveResponse.FromString,
                        )(metadata=(("hasleader", "true"),))
                    await self._keepalive.write(pb.LeaseKeepAliveRequest(ID=lease_id))
                    while True:
                        reply = await self._keepalive.read()
                        if reply is grpc.aio.EOF:
                            raise self._connection.unavailable("the keep-alive stream ended")
                        if lease_id == reply.ID:
                            return float(reply.TTL)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
                self._drop_keepalive(endpoint)
                raise self._connection.unavailable("a renewal was not answered") from error
            except (StoreError, asyncio.CancelledError):
                self._drop_keepalive(endpoint)
                raise

    def _drop_keepalive(self, endpoint: str) -> None:
        if self._keepalive is not None:
            self._keepalive.cancel()
            self._keepalive = None
        self._connection.leave(endpoint)

    async def revoke(self, lease_id: int) -> None:
        """End a lease now."""
        try:
            await self._connection.call(
                "Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=lease_id), pb.LeaseRevokeResponse
            )
        except StoreError as error:
            if "requested lease not found" not in error.message:
                raise

    def watch(self, prefix: str) -> AsyncIterator[WatchItem]:
        """Everything under the prefix, then every change."""
        return self._watches.watch(prefix)

    async def version(self) -> str:
        """The server's version; raises StoreUnavailable when none answers: the check of a first connection."""
        reply = await self._connection.call("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)
        return str(reply.version)

    async def close(self) -> None:
        """End all watches and connections."""
        self._connection.closed = True
        await self._watches.close()
        if self._keepalive is not None:
            self._keepalive.cancel()
        await self._connection.close()


def _compare(guard: Guard) -> Any:
    key = guard.key.encode()
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
            return pb.RequestOp(request_put=pb.PutRequest(key=key.encode(), value=value, lease=lease))
        case Delete(key):
            return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key.encode()))
        case DeletePrefix(prefix):
            end = prefix_end(prefix.encode())
            return pb.RequestOp(
                request_delete_range=pb.DeleteRangeRequest(key=prefix.encode(), range_end=end)
            )
