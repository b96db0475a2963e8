"""The messages of a connection that two peers keep for their trades of rounds, from round to round.

Each trade is one message of the calling side, and one of the answering side, both at the same time. A message of the
caller is a header and frames; one of the answering side is frames and a header, or only a header: a refusal. Frames are
those of a swap (``weights_socket``). A header has the length of its ``ExchangeHeader``, with the highest bit set, and
its CRC-32. Weights are received where they are needed, without a copy.

Between peers of one machine and one user the connection is a Unix socket. Then one frame with the place of the weights
in shared memory stands for all frames, and also has the place of the mean that will be there once the round is
committed; the first such frame carries the memory's descriptor (``rounds/shared_rows``).

Between peers with certificates everything on a connection by TCP is sealed, headers too (``weights_socket``).
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from typing import Protocol, runtime_checkable

from google.protobuf.message import DecodeError
from isal import isal_zlib

from gossip_caffe.gossip.codecs.message import FramesCorrupt, Message
from gossip_caffe.gossip.protocol.swap import PIECE_BYTES, Arriving, Leaving
from gossip_caffe.gossip.rounds.rows import LeavingRow, Row
from gossip_caffe.gossip.rounds.shared_rows import Place, TheirRows
from gossip_caffe.gossip.transport import weights_socket
from gossip_caffe.gossip.transport.frames import MOST_HEADER_BYTES, header_of, message_within
from gossip_caffe.security.sealing import TAG_BYTES, Seals
from gossip_caffe.wire import gossip_pb2 as wire

_HEAD = struct.Struct("<II")
_PLACE = struct.Struct("<6Q")
_IS_HEADER, _IS_PLACE = 1 << 31, 1 << 30
_END = _HEAD.pack(0, 0)
_DESCRIPTOR = array.array("i", [0])
MOST_MEMORIES = 2
"""The number of a partner's memories that stay mapped: its present one, and that of its last round."""


@runtime_checkable
class Placed(Protocol):
    """An ``Arriving`` that says where its next piece has its place."""

    def place(self, length: int) -> memoryview:
        """The memory of the next ``length`` bytes. Raises FramesCorrupt if it has no room for so many."""
        ...

    def placed(self, piece: memoryview) -> None:
        """Take in that the next piece is in its place, and valid. Raises FramesCorrupt."""
        ...


