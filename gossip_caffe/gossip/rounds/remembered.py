"""What the leader of rounds remembers of peers: which it waits for, and which rounds they say they have applied."""

from __future__ import annotations

from collections.abc import Collection, Container

AWAITED_S = 1.0
"""A peer that trains by the view, and has not attended this leader yet, is waited for so long."""
MOST_ROUNDS = 64
"""The number of newest rounds that are remembered."""


class Awaiting:
    """Since when each peer trains by the view (``monotonic`` seconds), and which have attended and gone since."""

    def __init__(self) -> None:
        self._seen_at: dict[str, float] = {}
        self._gone: set[str] = set()

    def came(self, peer: str) -> None:
        """Take in that a peer attends."""
        self._gone.discard(peer)

    def went(self, peer: str) -> None:
        """Take in that a peer's stream has ended: it is not waited for."""
        self._gone.add(peer)

    def clear(self) -> None:
        """Forget all."""
        self._seen_at.clear()
        self._gone.clear()

    def now(self, training: Collection[str], without: Container[str], now_s: float) -> list[str]:
        """The peers that are waited for. ``training``: those that train by the view; ``without``: not these."""
        for peer in [peer for peer in self._seen_at if peer not in training]:
            del self._seen_at[peer]
            self._gone.discard(peer)
        for peer in training:
            self._seen_at.setdefault(peer, now_s)
        return [
            peer
            for peer, seen_at in self._seen_at.items()
            if peer not in without and peer not in self._gone and now_s - seen_at < AWAITED_S
        ]


class AppliedRounds:
    """The peers that have applied each of the newest rounds."""

    def __init__(self) -> None:
        self._appliers: dict[str, set[str]] = {}

    def note(self, round_id: str, peer: str) -> None:
        """Take in that a peer has applied a round."""
        self._appliers.setdefault(round_id, set()).add(peer)
        while len(self._appliers) > MOST_ROUNDS:
            del self._appliers[next(iter(self._appliers))]

    @property
    def confirmed(self) -> tuple[str, ...]:
        """The rounds that two peers have applied."""
        return tuple(round_id for round_id, peers in self._appliers.items() if len(peers) > 1)
