"""What a chaos run does to a cluster: read from a file, drawn from a seed, the same every time. Pure."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from gossip_caffe.cluster.chaos_phases import EXCHANGING, JOINING, Phase
from gossip_caffe.errors import UsageError


class Network(StrEnum):
    """How peers reach each other."""

    LOOPBACK = "loopback"
    """On loopback, through proxies where an act needs them."""
    NAMESPACES = "namespaces"
    """Each is in a network namespace of its own, as on a machine of its own."""


class Act(StrEnum):
    """What can be done."""

    KILL = "kill"
    """SIGKILL to a process of a peer."""
    TERMINATE = "terminate"
    """SIGTERM: an agent leaves in good order, a solver or a loader ends."""
    FREEZE = "freeze"
    """SIGSTOP, and SIGCONT after ``for_s``."""
    ETCD_RESTART = "etcd-restart"
    """SIGKILL to etcd, which is started again after ``for_s``."""
    PARTITION = "partition"
    """A peer reaches neither etcd nor the other peers, nor they it, for ``for_s``."""
    HALF_OPEN = "half-open"
    """Whatever goes to a peer vanishes, for ``for_s``; what it sends arrives."""
    DELAY = "delay"
    """Whatever goes to a peer's port takes ``amount`` seconds more, for ``for_s``."""
    CAP = "cap"
    """A peer's port takes ``amount`` bytes a second, for ``for_s``."""
    RESET = "reset"
    """All connections to a peer's port are reset, once."""
    CUT = "cut"
    """The connection to a peer's port that brings the next ``amount`` bytes is reset after them, in their middle."""
    DISK_FULL = "disk-full"
    """No file of a peer's agent grows beyond ``amount`` bytes, for ``for_s``: event logs fit, checkpoints do not."""


