"""Watches that never fail silently: all watches of a client on one stream, resumed where they ended.

Before it resumes at a revision, a watch verifies that the store still has the history up to there: etcd may have been
restored from a backup. If it has not, the watch lists all keys again.

An etcd stream can stay open and deliver nothing: its watch was cancelled, its member has no quorum, its server is
frozen. So every response counts as a sign of life, progress is requested while the stream is quiet, and silence ends
the stream. A progress revision is never used to resume at: an event can still follow it.

A stream that has ended is opened again, after a pause that grows while no stream delivers anything. An error that
another stream cannot cure is raised to the consumers: a refusal by etcd to the consumers of the refused watch, any
other error to all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from gossip_caffe.background import owned, within
from gossip_caffe.errors import StoreError, StoreRefused
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.membership.etcd.access.refused import Asked
from gossip_caffe.membership.etcd.etcd_channel import EtcdConnection
from gossip_caffe.membership.etcd.etcd_watch_state import WatchState
from gossip_caffe.membership.etcd.store import Listing, WatchItem
from gossip_caffe.wire import etcd_pb2 as pb

LOG = logging.getLogger(__name__)
ASK_AFTER_S = 2.0
DEAD_AFTER_S = 5.0
MOST_DOUBLINGS = 8
"""The pause before a stream is opened again doubles at most this many times."""

WATCHING = Asked("watch any key")
ListPrefix = Callable[[str], Awaitable[Listing]]


class StreamEnded(Exception):
    """The stream is unusable: open another."""


class WatchHub:
    """All watches of one client. ``list_prefix`` lists the keys under a prefix."""

    def __init__(self, connection: EtcdConnection, list_prefix: ListPrefix) -> None:
        self._connection = connection
        self._list = list_prefix
        self._watches: set[WatchState] = set()
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._closed = False

    async def watch(self, prefix: str) -> AsyncIterator[WatchItem]:
        """All keys under the prefix, then every change. Ends when the client is closed.

        Raises StoreRefused when etcd does not permit the watch, and any error that ended all watches.
        """
        if self._closed:
            return
        watch = WatchState(prefix)
        self._watches.add(watch)
        self._changed.set()
        if self._task is None:
            self._task = owned(self._run(), "etcd watches", self._ended)
        try:
            while (item := await watch.items.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._watches.discard(watch)
            self._changed.set()  # wakes the stream, which then cancels this watch at the server

    async def close(self) -> None:
        """End the stream, and with it every watch."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _ended(self, error: BaseException | None) -> None:
        """End all consumers when the stream has ended for good. Without this they would wait for ever."""
        self._task = None
        if not self._closed and not isinstance(error, StoreRefused):
            LOG.error("the watches of etcd ended: %s: %s", type(error).__name__, error)
        if isinstance(error, asyncio.CancelledError):
            error = None if self._closed else StoreError("the watches of etcd were cancelled")
        for watch in self._watches:
            watch.items.put_nowait(error)
        self._watches.clear()

    def _refuse(self, watch: WatchState, error: StoreRefused) -> None:
        self._watches.discard(watch)
        watch.items.put_nowait(error)

    async def _run(self) -> None:
        """Run one stream after another. Raises StoreRefused and any unexpected error."""
        attempt = 0
        while True:
            stream = _Stream(self._connection, self._list, self._watches, self._changed, self._refuse)
            try:
                await stream.run()
            except grpc.aio.AioRpcError as error:
                code, details = error.code(), error.details() or ""
                if self._connection.is_stale(stream.metadata, details):
                    LOG.info("watch stream to %s: etcd has forgotten its token", stream.endpoint)
                elif refused := self._connection.denied(stream.endpoint, WATCHING, code, details):
                    raise refused from error
                LOG.info("watch stream to %s ended: %s %s", stream.endpoint, code.name, details)
                self._connection.leave(stream.endpoint)
            except StoreRefused:
                raise
            except (StoreError, StreamEnded) as error:
                LOG.info("watches pause: %s", error)
            attempt = 0 if stream.delivered else attempt
            await self._connection.clock.sleep(self._connection.pause_s(attempt))
            attempt = min(attempt + 1, MOST_DOUBLINGS)


