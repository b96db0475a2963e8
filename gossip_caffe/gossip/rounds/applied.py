"""The rounds that peers say they have applied: one that two have applied is durable."""

from __future__ import annotations

MOST_ROUNDS = 64
"""The number of newest rounds that are remembered."""


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
