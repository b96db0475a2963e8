"""Simulated jobs of trials: peers that train samples on virtual time, tests, checkpoints, and the job's end."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gossip_caffe.background import DetachedTasks
from gossip_caffe.checkpoint.announce import Announcement, checkpoint_id
from gossip_caffe.clock import Clock
from gossip_caffe.errors import ExitCode, StoreError
from gossip_caffe.job.spec.spec import DataSpec, JobSettings, JobSpec, RateSchedule
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Put
from gossip_caffe.membership.jobs import load_job
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.log.tested import ConsensusTest, Output
from gossip_caffe.shards.epochs import Epochs
from gossip_caffe.tune.board.trial import TrialRecord
from gossip_caffe.tune.study.parameters import Value
from gossip_caffe.tune.study.spec import StudySpec
from gossip_caffe.tune.work.decisions import PeerEnd

TICK_S = 0.25
CHECKPOINTS = 20
"""The checkpoints of a job. The training after the newest one is lost when no peer is left."""

Learn = Callable[[Mapping[str, Value], float], float]
"""The objective's value from the parameters' values and the share of the budget that is trained (0 to 1)."""


def simulated_spec(study: StudySpec, trial: TrialRecord) -> JobSpec:
    """The job of a simulated trial: no text of it is read."""
    return JobSpec(
        name=trial.job,
        solver_text="",
        train_net_text="",
        solver_for_peer="",
        tests=(),
        solver_type="SGD",
        iter_size=1,
        budget_samples=study.samples,
        data=DataSpec((), study.samples, 10, 10),
        schedule=RateSchedule("fixed", 0.1),
        settings=JobSettings(),
        creation=f"{trial.number}-{trial.attempt}",
    )


@dataclass(slots=True)
class _Job:
    """One job: the samples that were trained, those in the newest checkpoint, and the newest published test."""

    values: Mapping[str, Value]
    peers: list[SimulatedTrialPeer] = field(default_factory=list)
    done: float = 0.0
    kept: float = 0.0
    mark: int = 0
    over: bool = False


class SimulatedTrialPeer:
    """A peer of a worker, which begins to train ``start_s`` after its start. ``kill`` ends it at once."""

    def __init__(self, jobs: SimulatedJobs, job: str, on_end: Callable[[], None], trains_at: float) -> None:
        self._jobs = jobs
        self._on_end = on_end
        self.job = job
        self.trains_at = trains_at
        self.leaving = False
        self._end: PeerEnd | None = None

    @property
    def end(self) -> PeerEnd | None:
        """How it ended; None while it runs."""
        return self._end

    async def leave(self) -> None:
        """Leave in good order: what it has trained is kept."""
        self.leaving = True
        await self._jobs.clock.sleep(self._jobs.leave_s)
        self._jobs.keep(self.job)
        self.ended(ExitCode.LEFT)

    def kill(self) -> None:
        """End without a word."""
        self.ended(-9)

    def ended(self, code: int) -> None:
        """Set the end, once."""
        if self._end is None:
            self._end = PeerEnd(code)
            self._on_end()


class SimulatedJobs:
    """All jobs of one study. ``samples_per_s``: of one peer; ``trained``: the samples of all jobs so far."""

    def __init__(
        self,
        study: StudySpec,
        etcd: MemoryEtcd,
        clock: Clock,
        learn: Learn,
        rng: random.Random,
        *,
        samples_per_s: float = 100.0,
        start_s: float = 2.0,
        leave_s: float = 0.5,
    ) -> None:
        self.clock = clock
        self.leave_s = leave_s
        self.trained = 0.0
        self._study = study
        self._store = MemoryStore(etcd)
        self._learn = learn
        self._rng = rng
        self._samples_per_s = samples_per_s
        self._start_s = start_s
        self._jobs: dict[str, _Job] = {}
        self._running = DetachedTasks()

    def start(self, trial: Mapping[str, Value], job: str, on_end: Callable[[], None]) -> SimulatedTrialPeer:
        """Start a peer. ``trial``: the values of the job's trial."""
        began_s = self._start_s * (0.8 + 0.4 * self._rng.random())
        peer = SimulatedTrialPeer(self, job, on_end, self.clock.monotonic() + began_s)
        if job not in self._jobs:
            self._jobs[job] = _Job(trial)
            self._running.begin(self._run(job, self._jobs[job]), job)
        self._jobs[job].peers.append(peer)
        return peer

    def keep(self, job: str) -> None:
        """Make a checkpoint of a job now."""
        self._jobs[job].kept = self._jobs[job].done

    @property
    def living(self) -> list[SimulatedTrialPeer]:
        """The peers that have not ended."""
        return [peer for job in self._jobs.values() for peer in job.peers if peer.end is None]

    async def close(self) -> None:
        """End all jobs."""
        self._running.cancel()
        await self._running.ended()

    async def _run(self, name: str, job: _Job) -> None:
        while True:
            await self.clock.sleep(TICK_S)
            job.peers = [peer for peer in job.peers if peer.end is None]
            if not job.peers:
                job.done = job.kept
                continue
            try:
                await self._tick(name, job)
            except StoreError:
                continue  # etcd is away: the test is published later, and the peers train on

    async def _tick(self, name: str, job: _Job) -> None:
        budget, tests = self._study.samples, self._study.tests
        now = self.clock.monotonic()
        training = [peer for peer in job.peers if now >= peer.trains_at and not peer.leaving]
        more = min(budget - job.done, self._samples_per_s * TICK_S * len(training))
        job.done += more
        self.trained += more
        step = budget / CHECKPOINTS
        job.kept = max(job.kept, job.done // step * step)
        if training and job.mark < int(job.done * tests / budget + 1e-9):
            await self._publish(name, job)
        if job.done >= budget and job.mark >= tests:
            if not job.over:
                await self._finish(name, budget)
                job.over = True
            for peer in training:
                peer.ended(ExitCode.OK)

    async def _publish(self, name: str, job: _Job) -> None:
        mark = job.mark + 1
        samples = round(mark * self._study.samples / self._study.tests)
        value = self._learn(job.values, mark / self._study.tests)
        output = Output(self._study.objective.output, (value,))
        test = ConsensusTest(samples, samples // 10, (output,), mark=mark)
        await self._store.transact([], [Put(JobKeys(name).tested, test.to_json())])
        job.mark = mark

    async def _finish(self, name: str, budget: int) -> None:
        keys, spec = JobKeys(name), await load_job(self._store, name)
        checkpoint = checkpoint_id(budget, "sim")
        announcement = Announcement(checkpoint, "ab" * 32, budget, 1.0, {})
        end = {"checkpoint": checkpoint, "progress_samples": budget, "wall": self.clock.wall()}
        folded = {"epochs": Epochs.of(spec).count}
        await self._store.transact(
            [],
            [
                Put(keys.checkpoint(checkpoint), announcement.to_json()),
                Put(keys.folded, json.dumps(folded).encode()),
                Put(keys.finished, json.dumps(end).encode()),
            ],
        )
