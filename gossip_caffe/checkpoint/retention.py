"""The checkpoints that are kept: a pure decision with its reasons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gossip_caffe.checkpoint.announce import Announcement


@dataclass(frozen=True, slots=True)
class Retention:
    """The rule for keeping checkpoints: the ``last`` newest, and the ``best`` by test score.

    In addition one per ``every_samples`` of the job; 0: none.
    """

    last: int
    every_samples: int = 0
    best: int = 0

    def kept(self, checkpoints: Iterable[Announcement]) -> dict[str, str]:
        """The checkpoints to keep: checkpoint → the first reason that applies."""
        newest_first = sorted(checkpoints, key=lambda entry: entry.checkpoint, reverse=True)
        reasons = {entry.checkpoint: f"one of the newest {self.last}" for entry in newest_first[: self.last]}
        if self.every_samples:
            passed: set[int] = set()
            for entry in reversed(newest_first):
                place = entry.progress_samples // self.every_samples
                if place not in passed:
                    passed.add(place)
                    why = f"the first after {place * self.every_samples:,} samples"
                    reasons.setdefault(entry.checkpoint, why)
        scored = [(entry.score, entry.checkpoint) for entry in newest_first if entry.score is not None]
        for score, checkpoint in sorted(scored, reverse=True)[: self.best]:
            reasons.setdefault(checkpoint, f"one of the best {self.best} by test ({score:.4g})")
        return reasons
