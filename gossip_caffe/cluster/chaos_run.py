"""A chaos run: rounds of one job on local clusters until every stroke was dealt; each ends with the checker.

Where it stands is on disk after every stroke, so a run that was interrupted goes on with a new round.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.chaos_scenario import Act, Scenario, Stroke, schedule
from gossip_caffe.cluster.chaos_strokes import Observer, Striker
from gossip_caffe.cluster.etcd_server import EtcdServer
from gossip_caffe.cluster.links import Links
from gossip_caffe.cluster.state import ClusterState
from gossip_caffe.cluster.supervisor import ClusterOptions, Supervisor
from gossip_caffe.errors import Conflict, ExitCode
from gossip_caffe.job.spec import JobSpec
from gossip_caffe.membership.etcd_store import EtcdStore
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.events import Event, read_events
from gossip_caffe.observe.report import report_of
from gossip_caffe.observe.verdict import Verdict, verdict_of

MARK = "GOSSIP_CAFFE_CHAOS"
"""In the environment of every process of a run, so that one that is left behind is found."""
GONE_DEADLINE_S = 20.0
LEASES_DEADLINE_S = 60.0
LOOK_EVERY_S = 0.2


@dataclass(slots=True)
class Standing:
    """Where a run stands. ``dealt``: strokes that were carried out; ``kills``: SIGKILLs by what they struck.

    ``others``: what else was done. ``broken``: what the checker found, ``failed``: how else a round went wrong.
    """

    scenario: dict[str, Any]
    dealt: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    finished: int = 0
    records_trained: int = 0
    records_lost: int = 0
    records_twice: int = 0
    broken: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Nothing is lost or broken, and every round that was not interrupted came to its end."""
        return not (self.broken or self.failed or self.records_lost)

    def to_record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**asdict(self), "kills_in_all": sum(self.kills.values()), "ok": self.ok}


