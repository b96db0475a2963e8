"""A chaos run: rounds of one job on local clusters until every injection was carried out; each ends with the checker.

First the job is trained once without injections. The accuracy of that model is the reference for the models of the
rounds. The progress is on disk after every injection, so an interrupted run goes on with a new round.
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

from gossip_caffe.background import checked_by_owner, owned
from gossip_caffe.chaos.accuracy import accuracy_of, points_below, why_none
from gossip_caffe.chaos.injecting import Injector, Observer
from gossip_caffe.chaos.leftovers import MARK, leases_left, processes_left
from gossip_caffe.chaos.namespaces import Namespaces
from gossip_caffe.chaos.network import Loopback, PeersNetwork
from gossip_caffe.chaos.peer_folders import PeerFolders
from gossip_caffe.chaos.phases import PhaseWatch
from gossip_caffe.chaos.poison import NAME as STRANGER
from gossip_caffe.chaos.progress import ChaosProgress
from gossip_caffe.chaos.scenario import NetworkKind, Scenario, schedule
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.cluster.state.options import ClusterOptions
from gossip_caffe.cluster.supervision.supervisor import Supervisor
from gossip_caffe.errors import ExitCode, ModelError
from gossip_caffe.job.code import OPTION
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.observe.checker.verdict import Verdict, verdict_of
from gossip_caffe.observe.report.page import report_of
from gossip_caffe.security.security import Security
from gossip_caffe.security.temporary import TemporaryAuthority

UNDISTURBED = "undisturbed"
_CERTIFIED = 300
"""The number of peers that a run's certificate names: a peer that replaces a killed one has a new name."""


