"""An etcd in memory behind the channel of a watch hub: each stream does what a test says, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gossip_caffe.errors import StoreError, StoreRefused, StoreUnavailable
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.membership.etcd.access.refused import Asked, refusal
from gossip_caffe.membership.etcd.etcd_watch_state import key_value
from gossip_caffe.membership.etcd.store import Listing
from gossip_caffe.sim.virtual_time import VirtualClock
from gossip_caffe.wire import etcd_pb2 as pb

OK = grpc.StatusCode.OK


def failed(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


class Call:
    """One watch stream. ``written``: what the hub asked; ``watches``: the server's number → prefix."""

    def __init__(self, etcd: ScriptedEtcd, endpoint: str) -> None:
        self.endpoint = endpoint
        self.written: list[pb.WatchRequest] = []
        self.watches: dict[int, str] = {}
        self.cancelled = False
        self.token = ""
        self.status: tuple[grpc.StatusCode, str] | None = None
        self._etcd = etcd
        self._replies: asyncio.Queue[Any] = asyncio.Queue()

    def send(self, response: Any) -> None:
        """Let the hub read it; an exception is raised."""
        self._replies.put_nowait(response)

    def end(
        self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, details: str = "gone", *, told: bool = True
    ) -> None:
        """End the call; not ``told``: the writer meets the end before the reader does."""
        self.status = code, details
        if told:
            self.send(failed(code, details))

    async def write(self, request: pb.WatchRequest) -> None:
        if self.status is not None:
            raise asyncio.InvalidStateError("RPC already finished.")
        self.written.append(request)
        self._etcd.on_request(self, request)

    async def read(self) -> Any:
        reply = await self._replies.get()
        if isinstance(reply, BaseException):
            raise reply
        return reply

    async def code(self) -> grpc.StatusCode:
        return self.status[0] if self.status is not None else OK

    async def details(self) -> str:
        return self.status[1] if self.status is not None else ""

    def cancel(self) -> bool:
        self.cancelled = True
        return True

    def creates(self) -> list[Any]:
        return [request.create_request for request in self.written if request.HasField("create_request")]

    def cancels(self) -> list[int]:
        return [
            request.cancel_request.watch_id for request in self.written if request.HasField("cancel_request")
        ]


