"""The scenario of a chaos run, read from a file, and its schedule of injections, drawn from its seed. Pure."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from gossip_caffe.chaos.phases import EXCHANGING, JOINING, Phase
from gossip_caffe.errors import UsageError


class NetworkKind(StrEnum):
    """The networks between the peers of a run."""

    LOOPBACK = "loopback"
    """All peers are on loopback. Proxies connect them if an act needs proxies."""
    NAMESPACES = "namespaces"
    """Each peer is in a network namespace of its own, as if it had its own machine."""


class Act(StrEnum):
    """The acts: the kinds of faults that a run injects."""

    KILL = "kill"
    """SIGKILL to a process of a peer."""
    TERMINATE = "terminate"
    """SIGTERM to a process of a peer: an agent leaves gracefully, a solver or a loader ends."""
    FREEZE = "freeze"
    """SIGSTOP to a process of a peer, and SIGCONT after ``for_s``."""
    ETCD_RESTART = "etcd-restart"
    """SIGKILL to etcd; it is started again after ``for_s``."""
    PARTITION = "partition"
    """For ``for_s`` a peer reaches neither etcd nor the other peers, and none of these reaches it."""
    HALF_OPEN = "half-open"
    """For ``for_s`` all packets to a peer are dropped; its own packets arrive."""
    DELAY = "delay"
    """For ``for_s`` data to a peer's port take ``amount`` seconds more."""
    CAP = "cap"
    """For ``for_s`` a peer's port takes ``amount`` bytes a second."""
    RESET = "reset"
    """All connections to a peer's port are reset, once."""
    CUT = "cut"
    """The first connection that brings ``amount`` further bytes to a peer's port is reset, in the midst of its data."""
    POISON = "poison"
    """For ``for_s`` a stranger, which is no member of the job, offers a peer corrupted weights."""
    DISK_FULL = "disk-full"
    """For ``for_s`` no file of a peer's agent grows beyond ``amount`` bytes: event logs fit, checkpoints do not."""
    SLOW_STREAM = "slow-stream"
    """For ``for_s`` a stranger keeps calls open at a peer's port that send almost nothing, or read nothing."""


ON_LINKS = frozenset({Act.PARTITION, Act.DELAY, Act.CAP, Act.RESET, Act.CUT})
ISOLATING = frozenset({Act.PARTITION, Act.HALF_OPEN})
"""The acts that isolate their target for a while. Among namespaces they are the only acts on links."""
INSTANT = frozenset({Act.KILL, Act.TERMINATE, Act.RESET, Act.CUT})
_NEEDS_AMOUNT = {
    Act.DELAY: "seconds",
    Act.CAP: "bytes a second",
    Act.CUT: "bytes",
    Act.DISK_FULL: "bytes",
}
PARTS = ("agent", "solver", "loader", "all")
SHORTEST_LIFE_S = 5.0
PHASES = (*JOINING, *EXCHANGING)


@dataclass(frozen=True, slots=True)
class PlannedActs:
    """One [[fault]] of a scenario file: an act that is injected ``times`` times.

    Its targets are the processes in ``what`` by turns, in the phases in ``when`` by turns (none: in any phase).
    ``for_s``: its duration. ``amount``: see Act.
    """

    act: Act
    times: int = 1
    what: tuple[str, ...] = ("all",)
    when: tuple[str, ...] = ()
    for_s: float = 8.0
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class Injection:
    """One act of a schedule, carried out ``wait_s`` after the one before.

    ``pick``, in [0, 1), decides between several possible targets. ``when``: the phase that the target must be in; None:
    any phase.
    """

    number: int
    act: Act
    what: str
    when: Phase | None
    wait_s: float
    pick: float
    for_s: float
    amount: float

    @property
    def description(self) -> str:
        """The act and its duration, for a line of output."""
        lasting = f" for {self.for_s:g} s" if self.act not in INSTANT else ""
        return f"{self.act.value}{lasting}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """The description of a chaos run, which trains the same job in rounds until all injections were carried out.

    ``at_least``: the number of peers that must train before the next injection. ``every_s``: the wait before it, from …
    to. ``round_limit_s``: a round that takes longer has failed. ``settings``: those of the job, "name=value".
    ``accuracy_points``: the number of points (hundredths) by which the test accuracy of a round's model may be below
    that of the undisturbed run. ``tls_life_s``: the peers have certificates, each of which lasts so long and is
    replaced when a third of that is over; 0: they have none.
    """

    name: str
    network: NetworkKind = NetworkKind.LOOPBACK
    seed: int = 1
    peers: int = 4
    at_least: int = 2
    every_s: tuple[float, float] = (0.5, 3.0)
    round_limit_s: float = 600.0
    most_rounds: int = 20
    settings: tuple[str, ...] = ()
    accuracy_points: float = 1.0
    tls_life_s: float = 0.0
    faults: tuple[PlannedActs, ...] = field(default=())

    @property
    def injections(self) -> int:
        """The number of injections in all."""
        return sum(fault.times for fault in self.faults)

    @property
    def needs_links(self) -> bool:
        """Whether the peers must be connected through proxies."""
        on_links = any(fault.act in ON_LINKS for fault in self.faults)
        return self.network is NetworkKind.LOOPBACK and (on_links or self.tls_life_s > 0)


def schedule(scenario: Scenario) -> tuple[Injection, ...]:
    """All injections of a run in their order. The scenario's seed alone decides them."""
    rng = random.Random(scenario.seed)
    drawn = [
        (fault, fault.what[turn % len(fault.what)], _turn(fault.when, turn))
        for fault in scenario.faults
        for turn in range(fault.times)
    ]
    rng.shuffle(drawn)
    return tuple(
        Injection(
            number=number,
            act=fault.act,
            what=what,
            when=when,
            wait_s=rng.uniform(*scenario.every_s),
            pick=rng.random(),
            for_s=fault.for_s,
            amount=fault.amount,
        )
        for number, (fault, what, when) in enumerate(drawn)
    )


