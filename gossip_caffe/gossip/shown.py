"""Somebody's newest weights on their way here: read piece by piece, so that nobody has to hold them whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Protocol

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.message import Message, Payload


class Shown(Protocol):
    """``header`` is a refusal, or says which weights come; it has no payload itself."""

    header: Message
    payload_bytes: int

    async def read(self, count: int) -> Payload:
        """The next ``count`` bytes. Raises ExchangeFailed when they do not come, or not as they were sent."""
        ...

    def close(self) -> None:
        """No more is wanted."""
        ...


class Stream:
    """Pieces of any length, read in the lengths that are asked for. ``end`` hangs up."""

    def __init__(
        self,
        header: Message,
        payload_bytes: int,
        pieces: AsyncIterator[Payload],
        end: Callable[[], None],
    ) -> None:
        self.header = header
        self.payload_bytes = payload_bytes
        self._end = end
        self._pieces = pieces
        self._left: Payload = b""

    async def read(self, count: int) -> Payload:
        """The next ``count`` bytes, without a copy when they came as one piece."""
        parts, wanted = [], count
        while wanted:
            if not self._left:
                self._left = memoryview(await self._next())
            parts.append(self._left[:wanted])
            self._left = self._left[wanted:]
            wanted -= len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Hang up."""
        self._end()

    async def _next(self) -> Payload:
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            raise ExchangeFailed(f"{self.header.peer} sent less than it announced") from None


def whole(message: Message) -> Shown:
    """A message that is here already, as if it came."""

    async def pieces() -> AsyncIterator[Payload]:
        yield message.payload

    return Stream(replace(message, payload=b""), len(message.payload), pieces(), lambda: None)
