"""A whole study on virtual time: real workers and the real search, over simulated jobs and an etcd in memory."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from optuna.storages import BaseStorage, InMemoryStorage

from gossip_caffe.background import DetachedTasks
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Reset
from gossip_caffe.sim.machine import Machine
from gossip_caffe.sim.store_link import StoreLink
from gossip_caffe.sim.virtual_time import VirtualClock
from gossip_caffe.tune.board.keys import StudyKeys
from gossip_caffe.tune.board.studies import create_study
from gossip_caffe.tune.board.trial import TrialRecord
from gossip_caffe.tune.board.view import Board, read_board
from gossip_caffe.tune.search.optuna_import import require_optuna
from gossip_caffe.tune.search.optuna_search import OptunaSearch
from gossip_caffe.tune.search.search import Asked, Verdict
from gossip_caffe.tune.simulated.jobs import Learn, SimulatedJobs, SimulatedTrialPeer, simulated_spec
from gossip_caffe.tune.study.spec import StudySpec
from gossip_caffe.tune.work.worker import Worker
from gossip_caffe.tune.work.world import WorkerWorld

LOOK_S = 0.5


class DirectSearch:
    """The search without a thread: each call takes a moment before and after, in which its worker may die."""

    def __init__(self, search: OptunaSearch, clock: VirtualClock, rng: random.Random) -> None:
        self._search = search
        self._clock = clock
        self._rng = rng

    async def _moment(self) -> None:
        await self._clock.sleep(0.2 * self._rng.random())

    async def ask(self, recorded: Collection[int]) -> Asked:
        """See ``Search``."""
        await self._moment()
        asked = self._search.ask(recorded)
        await self._moment()
        return asked

    async def report(self, number: int, mark: int, value: float) -> None:
        """See ``Search``."""
        await self._moment()
        self._search.report(number, mark, value)

    async def verdict(self, number: int) -> Verdict:
        """See ``Search``."""
        verdict = self._search.verdict(number)
        await self._moment()
        return verdict

    async def tell(self, trial: TrialRecord) -> None:
        """See ``Search``."""
        await self._moment()
        self._search.tell(trial)
        await self._moment()

    async def unfinished(self) -> frozenset[int]:
        """See ``Search``."""
        return self._search.unfinished()


@dataclass(slots=True)
class SimulatedWorker:
    """One worker with its machine and its peers."""

    worker: Worker
    machine: Machine
    link: StoreLink
    task: asyncio.Task[str]
    peers: list[SimulatedTrialPeer] = field(default_factory=list)

    def kill(self) -> None:
        """Kill the worker and its peers at once."""
        self.link.cut_off()
        for peer in self.peers:
            peer.kill()
        self.task.cancel()


class SimulatedStudy:
    """The study. Create and use it in a VirtualTimeLoop. ``seed`` decides everything random.

    ``ends``: number of a trial → how often an end was written for it.
    """

    def __init__(
        self,
        study: StudySpec,
        learn: Learn,
        *,
        seed: int = 1,
        may_help: bool = True,
        samples_per_s: float = 100.0,
        start_s: float = 2.0,
        storage: BaseStorage | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        require_optuna()
        self.study = study
        self.clock = VirtualClock()
        self.etcd = MemoryEtcd(self.clock)
        self.store = MemoryStore(self.etcd)
        self.workers: dict[str, SimulatedWorker] = {}
        self.ends: Counter[int] = Counter()
        self.said: list[str] = []
        self._rng = random.Random(seed)
        self.jobs = SimulatedJobs(
            study,
            self.etcd,
            self.clock,
            learn,
            random.Random(f"{seed}: jobs"),
            samples_per_s=samples_per_s,
            start_s=start_s,
        )
        self._may_help = may_help
        self.storage = storage if storage is not None else InMemoryStorage()
        self._tell = say
        self._beside = DetachedTasks()
        self._values: dict[str, TrialRecord] = {}
        self._began = self.clock.monotonic()

    @property
    def now_s(self) -> float:
        """The virtual seconds since the start."""
        return self.clock.monotonic() - self._began

    async def begin(self) -> None:
        """Create the study."""
        await create_study(self.store, self.study)
        self._beside.begin(self.etcd.expire(), "the leases of etcd")
        self._beside.begin(self._count_ends(), "the count of ends")

    async def close(self) -> None:
        """End everything."""
        for worker in self.living:
            worker.kill()
        await self.jobs.close()
        self._beside.cancel()
        await self._beside.ended()

    def start_worker(self) -> SimulatedWorker:
        """Start one more worker."""
        name = f"w{len(self.workers)}"
        machine = Machine(name)
        link = StoreLink(self.etcd, machine, random.Random(self._rng.random()))
        search = OptunaSearch(self.study, self.storage)
        peers: list[SimulatedTrialPeer] = []

        async def make_job(trial: TrialRecord) -> JobSpec:
            await self.clock.sleep(0.1)
            self._values[trial.job] = trial
            return simulated_spec(self.study, trial)

        def start_peer(job: str, on_end: Callable[[], None]) -> SimulatedTrialPeer:
            peers.append(self.jobs.start(self._values[job].values, job, on_end))
            return peers[-1]

        world = WorkerWorld(
            self.study,
            link,
            self.clock,
            DirectSearch(search, self.clock, random.Random(self._rng.random())),
            make_job,
            start_peer,
            self._say,
            may_help=self._may_help,
        )
        worker = Worker(world, name)
        task = self._beside.begin(worker.run(), name)
        self.workers[name] = made = SimulatedWorker(worker, machine, link, task, peers)
        return made

    @property
    def living(self) -> list[SimulatedWorker]:
        """The workers that run."""
        return [worker for worker in self.workers.values() if not worker.task.done()]

    async def until_ended(self, deadline_s: float) -> None:
        """Wait until no worker runs. Raises TimeoutError after ``deadline_s`` virtual seconds."""
        async with self.clock.timeout(deadline_s):
            while self.living:
                await self.clock.sleep(LOOK_S)

    async def board(self) -> Board:
        """The board now."""
        return await read_board(self.store, StudyKeys(self.study.name), self.study)

    def _say(self, line: str) -> None:
        self.said.append(f"{self.now_s:8.2f} {line}")
        self._tell(self.said[-1])

    async def _count_ends(self) -> None:
        """Count the ends of each trial, and note its values for its peers."""
        keys = StudyKeys(self.study.name)
        async for item in self.store.watch(keys.trials):
            entries = item.listing.items if isinstance(item, Reset) else (item.value,)
            for entry in entries:
                if entry is None:
                    continue
                number = int(json.loads(entry.value)["number"])
                record = TrialRecord.from_json(entry.value, number, self.study)
                self._values[record.job] = record
                self.ends[number] += record.state.is_end
