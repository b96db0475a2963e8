"""A message as a stream: its header, then its payload in frames of 1 MiB, each with a checksum."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from gossip_caffe.gossip.message import FramesCorrupt, Message, Refusal
from gossip_caffe.wire import gossip_pb2 as wire

FRAME_BYTES = 1 << 20


def to_frames(message: Message) -> Iterator[Any]:
    """The wire messages of one side."""
    yield wire.ExchangeMessage(
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
        )
    )
    payload = memoryview(message.payload)
    for offset in range(0, len(payload), FRAME_BYTES):
        data = bytes(payload[offset : offset + FRAME_BYTES])
        yield wire.ExchangeMessage(frame=wire.Frame(offset=offset, data=data, crc32=zlib.crc32(data)))


async def from_frames(stream: AsyncIterator[Any], largest_payload_bytes: int) -> Message:
    """Read one side whole. Raises FramesCorrupt (it names the exchange) when anything does not fit."""
    header: Any = None
    payload = bytearray()
    async for part in stream:
        if header is None:
            if part.WhichOneof("part") != "header":
                raise FramesCorrupt("the stream does not begin with a header")
            header = part.header
            if not 0 <= header.payload_bytes <= largest_payload_bytes:
                raise FramesCorrupt(
                    f"{header.payload_bytes} bytes announced, {largest_payload_bytes} is the most"
                )
            continue
        frame = part.frame
        if frame.offset != len(payload) or len(payload) + len(frame.data) > header.payload_bytes:
            raise FramesCorrupt(f"a frame at {frame.offset} where {len(payload)} is due")
        if zlib.crc32(frame.data) != frame.crc32:
            raise FramesCorrupt(f"the checksum of the frame at {frame.offset} does not fit")
        payload += frame.data
    if header is None:
        raise FramesCorrupt("the stream is empty")
    if len(payload) != header.payload_bytes:
        raise FramesCorrupt(f"{len(payload)} of {header.payload_bytes} bytes came")
    return Message(
        exchange_id=header.exchange_id,
        peer=header.peer,
        job=header.job,
        fingerprint=header.fingerprint,
        version=header.version,
        codec=header.codec,
        values=header.values,
        payload=bytes(payload),
        refusal=Refusal(header.refusal) if header.refusal in set(Refusal) else Refusal.CORRUPT_FRAME,
        reason=header.reason,
    )
