"""Injection of a schedule of faults into a simulated cluster."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable, Sequence

from gossip_caffe.sim.cluster import Running, SimulatedCluster
from gossip_caffe.sim.faults.faults import Fault, Kind
from gossip_caffe.sim.faults.poisoning import Poisoned
from gossip_caffe.sim.faults.tripwires import drawn
from gossip_caffe.sim.network import LinkConditions
from gossip_caffe.sim.peer import Pace

FULL, OVERLOADED = "etcdserver: mvcc: database space exceeded", "etcdserver: too many requests"
MOST_SLOWNESS = 12.0
MOST_DRIFT = 0.02
MOST_SKEW_S = 3.0
WIDE_BYTES_PER_S, NARROW_BYTES_PER_S = 2000.0, 25.0
"""The bandwidth of a narrowed link. A message with weights has about 470 bytes, and the shortest deadline is 2 s."""


class Injector:
    """Injects each fault at its time, and ends it at its end."""

    def __init__(self, cluster: SimulatedCluster, schedule: Sequence[Fault]) -> None:
        self._cluster = cluster
        self._schedule = schedule
        self._clear = cluster.network.weather
        self._storms: list[LinkConditions] = []
        self._away = self._full = 0
        self._goes_back = False
        self._what: dict[Kind, Callable[[Fault], Callable[[], None] | None]] = {
            Kind.CHURN: self._churn,
            Kind.KILL: self._kill,
            Kind.BLACKOUT: self._black_out,
            Kind.LEAVE: self._leave,
            Kind.JOIN: self._join,
            Kind.SOLVER: self._kill_solver,
            Kind.LOADER: self._kill_loader,
            Kind.FREEZE: self._freeze,
            Kind.SLOW: self._slow,
            Kind.SKEW: self._skew,
            Kind.PARTITION: self._partition,
            Kind.HALF_OPEN: self._half_open,
            Kind.NARROW: self._narrow,
            Kind.POISON: self._poison,
            Kind.STORM: self._storm,
            Kind.STORE_CUT: self._cut_store,
            Kind.ETCD_AWAY: self._lose_etcd,
            Kind.ETCD_FULL: self._fill_etcd,
            Kind.FOREIGN_WRITE: self._write_into_etcd,
            Kind.ETCD_LEADER: self._elect,
            Kind.ETCD_COMPACT: self._compact,
            Kind.EXCEPTION: self._raise,
            Kind.ETCD_BACK: self._go_back,
        }

    async def run(self) -> None:
        """Inject all faults. Returns when the last one is over."""
        began = self._cluster.clock.monotonic()
        await asyncio.gather(*(self._one(fault, began) for fault in self._schedule))

    async def _one(self, fault: Fault, began: float) -> None:
        clock = self._cluster.clock
        await clock.sleep(began + fault.at_s - clock.monotonic())
        if self._cluster.finished:
            return
        undo = self._what[fault.kind](fault)
        if undo is not None:
            await clock.sleep(fault.lasts_s)
            undo()

    def _note(self, fault: Fault, **fields: object) -> None:
        self._cluster.note("fault", fault=fault.kind.value, lasts_s=fault.lasts_s, **fields)

    def _chosen(self, fault: Fault) -> tuple[str, Running] | None:
        running = self._cluster.running
        if not running:
            return None
        name = list(running)[fault.target % len(running)]
        return name, running[name]

    # ── peers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _kill(self, fault: Fault) -> Callable[[], None] | None:
        """``strength``: below 1/3 the peer starts again, below 2/3 another peer does, else its machine is silent."""
        if (chosen := self._chosen(fault)) is None:
            return None
        name, _ = chosen
        self._note(fault, peer=name)
        self._cluster.kill(name, silent=fault.strength > 2 / 3)
        return lambda: self._start(name if fault.strength < 1 / 3 else "")

    def _churn(self, fault: Fault) -> Callable[[], None] | None:
        """``strength``: above 2/3 the machine is silent."""
        if (chosen := self._chosen(fault)) is None:
            return None
        name, _ = chosen
        self._note(fault, peer=name)
        self._cluster.note("fault", fault=Kind.KILL.value, peer=name)
        self._cluster.kill(name, silent=fault.strength > 2 / 3)
        return lambda: self._start("")

    def _black_out(self, fault: Fault) -> Callable[[], None]:
        names = list(self._cluster.running)
        self._note(fault)
        for name in names:
            self._cluster.note("fault", fault=Kind.KILL.value, peer=name)
            self._cluster.kill(name)

        def back() -> None:
            for name in names:
                self._start(name)

        return back

    def _start(self, name: str) -> None:
        if name not in self._cluster.running and not self._cluster.finished:
            self._cluster.start(name)

    def _leave(self, fault: Fault) -> None:
        if (chosen := self._chosen(fault)) is not None and len(self._cluster.running) > 1:
            self._note(fault, peer=chosen[0])
            chosen[1].peer.leave("SIGTERM")

    def _join(self, fault: Fault) -> None:
        self._note(fault, peer=self._cluster.start())

    def _kill_solver(self, fault: Fault) -> None:
        if (chosen := self._chosen(fault)) is not None:
            self._note(fault, peer=chosen[0])
            chosen[1].peer.kill_solver()

    def _kill_loader(self, fault: Fault) -> None:
        if (chosen := self._chosen(fault)) is not None:
            self._note(fault, peer=chosen[0])
            chosen[1].peer.kill_loader()

    def _raise(self, fault: Fault) -> None:
        """``strength``: selects the call. With an odd ``target`` it is a call of the peer that starts next.

        The fault is logged when it raises, because an adapter that is not called raises nothing.
        """
        trip = drawn(fault.strength, fault.target)
        if fault.target % 2:
            self._cluster.trips_of_next.append(trip)
        elif (chosen := self._chosen(fault)) is not None:
            chosen[1].wires.arm(trip)

    # ── machines ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _freeze(self, fault: Fault) -> Callable[[], None] | None:
        if (chosen := self._chosen(fault)) is None:
            return None
        self._note(fault, peer=chosen[0])
        chosen[1].machine.freeze()
        return chosen[1].machine.thaw

    def _slow(self, fault: Fault) -> Callable[[], None] | None:
        """``strength``: the slowness, up to a factor of MOST_SLOWNESS."""
        if (chosen := self._chosen(fault)) is None:
            return None
        name, running = chosen
        factor = 1 + (MOST_SLOWNESS - 1) * fault.strength
        self._note(fault, peer=name)
        running.peer.pace = Pace(self._cluster.step_s * factor)

        def again() -> None:
            running.peer.pace = Pace(self._cluster.step_s)

        return again

    def _skew(self, fault: Fault) -> Callable[[], None] | None:
        """``strength``: from too slow at 0 to too fast at 1."""
        if (chosen := self._chosen(fault)) is None:
            return None
        off, clock = 2 * fault.strength - 1, chosen[1].machine.clock
        self._note(fault, peer=chosen[0])
        clock.go_wrong(1 + MOST_DRIFT * off, MOST_SKEW_S * off)
        return lambda: clock.go_wrong(1.0, 0.0)

    def _cut_store(self, fault: Fault) -> Callable[[], None] | None:
        if (chosen := self._chosen(fault)) is None:
            return None
        machine = chosen[1].machine
        self._note(fault, peer=chosen[0])
        machine.store_cut = True

        def again() -> None:
            machine.store_cut = False

        return again

    # ── network ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _partition(self, fault: Fault) -> Callable[[], None]:
        """``strength``: the size of the smaller side, up to one half.

        Above 0.6 the smaller side does not reach the store.
        """
        network, running = self._cluster.network, self._cluster.running
        names = list(running)
        random.Random(fault.target).shuffle(names)
        few = names[: max(1, round(len(names) * fault.strength / 2))]
        rest = names[len(few) :]
        before = set(network.cut)
        self._note(fault, peers=few)
        network.separate(few, rest)
        new = network.cut - before
        cut = [running[name].machine for name in few] if fault.strength > 0.6 else []
        for machine in cut:
            machine.store_cut = True

        def heal() -> None:
            network.cut -= new
            for machine in cut:
                machine.store_cut = False

        return heal

    def _half_open(self, fault: Fault) -> Callable[[], None] | None:
        if (chosen := self._chosen(fault)) is None:
            return None
        network, before = self._cluster.network, set(self._cluster.network.cut)
        self._note(fault, peer=chosen[0])
        network.separate(
            [chosen[0]], [name for name in self._cluster.running if name != chosen[0]], both_ways=False
        )
        new = network.cut - before

        def heal() -> None:
            network.cut -= new

        return heal

    def _narrow(self, fault: Fault) -> Callable[[], None] | None:
        """``strength``: the bandwidth, on a logarithmic scale.

        A message with weights takes from 0.25 s, over 2 s, to 20 s.
        """
        if (chosen := self._chosen(fault)) is None:
            return None
        link = chosen[1].machine.link
        bytes_per_s = WIDE_BYTES_PER_S * (NARROW_BYTES_PER_S / WIDE_BYTES_PER_S) ** fault.strength
        self._note(fault, peer=chosen[0], bytes_per_s=round(bytes_per_s, 1))
        link.narrow(bytes_per_s)
        return lambda: link.widen(bytes_per_s)

    def _poison(self, fault: Fault) -> Callable[[], None] | None:
        """``strength``: the share of the peer's messages that are spoilt, up to one half."""
        if (chosen := self._chosen(fault)) is None:
            return None
        wrong, name = self._cluster.network.poisoners.wrong, chosen[0]
        self._note(fault, peer=name)
        wrong[name] = Poisoned(fault.strength / 2)

        def well() -> None:
            wrong.pop(name, None)

        return well

    def _storm(self, fault: Fault) -> Callable[[], None]:
        """``strength``: the shares of messages that are lost, late, torn or duplicated."""
        bad = fault.strength
        storm = dataclasses.replace(
            self._clear, loss=0.3 * bad, repetition=0.3 * bad, late=0.2 * bad, torn=0.15 * bad
        )
        self._note(fault)
        self._storms.append(storm)
        self._blow()

        def calm() -> None:
            self._storms.remove(storm)
            self._blow()

        return calm

    def _blow(self) -> None:
        worst = max(self._storms, key=lambda storm: storm.loss, default=self._clear)
        self._cluster.network.weather = worst

    # ── etcd ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _lose_etcd(self, fault: Fault) -> Callable[[], None]:
        etcd = self._cluster.etcd
        self._note(fault)
        self._away += 1
        etcd.unavailable = True

        def back() -> None:
            self._away -= 1
            if not self._away:
                etcd.unavailable = False

        return back

    def _fill_etcd(self, fault: Fault) -> Callable[[], None]:
        """``strength``: below 2/3 etcd is full, else overloaded."""
        etcd = self._cluster.etcd
        self._note(fault)
        self._full += 1
        etcd.refuses = FULL if fault.strength < 2 / 3 else OVERLOADED

        def takes_writes() -> None:
            self._full -= 1
            if not self._full:
                etcd.refuses = ""

        return takes_writes

    def _write_into_etcd(self, fault: Fault) -> None:
        """``target``: selects the write and its victim."""
        self._note(fault, wrote=self._cluster.stranger.write(random.Random(fault.target)))

    def _elect(self, fault: Fault) -> Callable[[], None]:
        back = self._lose_etcd(fault)

        def elected() -> None:
            back()
            self._cluster.etcd.give_time()

        return elected

    def _compact(self, fault: Fault) -> None:
        self._note(fault)
        self._cluster.etcd.compact()

    def _go_back(self, fault: Fault) -> Callable[[], None] | None:
        """At the fault's end, etcd loses all writes made during it.

        The record of the job's end is not lost: no peer would be left to write it again.
        """
        if self._goes_back:
            return None
        self._goes_back = True
        etcd = self._cluster.etcd
        memory = etcd.memory()

        def back() -> None:
            self._goes_back = False
            if not self._cluster.finished:
                self._note(fault, writes=etcd.revision - memory.revision)
                etcd.go_back(memory)

        return back
