"""Watches that never die silently: all of a client on one stream, resumed where they were, listed anew after a gap.

An etcd stream can stay open and yet be dead: a cancelled watch, a member without quorum, a frozen server. So every
response counts as a sign of life, progress is asked for while it is quiet, and silence ends the stream. Progress
revisions are never taken as a place to resume from: an event can still follow one.

Nor is any place, before it is seen that the store still has the history that led there. One that was restored from a
copy, or that forgot what it had acknowledged (docs/dependencies.md), gives the same revisions to other writes: a watch
that resumed would lack them, and know for ever what never was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from gossip_caffe.errors import StoreError, StoreUnavailable
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.membership.etcd_channel import EtcdConnection
from gossip_caffe.membership.store import Changed, KeyValue, Listing, Reset, WatchItem
from gossip_caffe.wire import etcd_pb2 as pb

LOG = logging.getLogger(__name__)
ASK_AFTER_S = 2.0
DEAD_AFTER_S = 5.0


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all keys with ``prefix``: etcd's ``range_end``."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\0"


def key_value(item: pb.KeyValue) -> KeyValue:
    """An etcd key as the product sees it."""
    return KeyValue(
        item.key.decode(errors="replace"), item.value, item.create_revision, item.mod_revision, item.lease
    )


def _mark(item: KeyValue) -> int:
    """A number for a write; a watch of a thousand keys would take much memory to keep the writes themselves."""
    return hash((item.mod_revision, item.value))


class StreamEnded(Exception):
    """The stream is of no use any more: open another."""


@dataclass(slots=True)
class _Watch:
    prefix: str
    items: asyncio.Queue[WatchItem] = field(default_factory=asyncio.Queue)
    next_revision: int = 0  # 0: must be listed
    stream: Any = None  # on which it was created
    known: dict[str, int] = field(default_factory=dict)  # what there is, as far as it gave: key → mark
    gone: str = ""  # the key that was deleted last

    def begin(self, listing: Listing) -> None:
        """Give all that there is."""
        self.known, self.gone = {item.key: _mark(item) for item in listing.items}, ""
        self.next_revision = listing.revision + 1
        self.items.put_nowait(Reset(listing))

    def give(self, change: Changed) -> None:
        """Give what changed."""
        if change.value is None:
            self.known.pop(change.key, None)
            self.gone = change.key
        else:
            self.known[change.key] = _mark(change.value)
        self.items.put_nowait(change)


class WatchHub:
    """All watches of one client."""

    def __init__(self, connection: EtcdConnection, list_prefix: Callable[[str], Awaitable[Listing]]) -> None:
        self._connection = connection
        self._list = list_prefix
        self._watches: dict[int, _Watch] = {}
        self._next_id = 1
        self._task: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._heard_at = 0.0
        self._new = asyncio.Event()

    async def watch(self, prefix: str) -> AsyncIterator[WatchItem]:
        """Everything under the prefix, then every change, until the client is closed."""
        identity, watch = self._next_id, _Watch(prefix)
        self._next_id += 1
        self._watches[identity] = watch
        self._new.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="etcd watches")
        try:
            while True:
                yield await watch.items.get()
        finally:
            del self._watches[identity]

    async def close(self) -> None:
        """End the stream."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        attempt = 0
        while True:
            endpoint = self._connection.endpoint
            try:
                await self._read_stream()
                attempt = 0
            except grpc.aio.AioRpcError as error:
                LOG.info("watch stream to %s ended: %s %s", endpoint, error.code().name, error.details())
                self._connection.leave(endpoint)
            except (StoreError, StreamEnded) as error:
                LOG.info("watches pause: %s", error)
            await self._connection.clock.sleep(self._connection.pause_s(attempt))
            attempt = min(attempt + 1, 8)

    async def _read_stream(self) -> None:
        """One stream, with a task beside the reading that opens watches and asks for signs of life."""
        stream = self._connection.channel().stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )(metadata=(("hasleader", "true"),))
        self._heard_at = self._connection.clock.monotonic()
        reading = asyncio.create_task(self._read(stream))
        keeping = [
            asyncio.create_task(self._open_watches(stream)),
            asyncio.create_task(self._ask_while_quiet(stream)),
        ]
        tasks = [reading, *keeping]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            stream.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, stream: Any) -> None:
        """Deliver what comes until the stream must be opened again."""
        while (response := await stream.read()) is not grpc.aio.EOF:
            self._heard_at = self._connection.clock.monotonic()
            if not self._deliver(response):
                return
        raise StreamEnded("etcd closed the watch stream")

    async def _open_watches(self, stream: Any) -> None:
        """Create every watch on this stream, those to come too; list first what has no place to resume from."""
        while True:
            self._new.clear()
            for identity, watch in list(self._watches.items()):
                if watch.stream is stream:
                    continue
                if not (watch.next_revision and await self._happened(watch)):
                    watch.begin(await self._list(watch.prefix))
                watch.stream = stream
                prefix = watch.prefix.encode()
                create = pb.WatchCreateRequest(
                    key=prefix,
                    range_end=prefix_end(prefix),
                    start_revision=watch.next_revision,
                    watch_id=identity,
                )
                await self._write(stream, pb.WatchRequest(create_request=create))
            await self._new.wait()

    async def _happened(self, watch: _Watch) -> bool:
        """Whether the store had, at the revision up to which this watch has given everything, what it gave.

        A small reply or two: how many keys, the newest of them, and that the one which was deleted last is not there. A
        history that agrees in all that and is another one is not to be expected.
        """
        prefix, revision = watch.prefix.encode(), watch.next_revision - 1
        newest_of_all = pb.RangeRequest(
            key=prefix,
            range_end=prefix_end(prefix),
            revision=revision,
            limit=1,
            sort_order=pb.RangeRequest.DESCEND,
            sort_target=pb.RangeRequest.MOD,
        )
        try:
            reply = await self._connection.call("KV/Range", newest_of_all, pb.RangeResponse)
            newest = key_value(reply.kvs[0]) if reply.kvs else None
            happened = reply.count == len(watch.known) and (
                newest is None or _mark(newest) == watch.known.get(newest.key)
            )
            if happened and watch.gone and watch.gone not in watch.known:
                deleted = pb.RangeRequest(key=watch.gone.encode(), revision=revision)
                happened = not (await self._connection.call("KV/Range", deleted, pb.RangeResponse)).kvs
        except StoreUnavailable:
            raise
        except StoreError as error:
            LOG.info("watch of %s cannot resume, and lists again: %s", watch.prefix, error)
            return False  # that revision is compacted, or yet to come
        if not happened:
            LOG.warning("etcd does not have what the watch of %s gave: listing again", watch.prefix)
        return happened

    def _deliver(self, response: Any) -> bool:
        """Hand on what a response holds; False when the stream has to be opened again."""
        watch = self._watches.get(response.watch_id)
        if response.compact_revision and watch is not None:
            LOG.info("watch of %s is behind the compaction: listing again", watch.prefix)
            watch.next_revision = 0
            return False
        if response.canceled:
            LOG.info("etcd cancelled a watch: %s", response.cancel_reason)
            return False
        if watch is None:
            return True
        for event in response.events:
            if event.kv.mod_revision < watch.next_revision:
                continue
            value = key_value(event.kv) if event.type == pb.Event.PUT else None
            watch.give(Changed(event.kv.key.decode(errors="replace"), value, event.kv.mod_revision))
        if response.events:
            watch.next_revision = max(watch.next_revision, response.events[-1].kv.mod_revision + 1)
        return True

    async def _ask_while_quiet(self, stream: Any) -> None:
        """Ask for progress every now and then. Raises StreamEnded when nothing is heard for too long.

        A pause that was slept too long counts as one: where this process itself stood still nothing can be heard.
        """
        quiet_s = 0.0
        while quiet_s < DEAD_AFTER_S:
            heard_at = self._heard_at
            await self._connection.clock.sleep(ASK_AFTER_S)
            quiet_s = quiet_s + ASK_AFTER_S if self._heard_at == heard_at else 0.0
            await self._write(stream, pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
        self._connection.leave(self._connection.endpoint)
        raise StreamEnded("the watch stream is silent")

    async def _write(self, stream: Any, request: Any) -> None:
        async with self._writing:
            await stream.write(request)
