"""The calls of a peer's gRPC service, from the calling side; and the errors of failed calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gossip_caffe.addresses import name_in
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import Undelivered
from gossip_caffe.gossip.transport.frame_codec import parsed, serialized
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.security.faults import fault_in, words_of
from gossip_caffe.wire import gossip_pb2 as wire

SERVICE = "gossip_caffe.v1.Peer"
BULK, BULK_PORT, BULK_TICKET = "gossip-bulk", "gossip-bulk-port", "gossip-bulk-ticket-bin"
BULK_NEARBY, BULK_KEY = "gossip-bulk-nearby", "gossip-bulk-key-bin"
"""Metadata of a call of Pull.

The caller sends BULK if it can receive the file over a separate connection. The answer names that connection's port,
ticket, and Unix socket, and between peers with certificates the key that seals what goes over it by TCP.
"""


class Busy(Undelivered):
    """The other side has too many calls, and did not begin to handle this one."""


def exchange(channel: Any, parts: Iterator[Any], deadline_s: float) -> Any:
    """Call Exchange: stream an offer to the peer, and its answer back."""
    return channel.stream_stream(
        f"/{SERVICE}/Exchange", request_serializer=serialized, response_deserializer=parsed
    )(parts, timeout=deadline_s)


def rounds(channel: Any) -> Any:
    """Call Rounds: a stream of words, both ways, for as long as this peer attends."""
    return channel.stream_stream(
        f"/{SERVICE}/Rounds",
        request_serializer=wire.RoundWord.SerializeToString,
        response_deserializer=wire.RoundWord.FromString,
    )()


def keep(channel: Any, request: Any, deadline_s: float) -> Any:
    """Call Keep: where to make a connection that is kept for trades, and its ticket."""
    return channel.unary_unary(
        f"/{SERVICE}/Keep",
        request_serializer=wire.KeepRequest.SerializeToString,
        response_deserializer=wire.Ready.FromString,
    )(request, timeout=deadline_s)


def snapshot(channel: Any, request: Any, deadline_s: float) -> Any:
    """Call Snapshot: the peer's newest weights."""
    return channel.unary_stream(
        f"/{SERVICE}/Snapshot",
        request_serializer=wire.SnapshotRequest.SerializeToString,
        response_deserializer=parsed,
    )(request, timeout=deadline_s)


def pull(channel: Any, request: Any, metadata: tuple[tuple[str, str], ...] = ()) -> Any:
    """Call Pull: a file of a checkpoint."""
    return channel.unary_stream(
        f"/{SERVICE}/Pull",
        request_serializer=wire.PullRequest.SerializeToString,
        response_deserializer=wire.PullMessage.FromString,
    )(request, metadata=metadata)


def failed(address: str, error: Any) -> ExchangeFailed:
    """The error of an exchange whose call ended with an AioRpcError."""
    kind = Busy if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else ExchangeFailed
    return kind(f"{address}: {said(address, error)}")


def said(address: str, error: Any) -> str:
    """The reason of an AioRpcError; where it is one of TLS, in words about the peer at that address."""
    details = str(error.details() or "")
    if (name := name_in(address)) and (fault := fault_in(details)) is not None:
        return words_of(fault, name)
    return f"{error.code().name.lower()} {details}"
