"""A member's side of its stream to the leader: the newest words of the leader, kept until they are used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gossip_caffe.background import checked_by_owner, owned
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.rounds.attempt import Attempt
from gossip_caffe.gossip.rounds.words import RoundLink, Word, WordKind


class Attendance:
    """One stream to a leader. ``confirmed`` is called with the rounds that two peers have applied.

    ``said``: the newest READY that the leader has, which nothing has answered yet. ``formed`` and ``left_out``: its
    answers. ``broken``: the reason why the stream has ended; "" while it lasts.
    """

    def __init__(self, leader: str, link: RoundLink, confirmed: Callable[[tuple[str, ...]], None]) -> None:
        self.leader = leader
        self.said: Word | None = None
        self.formed: Word | None = None
        self.left_out: Word | None = None
        self.aborted: Word | None = None
        self.lost: set[str] = set()
        self.heard = ""
        """The newest round that this member has heard of: by it the leader knows an outdated READY."""
        self.broken = ""
        self.refused = False
        self.attempt: Attempt | None = None
        self._link = link
        self._confirmed = confirmed
        self._news = asyncio.Event()
        self._reading = owned(self._read(), f"the words of {leader}", checked_by_owner)

    async def news(self) -> None:
        """Wait until the leader has said anything, or the stream has ended."""
        await self._news.wait()
        self._news.clear()

    async def say(self, word: Word) -> None:
        """Tell the leader a word. Raises ExchangeFailed when the stream has ended."""
        if word.kind is WordKind.READY:
            self.said, self.formed, self.left_out, self.aborted = word, None, None, None
            self.lost.clear()
        await self._link.send(word)

    def close(self) -> None:
        """End the stream."""
        self._link.close()
        self._reading.cancel()
        self.broken = self.broken or "closed"

    async def _read(self) -> None:
        try:
            while True:
                self._take(await self._link.receive())
                self._news.set()
        except ExchangeFailed as error:
            self.broken = error.message
        except asyncio.CancelledError:
            self.broken = self.broken or "closed"
            raise
        except (
            Exception
        ) as error:  # an adapter's defect: the stream is over, and the member looks for a leader again
            self.broken = f"{type(error).__name__}: {error}"
        finally:
            self._link.close()
            self._news.set()

    def _take(self, word: Word) -> None:
        match word.kind:
            case WordKind.FORMED:
                self.formed, self.said, self.heard = word, None, word.round
                self.lost.clear()
                self._confirmed(word.confirmed)
            case WordKind.LEFT_OUT:
                self.left_out, self.said = word, None
            case WordKind.ABORTED:
                self.aborted = word
            case WordKind.COMMITTED:
                self._commit(word)
            case WordKind.LOST:
                self.lost.add(word.peer)
            case WordKind.CONFIRMED:
                self._confirmed(word.confirmed)
            case WordKind.REFUSED:
                self.refused = True
                raise ExchangeFailed(word.reason or f"{self.leader} leads no rounds")
            case _:
                pass  # a word of a newer version

    def _commit(self, word: Word) -> None:
        attempt = self.attempt
        if attempt is None or attempt.round != word.round or attempt.committed.done():
            return
        if len(word.checksums) == len(attempt.members):
            attempt.committed.set_result(word)