class ChaosRun:
    """One scenario on one job; everything of it is in ``folder``."""

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
        self._supervisor: Supervisor | None = None
        self._interrupted = False
        self.standing = self._read()

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
        if self.standing.dealt:
            self._say(f"going on after {self.standing.dealt} of {len(self._schedule)} strokes")
        while not (self.done or self._interrupted or not self.standing.ok):
            if self.standing.rounds >= self._scenario.most_rounds:
                self.standing.failed.append(
                    f"not every stroke was dealt in {self._scenario.most_rounds} rounds: the job is too short"
                )
                break
            await self._round()
        if self._interrupted:
            return ExitCode.INTERRUPTED
        return ExitCode.OK if self.standing.ok else ExitCode.FAILED

    async def _round(self) -> None:
        number = self.standing.rounds = self.standing.rounds + 1
        self._write()
        began, mark = time.monotonic(), f"{os.getpid()}-{number}"
        os.environ[MARK] = mark  # for all that is started from here on
        state = ClusterState(f"round-{number}", self._folder)
        observer, links = Observer(state.run), Links()
        words = links.prepare if self._scenario.needs_links else lambda _name, _etcd: ()
        options = ClusterOptions(
            state,
            self._scenario.peers,
            self._spec.name,
            self._spec,
            engine=self._engine,
            restart=True,
            words_of=words,
        )
        supervisor = self._supervisor = Supervisor(options, lambda _: None)
        striker = Striker(supervisor, self._scenario, links, observer, self._say)
        self._say(f"round {number}: {self._scenario.peers} peers start")
        running = asyncio.ensure_future(supervisor.run(striker.look))
        striking = asyncio.ensure_future(self._strike(striker))
        try:
            await asyncio.wait({running}, timeout=self._scenario.round_limit_s)
            if not running.done():
                self.standing.failed.append(
                    f"round {number} was not over in {self._scenario.round_limit_s:.0f} s"
                )
                supervisor.go_down("it takes too long")
            await asyncio.wait({running})
        finally:
            striking.cancel()
            supervisor.go_down("the round ends")
            await asyncio.wait({running, striking})
            await links.stop()
            self._supervisor = None
        for task in (running, striking):
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self.standing.failed.append(f"round {number}: {type(error).__name__}: {error}")
        self.standing.seconds += time.monotonic() - began
        if not self._interrupted:
            await self._conclude(state, observer, mark)
        self._write()

    async def _strike(self, striker: Striker) -> None:
        for stroke in self._schedule[self.standing.dealt :]:
            if not await striker.strike(stroke):
                break
            self._count(stroke)
        await striker.settle()

    def _count(self, stroke: Stroke) -> None:
        self.standing.dealt = stroke.number + 1
        if stroke.act is Act.KILL:
            counted, what = self.standing.kills, stroke.what
        else:
            counted, what = self.standing.others, stroke.act.value
        counted[what] = counted.get(what, 0) + 1
        self._write()

    # ── what is left of a round ───────────────────────────────────────────────────────────────────────────────────

    async def _conclude(self, state: ClusterState, observer: Observer, mark: str) -> None:
        observer.saw(
            "aftermath",
            processes=await _processes(mark),
            shared_memory=[],  # it has no names: it is gone with the processes
            leases=await self._leases(state),
        )
        found = verdict_of(state.run)
        (state.run / "report.html").write_text(report_of(state.run, f"{self._scenario.name}, {state.name}"))
        self._note(found, state)
        if self.standing.ok:
            for folder in (state.etcd, state.run / "checkpoints"):
                shutil.rmtree(folder, ignore_errors=True)  # the event logs stay

    def _note(self, found: Verdict, state: ClusterState) -> None:
        standing, number = self.standing, self.standing.rounds
        account = found.to_record()["counters"]
        standing.finished += 1
        standing.records_lost += account.get("records_lost") or 0
        standing.records_twice += account.get("records_twice") or 0
        standing.records_trained += account.get("records_trained") or 0
        standing.broken += [
            f"round {number}: {finding.invariant}: {finding.reason}" for finding in found.broken
        ]
        if not any(
            event["event"] == Event.FINISHED
            for path in (state.run / "events").glob("*.jsonl")
            for event in read_events(path)
        ):
            standing.failed.append(f"round {number} ended, and the job was not finished")
        self._say(
            f"round {number} is over: {account.get('kills', 0)} peers killed, "
            f"{account.get('records_lost')} records lost, {account.get('records_twice')} trained twice, "
            f"broken: {', '.join(finding.invariant for finding in found.broken) or 'nothing'}"
        )

    async def _leases(self, state: ClusterState) -> list[str]:
        """Fences of peers that are still there when every lease has had the time to end."""
        etcd = EtcdServer(state.etcd)
        etcd.start()
        store = EtcdStore([etcd.endpoint], SystemClock(), random.Random(os.getpid()))
        try:
            deadline = time.monotonic() + LEASES_DEADLINE_S
            while left := await store.keys(JobKeys(self._spec.name).fence("")):
                if time.monotonic() > deadline:
                    return list(left)
                await asyncio.sleep(LOOK_EVERY_S)
            return []
        finally:
            await store.close()
            etcd.stop()

    # ── where it stands ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _file(self) -> Path:
        return self._folder / "chaos.json"

    def _read(self) -> Standing:
        scenario = json.loads(json.dumps(asdict(self._scenario)))
        if not self._file.exists():
            return Standing(scenario)
        record = json.loads(self._file.read_text())
        if record["scenario"] != scenario:
            raise Conflict(
                f"{self._folder} has a run of another scenario", remedy="give this one a --folder of its own"
            )
        kept = {key: value for key, value in record.items() if key not in {"kills_in_all", "ok"}}
        return Standing(**kept)

    def _write(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self.standing.to_record(), indent=1))
        new.replace(self._file)


async def _processes(mark: str) -> list[str]:
    """Command lines of the processes of a round that do not end."""
    deadline = time.monotonic() + GONE_DEADLINE_S
    needle = f"{MARK}={mark}".encode()
    while True:
        left = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                ours = int(folder.name) == os.getpid() or needle not in (folder / "environ").read_bytes()
                if not ours and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    left.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
            except OSError:
                continue  # it has ended meanwhile
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(LOOK_EVERY_S)
