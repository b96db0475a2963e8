"""Faults as data: the kind, the target, the time and the duration of each. They are a function of a seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from gossip_caffe.errors import UsageError


class Kind(StrEnum):
    """The kinds of faults."""

    CHURN = "churn"  # in each minute one peer is killed for good, and another peer joins
    KILL = "kill"  # kill -9 of a whole peer, or of its machine; it starts again later, or another peer does
    BLACKOUT = "blackout"  # kill -9 of all peers at once; all start again
    LEAVE = "leave"  # SIGTERM
    JOIN = "join"  # one more peer
    SOLVER = "solver"  # kill -9 of a solver
    LOADER = "loader"  # kill -9 of a loader
    FREEZE = "freeze"  # SIGSTOP of a whole peer, and SIGCONT
    SLOW = "slow"  # its steps take many times as long
    SKEW = "skew"  # its clocks run too fast or too slow, and its wall clock jumps
    PARTITION = "partition"  # some peers cannot reach the others, perhaps nor the store
    HALF_OPEN = "half-open"  # messages from one peer are lost; messages to it arrive
    NARROW = "narrow"  # one peer sends so slowly that exchanges with it take seconds, or time out
    POISON = "poison"  # one peer is alive and wrong: the weights that it sends are spoilt (poisoning.py)
    STORM = "storm"  # messages are lost, late, reordered, torn, or duplicated
    STORE_CUT = "store-cut"  # one peer cannot reach the store
    ETCD_AWAY = "etcd-away"  # no peer can
    ETCD_FULL = "etcd-full"  # etcd refuses every write, but renews leases
    FOREIGN_WRITE = "foreign-write"  # another program writes into the store, or removes keys there
    ETCD_LEADER = (
        "etcd-leader"  # a new leader: etcd is away for a moment, and every lease gets its full time again
    )
    ETCD_COMPACT = "etcd-compact"  # the history is discarded: watches that are behind list all keys again
    EXCEPTION = "exception"  # a call of one of a peer's adapters raises an unexpected error, once
    ETCD_BACK = "etcd-back"  # etcd loses its last acknowledged writes; no etcd should, but some do


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. ``target``: the index of the target among the candidates at that time; ``strength``: 0 to 1, by kind.

    ``at_s``: seconds from the start of the run. ``lasts_s``: its duration in seconds; a killed peer stays dead for so
    long.
    """

    at_s: float
    kind: Kind
    target: int = 0
    lasts_s: float = 0.0
    strength: float = 0.5

    @property
    def ends_s(self) -> float:
        """The second of the run at which the fault is over."""
        return self.at_s + self.lasts_s

    def to_record(self) -> dict[str, Any]:
        """The fault as a JSON-compatible record."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Fault:
        """Parse a record. Raises ValueError or TypeError for any other value."""
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
    Kind.POISON: 30.0,
    Kind.STORM: 40.0,
    Kind.STORE_CUT: 60.0,
    Kind.ETCD_AWAY: 90.0,
    Kind.ETCD_FULL: 90.0,
    Kind.FOREIGN_WRITE: 20.0,
    Kind.ETCD_LEADER: 60.0,
    Kind.ETCD_COMPACT: 30.0,
    Kind.EXCEPTION: 10.0,
    Kind.ETCD_BACK: 60.0,
}
"""Kind → mean seconds between two faults of the kind."""
_LASTS_S: dict[Kind, tuple[float, float]] = {
    Kind.KILL: (0.5, 10.0),
    Kind.BLACKOUT: (0.5, 10.0),
    Kind.FREEZE: (0.5, 9.0),
    Kind.SLOW: (5.0, 20.0),
    Kind.SKEW: (5.0, 30.0),
    Kind.PARTITION: (1.0, 12.0),
    Kind.HALF_OPEN: (1.0, 12.0),
    Kind.NARROW: (5.0, 20.0),
    Kind.POISON: (5.0, 20.0),
    Kind.STORM: (2.0, 15.0),
    Kind.STORE_CUT: (1.0, 12.0),
    Kind.ETCD_AWAY: (1.0, 14.0),
    Kind.ETCD_FULL: (1.0, 14.0),
    Kind.ETCD_LEADER: (0.2, 2.0),
    Kind.ETCD_BACK: (0.1, 2.0),
}
ALL = tuple(kind for kind in Kind if kind is not Kind.ETCD_BACK)
"""All kinds but ETCD_BACK. No guarantee survives it: the store alone decides that a chunk has one owner."""
QUIET_AT_FIRST = 0.08
"""The share of a run before its first fault."""
QUIET_AT_LAST = 0.85
"""The share of a run after its last fault."""


def scheduled(
    kinds: Iterable[Kind], *, seed: int, for_s: float, every: float = 1.0, scale: float = 1.0
) -> tuple[Fault, ...]:
    """The faults of a run of about ``for_s`` seconds, in order.

    ``every`` stretches the time between two faults; ``scale`` stretches that time and the durations. Neither changes
    churn, which is defined per minute. Each kind has a random generator of its own, so leaving out one kind changes no
    other.
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
    """One kill in each minute after the first, to the end of the run. The replacement joins within the same minute."""
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
    """Parse "kill,freeze", "all", "all,etcd-back" or "none". Raises UsageError, which lists all kinds."""
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


def described(faults: Sequence[Fault]) -> list[str]:
    """One line of text per fault."""
    return [
        f"{fault.at_s:8.1f} s  {fault.kind.value}"
        + (f" for {fault.lasts_s:.1f} s" if fault.lasts_s else "")
        + f"  (target {fault.target}, strength {fault.strength})"
        for fault in faults
    ]
