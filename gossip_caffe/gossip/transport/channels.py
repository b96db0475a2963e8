"""The gRPC channels of one peer to others: few, and none to an address that does not answer.

gRPC dials an address repeatedly as long as a channel to it exists, even if no call uses the channel. So a channel
without a connection is closed when its last call ends; the next call makes a new one. A channel is also closed after
its peer has departed (``forget``). If there are too many channels, the least recently used one is closed. No channel is
closed while a call uses it.

A channel keeps the certificate with which it was made. After a change of the files the next call makes a new channel.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gossip_caffe.addresses import name_in, place_of
from gossip_caffe.background import DetachedTasks
from gossip_caffe.gossip.codecs.message import Undelivered
from gossip_caffe.grpc_runtime import NO_PROXY, grpc
from gossip_caffe.security.grpc_credentials import channel_credentials, named
from gossip_caffe.security.live import LiveTls, Loaded
from gossip_caffe.system.unix_sockets import grpc_target, socket_path

MOST_CHANNELS = 256
"""The number of channels that stay open between calls; a further one closes the least recently used channel."""
OPTIONS = [
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.ping_timeout_ms", 5000),
    # The caller closes an idle connection before the server does, so that no call meets a server that is just closing.
    ("grpc.client_idle_timeout_ms", 60_000),
    # Data that the caller has not read stay at the sender: no window grows beyond the part that is being read.
    ("grpc.http2.bdp_probe", 0),
    *NO_PROXY,
]


class OpenChannel:
    """A channel and the number of its calls. ``is_departed``: its peer has departed; it is closed after its calls.

    ``made_with``: the certificate with which it was made.
    """

    def __init__(self, channel: Any, made_with: Loaded | None = None) -> None:
        self.channel = channel
        self.made_with = made_with
        self.calls = 0
        self.is_departed = False
        self.is_closed = False

    @property
    def is_connected(self) -> bool:
        """Whether the channel has a connection, or is idle and does not dial."""
        state = self.channel.get_state()
        return state in {grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.IDLE}


def opened(address: str, loaded: Loaded | None, options: Sequence[tuple[str, Any]] = OPTIONS) -> Any:
    """A channel to an address. With ``loaded`` files the certificate at its other end must be for the name in it.

    Raises Undelivered if one side of the two would use TLS and the other would not.
    """
    name, target = name_in(address), grpc_target(place_of(address))
    if socket_path(address) is not None or (loaded is None and not name):
        return grpc.aio.insecure_channel(target, options=options)
    if loaded is None:
        raise Undelivered(f"{address}: {name} asks for a certificate; start this one with --tls-dir, too")
    if not name:
        raise Undelivered(f"{address}: the peer there has no certificate, and this one speaks with no other")
    return grpc.aio.secure_channel(target, channel_credentials(loaded), options=[*options, *named(name)])


class Channels:
    """One channel to each address that was called recently. ``live``: the own certificate; None: there is none."""

    def __init__(self, live: LiveTls | None = None) -> None:
        self._live = live
        self._open: dict[str, OpenChannel] = {}
        self._replaced: dict[OpenChannel, str] = {}
        self._closing = DetachedTasks()

    def __len__(self) -> int:
        """The number of open channels."""
        return len(self._open)

    @contextmanager
    def to(self, address: str) -> Iterator[Any]:
        """The channel to an address, for one call. It stays open for the block. Raises Undelivered, as ``opened``."""
        loaded = self._live.now() if self._live is not None else None
        used = self._open.get(address)
        if used is not None and used.made_with is not loaded:
            self._replace(address, used)
            used = None
        if used is None:
            used = OpenChannel(opened(address, loaded), loaded)
        self._open.pop(address, None)
        self._open[address] = used
        used.calls += 1
        used.is_departed = False
        self._close_oldest()
        try:
            yield used.channel
        finally:
            used.calls -= 1
            if not used.calls and (used.is_departed or not used.is_connected):
                self._close(address, used)

    def _replace(self, address: str, used: OpenChannel) -> None:
        """Use a channel for no further call, and close it after those that it has."""
        self._replaced[used] = address
        del self._open[address]
        used.is_departed = True
        if not used.calls:
            self._close(address, used)

    def forget(self, living: Container[str]) -> None:
        """Close the channels to all addresses that are not among ``living``, each once its calls are over."""
        for address, used in list(self._open.items()):
            if address in living:
                continue
            used.is_departed = True
            if not used.calls:
                self._close(address, used)

    async def close(self) -> None:
        """Close all channels, and end their calls."""
        for address, used in [*self._open.items(), *((where, old) for old, where in self._replaced.items())]:
            self._close(address, used)
        await self._closing.ended()

    def _close_oldest(self) -> None:
        idle = [address for address, used in self._open.items() if not used.calls]
        for address in idle[: max(0, len(self._open) - MOST_CHANNELS)]:
            self._close(address, self._open[address])

    def _close(self, address: str, used: OpenChannel) -> None:
        if used.is_closed:
            return
        used.is_closed = True
        self._replaced.pop(used, None)
        if self._open.get(address) is used:
            del self._open[address]
        self._closing.begin(used.channel.close(), f"the end of the channel to {address}")


class Parts:
    """Iterates over the parts that a call receives.

    gRPC's own iterator and the call refer to each other. Such a call, and its connection, would stay until Python's
    garbage collector runs.
    """

    def __init__(self, call: Any) -> None:
        self._call = call

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        """The next part. Raises AioRpcError if the call ended with an error."""
        if (part := await self._call.read()) is grpc.aio.EOF:
            raise StopAsyncIteration
        return part
