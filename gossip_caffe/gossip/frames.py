"""A message as a stream: its header, then its payload in frames of 1 MiB, each with a checksum."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from isal import isal_zlib

from gossip_caffe.gossip.message import FramesCorrupt, Message, PartUnreadable, Payload, Refusal
from gossip_caffe.gossip.piece import Piece
from gossip_caffe.wire import gossip_pb2 as wire

FRAME_BYTES = 1 << 20
MOST_HEADER_BYTES = 16 << 10
"""A header may name 64 exchanges that were given up; strangers may name no more than can be remembered."""
MOST_NAME_CHARACTERS = 256
"""Of an exchange, a peer, a job, a layout or a codec."""


_UNREADABLE_BYTES = FRAME_BYTES // 16
"""For what a part counts that cannot be read."""


def header_of(message: Message, swaps: bool = False) -> Any:
    """The wire message that begins one side."""
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
        )
    )


def message_of(header: Any) -> Message:
    """A header as a message without its payload."""
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
    )


def to_frames(message: Message) -> Iterator[Any]:
    """What one side sends, for ``serialized``; the pieces share the payload's memory."""
    yield header_of(message)
    payload = memoryview(message.payload)
    for offset in range(0, len(payload), FRAME_BYTES):
        data = payload[offset : offset + FRAME_BYTES]
        yield Piece(offset, data, isal_zlib.crc32(data))


class Incoming:
    """One side on its way in. Every method raises FramesCorrupt when what comes does not fit.

    ``next_part`` awaits one wire message of the stream; it may bound how long that takes.
    """

    def __init__(
        self, stream: AsyncIterator[Any], next_part: Callable[[AsyncIterator[Any]], Awaitable[Any]] = anext
    ) -> None:
        self._parts = aiter(stream)
        self._next_part = next_part
        self._header: Message | None = None
        self.payload_bytes = 0
        self.swaps = False

    async def header(self) -> Message:
        """The message without its payload; ``payload_bytes`` and ``swaps`` are then what it announces."""
        return self._begun_with(await self._next())

    def _begun_with(self, part: Any) -> Message:
        if part is None or not _is_header(part):
            raise FramesCorrupt("the stream does not begin with a header")
        if (objection := _too_long(part.header)) is not None:
            raise FramesCorrupt(objection)
        self.payload_bytes = part.header.payload_bytes
        self.swaps = part.header.swaps
        self._header = message_of(part.header)
        return self._header

    async def header_or_ready(self) -> Any:
        """A Message without its payload, or that the partner is ready to swap: a ``Ready`` of the wire."""
        part = await self._next()
        if part is not None and not isinstance(part, Piece) and part.WhichOneof("part") == "ready":
            return part.ready
        return self._begun_with(part)

    async def whole(self, largest_payload_bytes: int) -> Message:
        """The whole message; one that announces a longer payload is not read."""
        header = self._header or await self.header()
        if not 0 <= self.payload_bytes <= largest_payload_bytes:
            raise FramesCorrupt(f"{self.payload_bytes} bytes announced, {largest_payload_bytes} is the most")
        payload = np.empty(self.payload_bytes, dtype=np.uint8).data
        here = 0
        async for data in self.pieces():
            payload[here : here + len(data)] = data
            here += len(data)
        return replace(header, payload=payload)

    async def pieces(self) -> AsyncIterator[Payload]:
        """What follows the header, piece by piece and each in order, until all that was announced has come."""
        here = 0
        while (part := await self._next()) is not None:
            frame = part if isinstance(part, Piece) else part.frame
            data = frame.data
            if not 0 < len(data) <= min(FRAME_BYTES, self.payload_bytes - here) or frame.offset != here:
                raise FramesCorrupt(
                    f"a frame of {len(data)} bytes at {frame.offset}, where {here} of {self.payload_bytes} had come"
                )
            if isal_zlib.crc32(data) != frame.crc32:
                raise FramesCorrupt(f"the checksum of the frame at {frame.offset} does not fit")
            here += len(data)
            yield data
        if here != self.payload_bytes:
            raise FramesCorrupt(f"{here} of {self.payload_bytes} bytes came")

    async def forget_rest(self) -> None:
        """Read on to the end of the stream, or until more came than was announced, and keep nothing."""
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
            left -= max(1, len(part.data if isinstance(part, Piece) else part.frame.data))

    async def _next(self) -> Any:
        """The next wire message, None at the end of the stream."""
        try:
            return await self._next_part(self._parts)
        except StopAsyncIteration:
            return None


def _too_long(header: Any) -> str | None:
    """Why a header must not be kept in memory, or written to a log, or None."""
    if (length := header.ByteSize()) > MOST_HEADER_BYTES:
        return f"a header of {length} bytes, {MOST_HEADER_BYTES} is the most"
    names = (header.exchange_id, header.peer, header.job, header.fingerprint, header.codec)
    longest = max(map(len, (*names, *header.answered.split(), *header.withdraws.split())))
    return f"a name of {longest} characters" if longest > MOST_NAME_CHARACTERS else None


def _is_header(part: Any) -> bool:
    return not isinstance(part, Piece) and part.WhichOneof("part") == "header"
