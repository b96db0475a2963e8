"""A stream of words within one process: between the leader of rounds and itself as a member, and for tests."""

from __future__ import annotations

import asyncio

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.rounds.words import Word


class LocalLink:
    """One side of a stream within one process; ``pair`` makes both."""

    def __init__(self, arriving: asyncio.Queue[Word | None], leaving: asyncio.Queue[Word | None]) -> None:
        self._arriving = arriving
        self._leaving = leaving
        self._closed = False

    @classmethod
    def pair(cls) -> tuple[LocalLink, LocalLink]:
        """Both sides of a new stream."""
        one: asyncio.Queue[Word | None] = asyncio.Queue()
        other: asyncio.Queue[Word | None] = asyncio.Queue()
        return cls(one, other), cls(other, one)

    async def send(self, word: Word) -> None:
        """Send a word."""
        if self._closed:
            raise ExchangeFailed("the stream of rounds has ended")
        self._leaving.put_nowait(word)

    async def receive(self) -> Word:
        """Wait for the next word."""
        if self._closed or (word := await self._arriving.get()) is None:
            self._closed = True
            raise ExchangeFailed("the stream of rounds has ended")
        return word

    def close(self) -> None:
        """End the stream."""
        if not self._closed:
            self._closed = True
            self._leaving.put_nowait(None)
            self._arriving.put_nowait(None)
