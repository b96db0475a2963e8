"""The rank of a peer among the sequences of a job whose net makes its own data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerRank:
    """The values by which a net's own Python layers choose their data.

    ``count``: the job's number of sequences, which never changes. ``number``: the peer's own number; no two living
    peers have the same. ``seed``: another one for each solver process, also for one that replaces a dead process.
    """

    number: int = 0
    count: int = 1
    seed: int = 0

    @property
    def rank(self) -> int:
        """The number of the sequence that this peer trains: 0 to ``count`` − 1."""
        return self.number % self.count

    @property
    def is_shared(self) -> bool:
        """True if another peer may train the same sequence, because there are more peers than sequences."""
        return self.number >= self.count


ALONE = LayerRank()
"""The rank when no peer trains: in a trial or a test."""
