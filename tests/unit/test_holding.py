"""A solver that holds: between two steps, at just the iteration, with all of it published; and what it does then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.job.prototxts.testing import PlannedTests
from gossip_caffe.job.spec.spec import NetTest, RateSchedule, TopSpec
from gossip_caffe.peer.checkpoints import halting
from gossip_caffe.peer.checkpoints.halting import Halting
from gossip_caffe.peer.checkpoints.snapshots import ExactSnapshots
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.stepped_solver import SteppedSolver
from tests.bare_job import bare_job
from tests.fake_clock import FakeClock
from tests.unit.test_numpy_engine import FIXED, spec_of

BATCH = 8


def job(**differs: Any) -> Any:
    schedule = RateSchedule("fixed", 0.1, max_iter=100)
    return bare_job(solver_text="snapshot: 10", budget_samples=100 * 10, schedule=schedule, **differs)


class Hurried(FakeClock):
    """A clock whose timeouts run out."""

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        waiting = asyncio.current_task()

        async def end() -> None:
            await self.sleep(seconds)
            if waiting is not None:
                waiting.cancel()

        ending = asyncio.ensure_future(end())
        try:
            yield
        except asyncio.CancelledError:
            raise TimeoutError from None
        finally:
            ending.cancel()


class Test:
    """A peer with a real board and a solver of its own making; ``tested``: (mark, samples) of the weights taken."""

    __test__ = False

    def __init__(self, folder: Path | None, *, interval: int = 4, at_start: bool = True) -> None:
        self.clock = Hurried()
        self.board = WeightBoard.create(3)
        self.board.install(np.zeros(3, np.float32))
        self.alone, self.idle = True, True
        self.overseer = SimpleNamespace(snapshots_wanted=0)
        self.tested: list[tuple[int, int]] = []
        nets = (NetTest("", 1),) if interval else ()
        self.plan = PlannedTests(nets, max(1, interval), at_start, 0, 10)
        spec = job()
        layout = SimpleNamespace(size=3, entries=(), structure=b"")
        exact = None
        if folder is not None:
            exact = ExactSnapshots(spec, "p0", cast(Any, layout), folder)
            self.written: list[tuple[int, bool]] = []

            async def write(samples: int, weights: object, history: object, *, leaving: bool) -> None:
                exact._written = max(exact._written, exact._plan.iteration_of(samples))
                self.written.append((samples, leaving))

            exact.write = write  # type: ignore[method-assign]
        test = self

        class Testing:
            plan = self.plan
            last_mark = 0

            @property
            def idle(self) -> bool:
                return test.idle

            def take_weights(self, mark: int, samples: int, weights: object) -> None:
                Testing.last_mark = mark
                test.idle = False
                test.tested.append((mark, samples))

        async def history() -> None:
            return None

        class Member:
            world = SimpleNamespace(clock=self.clock, say=print, overseer=self.overseer)
            trainer = SimpleNamespace(board=self.board, layout=layout, history=history)
            peer = "p0"
            testing = Testing()

            @property
            def alone(self) -> bool:
                return test.alone

            @property
            def job_samples(self) -> int:
                return test.board.job_samples

            async def read_progress(self) -> None:
                test.board.set_pace(50, 1.0)
                Testing.last_mark = 1

        self.halting = Halting(cast(Any, Member()), exact)

    def solver_at(self, iteration: int) -> bool:
        """The solver has come so far, and looks whether it may go on; whether it holds."""
        self.board.note_step(iteration, iteration, iteration * 10, 0.0, 0.0, 0.0)
        hold = self.board.hold
        holds = hold is not None and self.board.job_samples >= hold
        self.board.note_held(hold if holds else None)
        return holds

    async def soon(self) -> None:
        for _ in range(3):
            await self.clock.advance(halting.LOOK_EVERY_S)
            await asyncio.to_thread(str)  # threads end in the order of their beginning, for there is one


def run(scene: Coroutine[Any, Any, None]) -> None:
    """With one thread for all that is done in threads."""

    async def alone() -> None:
        with ThreadPoolExecutor(1) as pool:
            asyncio.get_running_loop().set_default_executor(pool)
            await scene

    asyncio.run(alone())


def test_a_lone_peer_holds_at_every_iteration_at_which_something_is_due_and_at_no_other(
    tmp_path: Path,
) -> None:
    async def scene() -> None:
        test = Test(tmp_path)
        test.halting.begin(founded=True)
        running = asyncio.ensure_future(test.halting.run())
        held = []
        for iteration in range(25):
            while test.solver_at(iteration):
                await test.soon()
                if iteration not in held:
                    held.append(iteration)
                    if not test.idle:
                        assert test.solver_at(iteration)  # until the test is made
                test.idle = True
                await test.soon()
        assert held == [0, 4, 8, 10, 12, 16, 20, 24]
        assert test.tested == [(mark + 1, mark * 40) for mark in range(7)]
        assert test.written == [(100, False), (200, False)]
        running.cancel()

    run(scene())


def test_no_solver_holds_once_another_peer_trains_even_during_a_test() -> None:
    async def scene() -> None:
        test = Test(None)
        test.halting.begin(founded=True)
        running = asyncio.ensure_future(test.halting.run())
        assert test.solver_at(0)
        await test.soon()
        assert test.solver_at(0)
        test.alone = False
        await test.soon()
        assert not test.solver_at(0)
        assert not test.solver_at(4)
        test.alone = test.idle = True
        await test.soon()
        assert test.solver_at(6)  # the others are gone: what was due meanwhile is tested now
        await test.soon()
        assert test.tested == [(1, 0), (2, 60)]
        running.cancel()

    run(scene())


def test_a_peer_that_has_not_founded_the_job_reads_its_progress_first() -> None:
    async def scene() -> None:
        test = Test(None)
        test.halting.begin(founded=False)
        assert test.solver_at(0)
        running = asyncio.ensure_future(test.halting.run())
        await test.soon()
        assert test.solver_at(0)
        await test.soon()
        # 50 samples were trained before: the tests at iterations 0 and 4 are not those of these weights.
        assert test.tested == [(2, 50)]
        running.cancel()

    run(scene())


def test_a_solver_without_tests_and_snapshots_never_holds() -> None:
    async def scene() -> None:
        test = Test(None, interval=0)
        test.halting.begin(founded=False)
        await test.halting.run()
        await test.halting.leave(1.0)
        assert test.board.hold is None

    run(scene())


def test_a_lone_peer_leaves_with_a_snapshot_of_the_end_of_its_step(tmp_path: Path) -> None:
    async def scene() -> None:
        test = Test(tmp_path, interval=0)
        leaving = asyncio.ensure_future(test.halting.leave(5.0))
        await test.soon()
        assert not leaving.done()
        test.solver_at(7)
        await test.soon()
        await leaving
        assert test.written == [(70, True)]
        assert not test.solver_at(8)

    run(scene())


def test_a_snapshot_that_is_asked_for_is_made_before_the_next_step_also_during_a_test(tmp_path: Path) -> None:
    async def scene() -> None:
        test = Test(tmp_path, interval=4)
        test.halting.begin(founded=True)
        running = asyncio.ensure_future(test.halting.run())
        assert test.solver_at(0)
        await test.soon()
        test.overseer.snapshots_wanted += 2
        await test.soon()
        assert test.written == [(0, False)]  # while the weights are tested
        test.idle = True
        await test.soon()
        assert not test.solver_at(1)
        test.overseer.snapshots_wanted += 1
        await test.soon()
        assert test.solver_at(2)
        await test.soon()
        assert test.written == [(0, False), (20, False)]
        assert not test.solver_at(3)
        running.cancel()

    run(scene())


def test_a_step_that_takes_too_long_is_not_waited_for(tmp_path: Path) -> None:
    async def scene() -> None:
        test = Test(tmp_path, interval=0)
        leaving = asyncio.ensure_future(test.halting.leave(5.0))
        await test.clock.advance(6.0)
        await leaving
        assert test.written == []

    run(scene())


async def test_a_solver_steps_up_to_where_it_is_to_hold_and_publishes_there() -> None:
    ring = BatchRing.create((TopSpec("data", (4,)), TopSpec("label", ())), 8, 16)
    solver = SteppedSolver(spec_of(), FIXED, ring, monotonic=lambda: 0.0)
    await solver.build()
    await solver.start(None)
    for sequence in range(6):
        arrays = ring.reserve(0.0)
        assert arrays is not None
        arrays[0][:], arrays[1][:] = 1.0, 1.0
        ring.commit(sequence, 8)
    board = solver.board
    board.set_hold(3 * 8)
    assert not board.held
    assert solver.advance(10) == 3
    assert board.held
    assert (board.published.iteration, board.published.samples) == (3, 24)
    board.set_hold(None)
    assert not board.held
    assert solver.advance(10) == 3
    solver.close()
    ring.close()


@pytest.mark.parametrize(
    ("every", "first", "due"), [(10, 0, [10, 20]), (10, 5, [10, 20]), (0, 0, []), (7, 14, [21])]
)
def test_the_iterations_at_which_a_snapshot_is_due_are_caffes(
    tmp_path: Path, every: int, first: int, due: list[int]
) -> None:
    schedule = bare_job().schedule
    spec = bare_job(
        solver_text=f"snapshot: {every}",
        schedule=type(schedule)("fixed", 0.1, max_iter=25, first_iteration=first),
    )
    exact = ExactSnapshots(spec, "p0", cast(Any, SimpleNamespace()), tmp_path)
    found = []
    while (samples := exact.next_samples) is not None:
        found.append(first + samples // 10)
        assert exact.due(samples)
        assert not exact.due(samples - 1)
        exact._written = found[-1]
    assert found == due