class TradeWire:
    """One kept connection. Its methods block, but for ``read_header``.

    ``is_near``: the two sides are on one machine, and read each other's rows where they are. ``seals``: the seals of
    this side, None for no seals; a connection on one machine needs none.
    """

    def __init__(self, connected: socket.socket, seals: Seals | None = None) -> None:
        self.connected = connected
        self.is_near = connected.family == socket.AF_UNIX
        self._seals = None if self.is_near else seals
        self._tag_bytes = TAG_BYTES if self._seals is not None else 0
        self._told: int | None = None
        self._theirs: dict[int, TheirRows] = {}

    def header_bytes(self, message: Message) -> bytes:
        """The header of a message as it goes over the connection. It has to be the next that is sent."""
        body = bytes(header_of(message).header.SerializeToString())
        if self._seals is None:
            return _HEAD.pack(_IS_HEADER | len(body), isal_zlib.crc32(body)) + body
        head, sealed = _HEAD.pack(_IS_HEADER | len(body), 0), bytearray(len(body) + TAG_BYTES)
        self._seals.seal(body, head, memoryview(sealed))
        return head + sealed

    def send_call(self, header: bytes, leaving: Leaving) -> None:
        """Send the message of the calling side. Raises OSError."""
        self.connected.sendall(header)
        self.send(leaving)

    def send(self, leaving: Leaving) -> None:
        """Send all weights, or their place; and the frame that ends them. Raises OSError."""
        if not self.is_near or not isinstance(leaving, LeavingRow) or (places := leaving.pointed()) is None:
            weights_socket.send(self.connected, leaving.pieces(), self._seals)
            return
        place, mean = places
        body = _PLACE.pack(place.memory, place.stamp, place.offset, place.length, mean.offset, mean.length)
        message = _HEAD.pack(_IS_PLACE | len(body), isal_zlib.crc32(body)) + body + _END
        if self._told != place.memory and leaving.rows is not None:
            sent = socket.send_fds(self.connected, [message], [leaving.rows.fd])
            message, self._told = message[sent:], place.memory
        self.connected.sendall(message)

    def receive_answer(self, arriving: Arriving) -> Message:
        """Receive the message of the answering side. Raises OSError, FramesCorrupt, and the errors of ``arriving``."""
        head = self._receive(arriving, goes_on=True)
        return self._message(head, self._body(head))

    def receive(self, arriving: Arriving) -> None:
        """Receive all weights, or their place. Raises OSError, FramesCorrupt, and the errors of ``arriving``."""
        self._receive(arriving, goes_on=False)

    def _receive(self, arriving: Arriving, *, goes_on: bool) -> bytes:
        """Receive the frames. ``goes_on``: up to the header after or instead of them: returns its head."""
        in_place = isinstance(arriving, Placed) and self._seals is None
        scratch = memoryview(bytearray(0 if in_place else PIECE_BYTES + TAG_BYTES))
        is_first = True
        while True:
            head, fd = self._head(arriving.came_bytes, is_first)
            is_first = False
            length, _ = _HEAD.unpack(head)
            if length & _IS_PLACE and self.is_near and not length & _IS_HEADER:
                self._point(head, fd, arriving)
                continue
            if fd >= 0:
                os.close(fd)
                raise FramesCorrupt("a descriptor came with no place")
            if length & _IS_HEADER and goes_on:
                return head
            if length == 0:
                tag = scratch[: self._tag_bytes]
                weights_socket.fill_piece(self.connected, head, tag, arriving.came_bytes, self._seals)
                if not goes_on:
                    return head
                continue
            self._piece(head, arriving, scratch)

    def _piece(self, head: bytes, arriving: Arriving, scratch: memoryview) -> None:
        taken = arriving.came_bytes
        length = weights_socket.piece_length(head, taken)
        if isinstance(arriving, Placed) and self._seals is None:
            place = arriving.place(length)
            arriving.placed(weights_socket.fill_piece(self.connected, head, place, taken, None))
            return
        view = scratch[: length + self._tag_bytes]
        arriving.take(weights_socket.fill_piece(self.connected, head, view, taken, self._seals))

    def _head(self, taken: int, is_first: bool) -> tuple[bytes, int]:
        """The head of the next frame, and the descriptor that came with it, or -1."""
        head, fd = bytearray(_HEAD.size), -1
        view = memoryview(head)
        if self.is_near:
            try:
                count, sent, _, _ = self.connected.recvmsg_into(
                    [view], socket.CMSG_SPACE(_DESCRIPTOR.itemsize), socket.MSG_CMSG_CLOEXEC
                )
            except OSError:
                count, sent = 0, []  # ``fill`` meets the same error, and names it
            for level, kind, data in sent:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    (fd,) = array.array("i", data[: _DESCRIPTOR.itemsize])
            view = view[count:]
            is_first = is_first and not count
        try:
            weights_socket.fill(self.connected, view, taken, is_first=is_first)
        except BaseException:
            if fd >= 0:
                os.close(fd)
            raise
        return bytes(head), fd

    def _point(self, head: bytes, fd: int, arriving: Arriving) -> None:
        """Take the place of the weights in the partner's memory."""
        theirs = TheirRows(fd) if fd >= 0 else None
        body = self._body(head)
        _, crc32 = _HEAD.unpack(head)
        _check(body, crc32, "a place of weights")
        if len(body) != _PLACE.size or not isinstance(arriving, Row):
            raise FramesCorrupt("a place of weights cannot be read")
        memory, stamp, offset, length, mean_offset, mean_length = _PLACE.unpack(body)
        place, mean = Place(memory, stamp, offset, length), Place(memory, stamp, mean_offset, mean_length)
        if theirs is not None:
            self._theirs[memory] = theirs
            while len(self._theirs) > MOST_MEMORIES:
                del self._theirs[next(iter(self._theirs))]
        if (known := self._theirs.get(memory)) is None:
            raise FramesCorrupt("a place in a memory that did not come")
        arriving.point(known, place, mean)

    def _body(self, head: bytes) -> bytearray:
        body = bytearray(_length(head) + self._tag_bytes)
        weights_socket.fill(self.connected, memoryview(body), 0)
        return body

    async def read_header(self) -> Message | None:
        """Wait for the next call; None once the other side has ended the connection. Raises FramesCorrupt and OSError.

        The connection must not block now.
        """
        if not (head := await self._exactly(_HEAD.size)):
            return None
        if not _HEAD.unpack(head)[0] & _IS_HEADER:
            raise FramesCorrupt("a call does not begin with a header")
        return self._message(head, bytearray(await self._exactly(_length(head) + self._tag_bytes)))

    def _message(self, head: bytes, body: bytearray) -> Message:
        if self._seals is not None:
            read = bytes(weights_socket.opened(self._seals, memoryview(body), head, 0))
        else:
            read = bytes(body)
            _check(read, _HEAD.unpack(head)[1], "a header")
        try:
            return message_within(wire.ExchangeHeader.FromString(read))
        except DecodeError as error:
            raise FramesCorrupt(f"a header cannot be read ({error})") from None

    async def _exactly(self, length: int) -> bytes:
        """So many bytes; none if the connection ends before."""
        loop, came = asyncio.get_running_loop(), b""
        while len(came) < length and (more := await loop.sock_recv(self.connected, length - len(came))):
            came += more
        return came if len(came) == length else b""


def _length(head: bytes) -> int:
    """The length of the body of a header or of a place."""
    if (length := _HEAD.unpack(head)[0] & ~(_IS_HEADER | _IS_PLACE)) > MOST_HEADER_BYTES:
        raise FramesCorrupt(f"a header of {length} bytes, and the limit is {MOST_HEADER_BYTES}")
    return int(length)


def _check(data: bytes | bytearray | memoryview, crc32: int, name: str) -> None:
    if isal_zlib.crc32(data) != crc32:
        raise FramesCorrupt(f"the checksum of {name} does not fit")
