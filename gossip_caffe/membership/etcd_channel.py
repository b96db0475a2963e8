"""Connections to the members of an etcd cluster: one channel each, so that fail-over is ours and visible."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gossip_caffe.clock import Clock
from gossip_caffe.errors import Ambiguous, StoreError, StoreUnavailable, UsageError
from gossip_caffe.grpc_runtime import grpc

# A frozen server is noticed after ping time + timeout, about 9 s; more pings than one in 5 s make etcd hang up.
_OPTIONS = [
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.ping_timeout_ms", 3000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.use_local_subchannel_pool", 1),
]
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_NEVER_SENT = (
    "failed to connect",
    "connection refused",
    "no leader",
    "dns resolution failed",
    "name resolution",
)


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """How patient a client is. ``call_timeout_s``: one attempt; ``retry_for_s``: all attempts of one request."""

    call_timeout_s: float = 2.0
    retry_for_s: float = 8.0
    first_pause_s: float = 0.05
    longest_pause_s: float = 1.0


def parse_endpoints(text: str) -> tuple[str, ...]:
    """Read "host:port,host:port"; raises UsageError naming the part that is none."""
    endpoints = [part.strip().removeprefix("http://").rstrip("/") for part in text.split(",") if part.strip()]
    for endpoint in endpoints or [""]:
        host, _, port = endpoint.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise UsageError(
                f"--etcd {text!r}: {endpoint!r} is no HOST:PORT", remedy="give for example 127.0.0.1:2379"
            )
    return tuple(endpoints)


class EtcdConnection:
    """Calls to whichever member answers; stays with one until it fails."""

    def __init__(
        self, endpoints: Sequence[str], clock: Clock, rng: random.Random, settings: EtcdSettings | None = None
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.settings = settings or EtcdSettings()
        self.clock = clock
        self.rng = rng
        self.closed = False
        self._channels: dict[str, Any] = {}
        self._current = rng.randrange(len(self.endpoints))

    @property
    def endpoint(self) -> str:
        """The member that is used now."""
        return self.endpoints[self._current]

    def channel(self) -> Any:
        """The channel to that member."""
        if self.endpoint not in self._channels:
            self._channels[self.endpoint] = grpc.aio.insecure_channel(self.endpoint, options=_OPTIONS)
        return self._channels[self.endpoint]

    def leave(self, endpoint: str) -> None:
        """Go on to the next member, unless somebody did already."""
        if self.endpoint == endpoint:
            self._current = (self._current + 1) % len(self.endpoints)

    def pause_s(self, attempt: int) -> float:
        """Jittered exponential back-off before attempt number ``attempt`` + 1."""
        longest = min(self.settings.first_pause_s * 2**attempt, self.settings.longest_pause_s)
        return float(longest) * self.rng.uniform(0.5, 1.0)

    async def call(self, method: str, request: Any, reply: Any, *, repeatable: bool = True) -> Any:
        """One unary call, e.g. "KV/Range", tried at each member in turn until ``retry_for_s`` is over.

        A call that is not ``repeatable`` is tried again only while it surely was not sent; then Ambiguous is raised.
        """
        give_up_at = self.clock.monotonic() + self.settings.retry_for_s
        attempt = 0
        while True:
            endpoint = self.endpoint
            try:
                invoke = self.channel().unary_unary(
                    f"/etcdserverpb.{method}",
                    request_serializer=type(request).SerializeToString,
                    response_deserializer=reply.FromString,
                )
                return await invoke(request, timeout=self.settings.call_timeout_s)
            except grpc.aio.AioRpcError as error:
                detail = (error.details() or "").lower()
                if error.code() not in _AWAY and "leader" not in detail:
                    raise StoreError(f"etcd at {endpoint} refused {method}: {error.details()}") from error
                self.leave(endpoint)
                never_sent = any(sign in detail for sign in _NEVER_SENT)
                if not repeatable and not never_sent:
                    raise Ambiguous(
                        f"etcd at {endpoint} did not answer {method}: {error.code().name}"
                    ) from error
                pause_s = self.pause_s(attempt)
                attempt += 1
                if self.closed or self.clock.monotonic() + pause_s > give_up_at:
                    raise self.unavailable(error.code().name.lower()) from error
                await self.clock.sleep(pause_s)

    def unavailable(self, why: str) -> StoreUnavailable:
        """The error of a store that cannot be reached."""
        return StoreUnavailable(
            f"cannot reach etcd at {','.join(self.endpoints)} ({why.replace('_', ' ')})",
            remedy="check --etcd, or start a local one with 'gossip-caffe cluster up'",
        )

    async def close(self) -> None:
        """Close all channels."""
        self.closed = True
        for channel in self._channels.values():
            await channel.close()
