"""Who tests the consensus, when, on which weights, and what becomes of the result."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from gossip_caffe.checkpoint.duty import CHECKPOINTS, HeldDuty
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.formats.caffemodel import read_caffemodel
from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.errors import EnvironmentProblem, ModelError, StoreUnavailable
from gossip_caffe.job.spec.spec import NetTest
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Put
from gossip_caffe.observe.log.events import MemoryLog
from gossip_caffe.observe.log.tested import ConsensusTest, Output
from gossip_caffe.peer.checkpoints import checkpointing
from gossip_caffe.peer.checkpoints import testing as testing_module
from gossip_caffe.peer.checkpoints.testing import EvaluatingPeer, Testing
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.sharing.pairwise import pairwise
from gossip_caffe.solver.engines.layout import WeightLayout
from tests.bare_job import bare_job
from tests.fake_clock import FakeClock

LAYOUT = WeightLayout.of([("ip", 0, (4,))])
NET = 'layer { name: "in" type: "Data" top: "x" include { phase: TEST } }'
EVERY = 50  # samples between two tests
BUDGET = 200


async def _at_once() -> None:
    pass


class Evaluator:
    """Tells the first weight of what it is given, or fails."""

    def __init__(self) -> None:
        self.cause = ""
        self.tested: list[float] = []
        self.numbers: list[int] = []
        self.closed = False
        self.halted = False
        self.before: Callable[[], Awaitable[None]] = _at_once

    async def evaluate(
        self,
        nets: Sequence[NetTest],
        model: Path | int,
        number: int = 1,
        *,
        keep: bool = False,
        halted: bool = False,
    ) -> tuple[Output, ...]:
        assert keep
        self.halted = halted
        self.closed = False
        await self.before()
        assert isinstance(model, int)
        assert len(nets) == 1
        self.numbers.append(number)
        if self.cause:
            raise ModelError(self.cause)
        weight = float(read_caffemodel(os.pread(model, 1 << 16, 0), LAYOUT)[0])
        self.tested.append(weight)
        return (Output("accuracy", (weight,)),)

    async def close(self) -> None:
        self.closed = True


class Case:
    """One peer's tests, with everything around them in memory; ``weight`` is what the consensus is."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, solver: str = "") -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(MemoryEtcd(self.clock))
        self.log = MemoryLog()
        self.said: list[str] = []
        self.evaluator = Evaluator()
        self.folder = CheckpointFolder(folder)
        self.weight = 0.5
        spec = bare_job(
            solver_text=f"test_interval: 5 {solver}", tests=(NetTest(NET, 3),), budget_samples=BUDGET
        )
        nowhere = cast(Any, None)
        self.world = PeerDependencies(
            spec,
            self.store,
            nowhere,
            nowhere,
            self.folder,
            nowhere,
            self.clock,
            random.Random(1),
            self.log,
            self.said.append,
            pairwise,
            self.evaluator,
        )
        self.progress = SimpleNamespace(samples=0, finished=False, look=self._look)
        self.checkpointing = SimpleNamespace(duty=HeldDuty(ours=False, holder="", revision=0), newest="")
        self.member = SimpleNamespace(
            world=self.world,
            trainer=SimpleNamespace(layout=LAYOUT),
            incarnation=SimpleNamespace(ledger=None, writer=self.store),
            progress=self.progress,
            peer="p0",
            checkpointing=self.checkpointing,
            alone=False,
            job_samples=0,
        )

        async def collect(member: object) -> object:
            del member
            return None, SimpleNamespace(weights=np.full(4, self.weight, np.float32))

        monkeypatch.setattr(checkpointing, "collect", collect)

    async def _look(self, ledger: object) -> None:
        del ledger

    async def take_duty(self, peer: str = "p0") -> None:
        result = await self.store.transact([], [Put(self.world.keys.duty(CHECKPOINTS), peer.encode())])
        self.checkpointing.duty = HeldDuty(ours=True, holder=peer, revision=result.revision)

    def checkpoint(self, name: str, weight: float) -> None:
        layout = tuple((blob.layer, blob.index, blob.shape) for blob in LAYOUT.blobs)
        manifest = Manifest(name, "job", "", layout, 0, 0, (), "p0", ("p0",), 0.0)
        self.folder.write(manifest, np.full(4, weight, np.float32))

    def testing(self) -> Testing:
        return Testing(cast(EvaluatingPeer, self.member))

    async def at(self, testing: Testing, samples: int) -> list[float]:
        """What was tested so far, after the job has come so far and the peer has looked."""
        self.progress.samples = samples
        await testing._look()
        await testing._work()
        return self.evaluator.tested


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path, monkeypatch)