ON_LINKS = frozenset({Act.PARTITION, Act.DELAY, Act.CAP, Act.RESET, Act.CUT})
APART = frozenset({Act.PARTITION, Act.HALF_OPEN})
"""Whom they strike is cut off meanwhile; what there is of acts on links among namespaces."""
AT_ONCE = frozenset({Act.KILL, Act.TERMINATE, Act.RESET, Act.CUT})
_NEEDS_AMOUNT = {
    Act.DELAY: "seconds",
    Act.CAP: "bytes a second",
    Act.CUT: "bytes",
    Act.DISK_FULL: "bytes",
}
PARTS = ("agent", "solver", "loader", "all")
PHASES = (*JOINING, *EXCHANGING)


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of thing to do ``times``, to the processes in ``what`` by turns, in the phases in ``when`` by turns.

    No phases: whatever a peer is at.
    """

    act: Act
    times: int = 1
    what: tuple[str, ...] = ("all",)
    when: tuple[str, ...] = ()
    for_s: float = 8.0
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class Stroke:
    """One thing to do, ``wait_s`` after the one before. ``pick``: in [0, 1), which of those it can strike.

    ``when``: the phase in which a peer is struck, None: in any.
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
    def words(self) -> str:
        """For people."""
        lasting = f" for {self.for_s:g} s" if self.act not in AT_ONCE else ""
        return f"{self.act.value}{lasting}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A chaos run. It trains the same job again and again until everything was done, in rounds.

    ``at_least``: so many peers must train before the next stroke. ``every_s``: how long it waits then, from … to.
    ``round_limit_s``: a round that takes longer has failed. ``settings``: of the job, "name=value".
    ``accuracy_points``: by so many points (hundredths) the model of a round may be worse on the test data than that of
    a run that nobody disturbed.
    """

    name: str
    network: Network = Network.LOOPBACK
    seed: int = 1
    peers: int = 4
    at_least: int = 2
    every_s: tuple[float, float] = (0.5, 3.0)
    round_limit_s: float = 600.0
    most_rounds: int = 20
    settings: tuple[str, ...] = ()
    accuracy_points: float = 1.0
    faults: tuple[Fault, ...] = field(default=())

    @property
    def strokes(self) -> int:
        """How many there are in all."""
        return sum(fault.times for fault in self.faults)

    @property
    def needs_links(self) -> bool:
        """Whether peers must reach each other through proxies."""
        return self.network is Network.LOOPBACK and any(fault.act in ON_LINKS for fault in self.faults)


def schedule(scenario: Scenario) -> tuple[Stroke, ...]:
    """All strokes of a run in their order: the seed decides everything."""
    rng = random.Random(scenario.seed)
    drawn = [
        (fault, fault.what[turn % len(fault.what)], _turn(fault.when, turn))
        for fault in scenario.faults
        for turn in range(fault.times)
    ]
    rng.shuffle(drawn)
    return tuple(
        Stroke(
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


def struck(names: list[str], strokes_of: Mapping[str, int], pick: float) -> str:
    """Who is struck: one of those that were struck least, so that nobody's solver only ever dies."""
    least = min(strokes_of.get(name, 0) for name in names)
    spared = sorted(name for name in names if strokes_of.get(name, 0) == least)
    return spared[int(pick * len(spared))]


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_scenario(path: Path) -> Scenario:
    """Read a scenario file (docs/chaos.md). Raises UsageError naming what is wrong in it."""
    try:
        record = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror})", remedy="name a scenario file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML ({error})", remedy="correct it") from None
    listed = record.pop("fault", [])
    if not isinstance(listed, list) or not listed:
        raise UsageError(f"{path}: there is nothing to do", remedy="write at least one [[fault]]")
    network = _network(record.pop("network", Network.LOOPBACK), str(path))
    faults = tuple(
        _fault(entry, network, f"{path}: fault {number}") for number, entry in enumerate(listed, 1)
    )
    given = {"name": path.stem, **record, "network": network, "faults": faults}
    made: Scenario = _read(Scenario, given, str(path))
    low, high = (*made.every_s, *made.every_s)[:2]
    if not (len(made.every_s) == 2 and 0 <= low <= high):
        raise UsageError(f"{path}: every_s is no range", remedy="write every_s = [0.5, 3.0]")
    if not 1 <= made.at_least <= made.peers <= 64:
        raise UsageError(f"{path}: at_least and peers do not fit", remedy="1 ≤ at_least ≤ peers ≤ 64")
    if made.accuracy_points < 0:
        raise UsageError(f"{path}: accuracy_points is below 0", remedy="write accuracy_points = 1.0")
    return made


def _network(given: object, where: str) -> Network:
    try:
        return Network(str(given))
    except ValueError:
        raise UsageError(
            f"{where}: network = {given!r} is unknown", remedy=f"use one of {', '.join(Network)}"
        ) from None


def _fault(entry: object, network: Network, where: str) -> Fault:
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is no table", remedy="write [[fault]] above it")
    try:
        act = Act(str(entry.get("act")))
    except ValueError:
        raise UsageError(
            f"{where}: act {entry.get('act')!r} is unknown", remedy=f"use one of {', '.join(Act)}"
        ) from None
    elsewhere = ON_LINKS - APART if network is Network.NAMESPACES else APART - ON_LINKS
    if act in elsewhere:
        (other,) = set(Network) - {network}
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
    made: Fault = _read(Fault, {**entry, "act": act, "what": tuple(what), "when": tuple(when)}, where)
    if made.times < 1 or made.for_s < 0:
        raise UsageError(f"{where}: times and for_s must be positive", remedy="correct them")
    if made.act in _NEEDS_AMOUNT and made.amount <= 0:
        raise UsageError(f"{where}: {made.act.value} needs an amount", remedy=_NEEDS_AMOUNT[made.act])
    return made


def _read(kind: type[Any], record: Mapping[str, Any], where: str) -> Any:
    """A frozen dataclass of these values. Raises UsageError for a name that it has not, or another type."""
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
            raise UsageError(f"{where}: {name} = {value!r} does not fit", remedy="see docs/chaos.md")
        values[name] = given
    return kind(**values)