def _turn(phases: tuple[str, ...], turn: int) -> Phase | None:
    return Phase(phases[turn % len(phases)]) if phases else None


def choose_target(names: list[str], injections_of: Mapping[str, int], pick: float) -> str:
    """The target among ``names``: one of those with the fewest injections, so that no peer's solver dies every time."""
    least = min(injections_of.get(name, 0) for name in names)
    spared = sorted(name for name in names if injections_of.get(name, 0) == least)
    return spared[int(pick * len(spared))]


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_scenario(path: Path) -> Scenario:
    """Read a scenario file (docs/internals/chaos.md). Raises UsageError, which names the error in it."""
    try:
        record = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror})", remedy="name a scenario file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML ({error})", remedy="correct it") from None
    listed = record.pop("fault", [])
    if not isinstance(listed, list) or not listed:
        raise UsageError(
            f"{path}: it has no [[fault]], so there is nothing to do", remedy="write at least one"
        )
    network = _network(record.pop("network", NetworkKind.LOOPBACK), str(path))
    faults = tuple(
        _fault(entry, network, f"{path}: fault {number}") for number, entry in enumerate(listed, 1)
    )
    given = {"name": path.stem, **record, "network": network, "faults": faults}
    made: Scenario = _read(Scenario, given, str(path))
    low, high = (*made.every_s, *made.every_s)[:2]
    if not (len(made.every_s) == 2 and 0 <= low <= high):
        raise UsageError(f"{path}: every_s is not a range", remedy="write every_s = [0.5, 3.0]")
    if not 1 <= made.at_least <= made.peers <= 64:
        raise UsageError(f"{path}: at_least and peers do not fit", remedy="1 ≤ at_least ≤ peers ≤ 64")
    if made.accuracy_points < 0:
        raise UsageError(f"{path}: accuracy_points is below 0", remedy="write accuracy_points = 1.0")
    if made.tls_life_s and network is NetworkKind.NAMESPACES:
        raise UsageError(
            f'{path}: tls_life_s needs network = "loopback"', remedy="write that, or leave it out"
        )
    if made.tls_life_s < 0 or 0 < made.tls_life_s < SHORTEST_LIFE_S:
        raise UsageError(
            f"{path}: tls_life_s is too short", remedy=f"write {SHORTEST_LIFE_S:g} or more, or 0 for no TLS"
        )
    return made


def _network(given: object, where: str) -> NetworkKind:
    try:
        return NetworkKind(str(given))
    except ValueError:
        raise UsageError(
            f"{where}: network = {given!r} is unknown", remedy=f"use one of {', '.join(NetworkKind)}"
        ) from None


def _fault(entry: object, network: NetworkKind, where: str) -> PlannedActs:
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is no table", remedy="write [[fault]] above it")
    try:
        act = Act(str(entry.get("act")))
    except ValueError:
        raise UsageError(
            f"{where}: act {entry.get('act')!r} is unknown", remedy=f"use one of {', '.join(Act)}"
        ) from None
    elsewhere = ON_LINKS - ISOLATING if network is NetworkKind.NAMESPACES else ISOLATING - ON_LINKS
    if act in elsewhere:
        (other,) = set(NetworkKind) - {network}
        raise UsageError(
            f'{where}: act "{act}" needs network = "{other}"', remedy="write that, or leave the act out"
        )
    what = entry.get("what", ["all"])
    what = [what] if isinstance(what, str) else what
    if not isinstance(what, list) or not what or not set(what) <= set(PARTS):
        raise UsageError(
            f"{where}: what {what!r} is no part of a peer", remedy=f"use some of {', '.join(PARTS)}"
        )
    when = entry.get("when", [])
    when = [when] if isinstance(when, str) else when
    if not isinstance(when, list) or not set(when) <= set(PHASES) or (when and act is not Act.KILL):
        raise UsageError(
            f"{where}: when {when!r} is no phase of a peer in which it can be killed",
            remedy=f'use some of {", ".join(PHASES)}, with act = "kill"',
        )
    made: PlannedActs = _read(
        PlannedActs, {**entry, "act": act, "what": tuple(what), "when": tuple(when)}, where
    )
    if made.times < 1 or made.for_s < 0:
        raise UsageError(f"{where}: times and for_s must be positive", remedy="correct them")
    if made.act in _NEEDS_AMOUNT and made.amount <= 0:
        raise UsageError(f"{where}: {made.act.value} needs an amount", remedy=_NEEDS_AMOUNT[made.act])
    return made


def _read(kind: type[Any], record: Mapping[str, Any], where: str) -> Any:
    """A frozen dataclass of these values. Raises UsageError for an unknown name, or a value of another type."""
    known = {entry.name: entry for entry in fields(kind)}
    values: dict[str, Any] = {}
    for name, value in record.items():
        if name not in known:
            raise UsageError(f"{where}: {name!r} is unknown", remedy=f"known: {', '.join(sorted(known))}")
        given = tuple(value) if isinstance(value, list) else value
        default = known[name].default
        fits = (
            isinstance(given, (int, float))
            if isinstance(default, float)
            else isinstance(given, type(default))
        )
        if isinstance(given, bool) or not (fits or name in {"name", "act"}):
            raise UsageError(
                f"{where}: {name} = {value!r} does not fit", remedy="see docs/internals/chaos.md"
            )
        values[name] = given
    return kind(**values)