def test_each_interval_is_tested_once_and_the_first_time_at_the_start(case: Case) -> None:
    async def scene() -> None:
        await case.take_duty()
        testing = case.testing()
        case.checkpoint("00000000000000-p3", 0.125)
        assert await case.at(testing, 0) == [0.125]  # the fresh weights, wherever training is by now
        assert await case.at(testing, 49) == [0.125]
        assert await case.at(testing, 50) == [0.125, 0.5]
        assert await case.at(testing, 60) == [0.125, 0.5]
        case.weight = 0.75
        assert await case.at(testing, 160) == [
            0.125,
            0.5,
            0.75,
            0.75,
        ]  # two intervals at once: none is left out
        assert testing.newest == ConsensusTest(160, 16, (Output("accuracy", (0.75,)),), "p0", mark=4)

    asyncio.run(scene())
    assert [event["progress_samples"] for event in case.log.events] == [0, 50, 160, 160]
    assert case.evaluator.numbers == [1, 2, 3, 4]  # each goes on with the data where the one before ended
    assert case.said[-1] == "p0: the consensus at iteration 16 of the job: accuracy = 0.75"


def test_weights_are_taken_when_a_test_is_due_while_an_older_one_is_still_made(case: Case) -> None:
    async def scene() -> None:
        await case.take_duty()
        testing = case.testing()
        for samples, weight in ((50, 0.25), (100, 0.5), (150, 0.75)):
            case.progress.samples, case.weight = samples, weight
            await testing._look()
        assert not testing.idle
        await testing._work()
        assert testing.idle
        assert case.evaluator.tested == [0.25, 0.5, 0.75]
        await testing.close()

    asyncio.run(scene())
    assert [event["iteration"] for event in case.log.events] == [5, 10, 15]
    assert case.evaluator.closed


def test_the_weights_that_wait_take_no_more_memory_than_they_may_and_none_is_left_out(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testing_module, "MOST_WAITING_BYTES", 2 * 4 * LAYOUT.size)

    async def scene() -> None:
        await case.take_duty()
        testing = case.testing()
        for samples in (50, 100, 150):
            case.progress.samples, case.weight = samples, samples / 100
            await testing._look()
        await testing._work()
        assert case.evaluator.tested == [0.5, 1.0]
        case.weight = 1.75
        assert await case.at(testing, 175) == [0.5, 1.0, 1.75]

    asyncio.run(scene())
    assert [event["iteration"] for event in case.log.events] == [5, 10, 17]


def test_a_result_does_not_wait_for_the_tests_that_fall_due_meanwhile(case: Case) -> None:
    async def scene() -> None:
        await case.take_duty()
        testing = case.testing()
        events = case.log.events

        async def the_next_is_due() -> None:
            assert len(events) == len(case.evaluator.tested)  # all that are made are published
            if case.progress.samples < 150:
                case.progress.samples += EVERY
                await testing._look()

        case.evaluator.before = the_next_is_due
        await case.at(testing, 50)
        assert case.evaluator.closed  # no test waits, and other peers train

    asyncio.run(scene())
    assert [event["iteration"] for event in case.log.events] == [5, 10, 15]


def test_weights_that_wait_are_open_files_and_only_so_many(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testing_module, "MOST_WAITING", 2)

    async def scene() -> None:
        await case.take_duty()
        testing = case.testing()
        case.progress.samples = 175
        for _ in range(3):
            await testing._look()
        assert testing.unfinished == 2
        assert len(await case.at(testing, 175)) == 2
        assert len(await case.at(testing, 175)) == 3

    asyncio.run(scene())
    assert case.evaluator.numbers == [2, 3, 4]


def test_while_the_store_is_away_a_lone_peers_tests_are_made_all_the_same(case: Case) -> None:
    async def away(*args: object) -> None:
        raise StoreUnavailable("no")

    async def scene() -> None:
        await case.take_duty()
        case.member.alone = True
        testing = case.testing()
        for mark in (1, 2):
            testing.take_weights(mark, 50 * mark, np.full(4, mark, np.float32))
        case.member.incarnation.writer = SimpleNamespace(transact=away)
        with pytest.raises(StoreUnavailable):
            await testing._work()
        assert testing.idle
        assert case.evaluator.tested == [1.0, 2.0]
        assert case.evaluator.halted
        assert not case.evaluator.closed  # the next test of a lone peer takes the same process
        case.member.incarnation.writer = case.store
        await testing._work()

    asyncio.run(scene())
    assert [event["iteration"] for event in case.log.events] == [5, 10]


def test_own_samples_that_the_account_does_not_know_yet_count_too(case: Case) -> None:
    async def scene() -> None:
        await case.take_duty()
        testing = case.testing()
        case.member.job_samples = 61
        assert await case.at(testing, 0) == [0.5]

    asyncio.run(scene())
    assert [event["iteration"] for event in case.log.events] == [6]


