"""Faults as data: what happens to a simulated job, to whom, when and for how long; a function of a seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from gossip_caffe.errors import UsageError


class Kind(StrEnum):
    """What may happen."""

    CHURN = "churn"  # in each minute one peer is killed for good, and another one joins
    KILL = "kill"  # kill -9 of a whole peer, or its machine; it comes back later, or another one does
    BLACKOUT = "blackout"  # all peers at once, and all come back
    LEAVE = "leave"  # SIGTERM
    JOIN = "join"  # one more peer
    SOLVER = "solver"  # kill -9 of a solver
    LOADER = "loader"  # kill -9 of a loader
    FREEZE = "freeze"  # SIGSTOP of a whole peer, and SIGCONT
    SLOW = "slow"  # its steps take many times as long
    SKEW = "skew"  # its clocks run too fast or too slow, and its wall clock jumps
    PARTITION = "partition"  # some peers cannot reach the others, perhaps nor the store
    HALF_OPEN = "half-open"  # what one peer sends arrives nowhere; what others send to it does
    NARROW = "narrow"  # what one peer sends leaves so slowly that exchanges with it take seconds, or time out
    STORM = "storm"  # messages are lost, late, overtaken, torn, or come twice
    STORE_CUT = "store-cut"  # one peer cannot reach the store
    ETCD_AWAY = "etcd-away"  # nobody can
    ETCD_LEADER = "etcd-leader"  # a new leader: away for a moment, and every lease has its whole time again
    ETCD_COMPACT = "etcd-compact"  # the history is forgotten: watches that are behind begin anew
    ETCD_BACK = "etcd-back"  # its last writes, acknowledged, are forgotten; no etcd should, some do


@dataclass(frozen=True, slots=True)
class Fault:
    """One of them. ``target``: the so-manieth of those who run then; ``strength``: 0 to 1, what it means its kind says.

    ``at_s`` counts from the start of the run, ``lasts_s`` from then; a killed peer is dead for so long.
    """

    at_s: float
    kind: Kind
    target: int = 0
    lasts_s: float = 0.0
    strength: float = 0.5

    @property
    def ends_s(self) -> float:
        """When it is over."""
        return self.at_s + self.lasts_s

    def to_record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Fault:
        """Read one. Raises ValueError or TypeError when it is none."""
        return cls(**{**record, "kind": Kind(record["kind"])})


CHURN_EVERY_S = 60.0
_EVERY_S: dict[Kind, float] = {
    Kind.KILL: 15.0,
    Kind.BLACKOUT: 600.0,
    Kind.LEAVE: 45.0,
    Kind.JOIN: 60.0,
    Kind.SOLVER: 40.0,
    Kind.LOADER: 60.0,
    Kind.FREEZE: 30.0,
    Kind.SLOW: 45.0,
    Kind.SKEW: 60.0,
    Kind.PARTITION: 60.0,
    Kind.HALF_OPEN: 60.0,
    Kind.NARROW: 45.0,
    Kind.STORM: 40.0,
    Kind.STORE_CUT: 60.0,
    Kind.ETCD_AWAY: 90.0,
    Kind.ETCD_LEADER: 60.0,
    Kind.ETCD_COMPACT: 30.0,
    Kind.ETCD_BACK: 60.0,
}
"""Mean time between two of a kind."""
_LASTS_S: dict[Kind, tuple[float, float]] = {
    Kind.KILL: (0.5, 10.0),
    Kind.BLACKOUT: (0.5, 10.0),
    Kind.FREEZE: (0.5, 9.0),
    Kind.SLOW: (5.0, 20.0),
    Kind.SKEW: (5.0, 30.0),
    Kind.PARTITION: (1.0, 12.0),
    Kind.HALF_OPEN: (1.0, 12.0),
    Kind.NARROW: (5.0, 20.0),
    Kind.STORM: (2.0, 15.0),
    Kind.STORE_CUT: (1.0, 12.0),
    Kind.ETCD_AWAY: (1.0, 14.0),
    Kind.ETCD_LEADER: (0.2, 2.0),
    Kind.ETCD_BACK: (0.1, 2.0),
}
ALL = tuple(kind for kind in Kind if kind is not Kind.ETCD_BACK)
"""But for the one that no promise can outlast: that a chunk has one owner is the store's word."""
QUIET_AT_FIRST = 0.08
"""Share of a run before the first fault …"""
QUIET_AT_LAST = 0.85
"""… and after the last one."""


def scheduled(
    kinds: Iterable[Kind], *, seed: int, for_s: float, every: float = 1.0, scale: float = 1.0
) -> tuple[Fault, ...]:
    """The faults of a run of about ``for_s`` seconds, in order.

    ``every`` stretches the time between two, ``scale`` that and how long they last; but churn is what its name says.
    Each kind draws its own, so that leaving one out changes no other.
    """
    faults: list[Fault] = []
    for kind in dict.fromkeys(kinds):
        rng = random.Random(f"{seed}: {kind.value}")
        if kind is Kind.CHURN:
            faults += _churn(rng, for_s)
            continue
        at_s = QUIET_AT_FIRST * for_s
        while True:
            at_s += rng.expovariate(1.0 / (every * scale * _EVERY_S[kind]))
            lasts_s = scale * rng.uniform(*_LASTS_S.get(kind, (0.0, 0.0)))
            target, strength = rng.randrange(1 << 16), rng.random()
            if at_s >= QUIET_AT_LAST * for_s:
                break
            faults.append(Fault(round(at_s, 3), kind, target, round(lasts_s, 3), round(strength, 3)))
    return tuple(sorted(faults, key=lambda fault: (fault.at_s, fault.kind.value)))


def _churn(rng: random.Random, for_s: float) -> Iterator[Fault]:
    """One in each minute after the first, to the end of the run; who joins instead does so within the same minute."""
    for minute in range(1, int(for_s / CHURN_EVERY_S)):
        at_s, target, strength = rng.uniform(0.0, 0.5), rng.randrange(1 << 16), rng.random()
        lasts_s = rng.uniform(0.0, 0.5)
        yield Fault(
            round((minute + at_s) * CHURN_EVERY_S, 3),
            Kind.CHURN,
            target,
            round(lasts_s * CHURN_EVERY_S, 3),
            round(strength, 3),
        )


def kinds_of(text: str) -> tuple[Kind, ...]:
    """Read "kill,freeze", "all", "all,etcd-back" or "none". Raises UsageError, which names all."""
    if text == "none":
        return ()
    known = {kind.value: (kind,) for kind in Kind} | {"all": ALL}
    chosen: list[Kind] = []
    for name in map(str.strip, text.split(",")):
        if name not in known:
            raise UsageError(
                f"--faults {text}: there is no fault {name!r}",
                remedy=f"choose of {', '.join(Kind)}, or all (but etcd-back), or none",
            )
        chosen += known[name]
    return tuple(dict.fromkeys(chosen))


def said(faults: Sequence[Fault]) -> list[str]:
    """A line for each, for people."""
    return [
        f"{fault.at_s:8.1f} s  {fault.kind.value}"
        + (f" for {fault.lasts_s:.1f} s" if fault.lasts_s else "")
        + f"  (target {fault.target}, strength {fault.strength})"
        for fault in faults
    ]
