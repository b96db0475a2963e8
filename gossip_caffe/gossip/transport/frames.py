"""The stream of a message: its header, then its payload in frames of 1 MiB, each with a checksum."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from dataclasses import replace
from typing import Any

import numpy as np
from isal import isal_zlib

from gossip_caffe.gossip.codecs.message import FramesCorrupt, Message, PartUnreadable, Payload, Refusal
from gossip_caffe.gossip.transport.frame_codec import RawFrame
from gossip_caffe.gossip.transport.mpi.communicator import Rank
from gossip_caffe.wire import gossip_pb2 as wire

FRAME_BYTES = 1 << 20
MOST_HEADER_BYTES = 16 << 10
"""The longest header. It has room for 64 given-up exchanges, and for no more than a receiver remembers."""
MOST_NAME_CHARACTERS = 256
"""The longest name of an exchange, a peer, a job, a layout or a codec."""


_GROWTH = 8
"""A growing frame has an eighth of the bytes before it."""
_UNREADABLE_BYTES = FRAME_BYTES // 16
"""The length that an unreadable part counts as."""


def header_of(message: Message, swaps: bool = False, rank: Rank | None = None) -> Any:
    """The wire message that begins the stream of ``message``. ``rank``: of the sender, if it can send by MPI."""
    return wire.ExchangeMessage(
        header=wire.ExchangeHeader(
            exchange_id=message.exchange_id,
            peer=message.peer,
            job=message.job,
            fingerprint=message.fingerprint,
            version=message.version,
            codec=message.codec,
            values=message.values,
            payload_bytes=len(message.payload),
            refusal=wire.Refusal.Name(message.refusal),
            reason=message.reason,
            answered=message.answered,
            withdraws=message.withdraws,
            swaps=swaps,
            rank=wire_rank(rank),
            phase=message.phase,
            contributes=message.contributes,
        )
    )


def wire_rank(rank: Rank | None) -> Any:
    """A rank as a field of a wire message; None leaves the field out."""
    return wire.Rank(communicator=rank.communicator, number=rank.number) if rank is not None else None


def rank_of(part: Any) -> Rank | None:
    """The rank that a header or a ``Ready`` of the wire names, or None."""
    return Rank.parse(f"{part.rank.communicator}/{part.rank.number}") if part.HasField("rank") else None


def message_of(header: Any) -> Message:
    """The message of a wire header, without its payload."""
    return Message(
        exchange_id=header.exchange_id,
        peer=header.peer,
        job=header.job,
        fingerprint=header.fingerprint,
        version=header.version,
        codec=header.codec,
        values=header.values,
        refusal=Refusal(header.refusal) if header.refusal in set(Refusal) else Refusal.CORRUPT_FRAME,
        reason=header.reason,
        answered=header.answered,
        withdraws=header.withdraws,
        phase=header.phase,
        contributes=header.contributes,
    )


def message_within(header: Any) -> Message:
    """As ``message_of``. Raises FramesCorrupt for a header that is too long to be kept in memory."""
    if (objection := _too_long(header)) is not None:
        raise FramesCorrupt(objection)
    return message_of(header)


def to_frames(
    message: Message, frame_bytes: int = FRAME_BYTES, first_bytes: int = FRAME_BYTES
) -> Generator[Any, None, None]:
    """The wire messages of one side, for ``serialized``. The frames share the payload's memory.

    The first frames have at most ``first_bytes``. Later ones grow with the bytes before them, up to ``frame_bytes``.
    """
    yield header_of(message)
    payload, offset = memoryview(message.payload), 0
    while offset < len(payload):
        count = min(frame_bytes, max(first_bytes, offset // _GROWTH))
        data = payload[offset : offset + count]
        yield RawFrame(offset, data, isal_zlib.crc32(data))
        offset += count


class Incoming:
    """Receives the stream of one message. Every method raises FramesCorrupt if the stream is not valid.

    ``came_bytes``: the number of payload bytes received so far. ``next_part`` awaits one wire message of the stream; it
    may have a deadline.
    """

    def __init__(
        self, stream: AsyncIterator[Any], next_part: Callable[[AsyncIterator[Any]], Awaitable[Any]] = anext
    ) -> None:
        self._parts = aiter(stream)
        self._next_part = next_part
        self._header: Message | None = None
        self.payload_bytes = 0
        self.came_bytes = 0
        self.swaps = False
        self.rank: Rank | None = None

    async def header(self) -> Message:
        """The message without its payload; ``payload_bytes``, ``swaps`` and ``rank`` are set from it."""
        return self._begun_with(await self._next())

    def _begun_with(self, part: Any) -> Message:
        if part is None or not _is_header(part):
            raise FramesCorrupt("the stream does not begin with a header")
        self._header = message_within(part.header)
        self.payload_bytes = part.header.payload_bytes
        self.swaps = part.header.swaps
        self.rank = rank_of(part.header)
        return self._header

    async def header_or_ready(self) -> Any:
        """A Message without its payload; or a ``Ready`` of the wire: the partner is ready to swap."""
        part = await self._next()
        if part is not None and not isinstance(part, RawFrame) and part.WhichOneof("part") == "ready":
            return part.ready
        return self._begun_with(part)

    async def whole(self, largest_payload_bytes: int) -> Message:
        """The whole message; FramesCorrupt, without reading on, if it announces a longer payload."""
        header = self._header or await self.header()
        if not 0 <= self.payload_bytes <= largest_payload_bytes:
            raise FramesCorrupt(
                f"{self.payload_bytes} bytes announced, and the limit is {largest_payload_bytes}"
            )
        payload = np.empty(self.payload_bytes, dtype=np.uint8).data
        here = 0
        async for data in self.pieces():
            payload[here : here + len(data)] = data
            here += len(data)
        return replace(header, payload=payload)

    async def pieces(self) -> AsyncIterator[Payload]:
        """The payload after the header, piece by piece in order, until all announced bytes have come."""
        here = 0
        while (part := await self._next()) is not None:
            frame = part if isinstance(part, RawFrame) else part.frame
            data = frame.data
            if not 0 < len(data) <= min(FRAME_BYTES, self.payload_bytes - here) or frame.offset != here:
                raise FramesCorrupt(
                    f"a frame of {len(data)} bytes at {frame.offset}, after {here} of {self.payload_bytes} bytes"
                )
            if isal_zlib.crc32(data) != frame.crc32:
                raise FramesCorrupt(f"the checksum of the frame at {frame.offset} does not fit")
            here += len(data)
            self.came_bytes = here
            yield data
        if here != self.payload_bytes:
            raise FramesCorrupt(f"{here} of {self.payload_bytes} bytes came")

    async def forget_rest(self) -> None:
        """Read and drop the rest of the stream, until its end or until more bytes have come than were announced."""
        left = max(self.payload_bytes, FRAME_BYTES)
        while left >= 0:
            try:
                if (part := await self._next()) is None:
                    return
            except PartUnreadable:
                left -= _UNREADABLE_BYTES
                continue
            except FramesCorrupt:
                return
            left -= max(1, len(part.data if isinstance(part, RawFrame) else part.frame.data))

    async def _next(self) -> Any:
        """The next wire message, None at the end of the stream."""
        try:
            return await self._next_part(self._parts)
        except StopAsyncIteration:
            return None


def _too_long(header: Any) -> str | None:
    """The reason why a header must not be kept in memory or written to a log, or None."""
    if (length := header.ByteSize()) > MOST_HEADER_BYTES:
        return f"a header of {length} bytes, and the limit is {MOST_HEADER_BYTES}"
    names = (header.exchange_id, header.peer, header.job, header.fingerprint, header.codec, header.phase)
    longest = max(map(len, (*names, *header.answered.split(), *header.withdraws.split())))
    return f"a name of {longest} characters" if longest > MOST_NAME_CHARACTERS else None


def _is_header(part: Any) -> bool:
    return not isinstance(part, RawFrame) and part.WhichOneof("part") == "header"
