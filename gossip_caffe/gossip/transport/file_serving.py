"""The serving of checkpoint files to other peers: in pieces over gRPC, or over a separate connection.

Separate threads read the disk, never the event loop. At most MOST_FILES files are sent over separate connections at one
time. A caller that waits too long for such a place gets its file over gRPC, and a caller that does not keep the pace
loses its place to a waiting one. Over gRPC a caller must take each piece within ``PULL_SILENCE_S``.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

from gossip_caffe.background import surely_ended
from gossip_caffe.clock import Clock, SystemClock
from gossip_caffe.errors import NotFound
from gossip_caffe.gossip.protocol.admission import Caller, Patience
from gossip_caffe.gossip.protocol.places import PlaceLost, Places, TooSlow
from gossip_caffe.gossip.transport import weights_socket
from gossip_caffe.gossip.transport.calls import BULK, BULK_KEY, BULK_NEARBY, BULK_PORT, BULK_TICKET
from gossip_caffe.gossip.transport.file_transfer import (
    PULL_SILENCE_S,
    FileProgress,
    send_file,
    send_sealed_file,
)
from gossip_caffe.gossip.transport.frame_codec import FrameUnreadable
from gossip_caffe.gossip.transport.listener import Listener
from gossip_caffe.gossip.transport.secure.sealed import offered
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.wire import gossip_pb2 as wire

MOST_FILES = 8
"""The number of files that are sent over separate connections at one time."""
MOST_READING = 2
"""The number of threads that read the disk for files over gRPC."""
PLACE_WAIT_S = 20.0
"""A caller that has no place after this time gets its file over gRPC, which costs both sides several times as much."""
PIECE_BYTES = 1 << 18
SLOWEST_BYTES_PER_S = 5e5
PATIENCE = Patience(lambda size_bytes: size_bytes / SLOWEST_BYTES_PER_S, grace_s=5.0, still_s=5.0)
"""The pace of a file is slow: many callers that share a network or a disk are slow for that reason alone."""


class FileHolder(Protocol):
    """Holds the checkpoints of a peer."""

    def open_file(self, checkpoint: str, file: str, offset: int) -> tuple[int, AsyncIterator[bytes]]:
        """The size of a file in bytes, and its pieces from ``offset`` (bytes) on. Raises NotFound."""
        ...


@runtime_checkable
class FilePaths(FileHolder, Protocol):
    """A holder whose files are on a disk."""

    def path(self, checkpoint: str, file: str) -> Path:
        """The path of a file. Raises NotFound for names that lead out of the folder."""
        ...


class FileServing:
    """Answers Pull: files go out over connections of ``listener``, or over the call itself.

    ``is_secured``: this peer has a certificate, and connections by TCP are sealed.
    """

    def __init__(
        self, files: FileHolder, listener: Listener, clock: Clock | None = None, *, is_secured: bool = False
    ) -> None:
        self._is_secured = is_secured
        self._files = files
        self._listener = listener
        self._places = Places(MOST_FILES, clock or SystemClock(), PATIENCE)
        # Separate from the threads of exchanges: pulled files must not delay weights until their partner gives up.
        self._sending = ThreadPoolExecutor(MOST_FILES, "sending")
        self._reading = ThreadPoolExecutor(MOST_READING, "reading")

    def stop(self) -> None:
        """Begin no further reading or sending."""
        self._sending.shutdown(wait=False)
        self._reading.shutdown(wait=False)

    async def pull(self, request: Any, context: Any) -> None:
        """Answer one call of Pull."""
        if isinstance(request, FrameUnreadable):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, request.why)
            return
        try:
            total_bytes, pieces = await self._in_thread(
                self._files.open_file, request.checkpoint, request.file, request.offset
            )
        except NotFound as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, error.message)
            return
        if not 0 <= request.offset <= total_bytes:
            outside = f"offset {request.offset} is not in the file, which has {total_bytes} bytes"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, outside)
            return
        if isinstance(self._files, FilePaths):
            path = self._files.path(request.checkpoint, request.file)
            pieces = self._pieces(path, request.offset)
            asks_bulk = any(key == BULK for key, _ in context.invocation_metadata() or ())
            left = total_bytes - request.offset
            if asks_bulk and await self._sent(path, request.offset, left, context):
                return
        try:
            async for piece in pieces:
                async with asyncio.timeout(PULL_SILENCE_S):
                    await context.write(wire.PullMessage(total_bytes=total_bytes, data=piece))
        except TimeoutError:
            # Cancelling ends the call at once. An error status would wait behind data that the caller has not read.
            raise asyncio.CancelledError from None
        except OSError as error:
            await context.abort(
                grpc.StatusCode.DATA_LOSS, f"{request.file} cannot be read ({error.strerror})"
            )

    async def _in_thread(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._reading, work, *args)

    async def _pieces(self, path: Path, offset: int) -> AsyncIterator[bytes]:
        file: BinaryIO = await self._in_thread(path.open, "rb")
        try:
            await self._in_thread(file.seek, offset)
            while piece := await self._in_thread(file.read, PIECE_BYTES):
                yield piece
        finally:
            file.close()

    async def _sent(self, path: Path, offset: int, left_bytes: int, context: Any) -> bool:
        """Send a file over a separate connection, which ends with the file; False if there was no place for one.

        The caller gets its ticket when it has a place. The caller itself detects a file that is not whole.
        """
        caller = Caller(context.peer())
        if not await self._places.wait_for(caller, PLACE_WAIT_S):
            return False
        sent = FileProgress()
        async with self._places.taken(caller, left_bytes) as place:
            place.moved = lambda: sent.bytes
            place.allowed_s = math.inf  # no deadline: a slow line is not an error
            try:
                await place.transfer(self._over_connection(path, offset, sent, context))
            except (OSError, TimeoutError, PlaceLost, TooSlow):
                pass  # the caller has gone or is too slow, or the file was deleted
        return True

    async def _over_connection(self, path: Path, offset: int, sent: FileProgress, context: Any) -> None:
        here = offered(self._listener.port, is_secured=self._is_secured)
        with self._listener.expecting() as (ticket, connection):
            await context.send_initial_metadata(
                (
                    (BULK_PORT, str(here.port)),
                    (BULK_NEARBY, self._listener.nearby),
                    (BULK_TICKET, ticket),
                    *(((BULK_KEY, here.key),) if here.key else ()),
                )
            )
            async with asyncio.timeout(weights_socket.CONNECT_S):
                connected = await here.met(connection)
            weights_socket.ready(connected)
            send = send_file
            if (seals := here.seals()) is not None and connected.family != socket.AF_UNIX:
                send = partial(send_sealed_file, seals=seals)
            loop = asyncio.get_running_loop()
            sending = loop.run_in_executor(self._sending, send, connected, path, offset, sent)
            try:
                await asyncio.shield(sending)
            finally:
                if not sending.done():
                    weights_socket.hang_up(connected)
                await surely_ended(sending)