class ChaosRun:
    """One scenario on one job; all its files are in ``folder``.

    With ``network`` "namespaces" this process must be in a network namespace of its own (``own_network``).
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
        self._authority: TemporaryAuthority | None = None
        self._namespaces = Namespaces() if scenario.network is NetworkKind.NAMESPACES else None
        self._supervisor: Supervisor | None = None
        self._interrupted = False
        self.progress = ChaosProgress.read(folder, json.loads(json.dumps(asdict(scenario))))
        self.progress.no_accuracy = why_none(spec, engine)

    @property
    def done(self) -> bool:
        """Whether every injection was carried out."""
        return self.progress.carried_out >= len(self._schedule)

    def interrupt(self, reason: str) -> None:
        """Stop the cluster. The same command goes on later."""
        self._interrupted = True
        if self._supervisor is not None:
            self._supervisor.go_down(reason)

    async def run(self) -> ExitCode:
        """Run until every injection was carried out, an invariant is broken, or the run is interrupted."""
        progress = self.progress
        progress.write(self._folder)  # first of all, so that a folder that cannot be written is found at once
        if progress.carried_out:
            self._say(f"going on after {progress.carried_out} of {len(self._schedule)} injections")
        if not (progress.undisturbed or progress.no_accuracy):
            await self._round(UNDISTURBED, disturbed=False)
            if self._interrupted or not progress.ok:
                return self._code
            progress.undisturbed = True
            progress.write(self._folder)
        while not (self.done or self._interrupted or not progress.ok):
            if progress.rounds >= self._scenario.most_rounds:
                progress.failed.append(
                    f"not every injection was carried out in {self._scenario.most_rounds} rounds: "
                    "the job is too short"
                )
                break
            progress.rounds += 1
            progress.write(self._folder)
            await self._round(f"round-{progress.rounds}", disturbed=True)
        return self._code

    def _security(self, network: PeersNetwork) -> Security:
        """The identity of the peers of a round."""
        if not self._scenario.tls_life_s:
            # Among namespaces etcd and the peers listen at addresses of a network that no other process is in.
            return Security(insecure=bool(network.etcd_host))
        names = [*(f"p{number}" for number in range(_CERTIFIED)), STRANGER]
        self._authority = TemporaryAuthority(self._folder / "tls", names, self._scenario.tls_life_s)
        return self._authority.security

    async def _renew(self) -> None:
        if self._authority is not None:
            await self._authority.keep_new(SystemClock())

    @property
    def _code(self) -> ExitCode:
        if self._interrupted:
            return ExitCode.INTERRUPTED
        return ExitCode.OK if self.progress.ok else ExitCode.FAILED

    async def _round(self, name: str, *, disturbed: bool) -> None:
        began, mark = time.monotonic(), f"{os.getpid()}-{name}"
        os.environ[MARK] = mark  # inherited by all processes that are started from here on
        state = ClusterState(name, self._folder)
        state.remove()  # the state of an interrupted round
        observer, folders = Observer(state.run), PeerFolders(state.run)
        network = self._namespaces or Loopback(proxied=self._scenario.needs_links)

        def arguments(peer: str, etcd: str) -> tuple[str, ...]:
            return (*folders.prepare(peer), *network.arguments(peer, etcd))

        options = ClusterOptions(
            state,
            self._scenario.peers,
            self._spec.name,
            self._spec,
            engine=self._engine,
            restart=True,
            arguments_of=arguments,
            before=network.command_prefix,
            etcd_host=network.etcd_host,
            of_peers=(OPTION,),  # no other process is in the run's network
            security=self._security(network),
        )
        supervisor = self._supervisor = Supervisor(options, lambda _: None)
        watch = PhaseWatch(folders.events, folders.checkpoints)
        injector = Injector(supervisor, self._scenario, network, watch, observer, self._say)
        self._say(f"{name}: {self._scenario.peers} peers start")
        running = owned(supervisor.run(injector.look), "the cluster", checked_by_owner)
        renewing = owned(self._renew(), "the certificates", checked_by_owner)
        injecting = owned(
            self._inject(injector) if disturbed else asyncio.sleep(0), "injections", checked_by_owner
        )
        try:
            await asyncio.wait({running}, timeout=self._scenario.round_limit_s)
            if not running.done():
                self.progress.failed.append(f"{name} was not over in {self._scenario.round_limit_s:.0f} s")
                supervisor.go_down("it takes too long")
            await asyncio.wait({running})
        finally:
            injecting.cancel()
            injector.stop()
            supervisor.go_down("the round ends")
            await asyncio.wait({running, injecting})
            renewing.cancel()  # peers that leave still exchange
            await asyncio.wait({renewing})
            await network.stop()
            self._supervisor = None
        for task in (running, injecting, renewing):
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self.progress.failed.append(f"{name}: {type(error).__name__}: {error}")
        self.progress.write(self._folder)
        if not self._interrupted:
            await self._conclude(state, observer, mark)
            await self._test(name, folders.model(supervisor.checkpoint), disturbed=disturbed)
            self._clear(state, folders)
        self.progress.seconds += time.monotonic() - began
        self.progress.write(self._folder)

    async def _inject(self, injector: Injector) -> None:
        for injection in self._schedule[self.progress.carried_out :]:
            if (met := await injector.inject(injection)) is None:
                break
            self.progress.count(injection, met)
            self.progress.write(self._folder)
        await injector.settle()

    # ── the end of a round ────────────────────────────────────────────────────────────────────────────────────────────

    async def _conclude(self, state: ClusterState, observer: Observer, mark: str) -> None:
        observer.saw(
            "aftermath",
            processes=await processes_left(mark),
            shared_memory=[],  # shared memory has no names: it ends with the processes
            leases=await leases_left(state, self._spec.name),
        )
        found = verdict_of(state.run)
        (state.run / "report.html").write_text(report_of(state.run, f"{self._scenario.name}, {state.name}"))
        self._note(found, state.name)

    def _note(self, found: Verdict, name: str) -> None:
        progress, account = self.progress, found.to_record()["counters"]
        progress.finished += 1
        progress.records_lost += account.get("records_lost") or 0
        progress.records_twice += account.get("records_twice") or 0
        progress.records_trained += account.get("records_trained") or 0
        progress.broken += [f"{name}: {finding.invariant}: {finding.reason}" for finding in found.broken]
        self._say(
            f"{name} is over: {account.get('kills', 0)} peers killed, "
            f"{account.get('records_lost')} records lost, {account.get('records_twice')} trained twice, "
            f"broken: {', '.join(finding.invariant for finding in found.broken) or 'nothing'}"
        )

    async def _test(self, name: str, model: Path | None, *, disturbed: bool) -> None:
        """Compare the accuracy of a round's last model with that of the undisturbed run."""
        progress = self.progress
        if model is None:
            progress.failed.append(f"{name} ended, and the job was not finished")
            return
        if progress.no_accuracy:
            return
        try:
            accuracy = await accuracy_of(self._spec, model)
        except ModelError as error:
            progress.failed.append(f"{name}: {error.message}")
            return
        self._say(f"{name}: test accuracy {accuracy:.2%}")
        if not disturbed:
            progress.undisturbed_accuracy = accuracy
            return
        progress.accuracies.append(accuracy)
        worse = points_below(progress.undisturbed_accuracy or 0.0, accuracy)
        if worse > self._scenario.accuracy_points:
            progress.failed.append(
                f"{name}: its test accuracy is {worse:.2f} points below that of the undisturbed run, more than "
                f"{self._scenario.accuracy_points:g}"
            )

    def _clear(self, state: ClusterState, folders: PeerFolders) -> None:
        """Delete the files of a round except its event logs; keep all files of a failed round."""
        if self.progress.ok:
            for folder in (state.etcd, folders.folder):
                shutil.rmtree(folder, ignore_errors=True)
