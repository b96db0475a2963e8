"""The lines of a peer about a store that is away, or takes no writes: one when that begins, and one when it ends."""

from __future__ import annotations

from collections.abc import Callable

from gossip_caffe.clock import Clock
from gossip_caffe.membership.writing import Writing

LOOK_EVERY_S = 0.25
SAY_AGAIN_AFTER_S = 60.0
"""Seconds between two lines about the same refusal: a store that refuses now and then is named once a minute."""
AWAY = "etcd does not answer"
NO_ANSWER = "etcd renews leases and answers no writes; see its log, and how fast its disk is"


class StoreNews:
    """The lines of one peer, named ``peer``."""

    def __init__(self, peer: str, clock: Clock, say: Callable[[str], None]) -> None:
        self._peer = peer
        self._clock = clock
        self._say = say
        self._since: float | None = None
        self._said = ""
        self._ended_at = float("-inf")

    def look(self, writing: Writing, answers: bool) -> None:
        """Say a line when writes begin or cease to be taken. ``answers``: whether the store renews leases."""
        now = self._clock.monotonic()
        if writing.stuck or not answers:
            line = AWAY if not answers else writing.refusal or NO_ANSWER
            if self._since is None:
                self._since = now
                if line == self._said and now < self._ended_at + SAY_AGAIN_AFTER_S:
                    return
            elif line == self._said:
                return
            self._said = line
            self._say(f"{self._peer}: {line}; it goes on training meanwhile, and settles that later")
        elif self._since is not None:
            took_s, self._since = now - self._since, None
            if now >= self._ended_at + SAY_AGAIN_AFTER_S:
                does = "answers" if self._said == AWAY else "takes writes"
                self._say(f"{self._peer}: etcd {does} again, after {took_s:.0f} s")
            self._ended_at = now

    async def follow(self, writing: Callable[[], Writing], answers: Callable[[], bool]) -> None:
        """Say the lines that are due, for ever."""
        while True:
            self.look(writing(), answers())
            await self._clock.sleep(LOOK_EVERY_S)
