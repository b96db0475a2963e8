"""A chaos run: rounds of one job on local clusters until every stroke was dealt; each ends with the checker.

First the job is trained once in peace, for the accuracy that the models of the rounds are held against. Where the run
stands is on disk after every stroke, so one that was interrupted goes on with a new round.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from gossip_caffe.cluster.chaos_accuracy import accuracy_of, points_below, why_none
from gossip_caffe.cluster.chaos_aftermath import MARK, leases_left, processes_left
from gossip_caffe.cluster.chaos_machines import Machines
from gossip_caffe.cluster.chaos_namespaces import Namespaces
from gossip_caffe.cluster.chaos_network import Loopback
from gossip_caffe.cluster.chaos_phases import Watch
from gossip_caffe.cluster.chaos_scenario import Network, Scenario, schedule
from gossip_caffe.cluster.chaos_standing import Standing
from gossip_caffe.cluster.chaos_strokes import Observer, Striker
from gossip_caffe.cluster.state import ClusterState
from gossip_caffe.cluster.supervisor import ClusterOptions, Supervisor
from gossip_caffe.errors import ExitCode, ModelError
from gossip_caffe.job.spec import JobSpec
from gossip_caffe.observe.report import report_of
from gossip_caffe.observe.verdict import Verdict, verdict_of

UNDISTURBED = "undisturbed"


class ChaosRun:
    """One scenario on one job; everything of it is in ``folder``.

    Of one with ``network`` "namespaces" this process must be in a network namespace of its own (``own_network``).
    """

    def __init__(
        self,
        scenario: Scenario,
        spec: JobSpec,
        folder: Path,
        say: Callable[[str], None],
        engine: str = "pycaffe",
    ) -> None:
        self._scenario = scenario
        self._spec = spec
        self._folder = folder
        self._say = say
        self._engine = engine
        self._schedule = schedule(scenario)
        self._namespaces = Namespaces() if scenario.network is Network.NAMESPACES else None
        self._supervisor: Supervisor | None = None
        self._interrupted = False
        self.standing = Standing.read(folder, json.loads(json.dumps(asdict(scenario))))
        self.standing.no_accuracy = why_none(spec, engine)

    @property
    def done(self) -> bool:
        """Whether every stroke was dealt."""
        return self.standing.dealt >= len(self._schedule)

    def interrupt(self, reason: str) -> None:
        """Take everything down; the same command goes on later."""
        self._interrupted = True
        if self._supervisor is not None:
            self._supervisor.go_down(reason)

    async def run(self) -> ExitCode:
        """Go on until every stroke was dealt, something is broken, or it is interrupted."""
        standing = self.standing
        standing.write(self._folder)  # where that cannot be done nothing is begun
        if standing.dealt:
            self._say(f"going on after {standing.dealt} of {len(self._schedule)} strokes")
        if not (standing.undisturbed or standing.no_accuracy):
            await self._round(UNDISTURBED, disturbed=False)
            if self._interrupted or not standing.ok:
                return self._code
            standing.undisturbed = True
            standing.write(self._folder)
        while not (self.done or self._interrupted or not standing.ok):
            if standing.rounds >= self._scenario.most_rounds:
                standing.failed.append(
                    f"not every stroke was dealt in {self._scenario.most_rounds} rounds: the job is too short"
                )
                break
            standing.rounds += 1
            standing.write(self._folder)
            await self._round(f"round-{standing.rounds}", disturbed=True)
        return self._code

    @property
    def _code(self) -> ExitCode:
        if self._interrupted:
            return ExitCode.INTERRUPTED
        return ExitCode.OK if self.standing.ok else ExitCode.FAILED

    async def _round(self, name: str, *, disturbed: bool) -> None:
        began, mark = time.monotonic(), f"{os.getpid()}-{name}"
        os.environ[MARK] = mark  # for all that is started from here on
        state = ClusterState(name, self._folder)
        shutil.rmtree(state.folder, ignore_errors=True)  # of one that was interrupted
        observer, machines = Observer(state.run), Machines(state.run)
        network = self._namespaces or Loopback(proxied=self._scenario.needs_links)

        def words(peer: str, etcd: str) -> tuple[str, ...]:
            return (*machines.prepare(peer), *network.words(peer, etcd))

        options = ClusterOptions(
            state,
            self._scenario.peers,
            self._spec.name,
            self._spec,
            engine=self._engine,
            restart=True,
            words_of=words,
            before=network.before,
            etcd_host=network.etcd_host,
        )
        supervisor = self._supervisor = Supervisor(options, lambda _: None)
        watch = Watch(machines.events, machines.checkpoints)
        striker = Striker(supervisor, self._scenario, network, watch, observer, self._say)
        self._say(f"{name}: {self._scenario.peers} peers start")
        running = asyncio.ensure_future(supervisor.run(striker.look))
        striking = asyncio.ensure_future(self._strike(striker) if disturbed else asyncio.sleep(0))
        try:
            await asyncio.wait({running}, timeout=self._scenario.round_limit_s)
            if not running.done():
                self.standing.failed.append(f"{name} was not over in {self._scenario.round_limit_s:.0f} s")
                supervisor.go_down("it takes too long")
            await asyncio.wait({running})
        finally:
            striking.cancel()
            striker.stop()
            supervisor.go_down("the round ends")
            await asyncio.wait({running, striking})
            await network.stop()
            self._supervisor = None
        for task in (running, striking):
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self.standing.failed.append(f"{name}: {type(error).__name__}: {error}")
        self.standing.write(self._folder)
        if not self._interrupted:
            await self._conclude(state, observer, mark)
            await self._test(name, machines.model(supervisor.checkpoint), disturbed=disturbed)
            self._clear(state, machines)
        self.standing.seconds += time.monotonic() - began
        self.standing.write(self._folder)

    async def _strike(self, striker: Striker) -> None:
        for stroke in self._schedule[self.standing.dealt :]:
            if (met := await striker.strike(stroke)) is None:
                break
            self.standing.count(stroke, met)
            self.standing.write(self._folder)
        await striker.settle()

    # ── what is left of a round ───────────────────────────────────────────────────────────────────────────────────

    async def _conclude(self, state: ClusterState, observer: Observer, mark: str) -> None:
        observer.saw(
            "aftermath",
            processes=await processes_left(mark),
            shared_memory=[],  # it has no names: it is gone with the processes
            leases=await leases_left(state, self._spec.name),
        )
        found = verdict_of(state.run)
        (state.run / "report.html").write_text(report_of(state.run, f"{self._scenario.name}, {state.name}"))
        self._note(found, state.name)

    def _note(self, found: Verdict, name: str) -> None:
        standing, account = self.standing, found.to_record()["counters"]
        standing.finished += 1
        standing.records_lost += account.get("records_lost") or 0
        standing.records_twice += account.get("records_twice") or 0
        standing.records_trained += account.get("records_trained") or 0
        standing.broken += [f"{name}: {finding.invariant}: {finding.reason}" for finding in found.broken]
        self._say(
            f"{name} is over: {account.get('kills', 0)} peers killed, "
            f"{account.get('records_lost')} records lost, {account.get('records_twice')} trained twice, "
            f"broken: {', '.join(finding.invariant for finding in found.broken) or 'nothing'}"
        )

    async def _test(self, name: str, model: Path | None, *, disturbed: bool) -> None:
        """Hold the last model of a round against that of the undisturbed one."""
        standing = self.standing
        if model is None:
            standing.failed.append(f"{name} ended, and the job was not finished")
            return
        if standing.no_accuracy:
            return
        try:
            accuracy = await accuracy_of(self._spec, model)
        except ModelError as error:
            standing.failed.append(f"{name}: {error.message}")
            return
        self._say(f"{name}: test accuracy {accuracy:.2%}")
        if not disturbed:
            standing.undisturbed_accuracy = accuracy
            return
        standing.accuracies.append(accuracy)
        worse = points_below(standing.undisturbed_accuracy or 0.0, accuracy)
        if worse > self._scenario.accuracy_points:
            standing.failed.append(
                f"{name}: its test accuracy is {worse:.2f} points below that of the undisturbed run, more than "
                f"{self._scenario.accuracy_points:g}"
            )

    def _clear(self, state: ClusterState, machines: Machines) -> None:
        """The event logs stay; of a round that went wrong, everything."""
        if self.standing.ok:
            for folder in (state.etcd, machines.folder):
                shutil.rmtree(folder, ignore_errors=True)