def test_a_lone_peers_results_wait_for_its_duty(case: Case) -> None:
    async def scene() -> None:
        case.member.alone = True
        testing = case.testing()
        testing.take_weights(1, 0, np.full(4, 0.25, np.float32))
        await testing._work()
        assert case.log.events == []
        await case.take_duty()
        await testing._work()

    asyncio.run(scene())
    assert [event["iteration"] for event in case.log.events] == [0]


def test_only_who_holds_the_duty_tests_and_who_takes_it_over_repeats_nothing(case: Case) -> None:
    async def scene() -> None:
        first, second = case.testing(), case.testing()
        assert await case.at(first, 60) == []
        await case.take_duty()
        assert await case.at(first, 60) == [0.5]
        await case.take_duty("p1")
        assert await case.at(second, 70) == [0.5]
        assert second.newest is not None
        assert second.newest.progress_samples == 60

    asyncio.run(scene())


def test_a_result_counts_only_while_the_duty_is_held(case: Case) -> None:
    async def scene() -> None:
        await case.take_duty()
        held = case.checkpointing.duty
        await case.store.transact([], [])
        case.checkpointing.duty = HeldDuty(ours=True, holder="p0", revision=held.revision + 40)
        testing = case.testing()
        assert await case.at(testing, 60) == [0.5]
        assert testing.newest is None
        assert await case.store.get(case.world.keys.tested) is None

    asyncio.run(scene())
    assert case.log.events == []


def test_a_test_that_fails_is_one_line_and_is_tried_again_when_the_next_is_due(case: Case) -> None:
    async def scene() -> None:
        await case.take_duty()
        testing = case.testing()
        case.evaluator.cause = "Caffe refused layer 'a': no"
        for samples in (60, 65, 110):
            await case.at(testing, samples)
        case.evaluator.cause = ""
        assert await case.at(testing, 120) == []
        assert await case.at(testing, 150) == [0.5]

    asyncio.run(scene())
    assert [event["event"] for event in case.log.events] == ["test-failed", "test-failed", "tested"]
    assert case.said[0] == "p0: the consensus could not be tested: Caffe refused layer 'a': no"
    assert len(case.said) == 2


def test_a_finished_job_is_tested_on_its_last_checkpoint(case: Case) -> None:
    async def scene() -> None:
        await case.take_duty()
        testing = case.testing()
        case.checkpoint("00000000000200-p0", 0.875)
        case.checkpointing.newest = "00000000000200-p0"
        assert await case.at(testing, 180) == [0.5, 0.5, 0.5]
        await testing.finish()
        assert case.evaluator.tested == [0.5, 0.5, 0.5, 0.875]
        assert testing.newest is not None
        assert testing.newest.progress_samples == BUDGET
        await testing.finish()
        assert await case.at(testing, 200) == [0.5, 0.5, 0.5, 0.875]

    asyncio.run(scene())


@pytest.mark.parametrize(
    "error",
    [
        OSError(12, "Cannot allocate memory"),
        OSError(24, "Too many open files"),
        EnvironmentProblem("no process"),
    ],
)
@pytest.mark.parametrize("where", ["child", "memory"])
def test_a_test_for_which_the_machine_has_no_room_costs_nobody_anything(
    case: Case, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    def fails(*args: object) -> int:
        raise error

    async def fails_later(*args: object, **more: object) -> tuple[Output, ...]:
        raise error

    async def scene() -> None:
        await case.take_duty()
        testing = case.testing()
        case.progress.samples = 60
        if where == "child":
            monkeypatch.setattr(case.evaluator, "evaluate", fails_later)
        else:
            monkeypatch.setattr(os, "memfd_create", fails)
        running = asyncio.ensure_future(testing.run())
        await case.clock.advance(3.0)
        assert not running.done()
        monkeypatch.undo()
        running.cancel()
        case.checkpoint("00000000000200-p0", 0.875)
        case.checkpointing.newest = "00000000000200-p0"
        monkeypatch.setattr(case.evaluator, "evaluate", fails_later)
        await testing.finish()

    asyncio.run(scene())
    assert {event["event"] for event in case.log.events} == {"test-failed"}
    assert "could not be tested" in case.said[0]


def test_a_store_that_is_away_at_the_end_costs_the_last_test_only(case: Case) -> None:
    async def away(key: str) -> None:
        raise StoreUnavailable("gone")

    async def scene() -> None:
        await case.take_duty()
        testing = case.testing()
        case.world.store.get = away  # type: ignore[method-assign]
        await testing.finish()

    asyncio.run(scene())
    assert case.evaluator.tested == []


def test_a_job_that_cannot_be_tested_says_why_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path, monkeypatch, 'eval_type: "detection"')

    async def scene() -> None:
        await case.take_duty()
        await case.testing().run()

    asyncio.run(scene())
    assert case.said == [
        "p0: the consensus is not tested: eval_type 'detection' is not tested while the job trains"
    ]
