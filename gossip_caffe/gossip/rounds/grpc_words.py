"""The words of rounds as wire messages, and the streams of words over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import FramesCorrupt, Refusal
from gossip_caffe.gossip.rounds.words import Figure, Member, Word, WordKind
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.wire import gossip_pb2 as wire

MOST_WORD_BYTES = 256 << 10
"""The longest word: the members of a round of 1,000 peers have less."""


def wire_of(word: Word) -> Any:
    """The wire message of a word."""
    return wire.RoundWord(
        kind=wire.RoundWord.Kind.Name(word.kind),
        peer=word.peer,
        job=word.job,
        fingerprint=word.fingerprint,
        round=word.round,
        last=word.last,
        stepped=word.stepped,
        wants=word.wants,
        guest=word.guest,
        started=word.started,
        everyone=word.everyone,
        lost=word.lost,
        members=[wire.RoundMember(peer=member.peer, address=member.address) for member in word.members],
        confirmed=word.confirmed,
        checksums=word.checksums,
        figures=[
            wire.RoundFigure(peer=figure.peer, finite=figure.finite, apart=figure.apart)
            for figure in word.figures
        ],
        square=word.square,
        reason=word.reason,
        refusal=wire.Refusal.Name(word.refusal),
    )


def word_of(message: Any) -> Word:
    """The word of a wire message. Raises FramesCorrupt for a kind that this version does not know, and a long word."""
    if message.kind not in set(WordKind) or message.ByteSize() > MOST_WORD_BYTES:
        raise FramesCorrupt(f"no word of a round: kind {message.kind}, {message.ByteSize()} bytes")
    return Word(
        kind=WordKind(message.kind),
        peer=message.peer,
        job=message.job,
        fingerprint=message.fingerprint,
        round=message.round,
        last=message.last,
        stepped=message.stepped,
        wants=message.wants,
        guest=message.guest,
        started=message.started,
        everyone=message.everyone,
        lost=tuple(message.lost),
        members=tuple(Member(member.peer, member.address) for member in message.members),
        confirmed=tuple(message.confirmed),
        checksums=tuple(message.checksums),
        figures=tuple(Figure(figure.peer, figure.finite, figure.apart) for figure in message.figures),
        square=message.square,
        reason=message.reason,
        refusal=Refusal(message.refusal) if message.refusal in set(Refusal) else Refusal.CORRUPT_FRAME,
    )


class CalledLink:
    """The calling side of a stream. ``ended`` is called once, at its end."""

    def __init__(self, address: str, call: Any, ended: Callable[[], None]) -> None:
        self._address = address
        self._call = call
        self._ended = ended
        self._closed = False

    async def send(self, word: Word) -> None:
        """Send a word."""
        try:
            await self._call.write(wire_of(word))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            raise ExchangeFailed(f"{self._address}: {_why(error)}") from None

    async def receive(self) -> Word:
        """Wait for the next word."""
        try:
            message = await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            raise ExchangeFailed(f"{self._address}: {_why(error)}") from None
        if message is grpc.aio.EOF:
            raise ExchangeFailed(f"{self._address} ended the stream of rounds")
        return word_of(message)

    def close(self) -> None:
        """End the stream."""
        if not self._closed:
            self._closed = True
            self._call.cancel()
            self._ended()


class ServedLink:
    """The answering side of a stream."""

    def __init__(self, stream: AsyncIterator[Any], context: Any) -> None:
        self._stream = stream
        self._context = context

    async def send(self, word: Word) -> None:
        """Send a word."""
        try:
            await self._context.write(wire_of(word))
        except (grpc.RpcError, grpc.aio.InternalError, asyncio.InvalidStateError) as error:
            raise ExchangeFailed(f"the member is gone ({_why(error)})") from None

    async def receive(self) -> Word:
        """Wait for the next word."""
        try:
            message = await anext(self._stream)
        except StopAsyncIteration:
            raise ExchangeFailed("the member has ended the stream of rounds") from None
        except grpc.RpcError as error:
            raise ExchangeFailed(f"the member is gone ({_why(error)})") from None
        if not isinstance(message, wire.RoundWord):
            raise FramesCorrupt(str(getattr(message, "why", "no word of a round")))
        return word_of(message)

    def close(self) -> None:
        """Do nothing: the stream ends when its handler returns."""


def _why(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name.lower()} {error.details()}"
    return str(error) or type(error).__name__
