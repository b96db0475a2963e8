"""With whom to exchange: a random living partner; one that failed is left in peace for a while, never for ever."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, field

FIRST_BACK_OFF_S = 1.0
LONGEST_BACK_OFF_S = 30.0


@dataclass(frozen=True, slots=True)
class Choice:
    """The partner, or None, and why."""

    partner: str | None
    reason: str


@dataclass(slots=True)
class Suspects:
    """Partners that failed lately: until when (monotonic seconds) each is avoided, and how often it failed in a row."""

    until: dict[str, float] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    def failed(self, partner: str, now: float) -> None:
        """Avoid it, twice as long as the last time."""
        count = self.failures.get(partner, 0)
        self.failures[partner] = count + 1
        self.until[partner] = now + min(FIRST_BACK_OFF_S * 2.0**count, LONGEST_BACK_OFF_S)

    def succeeded(self, partner: str) -> None:
        """It is well."""
        self.until.pop(partner, None)
        self.failures.pop(partner, None)

    def avoided(self, partner: str, now: float) -> bool:
        """Whether it is to be left in peace now."""
        return self.until.get(partner, now) > now


def choose(candidates: Collection[str], suspects: Suspects, now: float, rng: random.Random) -> Choice:
    """A uniformly random candidate that is not avoided now."""
    if not candidates:
        return Choice(None, "no other peer is training")
    well = sorted(peer for peer in candidates if not suspects.avoided(peer, now))
    if not well:
        return Choice(None, f"all {len(candidates)} partners failed lately")
    return Choice(rng.choice(well), f"one of {len(well)}")


def next_exchange(iteration: int, every: int, jitter: float, rng: random.Random) -> int:
    """The iteration of the next own exchange: ``every`` from now ± ``jitter`` of it, so that peers do not lock step."""
    return iteration + max(1, round(every * rng.uniform(1 - jitter, 1 + jitter)))
