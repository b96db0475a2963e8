"""How long a peer whose disk takes nothing leaves checkpoints to others, and when one copies in another's place."""

from __future__ import annotations

from gossip_caffe.clock import Clock

FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 160.0
ALONE_PAUSE_S = 2.0
"""Nobody else can do it: it tries again soon."""
TURN_S = 10.0
SLOW_COPY_BYTES_A_S = 20e6
"""How long each peer that should copy a checkpoint has before the next one does it as well."""


class Rest:
    """After a failure this peer rests, after each further one twice as long; one success ends that."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed_at = 0.0
        self._pause_s = 0.0

    def failed(self) -> None:
        """The disk did not take a checkpoint."""
        self._failed_at = self._clock.monotonic()
        self._pause_s = min(2 * self._pause_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)

    def succeeded(self) -> None:
        """It took one."""
        self._pause_s = 0.0

    def rests(self, *, alone: bool) -> bool:
        """Whether others are to do it now; ``alone``: there are none."""
        pause_s = min(self._pause_s, ALONE_PAUSE_S) if alone else self._pause_s
        return self._clock.monotonic() - self._failed_at < pause_s


class Turns:
    """Whose turn it is to copy the newest checkpoint: the lowest id at once, each next one when none came in time.

    So one that cannot copy is passed over, and nobody has to say that it cannot. The time begins when the newest is
    seen to lack copies, and goes on when a newer one lacks them, too: checkpoints may follow each other quickly.
    """

    def __init__(self, clock: Clock, model_bytes: int) -> None:
        self._clock = clock
        self._turn_s = TURN_S + model_bytes / SLOW_COPY_BYTES_A_S
        self._lacking_since: float | None = None

    def copied(self) -> None:
        """The newest is seen to have its copies."""
        self._lacking_since = None

    def ours(self, rank: int) -> bool:
        """The newest lacks copies: whether the peer of that rank, 0 the first, makes one now."""
        now = self._clock.monotonic()
        if self._lacking_since is None:
            self._lacking_since = now
        return now - self._lacking_since >= rank * self._turn_s
