"""The choice of the partner of an exchange. A partner that failed is avoided for a while, never for ever.

`uniform` needs only the names of the living peers, and suits peers that come and go. `exponential` (partners 1, 2, 4 …
places further among the sorted names, by turns) and `ring` (the two neighbours, by turns) give each peer few partners:
they suit clusters whose members stay. The choices are pure functions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass, field

from gossip_caffe.gossip.policy.remembering import forget_departed, remember

FIRST_BACK_OFF_S = 1.0
LONGEST_BACK_OFF_S = 30.0
_DOUBLINGS = 10
"""More doublings exceed LONGEST_BACK_OFF_S anyway, and 2.0 ** 1024 overflows."""


@dataclass(frozen=True, slots=True)
class PartnerChoice:
    """The chosen partner, or None; and the reason."""

    partner: str | None
    reason: str


@dataclass(slots=True)
class AvoidedPartners:
    """Partners that failed recently.

    ``until``: the time (monotonic seconds) until which each is avoided. ``failures``: its failures in a row.
    """

    until: dict[str, float] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    def failed(self, partner: str, now: float) -> None:
        """Avoid the partner, twice as long as the last time."""
        count = self.failures.get(partner, 0)
        remember(self.failures, partner, count + 1)
        back_off_s = min(FIRST_BACK_OFF_S * 2.0 ** min(count, _DOUBLINGS), LONGEST_BACK_OFF_S)
        remember(self.until, partner, now + back_off_s)

    def succeeded(self, partner: str) -> None:
        """Avoid the partner no longer: an exchange with it succeeded."""
        self.until.pop(partner, None)
        self.failures.pop(partner, None)

    def avoided(self, partner: str, now: float) -> bool:
        """Whether the partner is avoided now."""
        return self.until.get(partner, now) > now

    def forget(self, living: Container[str]) -> None:
        """Drop the records of all partners that are not among ``living``."""
        forget_departed(self.until, living)
        forget_departed(self.failures, living)


NEAR_SHARE = 0.8
"""The share of a peer's exchanges with partners of its own zone. The other exchanges let the zones mix."""
NO_ZONE = ""
"""The zone of a peer that was started without one."""


@dataclass(frozen=True, slots=True)
class Standpoint:
    """The peer that chooses a partner: its name, its zone (NO_ZONE: none), and the number of its choices before."""

    peer: str
    zone: str = NO_ZONE
    turn: int = 0


Ask = Callable[[Standpoint, Mapping[str, str], AvoidedPartners, float, random.Random], PartnerChoice]
"""(choosing peer, zones of the candidates, avoided partners, now, generator) → a partner, and the reason."""


def uniform(
    own: Standpoint, candidates: Mapping[str, str], suspects: AvoidedPartners, now: float, rng: random.Random
) -> PartnerChoice:
    """A random candidate. A peer with a zone mostly chooses from its own zone, and sometimes from the others."""
    if own.zone == NO_ZONE:
        return choose(candidates, suspects, now, rng)
    near = [peer for peer in candidates if candidates[peer] == own.zone]
    far = [peer for peer in candidates if candidates[peer] != own.zone]
    if not near or not far:
        return choose(candidates, suspects, now, rng)
    first, second = (near, far) if rng.random() < NEAR_SHARE else (far, near)
    where = f"in zone {own.zone}" if first is near else f"outside zone {own.zone}"
    if (choice := choose(first, suspects, now, rng)).partner is not None:
        return PartnerChoice(choice.partner, f"{choice.reason} {where}")
    choice = choose(second, suspects, now, rng)
    return (
        choice
        if choice.partner is None
        else PartnerChoice(choice.partner, f"{choice.reason}; all partners {where} are avoided")
    )


def ring(
    own: Standpoint, candidates: Mapping[str, str], suspects: AvoidedPartners, now: float, rng: random.Random
) -> PartnerChoice:
    """The next and the previous among the sorted names, by turns; while one is avoided, the peer beyond it."""
    del rng
    others = _following(own.peer, candidates)
    if own.turn % 2:
        others.reverse()
    return _first_well(others, ["after it", "before it"][own.turn % 2], suspects, now)


def exponential(
    own: Standpoint, candidates: Mapping[str, str], suspects: AvoidedPartners, now: float, rng: random.Random
) -> PartnerChoice:
    """The peer 1, 2, 4 … places further among the sorted names, by turns; another peer while that one is avoided.

    These are the hops of the one-peer exponential graph (Ying et al. 2021).
    """
    del rng
    others = _following(own.peer, candidates)
    hops = [1 << power for power in range(len(others).bit_length())]
    begin = own.turn % max(1, len(hops))
    chosen = [others[hop - 1] for hop in hops[begin:] + hops[:begin]]
    rest = [other for other in others if other not in chosen]
    return _first_well(chosen + rest, "by hops of 1, 2, 4 …", suspects, now)


def _following(peer: str, candidates: Collection[str]) -> list[str]:
    """The sorted candidates, from the first after ``peer`` on, cyclically."""
    names = sorted(candidates)
    return [name for name in names if name > peer] + [name for name in names if name < peer]


def _first_well(others: list[str], which: str, suspects: AvoidedPartners, now: float) -> PartnerChoice:
    for place, other in enumerate(others):
        if not suspects.avoided(other, now):
            return PartnerChoice(other, f"number {place + 1} {which}")
    return PartnerChoice(
        None, f"all {len(others)} partners failed recently" if others else "no other peer is training"
    )


PARTNER_POLICIES: dict[str, Ask] = {"uniform": uniform, "exponential": exponential, "ring": ring}


def choose(
    candidates: Collection[str], suspects: AvoidedPartners, now: float, rng: random.Random
) -> PartnerChoice:
    """A uniformly random candidate that is not avoided now."""
    if not candidates:
        return PartnerChoice(None, "no other peer is training")
    suspected = suspects.until
    well = sorted(peer for peer in candidates if peer not in suspected or not suspects.avoided(peer, now))
    if not well:
        return PartnerChoice(None, f"all {len(candidates)} partners failed recently")
    return PartnerChoice(rng.choice(well), f"one of {len(well)}")


def next_exchange(iteration: int, every: float, jitter: float, rng: random.Random) -> int:
    """The iteration of the next own exchange: ``every`` iterations from now, ± ``jitter`` of that.

    Jitter keeps the peers from exchanging all at the same moment.
    """
    return iteration + max(1, round(every * rng.uniform(1 - jitter, 1 + jitter)))
