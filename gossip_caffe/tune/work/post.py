"""The place of a worker: the trial in which its peer trains, as the one that leads it or as one that helps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gossip_caffe.background import DetachedTasks, unending
from gossip_caffe.clock import Clock
from gossip_caffe.job.prototxts.testing import plan_of
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.store import KeyValue, Reset, Store
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.log.tested import ConsensusTest
from gossip_caffe.tune.board.trial import Results, TestResult, TrialRecord
from gossip_caffe.tune.study.spec import LOSS, Objective
from gossip_caffe.tune.work.world import TrialPeer


@dataclass(slots=True)
class Post:
    """A worker's peer in one trial.

    ``claimed_at``: the revision of this worker's claim; 0: it helps. ``spec``: the job, once it is known. ``failures``:
    ends of its peer without a test between. ``judged``: the number of the last test that the search has judged.
    ``ended``: the trial's last record, which is written already. ``finished_at``: the time (monotonic s) at which the
    job was seen to be finished.
    """

    trial: TrialRecord
    claimed_at: int = 0
    peer: TrialPeer | None = None
    spec: JobSpec | None = None
    results: Results = field(default_factory=Results)
    failures: int = 0
    judged: int = 0
    start_at: float = 0.0
    ended: TrialRecord | None = None
    finished_at: float | None = None
    tests: TestsOf | None = None

    @property
    def leads(self) -> bool:
        """True if this worker has claimed the trial."""
        return self.claimed_at > 0


def objective_value(test: ConsensusTest, objective: Objective) -> float | None:
    """The objective's value in a test; None if it is not finite, or not there."""
    for output in test.outputs:
        wanted = output.loss_weight != 0 if objective.output == LOSS else output.name == objective.output
        if wanted and output.scalar is not None:
            return output.scalar
    return None


def result_of(test: ConsensusTest, spec: JobSpec, objective: Objective) -> TestResult | None:
    """A test of the job as a result of the trial; None for that of the job's first weights."""
    mark = test.mark - int(plan_of(spec).at_start)
    if mark < 1 or test.progress_samples <= 0:
        return None
    return TestResult(mark, test.progress_samples, objective_value(test, objective))


class TestsOf:
    """The tests of a job as they are published, in order. ``new`` holds those that are not dealt with yet."""

    __test__ = False  # its name is no test's

    def __init__(self, store: Store, job: str, clock: Clock, wake: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._key = JobKeys(job).tested
        self._wake = wake
        self._watching = DetachedTasks()
        self.new: deque[ConsensusTest] = deque()

    def begin(self) -> None:
        """Watch the job's tests until ``end``."""
        if not self._watching:
            name = f"the watch of {self._key}"
            self._watching.begin(unending(self._watch, name, self._clock.sleep), name)

    async def end(self) -> None:
        """Stop watching."""
        self._watching.cancel()
        await self._watching.ended()

    async def read(self) -> None:
        """Read the newest test now. Raises StoreError."""
        self._take(await self._store.get(self._key))

    async def _watch(self) -> None:
        async for item in self._store.watch(self._key):
            found = item.listing.items if isinstance(item, Reset) else (item.value,)
            for entry in found:
                self._take(entry)

    def _take(self, entry: KeyValue | None) -> None:
        if entry is None or entry.key != self._key:
            return
        try:
            self.new.append(ConsensusTest.from_json(entry.value))
        except ValueError:
            return  # of another version, or of another program: the peers have reported it
        self._wake()
