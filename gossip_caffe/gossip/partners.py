"""With whom to exchange; a partner that failed is left in peace for a while, never for ever.

`uniform` needs nothing but the names of those who live, and suits peers that come and go. `exponential` (partners 1, 2,
4 … places further among the sorted names, by turns) and `ring` (the two neighbours, by turns) give each peer few
partners to talk to: for clusters whose members stay. Pure functions of what they are given.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
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


NEAR_SHARE = 0.8
"""How often a peer with partners in its own zone asks one of them; otherwise one from elsewhere, so that zones mix."""
ELSEWHERE = ""
"""The zone of a peer that was told none."""


@dataclass(frozen=True, slots=True)
class Standpoint:
    """Who looks for a partner: its name, its zone (ELSEWHERE: none), and how many it has looked for before."""

    peer: str
    zone: str = ELSEWHERE
    turn: int = 0


Ask = Callable[[Standpoint, Mapping[str, str], Suspects, float, random.Random], Choice]
"""(who asks, candidates with their zones, suspects, now, generator) → a partner, and why it."""


def uniform(
    own: Standpoint, candidates: Mapping[str, str], suspects: Suspects, now: float, rng: random.Random
) -> Choice:
    """A random candidate; with zones: mostly from the own one, sometimes from another."""
    if own.zone == ELSEWHERE:
        return choose(candidates, suspects, now, rng)
    near = [peer for peer in candidates if candidates[peer] == own.zone]
    far = [peer for peer in candidates if candidates[peer] != own.zone]
    if not near or not far:
        return choose(candidates, suspects, now, rng)
    first, second = (near, far) if rng.random() < NEAR_SHARE else (far, near)
    where = f"in zone {own.zone}" if first is near else f"outside zone {own.zone}"
    if (choice := choose(first, suspects, now, rng)).partner is not None:
        return Choice(choice.partner, f"{choice.reason} {where}")
    choice = choose(second, suspects, now, rng)
    return (
        choice
        if choice.partner is None
        else Choice(choice.partner, f"{choice.reason}; nobody is well {where}")
    )


def ring(
    own: Standpoint, candidates: Mapping[str, str], suspects: Suspects, now: float, rng: random.Random
) -> Choice:
    """The next among the sorted names, and the one before, by turns; the one beyond while a neighbour is avoided."""
    del rng
    others = _following(own.peer, candidates)
    if own.turn % 2:
        others.reverse()
    return _first_well(others, ["after it", "before it"][own.turn % 2], suspects, now)


def exponential(
    own: Standpoint, candidates: Mapping[str, str], suspects: Suspects, now: float, rng: random.Random
) -> Choice:
    """1, 2, 4 … places further among the sorted names, by turns; another while one is avoided.

    The hops of the one-peer exponential graph (Ying et al. 2021).
    """
    del rng
    others = _following(own.peer, candidates)
    hops = [1 << power for power in range(len(others).bit_length())]
    begin = own.turn % max(1, len(hops))
    chosen = [others[hop - 1] for hop in hops[begin:] + hops[:begin]]
    rest = [other for other in others if other not in chosen]
    return _first_well(chosen + rest, "by hops of 1, 2, 4 …", suspects, now)


def _following(peer: str, candidates: Collection[str]) -> list[str]:
    """The sorted candidates, from the first after ``peer`` on, and around."""
    names = sorted(candidates)
    return [name for name in names if name > peer] + [name for name in names if name < peer]


def _first_well(others: list[str], which: str, suspects: Suspects, now: float) -> Choice:
    for place, other in enumerate(others):
        if not suspects.avoided(other, now):
            return Choice(other, f"number {place + 1} {which}")
    return Choice(
        None, f"all {len(others)} partners failed lately" if others else "no other peer is training"
    )


STRATEGIES: dict[str, Ask] = {"uniform": uniform, "exponential": exponential, "ring": ring}


def choose(candidates: Collection[str], suspects: Suspects, now: float, rng: random.Random) -> Choice:
    """A uniformly random candidate that is not avoided now."""
    if not candidates:
        return Choice(None, "no other peer is training")
    avoided = {peer for peer in suspects.until if suspects.avoided(peer, now)}
    well = sorted(peer for peer in candidates if peer not in avoided)
    if not well:
        return Choice(None, f"all {len(candidates)} partners failed lately")
    return Choice(rng.choice(well), f"one of {len(well)}")


def next_exchange(iteration: int, every: float, jitter: float, rng: random.Random) -> int:
    """The iteration of the next own exchange: ``every`` from now ± ``jitter`` of it, so that peers do not lock step."""
    return iteration + max(1, round(every * rng.uniform(1 - jitter, 1 + jitter)))
