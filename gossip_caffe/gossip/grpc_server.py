"""A peer's gRPC server: exchanges, snapshots, and checkpoints to pull."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from gossip_caffe.errors import Conflict, NotFound, UsageError
from gossip_caffe.gossip import bulk
from gossip_caffe.gossip.answering import MOST_IN_FLIGHT
from gossip_caffe.gossip.codec import largest_payload_bytes
from gossip_caffe.gossip.file_transfer import send_file
from gossip_caffe.gossip.frames import Incoming, to_frames
from gossip_caffe.gossip.grpc_transport import BULK, BULK_PORT, BULK_TICKET, SERVICE
from gossip_caffe.gossip.message import FramesCorrupt, Message, PartUnreadable, Refusal
from gossip_caffe.gossip.piece import Unreadable, parsed, readable, serialized
from gossip_caffe.gossip.transport import Answerer, Prepare
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.wire import gossip_pb2 as wire

RECEIPT_SILENCE_S = 10.0
"""An offerer that sends nothing for so long in the middle of its offer is given up."""
MOST_FILES = 8
"""Files that are sent at one time; who waits too long for a turn asks another holder."""
_OPTIONS = [
    ("grpc.so_reuseport", 0),
    # Partners ping every 10 s to notice a dead connection; gRPC's own limit would call that an abuse and hang up.
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5000),
]


class FileHolder(Protocol):
    """What checkpoints are pulled from."""

    def open_file(self, checkpoint: str, file: str, offset: int) -> tuple[int, AsyncIterator[bytes]]:
        """Size of a file in bytes, and its pieces from an offset on. Raises NotFound."""
        ...


@runtime_checkable
class FilePaths(FileHolder, Protocol):
    """One whose files are on a disk."""

    def path(self, checkpoint: str, file: str) -> Path:
        """Where a file is. Raises NotFound for names that lead elsewhere."""
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
    """Serves one peer once it has an answerer; before that offers are refused as NOT_TRAINING."""

    def __init__(self, listen: str, files: FileHolder) -> None:
        self._host, self._port = split_address(listen, "--listen")
        self._files = files
        self._answerer: Answerer | None = None
        self._server: Any = None
        self._listener = bulk.Listener(self._host)
        self._threads = ThreadPoolExecutor(2 * MOST_IN_FLIGHT, "answering")
        # Of their own: files that are pulled must not keep weights waiting until their partner gives up.
        self._sending = ThreadPoolExecutor(MOST_FILES, "sending")

    def serve(self, answerer: Answerer) -> None:
        """From now on let ``answerer`` answer."""
        self._answerer = answerer

    @property
    def weights_port(self) -> int:
        """Where large models' weights are swapped, once started."""
        return self._listener.port

    def hide_nearby(self) -> None:
        """Let those on this machine connect by TCP, too, as all others do."""
        self._listener.nearby = ""

    async def start(self) -> int:
        """Bind and serve; returns the port. Raises Conflict when it is taken."""
        self._check_free()
        self._server = grpc.aio.server(options=_OPTIONS)
        handlers = {
            "Exchange": grpc.stream_stream_rpc_method_handler(self._exchange, readable(parsed), serialized),
            "Snapshot": grpc.unary_stream_rpc_method_handler(
                self._snapshot, readable(wire.SnapshotRequest.FromString), serialized
            ),
            "Pull": grpc.unary_stream_rpc_method_handler(
                self._pull, readable(wire.PullRequest.FromString), wire.PullMessage.SerializeToString
            ),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            port = int(self._server.add_insecure_port(f"{self._host}:{self._port}"))
        except RuntimeError:
            port = 0
        if not port:
            raise self._taken()
        self._listener.start()
        await self._server.start()
        return port

    def _taken(self) -> Conflict:
        return Conflict(
            f"cannot listen on {self._host}:{self._port}: the port is in use",
            remedy="choose another with --listen, or port 0 for any free one",
        )

    def _check_free(self) -> None:
        """Bind once by hand: gRPC's own error does not say why."""
        with socket.socket(bulk.family_of(self._host), socket.SOCK_STREAM) as probe:
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
        await self._listener.stop()
        self._threads.shutdown(wait=False)
        self._sending.shutdown(wait=False)

    async def _exchange(self, stream: AsyncIterator[Any], context: Any) -> None:
        incoming = Incoming(stream, _soon)
        try:
            header = await incoming.header()
        except FramesCorrupt as error:
            await incoming.forget_rest()  # as below
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            return

        async def read() -> Message:
            return await incoming.whole(largest_payload_bytes(header.values))

        if self._answerer is None:
            answer = _not_yet(header)
        elif incoming.swaps:
            answer = await self._answerer.receive_swap(header, partial(self._carry, context))
        else:
            answer = await self._answerer.receive(header, incoming.payload_bytes, read)
        for part in to_frames(answer):
            await context.write(part)
        if answer.refusal is not Refusal.NONE:
            # A call that ends before the offer is read may lose the refusal; the offerer hangs up once it has it.
            await incoming.forget_rest()

    async def _carry(self, context: Any, prepare: Prepare) -> None:
        """Tell the offerer where to connect, and swap weights with it there."""
        with self._listener.expecting() as (ticket, connection):
            ready = wire.Ready(port=self._listener.port, ticket=ticket, nearby=self._listener.nearby)
            await context.write(wire.ExchangeMessage(ready=ready))
            await bulk.swap_over(connection, prepare, self._threads)

    async def _snapshot(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if isinstance(request, Unreadable):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, request.why)
            return
        asked = Message("snapshot", request.peer, request.job, request.fingerprint)
        shown = _not_yet(asked) if self._answerer is None else await self._answerer.show(asked)
        for part in to_frames(shown):
            yield part

    async def _pull(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if isinstance(request, Unreadable):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, request.why)
            return
        try:
            total_bytes, pieces = self._files.open_file(request.checkpoint, request.file, request.offset)
        except NotFound as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, error.message)
            return
        if not 0 <= request.offset <= total_bytes:
            outside = f"offset {request.offset} is not in the file, which has {total_bytes} bytes"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, outside)
            return
        asks_bulk = any(key == BULK for key, _ in context.invocation_metadata() or ())
        if asks_bulk and isinstance(self._files, FilePaths):
            await self._send_file(self._files.path(request.checkpoint, request.file), request.offset, context)
            return
        async for piece in pieces:
            yield wire.PullMessage(total_bytes=total_bytes, data=piece)

    async def _send_file(self, path: Path, offset: int, context: Any) -> None:
        """Tell the caller where to connect, and send the file over that connection, which ends with it."""
        loop = asyncio.get_running_loop()
        with self._listener.expecting() as (ticket, connection):
            await context.send_initial_metadata(
                ((BULK_PORT, str(self._listener.port)), (BULK_TICKET, ticket))
            )
            try:
                async with asyncio.timeout(bulk.CONNECT_S):
                    connected = await connection
                bulk.ready(connected)
                sending = loop.run_in_executor(self._sending, send_file, connected, path, offset)
                try:
                    await asyncio.shield(sending)
                finally:
                    if not sending.done():
                        bulk.hang_up(connected)
                        await asyncio.wait((sending,))
            except (OSError, TimeoutError):
                pass  # the caller is gone, or the file: the caller sees that it has not come whole


def _not_yet(asked: Message) -> Message:
    return Message(
        asked.exchange_id,
        "",
        asked.job,
        "",
        refusal=Refusal.NOT_TRAINING,
        reason="this peer has not loaded the consensus yet",
    )


async def _soon(stream: AsyncIterator[Any]) -> Any:
    """The next part of an offer. Raises FramesCorrupt when none comes: nobody may hold a place for ever."""
    try:
        async with asyncio.timeout(RECEIPT_SILENCE_S):
            part = await anext(stream)
    except TimeoutError:
        raise FramesCorrupt(f"nothing came for {RECEIPT_SILENCE_S:g} s") from None
    if isinstance(part, Unreadable):
        raise PartUnreadable(part.why)
    return part
