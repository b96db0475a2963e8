"""This peer's part in testing the consensus: it does it while it holds the duty of making checkpoints.

The TEST phase of the job's nets runs in a process of its own, which yields to the solvers. Nothing waits for it but the
end of the job, and a test that fails costs nobody anything.
"""

from __future__ import annotations

import asyncio
import os
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.checkpoint.announce import checkpoint_id
from gossip_caffe.checkpoint.caffemodel import write_caffemodel
from gossip_caffe.checkpoint.duty import CHECKPOINTS
from gossip_caffe.checkpoint.manifest import MODEL
from gossip_caffe.errors import ExchangeFailed, ModelError, NotFound, StoreError
from gossip_caffe.job.testing import PlannedTests, plan_of
from gossip_caffe.membership.store import CreatedAt, Put
from gossip_caffe.observe.events import Event
from gossip_caffe.observe.tested import ConsensusTest, Output
from gossip_caffe.peer import checkpointing
from gossip_caffe.solver.evaluation import CaffeEvaluator, Evaluator
from gossip_caffe.solver.layout import WeightLayout

LOOK_EVERY_S = 0.5


class Member(checkpointing.Member, Protocol):
    """What tests need of the peer."""

    checkpointing: checkpointing.Checkpointing


class Testing:
    """``newest``: the newest test of the job that this peer has made, or has found in the store."""

    __test__ = False  # its name is no test's

    def __init__(self, member: Member) -> None:
        self.newest: ConsensusTest | None = None
        self._member = member
        self._world = member.world
        # A job whose engine is not Caffe has nothing to test with.
        self._evaluator: Evaluator = member.world.evaluator or CaffeEvaluator()
        spec = member.world.spec_here or member.world.spec
        self._plan = plan_of(spec) if member.world.evaluator is not None else PlannedTests()
        self._failed_marks = 0
        self._said = ""
        self._working = asyncio.Lock()
        self._finishing = False

    async def run(self) -> None:
        """Test whenever that is due; returns at once where nothing is tested."""
        if self._plan.why_not:
            self._say_once(f"the consensus is not tested: {self._plan.why_not}")
        while self._plan.nets:
            try:
                async with self._working:
                    await self._look()
            except StoreError:
                pass  # the store is away: what is due stays due
            await self._world.clock.sleep(LOOK_EVERY_S)

    async def finish(self) -> None:
        """The job is finished: test its last checkpoint if that is due, after a test that still runs."""
        self._finishing = True
        member = self._member
        async with self._working:
            try:
                budget = self._world.spec.budget_samples
                if await self._due(budget) and (model := self._open(member.checkpointing.newest)) is not None:
                    await self._test(budget, model)
            except StoreError:
                pass  # the job is finished without it

    async def _look(self) -> None:
        progress = self._member.progress
        samples = progress.samples
        if progress.finished or self._finishing or not await self._due(samples):
            return
        if self._plan.marks(samples) == self._plan.marks(0) and (fresh := self._fresh()) is not None:
            await self._test(0, fresh)
            return
        await progress.look(self._member.incarnation.ledger)
        samples = progress.samples
        try:
            _, agreed = await checkpointing.collect(self._member)
        except ExchangeFailed as error:
            self._failed(samples, error.message)
            return
        layout = self._member.trainer.layout
        await self._test(samples, await asyncio.to_thread(_in_memory, layout, agreed.weights))

    def _fresh(self) -> int | None:
        """A descriptor of the job's first weights, when a checkpoint of them is here."""
        first = next(iter(self._world.folder.ids()), "")
        return self._open(first) if first.startswith(checkpoint_id(0, "")) else None

    def _open(self, checkpoint: str) -> int | None:
        """A descriptor of a checkpoint's weights, which stays when the checkpoint goes; None when it is not here."""
        try:
            return os.open(self._world.folder.path(checkpoint, MODEL), os.O_RDONLY | os.O_CLOEXEC)
        except (NotFound, OSError):
            return None

    async def _due(self, samples: int) -> bool:
        """Whether a test of the consensus after so many samples is ours to make. Raises StoreError."""
        marks = self._plan.marks(samples)
        if not self._member.checkpointing.duty.ours or marks <= self._failed_marks:
            return False
        if (item := await self._world.store.get(self._world.keys.tested)) is not None:
            try:
                self.newest = ConsensusTest.from_json(item.value)
            except ValueError:
                pass  # of a version that we cannot read
        return self.newest is None or marks > self._plan.marks(self.newest.progress_samples)

    async def _test(self, samples: int, model: int) -> None:
        """Test, and tell the job; closes ``model``. Raises StoreError when it cannot be told."""
        duty, clock, keys = self._member.checkpointing.duty, self._world.clock, self._world.keys
        began = clock.monotonic()
        try:
            outputs = await self._evaluator.evaluate(self._plan.nets, model)
        except ModelError as error:
            self._failed(samples, error.message)
            return
        finally:
            os.close(model)
        tested = self._tested(samples, outputs, clock.monotonic() - began)
        guards = [CreatedAt(keys.duty(CHECKPOINTS), duty.revision)]
        put = Put(keys.tested, tested.to_json())
        if not (await self._member.incarnation.writer.transact(guards, [put])).succeeded:
            return  # another has the duty now, and tests what is due
        self.newest = tested
        record = tested.to_record()
        del record["peer"]
        self._world.log.emit(Event.TESTED, **record)
        self._world.say(
            f"{self._member.peer}: the consensus at iteration {tested.iteration:,} of the job: {tested.words()}"
        )

    def _tested(self, samples: int, outputs: tuple[Output, ...], seconds: float) -> ConsensusTest:
        iteration = self._world.spec.iteration_at(samples)
        return ConsensusTest(samples, iteration, outputs, self._member.peer, round(seconds, 3))

    def _failed(self, samples: int, cause: str) -> None:
        """Write it down, and try again when the next test is due."""
        self._failed_marks = self._plan.marks(samples)
        self._world.log.emit(Event.TEST_FAILED, progress_samples=samples, cause=cause)
        self._say_once(f"the consensus could not be tested: {cause}")

    def _say_once(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._world.say(f"{self._member.peer}: {line}")


def _in_memory(layout: WeightLayout, weights: NDArray[np.float32]) -> int:
    """Descriptor of a .caffemodel without a name."""
    descriptor = os.memfd_create("gossip-caffe-consensus", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        write_caffemodel(file, layout, weights)
    return descriptor
