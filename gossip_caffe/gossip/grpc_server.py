"""A peer's gRPC server: exchanges, snapshots, and checkpoints to pull."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from typing import Any, Protocol

from gossip_caffe.errors import Conflict, ExchangeFailed, NotFound, UsageError
from gossip_caffe.gossip.frames import from_frames, to_frames
from gossip_caffe.gossip.grpc_transport import SERVICE
from gossip_caffe.gossip.message import Answerer, Message
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.wire import gossip_pb2 as wire


class FileHolder(Protocol):
    """What checkpoints are pulled from."""

    def open_file(self, checkpoint: str, file: str, offset: int) -> tuple[int, AsyncIterator[bytes]]:
        """Size of a file in bytes, and its pieces from an offset on. Raises NotFound."""
        ...


def split_address(address: str, option: str) -> tuple[str, int]:
    """Take "host:port" apart; raises UsageError naming the option."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(
            f"{option} {address!r} is no HOST:PORT", remedy="give for example 0.0.0.0:7100, or port 0"
        )
    return host, int(port)


class PeerServer:
    """Serves one peer once it has an answerer; before that every call is refused as unavailable."""

    def __init__(self, listen: str, files: FileHolder) -> None:
        self._host, self._port = split_address(listen, "--listen")
        self._files = files
        self._answerer: Answerer | None = None
        self._server: Any = None

    def serve(self, answerer: Answerer) -> None:
        """From now on let ``answerer`` answer."""
        self._answerer = answerer

    async def start(self) -> int:
        """Bind and serve; returns the port. Raises Conflict when it is taken."""
        self._check_free()
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers = {
            "Exchange": grpc.stream_stream_rpc_method_handler(
                self._exchange, wire.ExchangeMessage.FromString, wire.ExchangeMessage.SerializeToString
            ),
            "Snapshot": grpc.unary_stream_rpc_method_handler(
                self._snapshot, wire.SnapshotRequest.FromString, wire.ExchangeMessage.SerializeToString
            ),
            "Pull": grpc.unary_stream_rpc_method_handler(
                self._pull, wire.PullRequest.FromString, wire.PullMessage.SerializeToString
            ),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            port = int(self._server.add_insecure_port(f"{self._host}:{self._port}"))
        except RuntimeError:
            port = 0
        if not port:
            raise self._taken()
        await self._server.start()
        return port

    def _taken(self) -> Conflict:
        return Conflict(
            f"cannot listen on {self._host}:{self._port}: the port is in use",
            remedy="choose another with --listen, or port 0 for any free one",
        )

    def _check_free(self) -> None:
        """Bind once by hand: gRPC's own error does not say why."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host.strip("[]"), self._port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise self._taken() from None
                raise UsageError(
                    f"cannot listen on {self._host}:{self._port} ({error.strerror})",
                    remedy="give --listen an address of this machine",
                ) from None

    async def stop(self) -> None:
        """Finish the calls that run, for up to two seconds, and close."""
        if self._server is not None:
            await self._server.stop(2.0)

    async def _ready(self, context: Any) -> Answerer:
        if self._answerer is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this peer is still joining")
        assert self._answerer is not None  # abort does not return
        return self._answerer

    async def _exchange(self, stream: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        answerer = await self._ready(context)
        exchange_id = ""
        try:
            offer = await from_frames(stream, answerer.largest_payload_bytes)
        except ExchangeFailed as error:
            await _drain(stream, 2 * answerer.largest_payload_bytes)
            answer = answerer.refuse_corrupt(exchange_id, error.message)
        else:
            answer = await answerer.answer(offer)
        for part in to_frames(answer):
            yield part

    async def _snapshot(self, request: Any, context: Any) -> AsyncIterator[Any]:
        answerer = await self._ready(context)
        asked = Message("snapshot", request.peer, request.job, request.fingerprint)
        for part in to_frames(await answerer.show(asked)):
            yield part

    async def _pull(self, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            total_bytes, pieces = self._files.open_file(request.checkpoint, request.file, request.offset)
        except NotFound as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, error.message)
            return
        async for piece in pieces:
            yield wire.PullMessage(total_bytes=total_bytes, data=piece)


async def _drain(stream: AsyncIterator[Any], most_bytes: int) -> None:
    """Read and forget the rest of an offer, within bounds: a call that ends before it is read loses its answer."""
    drained = 0
    async for part in stream:
        drained += len(part.frame.data)
        if drained > most_bytes:
            return