class ScriptedEtcd:
    """Server and connection in one. It numbers watches by itself, from 100 on, as etcd's proxy does from 0 on.

    ``on_request`` may be replaced; ``pauses``: the attempt of each pause before a stream; ``left``: the members left.
    """

    def __init__(self, *endpoints: str) -> None:
        self.clock = VirtualClock()
        self.calls: list[Call] = []
        self.pauses: list[int] = []
        self.left: list[str] = []
        self.listed = 0
        self.token = ""
        self.forgotten: list[str] = []
        self.newest: Any = None
        self.mute = self.away = False
        self.compacted = 0
        self.on_request: Callable[[Call, pb.WatchRequest], None] = self.answer
        self.on_list: Callable[[str], Awaitable[None]] | None = None
        self._endpoints = endpoints or ("one:1",)
        self._current = 0
        self._history: list[tuple[int, str, bytes | None]] = []
        self._next = 100

    # ── the connection ────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def endpoint(self) -> str:
        return self._endpoints[self._current]

    def leave(self, endpoint: str) -> None:
        self.left.append(endpoint)
        if endpoint == self.endpoint:
            self._current = (self._current + 1) % len(self._endpoints)

    def pause_s(self, attempt: int) -> float:
        self.pauses.append(attempt)
        return float(min(0.05 * 2**attempt, 1.0))

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("token", self.token),) if self.token else ()

    def is_newest(self, endpoint: str, channel: Any) -> bool:
        return self.newest is None or channel is self.newest

    def is_stale(self, metadata: Sequence[tuple[str, str]], reason: str, *, of_watch: bool = False) -> bool:
        if not self.token or not (of_watch or "invalid auth token" in reason):
            return False
        self.forgotten.append(dict(metadata)["token"])
        if self.token == self.forgotten[-1]:
            self.token = f"token{len(self.forgotten)}"
        return True

    def denied(
        self, endpoint: str, asked: Asked, code: grpc.StatusCode | None, reason: str
    ) -> StoreRefused | None:
        return refusal(endpoint, "p0", asked, code, reason)

    def channel(self) -> Any:
        etcd, endpoint = self, self.endpoint

        class Channel:
            def stream_stream(self, method: str, **serializers: object) -> Callable[..., Call]:
                assert method == "/etcdserverpb.Watch/Watch"

                def opened(metadata: Sequence[tuple[str, str]]) -> Call:
                    etcd.calls.append(Call(etcd, endpoint))
                    etcd.calls[-1].token = dict(metadata).get("token", "")
                    return etcd.calls[-1]

                return opened

        return Channel()

    async def call(self, method: str, request: Any, reply: Any, *, repeatable: bool = True) -> Any:
        assert method == "KV/Range"
        await asyncio.sleep(0.001)
        if self.away:
            raise StoreUnavailable("away")
        if request.revision < self.compacted:
            raise StoreError("required revision has been compacted")
        found = [item for item in self._as_of(request.revision) if item.key.startswith(request.key)]
        newest = sorted(found, key=lambda item: -item.mod_revision)[:1]
        return reply(kvs=newest, count=len(found))

    # ── the server ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def revision(self) -> int:
        return 1 + len(self._history)

    def _as_of(self, revision: int) -> list[pb.KeyValue]:
        state: dict[str, pb.KeyValue] = {}
        for at, key, value in self._history:
            if at > revision:
                break
            state.pop(key, None)
            if value is not None:
                state[key] = pb.KeyValue(key=key.encode(), value=value, mod_revision=at, create_revision=at)
        return list(state.values())

    async def list(self, prefix: str) -> Listing:
        self.listed += 1
        await asyncio.sleep(0.001)
        if self.away:
            raise StoreUnavailable("away")
        if self.on_list is not None:
            await self.on_list(prefix)
        items = [
            key_value(item) for item in self._as_of(self.revision) if item.key.startswith(prefix.encode())
        ]
        return Listing(self.revision, tuple(items))

    def put(self, key: str, value: bytes | None = b"x") -> None:
        """Write a key, and tell those who watch it; None: delete it."""
        self._history.append((self.revision + 1, key, value))
        for call in self.calls:
            if call.status is None and not call.cancelled:
                for number, prefix in call.watches.items():
                    if key.startswith(prefix):
                        call.send(self.events(number, prefix, self.revision))

    def events(self, number: int, prefix: str, start: int) -> Any:
        """What happened under a prefix from a revision on."""
        return pb.WatchResponse(
            watch_id=number,
            events=[
                pb.Event(
                    type=pb.Event.DELETE if value is None else pb.Event.PUT,
                    kv=pb.KeyValue(key=key.encode(), value=value or b"", mod_revision=at),
                )
                for at, key, value in self._history
                if at >= start and key.startswith(prefix)
            ],
        )

    def answer(self, call: Call, request: pb.WatchRequest) -> None:
        """As etcd does."""
        if request.HasField("create_request"):
            self._next += 1
            prefix = request.create_request.key.decode()
            call.watches[self._next] = prefix
            call.send(pb.WatchResponse(created=True, watch_id=self._next))
            if request.create_request.start_revision <= self.revision:
                call.send(self.events(self._next, prefix, request.create_request.start_revision))
        elif request.HasField("cancel_request"):
            call.watches.pop(request.cancel_request.watch_id, None)
            call.send(pb.WatchResponse(canceled=True, watch_id=request.cancel_request.watch_id))
        elif not self.mute:
            call.send(pb.WatchResponse(watch_id=-1))