class _Stream:
    """One stream from its opening to its end.

    ``endpoint``: the member that it is connected to. ``delivered``: True once it has delivered more than replies to
    the creation of watches. Watches are created one at a time. Each ``created`` reply, which has the server's number
    of a watch, can then only be the reply to one request. Numbers that the client proposes do not serve: etcd's own
    proxy ignores them.
    """

    def __init__(
        self,
        connection: EtcdConnection,
        list_prefix: ListPrefix,
        watches: set[WatchState],
        changed: asyncio.Event,
        refuse: Callable[[WatchState, StoreRefused], None],
    ) -> None:
        self.endpoint = connection.endpoint
        self.delivered = False
        self._connection = connection
        self._list = list_prefix
        self._watches = watches
        self._changed = changed
        self._refuse = refuse
        self.metadata: tuple[tuple[str, str], ...] = ()
        self._channel: Any = None
        self._call: Any = None
        self._of_id: dict[int, WatchState] = {}
        self._creating: WatchState | None = None
        self._created = asyncio.Event()
        self._early: list[Any] = []
        self._writing = asyncio.Lock()
        self._heard_at = connection.clock.monotonic()

    async def run(self) -> None:
        """Read the stream to its end. One task beside it creates watches, and one requests signs of life.

        Raises StreamEnded, StoreError, AioRpcError.
        """
        self.metadata = await self._connection.metadata()
        self.endpoint, self._channel = self._connection.endpoint, self._connection.channel()
        self._call = self._channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )(metadata=(("hasleader", "true"), *self.metadata))
        foreseen = (grpc.aio.AioRpcError, StreamEnded)
        try:
            async with within(
                self._read(), self._keep_watches(), self._ask_while_quiet(), foreseen=foreseen
            ) as tasks:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if (
                        task.cancelled()
                    ):  # by gRPC, because its channel was closed: no other code has this task
                        raise StreamEnded("the call of the watch stream was cancelled")
                    if task.done():
                        task.result()
        finally:
            self._call.cancel()

    async def _read(self) -> None:
        """Read the responses and deliver their events."""
        while (response := await self._call.read()) is not grpc.aio.EOF:
            self._heard_at = self._connection.clock.monotonic()
            self._deliver(response)
        raise StreamEnded("etcd closed the watch stream")

    async def _keep_watches(self) -> None:
        """Create every watch on this stream, present and future ones, and cancel those that were given up."""
        while True:
            self._changed.clear()
            for number in [number for number, watch in self._of_id.items() if watch not in self._watches]:
                await self._cancel(number)
            for watch in [watch for watch in self._watches if watch.stream is not self]:
                try:
                    await self._create(watch)
                except StoreRefused as error:
                    self._refuse(watch, error)
            await self._changed.wait()

    async def _create(self, watch: WatchState) -> None:
        """List the keys first if the watch cannot resume. Returns when the server has numbered the watch."""
        if not (watch.next_revision and await watch.happened(self._connection)):
            watch.begin(await self._list(watch.prefix))
        watch.stream = self
        self._creating = watch
        self._created.clear()
        await self._write(watch.create_request())
        try:
            async with self._connection.clock.timeout(DEAD_AFTER_S):
                await self._created.wait()
        except TimeoutError:
            self._connection.leave(self.endpoint)
            raise StreamEnded(f"etcd does not create the watch of {watch.prefix}") from None

    async def _cancel(self, number: int) -> None:
        del self._of_id[number]
        request = pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=number))
        await self._write(request)

    def _deliver(self, response: Any) -> None:
        """Deliver the events of a response. Raises StreamEnded when the stream must be opened again."""
        if response.created:
            self._begun(response)
            return
        self.delivered = self.delivered or not response.canceled
        watch = self._of_id.get(response.watch_id)
        if watch is not None:
            self._give(watch, response)
        elif self._creating is not None and response.events:
            self._early.append(response)  # a proxy may send events before it confirms that the watch exists

    def _begun(self, response: Any) -> None:
        watch, early = self._creating, self._early
        if watch is None:
            raise StreamEnded("etcd created a watch that was not requested")
        self._creating, self._early = None, []
        self._created.set()
        if response.canceled:
            self._give(watch, response)
            return
        self._of_id[response.watch_id] = watch
        if watch not in self._watches:
            self._changed.set()  # the watch was given up meanwhile
        for reply in early:
            if reply.watch_id == response.watch_id:
                self._give(watch, reply)

    def _give(self, watch: WatchState, response: Any) -> None:
        if response.compact_revision:
            watch.next_revision = 0
            raise StreamEnded(f"the watch of {watch.prefix} is behind the compaction: listing again")
        if response.canceled:
            self._of_id.pop(response.watch_id, None)
            asked = Asked("watch", watch.prefix)
            if refused := self._connection.denied(self.endpoint, asked, None, response.cancel_reason):
                # The keys were listed just now, so this user may read them.
                if self._connection.is_stale(self.metadata, response.cancel_reason, of_watch=True):
                    raise StreamEnded("etcd has forgotten the token of the watch stream")
                self._refuse(watch, refused)
                return
            raise StreamEnded(f"etcd cancelled the watch of {watch.prefix}: {response.cancel_reason}")
        for event in response.events:
            watch.give(event)
        if response.events:
            newest = response.events[-1].kv.mod_revision
            # More events of the newest revision in a fragment may follow in the next fragment.
            watch.given_to(newest - 1 if response.fragment else newest)

    async def _ask_while_quiet(self) -> None:
        """Request progress while the stream is quiet. Raises StreamEnded when it is silent for too long.

        A pause that lasted too long counts as one pause: while this process itself stood still, it could hear nothing.
        """
        quiet_s = 0.0
        while quiet_s < DEAD_AFTER_S:
            heard_at = self._heard_at
            await self._connection.clock.sleep(ASK_AFTER_S)
            if not self._connection.is_newest(self.endpoint, self._channel):
                raise StreamEnded("the certificate has changed: watching on the new connection")
            quiet_s = quiet_s + ASK_AFTER_S if self._heard_at == heard_at else 0.0
            await self._write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
        self._connection.leave(self.endpoint)
        raise StreamEnded("the watch stream is silent")

    async def _write(self, request: Any) -> None:
        """Send a request.

        Raises AioRpcError or StreamEnded when the call has ended, before the reader may have noticed.
        """
        async with self._writing:
            try:
                await self._call.write(request)
            except asyncio.InvalidStateError:
                code, details = await self._call.code(), await self._call.details() or ""
                if self._connection.is_stale(self.metadata, details):
                    raise StreamEnded("etcd has forgotten the token of the watch stream") from None
                if refused := self._connection.denied(self.endpoint, WATCHING, code, details):
                    raise refused from None
                self._connection.leave(self.endpoint)
                raise StreamEnded(f"the watch stream to {self.endpoint} ended: {code} {details}") from None
