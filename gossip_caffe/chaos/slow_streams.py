"""Slow calls at a living peer's port, for chaos runs: they send a byte now and then, or nothing, and read nothing.

Every process that reaches the port may open such calls, and open each again after the peer has ended it. The exchanges
of all peers must go on beside them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from isal import isal_zlib

from gossip_caffe.background import within
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.protocol.answering import MOST_IN_FLIGHT
from gossip_caffe.gossip.transport import channels
from gossip_caffe.gossip.transport.calls import SERVICE
from gossip_caffe.gossip.transport.channels import OPTIONS, Parts
from gossip_caffe.gossip.transport.frame_codec import RawFrame, parsed, serialized
from gossip_caffe.gossip.transport.frames import Incoming, header_of
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.security.live import LiveTls
from gossip_caffe.security.security import PLAIN, Security
from gossip_caffe.wire import gossip_pb2 as wire

STREAMS = 2 * MOST_IN_FLIGHT
"""The number of calls of each kind: twice the number of offers that a peer has places for."""
_APART = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
"""The slow calls must not share a connection with the calls of peers; channels of one process do so by default."""
AGAIN_S = 0.25
"""The pause before a call that the peer has ended is opened again."""
ANSWER_S = 5.0
UNREAD_S = 5.0
"""The duration of a call whose answer is not read: gRPC does not tell such a caller that the peer has ended it."""
_OVER = (grpc.aio.AioRpcError, asyncio.InvalidStateError)
"""The errors that gRPC raises on a call that has ended."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """The number of calls of each kind that are open at a time.

    ``offers``: offers that send a byte every ``byte_every_s``. ``silent``: calls that send nothing. ``unread``: calls
    that ask for the weights, and read nothing.
    """

    offers: int = STREAMS
    silent: int = STREAMS
    unread: int = STREAMS
    byte_every_s: float = 2.0


@dataclass(frozen=True, slots=True)
class _NetDescription:
    """The net's fingerprint and its number of weights, without which a peer would refuse an offer at once."""

    fingerprint: str
    values: int


async def slow_streams(
    address: str, job: str, seconds: float, crowd: Crowd = Crowd(), security: Security = PLAIN
) -> int:
    """Keep the calls of ``crowd`` open at the peer of that address for ``seconds``; returns the number of opened calls.

    They end earlier if the peer ends. ``security``: the identity of the caller.
    """
    opened = 0

    async def again(call: Callable[[], Awaitable[object]]) -> None:
        nonlocal opened
        while True:
            opened += 1
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(AGAIN_S)

    loaded = LiveTls(security.tls).now() if security.tls is not None else None
    async with channels.opened(address, loaded, _APART) as channel:
        try:
            async with asyncio.timeout(seconds):
                told = await _told(channel, job, counted=crowd.offers > 0)
                zeros = bytes(4 * told.values)

                def offer(number: int) -> Callable[[], Awaitable[object]]:
                    said = Message("", f"slow-{number}", job, told.fingerprint, codec="float32")
                    said = replace(said, values=told.values, payload=zeros)
                    return lambda: _trickle(_exchange(channel), said, crowd.byte_every_s)

                works = [again(offer(number)) for number in range(crowd.offers)]
                works += [again(lambda: _ended(_exchange(channel))) for _ in range(crowd.silent)]
                works += [
                    again(lambda: _ended(_show(channel, job, told, UNREAD_S))) for _ in range(crowd.unread)
                ]
                async with within(*works, foreseen=(grpc.aio.AioRpcError,)) as calls:
                    await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
        except (TimeoutError, grpc.aio.AioRpcError, ExchangeFailed):
            pass  # the time is over, or the peer has ended
    return opened


async def _told(channel: Any, job: str, counted: bool) -> _NetDescription:
    """Read the net's description from a refusal and, if ``counted``, a Snapshot's header, as soon as the peer trains.

    Raises AioRpcError or ExchangeFailed.
    """
    while True:
        asking = _exchange(channel, ANSWER_S)
        await asking.write(header_of(Message(_id(), "slow", job, "?")))
        refused = await _header(asking)
        told = _NetDescription(refused.fingerprint, 0)
        if not counted:
            return told
        shown = await _header(_show(channel, job, told, ANSWER_S))
        if shown.values:
            return _NetDescription(told.fingerprint, shown.values)
        await asyncio.sleep(AGAIN_S)


async def _header(call: Any) -> Message:
    try:
        return await Incoming(Parts(call)).header()
    finally:
        call.cancel()


def _exchange(channel: Any, timeout_s: float | None = None) -> Any:
    return channel.stream_stream(
        f"/{SERVICE}/Exchange", request_serializer=serialized, response_deserializer=parsed
    )(timeout=timeout_s)


def _show(channel: Any, job: str, told: _NetDescription, timeout_s: float | None = None) -> Any:
    return channel.unary_stream(
        f"/{SERVICE}/Snapshot",
        request_serializer=wire.SnapshotRequest.SerializeToString,
        response_deserializer=parsed,
    )(wire.SnapshotRequest(peer="slow", job=job, fingerprint=told.fingerprint), timeout=timeout_s)


async def _ended(call: Any) -> None:
    """Wait for the peer to end a call, without reading from it."""
    try:
        await call.code()
    finally:
        call.cancel()


async def _trickle(call: Any, offer: Message, every_s: float) -> None:
    """Send an offer, one byte every ``every_s``, until the peer answers or ends the call."""
    byte = memoryview(offer.payload)[:1]
    try:
        await call.write(header_of(replace(offer, exchange_id=_id())))
        async with within(call.read(), foreseen=_OVER) as (answer,):
            for offset in range(len(offer.payload)):
                if answer.done():
                    break
                await call.write(RawFrame(offset, byte, isal_zlib.crc32(byte)))
                await asyncio.wait((answer,), timeout=every_s)
    except asyncio.InvalidStateError:
        pass  # the peer has just ended the call
    finally:
        call.cancel()


def _id() -> str:
    return f"slow-{secrets.token_hex(6)}"
