"""Calls a peer on both of its ports, to see whether they can be reached from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gossip_caffe.addresses import name_in, place_of, split_address
from gossip_caffe.clock import Clock
from gossip_caffe.gossip.codecs.message import Undelivered
from gossip_caffe.gossip.transport import calls, weights_socket
from gossip_caffe.gossip.transport.channels import opened
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.security.live import LiveTls
from gossip_caffe.system.unix_sockets import socket_path
from gossip_caffe.wire import gossip_pb2 as wire

DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class PortFacts:
    """The result of calling one peer. "" for a port that answers, else the reason why it does not.

    ``second``: the port on which large weights and files go; None if it could not be asked for. ``second_port``: its
    number, 0 if it is not known.
    """

    first: str
    second: str | None = None
    second_port: int = 0


async def reach(
    address: str, job: str, checkpoint: str, file: str, clock: Clock, live: LiveTls | None = None
) -> PortFacts:
    """Call the peer at an address. Errors are facts: none is raised.

    ``checkpoint``, ``file``: a file of the job that the peer holds, with which the second port is asked for;
    ``checkpoint`` "": there is none. ``live``: the own certificate.
    """
    try:
        channel = opened(address, live.now() if live is not None else None)
    except Undelivered as error:
        return PortFacts(error.message)
    try:
        try:
            async with clock.timeout(DEADLINE_S):
                await channel.channel_ready()
        except TimeoutError:
            return PortFacts(await _why(channel, address, clock))
        if not checkpoint or socket_path(address) is not None:
            return PortFacts("")
        request = wire.PullRequest(job=job, checkpoint=checkpoint, file=file, offset=0)
        return await _second(channel, address, request, clock)
    finally:
        await channel.close()


async def _why(channel: Any, address: str, clock: Clock) -> str:
    """The reason why a channel gets no connection, by a call that does not wait for one."""
    call = calls.pull(channel, wire.PullRequest())
    try:
        async with clock.timeout(DEADLINE_S):
            await call.read()
    except grpc.aio.AioRpcError as error:
        if name_in(address):
            return calls.said(address, error)
    except TimeoutError:
        pass
    finally:
        call.cancel()
    return f"no answer within {DEADLINE_S:.0f} s"


async def _second(channel: Any, address: str, request: wire.PullRequest, clock: Clock) -> PortFacts:
    call = calls.pull(channel, request, ((calls.BULK, "1"),))
    try:
        async with clock.timeout(DEADLINE_S):
            metadata = dict(await call.initial_metadata() or ())
        port = str(metadata.get(calls.BULK_PORT, ""))
        if not port.isdecimal() or not int(port):
            return PortFacts("")
        host, _ = split_address(place_of(address), "the peer's address")
        ticket = metadata.get(calls.BULK_TICKET, b"")
        return await _connected(host, int(port), ticket if isinstance(ticket, bytes) else b"", clock)
    except (grpc.aio.AioRpcError, TimeoutError):
        return PortFacts("")
    finally:
        call.cancel()


async def _connected(host: str, port: int, ticket: bytes, clock: Clock) -> PortFacts:
    try:
        async with clock.timeout(DEADLINE_S):
            connected = await weights_socket.connect(host, port, ticket)
    except weights_socket.CannotConnect as error:
        return PortFacts("", str(error), port)
    except TimeoutError:
        return PortFacts("", f"no answer within {DEADLINE_S:.0f} s", port)
    connected.close()
    return PortFacts("", "", port)
