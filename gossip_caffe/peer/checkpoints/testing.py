"""One peer's part in tests of the consensus: the holder of the duty to make checkpoints tests as well.

The weights are collected when a test is due, and tested one after the other in a process of their own. No peer that
trains waits for a test, except a lone peer, which trains as plain Caffe does (``halting``). No test of the solver is
left out: each has weights of its own, from the moment at which it was due or soon after it. The end of the job waits
for the remaining tests. A test that fails changes nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.checkpoint.announce import checkpoint_id
from gossip_caffe.checkpoint.duty import CHECKPOINTS
from gossip_caffe.checkpoint.formats.caffemodel import write_caffemodel
from gossip_caffe.checkpoint.manifest import MODEL
from gossip_caffe.errors import EnvironmentProblem, ExchangeFailed, ModelError, NotFound, StoreError
from gossip_caffe.job.prototxts.testing import PlannedTests, plan_of
from gossip_caffe.membership.etcd.store import CreatedAt, Put
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.tested import ConsensusTest, Output
from gossip_caffe.peer.checkpoints import checkpointing
from gossip_caffe.solver.engines.layout import WeightLayout
from gossip_caffe.solver.evaluation.evaluation import CaffeEvaluator, Evaluator

LOOK_EVERY_S = 0.05
AGAIN_S = 0.5
MOST_WAITING_BYTES = 1 << 28
"""Memory for weights that wait for their test. When it is full, the weights of later tests are collected later."""
MOST_WAITING = 64
"""The number of weights that wait for their test at most: each is an open descriptor."""


class EvaluatingPeer(checkpointing.CheckpointingPeer, Protocol):
    """The parts of a peer that ``Testing`` needs."""

    checkpointing: checkpointing.Checkpointing

    @property
    def alone(self) -> bool:
        """Whether no other peer trains."""
        ...

    @property
    def job_samples(self) -> int:
        """Samples of the whole job that were trained, as far as this peer knows."""
        ...


@dataclass(slots=True)
class WaitingTest:
    """Weights that wait for test number ``mark``, at the job's progress of ``samples``.

    ``model``: a descriptor of a .caffemodel.
    """

    mark: int
    samples: int
    model: int


class Testing:
    """The tests of one peer.

    ``newest``: the job's newest test that this peer has made, or has found in the store; None before the first.
    ``plan``: the tests that the job's solver asks for, and their iterations.
    """

    __test__ = False  # its name is no test's

    def __init__(self, member: EvaluatingPeer) -> None:
        self.newest: ConsensusTest | None = None
        self._member = member
        self._world = member.world
        # Without an evaluator (an engine that is not Caffe) the plan is empty, and this default is never called.
        self._evaluator: Evaluator = member.world.evaluator or CaffeEvaluator()
        spec = member.world.local_spec or member.world.spec
        self.plan = plan_of(spec) if member.world.evaluator is not None else PlannedTests()
        self._waiting: deque[WaitingTest] = deque()
        self._results: deque[ConsensusTest] = deque()
        self._taken = 0
        self._said = ""
        self._working = asyncio.Lock()
        self._test_began_at: float | None = None
        self._finishing = False

    async def run(self) -> None:
        """Test whenever a test is due, for ever; returns at once where no test is planned."""
        if self.plan.why_not:
            self._say_once(f"the consensus is not tested: {self.plan.why_not}")
        if self.plan.nets:
            await asyncio.gather(self._take_for_ever(), self._test_for_ever())

    async def finish(self) -> None:
        """Make the remaining tests after the end of the job; tests without weights get those of the last checkpoint."""
        self._finishing = True
        budget = self._world.spec.budget_samples
        try:
            if self.plan.nets and await self._is_ours():
                for mark in range(self.last_mark + 1, self.plan.marks(budget) + 1):
                    if (model := self._open(self._member.checkpointing.newest)) is not None:
                        self._take(mark, budget, model)
            await self._work()
        except StoreError:
            pass  # the job is finished without these tests

    async def close(self) -> None:
        """Close the weights that wait for a test, and end the process that tests."""
        while self._waiting:
            os.close(self._waiting.popleft().model)
        await self._evaluator.close()

    # ── taking weights ────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def last_mark(self) -> int:
        """The number of the last test that was made, as far as this peer knows, or whose weights are here; 0: none."""
        return max(self._taken, self._mark_of(self.newest) if self.newest is not None else 0)

    @property
    def unfinished(self) -> int:
        """The number of tests whose weights are here and whose result is not."""
        return len(self._waiting)

    @property
    def ahead_s(self) -> float:
        """The seconds that the remaining tests of the job will take, if each takes as long as the newest.

        0.0 before the first test.
        """
        if self.newest is None or not self.plan.nets:
            return 0.0
        left = self.plan.marks(self._world.spec.budget_samples) - self.last_mark
        began_at = self._test_began_at
        passed_s = self._world.clock.monotonic() - began_at if began_at is not None else 0.0
        return max(0, left + self.unfinished) * self.newest.seconds - min(passed_s, self.newest.seconds)

    @property
    def idle(self) -> bool:
        """Whether no weights wait for their test, and no test is being made."""
        return not self._waiting and not self._working.locked()

    def take_weights(self, mark: int, samples: int, weights: NDArray[np.float32]) -> None:
        """Test ``weights``, float32 of shape (layout.size,), as soon as the tests before are made."""
        try:
            self._take(mark, samples, _in_memory(self._member.trainer.layout, weights))
        except (OSError, EnvironmentProblem) as error:
            self._taken = mark
            self._failed(samples, f"{error}")  # for example, no memory or no descriptor is left

    def _take(self, mark: int, samples: int, model: int) -> None:
        self._taken = mark
        self._waiting.append(WaitingTest(mark, samples, model))

    async def _take_for_ever(self) -> None:
        while True:
            try:
                await self._look()
            except StoreError:
                await self._world.clock.sleep(AGAIN_S)  # the store is away: a test that is due stays due
            await self._world.clock.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        """Collect the weights of every test that is due. A lone peer's weights come from ``halting`` instead."""
        member, progress = self._member, self._member.progress
        if progress.finished or self._finishing:
            return
        samples = min(max(progress.samples, member.job_samples), self._world.spec.budget_samples)
        if self.plan.marks(samples) <= self.last_mark or self._room < 1 or not await self._is_ours():
            return
        due = range(self.last_mark + 1, self.plan.marks(samples) + 1)
        if not due:
            return
        if not self.plan.samples_at(due[0]):
            if (fresh := self._fresh()) is not None:
                self._take(due[0], 0, fresh)
                return
            due = due[1:] or due  # the job's first weights are gone
        if not member.alone:
            try:
                _, agreed = await checkpointing.collect(member)
            except (ExchangeFailed, OSError, EnvironmentProblem) as error:
                self._taken = due[-1]
                self._failed(samples, f"{error}")
                return
            for mark in due[: self._room]:
                await asyncio.to_thread(self.take_weights, mark, samples, agreed.weights)

    @property
    def _room(self) -> int:
        """The number of further weights that may wait for their test; at least one may when none waits."""
        fitting = MOST_WAITING_BYTES // (4 * self._member.trainer.layout.size)
        return max(min(fitting, MOST_WAITING), 1) - len(self._waiting)

    def _fresh(self) -> int | None:
        """A descriptor of the job's first weights; None when no checkpoint of them is here."""
        first = next(iter(self._world.folder.ids()), "")
        return self._open(first) if first.startswith(checkpoint_id(0, "")) else None

    def _open(self, checkpoint: str) -> int | None:
        """A descriptor of a checkpoint's weights, which outlives the checkpoint; None when it is not here."""
        try:
            return os.open(self._world.folder.path(checkpoint, MODEL), os.O_RDONLY | os.O_CLOEXEC)
        except (NotFound, OSError):
            return None

    async def _is_ours(self) -> bool:
        """Whether this peer holds the duty; if so, the job's newest test is read as well. Raises StoreError."""
        if not self._member.checkpointing.duty.ours:
            return False
        await self.check_last_write()
        return True

    async def check_last_write(self) -> None:
        """Read the job's newest test. Raises StoreError."""
        if (item := await self._world.store.get(self._world.keys.tested)) is not None:
            try:
                self.newest = ConsensusTest.from_json(item.value)
            except ValueError:
                pass  # the test of a version that this one cannot read

    def _mark_of(self, test: ConsensusTest) -> int:
        return test.mark or self.plan.marks(test.progress_samples)

    # ── testing ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _test_for_ever(self) -> None:
        while True:
            try:
                await self._work()
            except StoreError:
                await self._world.clock.sleep(AGAIN_S)
            await self._world.clock.sleep(LOOK_EVERY_S)

    async def _work(self) -> None:
        """Make the tests that wait, and publish each result. Raises StoreError when the last cannot be published now.

        Tests may fall due faster than they are made, so a result does not wait for the tests that follow. The child
        process stays until no test waits: to start one takes longer than many a test.
        """
        async with self._working:
            try:
                while self._waiting:
                    await self._test()
                    if self._waiting:
                        with contextlib.suppress(StoreError):
                            await self._publish()
                await self._publish()
            finally:
                if not self._member.alone:
                    await self._evaluator.close()

    async def _test(self) -> None:
        """Make the test that has waited longest."""
        clock = self._world.clock
        taken = self._waiting[0]
        began = self._test_began_at = clock.monotonic()
        alone = self._member.alone
        try:
            outputs = await self._evaluator.evaluate(
                self.plan.nets, taken.model, taken.mark, keep=True, halted=alone
            )
        except ModelError as error:
            self._failed(taken.samples, error.message)
            return
        except (OSError, EnvironmentProblem) as error:
            self._failed(taken.samples, f"{error}")
            return
        finally:
            self._test_began_at = None
            if self._waiting and self._waiting[0] is taken:  # otherwise ``close`` has closed it meanwhile
                self._waiting.popleft()
                os.close(taken.model)
        self._results.append(self._tested(taken, outputs, clock.monotonic() - began))

    async def _publish(self) -> None:
        """Publish the results of the tests in the store. Raises StoreError when that fails now."""
        duty, keys = self._member.checkpointing.duty, self._world.keys
        while self._results and (duty.ours or not self._member.alone):
            tested = self._results[0]
            guards = [CreatedAt(keys.duty(CHECKPOINTS), duty.revision)]
            told = duty.ours and await self._member.incarnation.writer.transact(
                guards, [Put(keys.tested, tested.to_json())]
            )
            self._results.popleft()
            if not told or not told.succeeded:
                continue  # another peer has the duty now, and makes the tests that are due
            self.newest = tested
            record = tested.to_record()
            del record["peer"]
            self._world.log.emit(Event.TESTED, **record)
            self._world.say(
                f"{self._member.peer}: the consensus at iteration {tested.iteration:,} of the job: {tested.words()}"
            )

    def _tested(self, taken: WaitingTest, outputs: tuple[Output, ...], seconds: float) -> ConsensusTest:
        spec = self._world.spec
        # Samples that were trained twice count once: the iteration is never beyond the budget.
        iteration = spec.iteration_at(min(taken.samples, spec.budget_samples))
        peer, mark = self._member.peer, taken.mark
        return ConsensusTest(taken.samples, iteration, outputs, peer, round(seconds, 3), mark)

    def _failed(self, samples: int, cause: str) -> None:
        """Log and say that a test has failed; the next test is tried all the same."""
        self._world.log.emit(Event.TEST_FAILED, progress_samples=samples, cause=cause)
        self._say_once(f"the consensus could not be tested: {cause}")

    def _say_once(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._world.warn(f"{self._member.peer}: {line}")


def _in_memory(layout: WeightLayout, weights: NDArray[np.float32]) -> int:
    """Write weights to a .caffemodel in memory; returns its descriptor."""
    descriptor = os.memfd_create("gossip-caffe-consensus", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            write_caffemodel(file, layout, weights)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
