"""Messages that nobody should send: offers, requests and byte streams, mutated by a seeded generator. Pure."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.transport.frame_codec import serialized
from gossip_caffe.gossip.transport.frames import to_frames
from gossip_caffe.wire import gossip_pb2 as wire

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_NUMBERS = (0, 1, -1, 2, 63, 255, 1 << 20, 1 << 31, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63))
_WORDS = (
    "",
    "x",
    "\0",
    "../../../etc/passwd",
    "manifest.json",
    "stranger",
    " a b " * 40,
    "ß∂ƒ☃",
    "a/b",
    "." * 300,
)
_LONG = (2_000, 70_000, 1_500_000)


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a peer: the method, what is sent, and after how many messages the caller hangs up (None: never)."""

    method: str
    messages: tuple[bytes, ...]
    hangs_up_after: int | None = None


@dataclass(frozen=True, slots=True)
class Stranger:
    """What somebody may know who means ill: the job, its layout, and the peer's own newest weights.

    It sends only these weights, or such that must be refused: finite ones in good order are a partner's right.
    """

    job: str
    fingerprint: str
    weights: np.ndarray[Any, np.dtype[np.float32]]

    def offer(self, number: int, codec: str = "float32") -> list[bytes]:
        """A whole offer as it should be."""
        kind = "<f2" if codec == "float16" else "<f4"
        # The payload of float16 begins with the number of ranges that travel as float32: none here.
        head = struct.pack("<Q", 0) if codec == "float16" else b""
        return [
            serialized(part)
            for part in to_frames(self._message(number, codec, head, self.weights.astype(kind)))
        ]

    def poisoned(self, number: int, rng: random.Random) -> list[bytes]:
        """A whole offer with NaN or Inf in it."""
        spoilt = self.weights.copy()
        spoilt[rng.randrange(len(spoilt))] = rng.choice((np.nan, np.inf, -np.inf))
        return [serialized(part) for part in to_frames(self._message(number, "float32", b"", spoilt))]

    def _message(self, number: int, codec: str, head: bytes, values: Any) -> Message:
        return Message(
            f"stranger-{number}",
            "stranger",
            self.job,
            self.fingerprint,
            version=number,
            codec=codec,
            values=len(values),
            payload=head + values.tobytes(),
        )


# ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def call(stranger: Stranger, number: int, rng: random.Random) -> Call:
    """The next mutated call."""
    kind = rng.choices(("exchange", "swap", "snapshot", "pull"), (6, 2, 1, 1))[0]
    if kind == "snapshot":
        asked = wire.SnapshotRequest(peer="stranger", job=stranger.job, fingerprint=stranger.fingerprint)
        return Call("Snapshot", (_maybe_bytes(_fields(asked, rng), rng),))
    if kind == "pull":
        pulled = wire.PullRequest(job=stranger.job, checkpoint="00000000000000-p0", file="manifest.json")
        return Call("Pull", (_maybe_bytes(_fields(pulled, rng), rng),))
    if kind == "swap":
        offer = wire.ExchangeMessage.FromString(stranger.offer(number)[0])
        offer.header.swaps = True
        if rng.random() < 0.5:
            offer = _header_fields(offer, rng)
        return Call("Exchange", (offer.SerializeToString(),), rng.choice((None, None, 0, 1)))
    messages = rng.choice(_EXCHANGES)(stranger, number, rng)
    hangs_up = rng.randrange(len(messages) + 1) if rng.random() < 0.1 else None
    return Call("Exchange", tuple(messages), hangs_up)


def _as_it_should_be(stranger: Stranger, number: int, rng: random.Random) -> list[bytes]:
    return stranger.offer(number, rng.choice(("float32", "float16")))


def _other_header(stranger: Stranger, number: int, rng: random.Random) -> list[bytes]:
    header, *frames = stranger.offer(number)
    changed = _header_fields(wire.ExchangeMessage.FromString(header), rng)
    return [bytes(changed.SerializeToString()), *frames]


def _other_bytes(stranger: Stranger, number: int, rng: random.Random) -> list[bytes]:
    messages = stranger.offer(number)
    place = rng.randrange(len(messages))
    messages[place] = mutated(messages[place], rng)
    return messages


def _other_order(stranger: Stranger, number: int, rng: random.Random) -> list[bytes]:
    messages = stranger.offer(number)
    ready = wire.ExchangeMessage(ready=wire.Ready(port=rng.choice(_NUMBERS[:8]) & 0x7FFFFFFF, ticket=b"x"))
    extra = rng.choice((ready.SerializeToString(), b"", messages[0], messages[-1]))
    match rng.randrange(5):
        case 0:
            messages.reverse()
        case 1:
            messages.insert(rng.randrange(len(messages) + 1), bytes(extra))
        case 2:
            messages.pop(rng.randrange(len(messages)))
        case 3:
            messages = messages * rng.randint(2, 4)
        case _:
            messages = [rng.randbytes(rng.randrange(60)) for _ in range(rng.randrange(4))]
    return messages


