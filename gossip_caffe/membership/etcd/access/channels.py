"""The gRPC channels of one client of etcd, one to each member. They follow the certificate files.

A channel keeps the certificate with which it was made. After a change of the files a new channel is made, and takes the
place of the old one once it is connected: so a new certificate that etcd does not accept costs nothing while the old
connection lives. The old channel is closed after its calls.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from gossip_caffe.background import DetachedTasks
from gossip_caffe.clock import Clock
from gossip_caffe.grpc_runtime import NO_PROXY, grpc
from gossip_caffe.security.grpc_credentials import channel_credentials
from gossip_caffe.security.live import Loaded, live_of
from gossip_caffe.security.security import Security
from gossip_caffe.system.unix_sockets import UNIX, grpc_target

LOG = logging.getLogger(__name__)
MOST_REPLY_BYTES = 16 << 20
"""Limit of one reply. With etcd's default limits a value has at most 1.5 MiB, and a fragment of a watch 2 MiB."""
LOOK_EVERY_S = 1.0
"""Seconds between two looks at the certificate files."""
CONNECT_S = 5.0
"""The time that a new channel has to connect; after it, the old one stays until the next attempt."""
AGAIN_S = 5.0
CALLS_END_S = 30.0
"""The time that calls on a replaced channel have to end. Streams are opened again on the new one within it."""

# A frozen server is detected after ping time + timeout, about 9 s. etcd closes a connection with more than one ping in
# 5 s.
OPTIONS = [
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.ping_timeout_ms", 3000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", MOST_REPLY_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.use_local_subchannel_pool", 1),
    *NO_PROXY,
]


@dataclass(slots=True)
class _Held:
    """A channel. ``made_with``: its certificate files; None: it is plain. ``tried``: newer ones that failed."""

    channel: Any
    made_with: Loaded | None
    tried: Loaded | None = None
    again_at: float = float("-inf")
    is_replacing: bool = False


class EtcdChannels:
    """One channel to each member that was called. ``changes``: how often one was replaced after a change of the files.

    Raises UsageError when the first certificate files cannot be used.
    """

    def __init__(self, security: Security, clock: Clock) -> None:
        self._live = live_of(security)
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._replacing = DetachedTasks()
        self._loaded = self._live.now() if self._live is not None else None
        self._look_at = clock.monotonic() + LOOK_EVERY_S
        self._fault = ""
        self.changes = 0

    @property
    def user(self) -> str:
        """The name that the own certificate gives to etcd, its CN; "" without one."""
        return self._loaded.certificate.identity.common_name if self._loaded is not None else ""

    def to(self, endpoint: str) -> Any:
        """The channel to a member; it is opened on the first call, and replaced after a change of the files."""
        held = self._held.get(endpoint)
        if held is None:
            loaded = None if endpoint.startswith(UNIX) else self._newest()
            held = self._held[endpoint] = _Held(_opened(endpoint, loaded), loaded)
        elif held.made_with is not None:
            self._follow(endpoint, held)
        return held.channel

    def is_newest(self, endpoint: str, channel: Any) -> bool:
        """True while ``channel`` is the one to use for that member."""
        held = self._held.get(endpoint)
        if held is not None and held.made_with is not None:
            self._follow(endpoint, held)
        return held is not None and held.channel is channel

    async def close(self) -> None:
        """Close all channels."""
        self._replacing.cancel()
        await self._replacing.ended()
        held, self._held = list(self._held.values()), {}
        for one in held:
            await one.channel.close()

    def _newest(self) -> Loaded | None:
        """The newest good files; they are looked at once a second, and a fault is logged once."""
        now = self._clock.monotonic()
        if self._live is not None and now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self._loaded = self._live.now()
            if self._live.fault and self._live.fault != self._fault:
                LOG.warning("the last good certificate is used for etcd: %s", self._live.fault)
            self._fault = self._live.fault
        return self._loaded

    def _follow(self, endpoint: str, held: _Held) -> None:
        loaded = self._newest()
        if loaded is held.made_with or loaded is None or held.is_replacing:
            return
        if loaded is held.tried and self._clock.monotonic() < held.again_at:
            return
        held.is_replacing = True
        self._replacing.begin(self._replace(endpoint, held, loaded), f"the new certificate for {endpoint}")

    async def _replace(self, endpoint: str, held: _Held, loaded: Loaded) -> None:
        """Connect with the new files; the new channel then takes the place of the old one."""
        channel = _opened(endpoint, loaded)
        try:
            async with asyncio.timeout(CONNECT_S):
                await channel.channel_ready()
        except TimeoutError:
            await channel.close()
            if loaded is not held.tried:
                LOG.warning(
                    "etcd at %s cannot be reached with the new certificate: the old one stays in use",
                    endpoint,
                )
            held.tried, held.again_at = loaded, self._clock.monotonic() + AGAIN_S
            held.is_replacing = False
            return
        except asyncio.CancelledError:
            await channel.close()
            raise
        old, held.channel, held.made_with, held.tried = held.channel, channel, loaded, None
        held.is_replacing = False
        self.changes += 1
        LOG.info("the connection to etcd at %s uses the new certificate", endpoint)
        try:
            await old.close(CALLS_END_S)
        except asyncio.CancelledError:
            await old.close()
            raise


def _opened(endpoint: str, loaded: Loaded | None) -> Any:
    if loaded is None:
        return grpc.aio.insecure_channel(grpc_target(endpoint), options=OPTIONS)
    return grpc.aio.secure_channel(grpc_target(endpoint), channel_credentials(loaded), options=OPTIONS)
