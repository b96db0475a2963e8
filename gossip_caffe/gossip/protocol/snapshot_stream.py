"""Another peer's newest weights on their way here: read piece by piece, so that no vector of their size is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Protocol

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import Message, Payload


class SnapshotReader(Protocol):
    """Reads one snapshot. ``header`` is a refusal or describes the weights; it holds no payload itself."""

    header: Message
    payload_bytes: int

    async def read(self, count: int) -> Payload:
        """The next ``count`` bytes. Raises ExchangeFailed if they do not come, or are not as they were sent."""
        ...

    def close(self) -> None:
        """End the call of this snapshot; no more of it is read."""
        ...


class PiecewiseReader:
    """Reads ``pieces`` of any lengths in the lengths that the caller asks for. ``end`` closes the call."""

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
        """The next ``count`` bytes, without a copy if they came as one piece."""
        parts, wanted = [], count
        while wanted:
            if not self._left:
                self._left = memoryview(await self._next())
            parts.append(self._left[:wanted])
            self._left = self._left[wanted:]
            wanted -= len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close the call."""
        self._end()

    async def _next(self) -> Payload:
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            raise ExchangeFailed(f"{self.header.peer} sent less than it announced") from None


def whole(message: Message) -> SnapshotReader:
    """A reader of a message that is already here."""

    async def pieces() -> AsyncIterator[Payload]:
        yield message.payload

    return PiecewiseReader(replace(message, payload=b""), len(message.payload), pieces(), lambda: None)