def _other_frame(stranger: Stranger, number: int, rng: random.Random) -> list[bytes]:
    header, *frames = stranger.offer(number)
    frame = wire.ExchangeMessage.FromString(rng.choice(frames))
    match rng.randrange(4):
        case 0:
            frame.frame.offset = rng.choice(_NUMBERS)
        case 1:
            frame.frame.crc32 = rng.getrandbits(32)
        case 2:
            frame.frame.data = frame.frame.data[: rng.randrange(len(frame.frame.data))]
        case _:
            frame.frame.data += rng.randbytes(rng.choice((1, 9, 5000)))
    return [header, bytes(frame.SerializeToString())]


_EXCHANGES: tuple[Callable[[Stranger, int, random.Random], list[bytes]], ...] = (
    _as_it_should_be,
    Stranger.poisoned,
    _other_header,
    _other_header,
    _other_bytes,
    _other_bytes,
    _other_order,
    _other_frame,
)


def _header_fields(message: Any, rng: random.Random) -> Any:
    changed = _fields(message.header, rng)
    return wire.ExchangeMessage(header=changed)


def _fields(message: Any, rng: random.Random) -> Any:
    """The same with up to three fields of other values, as long as they are of the right type."""
    fields = list(message.DESCRIPTOR.fields)
    for field in rng.sample(fields, min(rng.randint(0, 3), len(fields))):
        match field.type:
            case field.TYPE_STRING:
                value: object = rng.choice(_WORDS)
                if rng.random() < 0.03:
                    value = "y" * rng.choice(_LONG)
                elif rng.random() < 0.3:
                    value = getattr(message, field.name)[::-1]
            case field.TYPE_BOOL:
                value = rng.random() < 0.5
            case field.TYPE_ENUM:
                value = rng.choice((0, 1, 5, 9, 10, 99, -1, 2**31 - 1))
            case field.TYPE_MESSAGE:
                part = getattr(message, field.name)
                part.SetInParent()
                _fields(part, rng)
                continue
            case field.TYPE_INT32:
                value = rng.choice(_NUMBERS[:7])
            case _:
                value = rng.choice(_NUMBERS)
        setattr(message, field.name, value)
    return message


def _maybe_bytes(message: Any, rng: random.Random) -> bytes:
    written = bytes(message.SerializeToString())
    return mutated(written, rng) if rng.random() < 0.4 else written


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Some bytes of it are flipped, gone, doubled, or others."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(spoilt) + 1)
        match rng.randrange(5):
            case 0 if at < len(spoilt):
                spoilt[at] ^= 1 << rng.randrange(8)
            case 1:
                del spoilt[at : at + rng.randint(1, 20)]
            case 2:
                spoilt[at:at] = rng.randbytes(rng.randint(1, 20))
            case 3:
                spoilt[at:at] = spoilt[at : at + rng.randint(1, 40)]
            case _:
                del spoilt[at:]
    return bytes(spoilt)


# ── byte streams ──────────────────────────────────────────────────────────────────────────────────────────────────────


def http2_stream(rng: random.Random) -> bytes:
    """Bytes for the port of gRPC: noise, or HTTP/2 that goes wrong."""
    if rng.random() < 0.3:
        return rng.randbytes(rng.randrange(400))
    stream = bytearray(PREFACE + SETTINGS)
    for _ in range(rng.randrange(8)):
        payload = rng.randbytes(rng.randrange(80))
        length = len(payload) if rng.random() < 0.8 else rng.getrandbits(24)
        kind, flags = rng.choice((*range(11), 255)), rng.getrandbits(8)
        stream += length.to_bytes(3, "big") + bytes((kind, flags))
        stream += rng.choice((0, 1, 3, rng.getrandbits(32))).to_bytes(4, "big") + payload
    return bytes(stream) if rng.random() < 0.6 else mutated(bytes(stream), rng)


def bulk_stream(rng: random.Random, ticket: bytes = b"") -> bytes:
    """Bytes for the port of weights: after a ticket frames that go wrong, else a ticket that nobody gave."""
    stream = bytearray(ticket or rng.randbytes(rng.choice((0, 1, 15, 16, 16, 17, 64))))
    for _ in range(rng.randrange(4)):
        data = rng.randbytes(rng.choice((0, 1, 100, 6000)))
        length = len(data) if rng.random() < 0.5 else rng.getrandbits(32)
        stream += struct.pack("<II", length, rng.getrandbits(32)) + data
    return bytes(stream)
