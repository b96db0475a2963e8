"""The pauses of a peer whose disk takes no checkpoint, and the turns of peers that should copy one."""

from __future__ import annotations

from gossip_caffe.clock import Clock

FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 160.0
ALONE_PAUSE_S = 2.0
"""The longest pause of a lone peer: no other peer can make the checkpoint, so it tries again soon."""
TURN_S = 10.0
SLOW_COPY_BYTES_A_S = 20e6
"""A turn to copy lasts TURN_S and the time of the copy at this speed; then the next peer copies as well."""


class DiskBackOff:
    """The pauses after failures of this peer's disk: each is twice as long as the one before; a success ends them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed_at = 0.0
        self._pause_s = 0.0

    def failed(self) -> None:
        """Note that the disk did not take a checkpoint."""
        self._failed_at = self._clock.monotonic()
        self._pause_s = min(2 * self._pause_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)

    def succeeded(self) -> None:
        """Note that the disk took a checkpoint."""
        self._pause_s = 0.0

    def is_pausing(self, *, alone: bool) -> bool:
        """Whether this peer leaves checkpoints to others now; ``alone``: there is no other peer."""
        pause_s = min(self._pause_s, ALONE_PAUSE_S) if alone else self._pause_s
        return self._clock.monotonic() - self._failed_at < pause_s


class CopyTurn:
    """The turns to copy the newest checkpoint: the peer of the lowest id at once, each next one a turn later.

    A peer that cannot copy is thus passed over without a message. The time begins when the newest checkpoint is seen
    to lack copies. It goes on when a newer checkpoint lacks them, too: checkpoints may follow each other quickly.
    """

    def __init__(self, clock: Clock, model_bytes: int) -> None:
        self._clock = clock
        self._turn_s = TURN_S + model_bytes / SLOW_COPY_BYTES_A_S
        self._lacking_since: float | None = None

    def copied(self) -> None:
        """Note that the newest checkpoint has its copies."""
        self._lacking_since = None

    def ours(self, rank: int) -> bool:
        """Note that the newest checkpoint lacks copies.

        Returns whether the peer of ``rank`` (0 for the lowest id) makes one now.
        """
        now = self._clock.monotonic()
        if self._lacking_since is None:
            self._lacking_since = now
        return now - self._lacking_since >= rank * self._turn_s
