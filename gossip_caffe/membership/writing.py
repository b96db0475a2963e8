"""Whether the store takes a peer's writes, judged by the peer's own attempts.

The lease does not show this: a store that is full, or whose disk does not respond, renews leases and writes nothing.
"""

from __future__ import annotations

from gossip_caffe.clock import Clock
from gossip_caffe.errors import StoreError, StoreRefused, WritesRefused

SILENT_S = 3.0
"""A write without an answer for this many seconds counts as refused."""


class Writing:
    """The recent writes of one peer.

    ``refusal``: the store's reason for refusing the newest; "" after an accepted one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._trying_since: float | None = None
        self.refusal = ""

    @property
    def stuck(self) -> bool:
        """True if the store takes no writes of this peer at present, even if it renews leases."""
        since = self._trying_since
        return bool(self.refusal) or (since is not None and self._clock.monotonic() > since + SILENT_S)

    def begin(self) -> None:
        """Record that a write was sent."""
        if self._trying_since is None:
            self._trying_since = self._clock.monotonic()

    def got_through(self) -> None:
        """Record that the store answered a write: it applied the write, or a guard prevented it."""
        self._trying_since = None
        self.refusal = ""

    def failed(self, error: StoreError) -> None:
        """Record that a write failed or was refused. A refusal holds until a later write is answered."""
        if isinstance(error, (WritesRefused, StoreRefused)):
            self.refusal = str(error)
