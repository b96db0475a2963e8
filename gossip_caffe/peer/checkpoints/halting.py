"""The halts of a lone peer: as plain Caffe does, it tests and writes snapshots between two steps, at exact iterations.

Its solver holds before the next step and publishes its weights, which are then the weights of Caffe at that iteration.
As soon as another peer trains, no solver holds any more.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import EnvironmentProblem, StoreError
from gossip_caffe.peer.checkpoints.snapshots import ExactSnapshots
from gossip_caffe.peer.checkpoints.testing import Testing
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.work.trainer import Trainer

LOOK_EVERY_S = 0.01
AT_ONCE = 0
"""The number of samples for a hold before the next step, at any progress of the job."""


class HaltingPeer(Protocol):
    """The parts of a peer that ``Halting`` needs."""

    world: PeerDependencies
    trainer: Trainer
    peer: str
    testing: Testing

    @property
    def alone(self) -> bool:
        """Whether no other peer trains."""
        ...

    @property
    def job_samples(self) -> int:
        """Samples of the whole job that were trained, as far as this peer knows."""
        ...

    async def read_progress(self) -> None:
        """Read the job's progress and its newest test. Raises StoreError."""
        ...


class Halting:
    """The halts of one peer. ``snapshots`` writes exact snapshots; None where no process collects them.

    ``held_s``: the seconds for which the solver has held.
    """

    def __init__(self, member: HaltingPeer, snapshots: ExactSnapshots | None) -> None:
        self._member = member
        self._board = member.trainer.board
        self._overseer = member.world.overseer
        self._testing = member.testing
        self._snapshots = snapshots
        self._wanted = snapshots is not None or bool(member.testing.plan.nets)
        self._knows = False
        self._waits = False
        """Whether the solver holds until the tests that are due are made."""
        self.held_s = 0.0
        self._looked_at = member.world.clock.monotonic()
        self._snapshots_made = 0
        """The snapshots that the supervisor asked for and that were made."""

    def begin(self, *, founded: bool) -> None:
        """Set the first hold, before the first batch is fed: so no iteration with a test or snapshot is passed.

        A peer that has not ``founded`` the job has to read its progress first, and holds before its first step.
        """
        self._knows = founded
        if not self._wanted:
            return
        self._board.set_hold(self._next() if founded or not self._member.alone else AT_ONCE)

    async def run(self) -> None:
        """Hold and go on, for ever. Returns at once where no test is planned and no snapshot is wanted."""
        if not self._wanted:
            return
        if not self._knows:
            try:
                await self._member.read_progress()
            except StoreError:
                pass  # the peer goes on with the progress that it knows
            if self._snapshots is not None:
                self._snapshots.begin(self._member.job_samples)
        while True:
            self._note_held()
            hold = self._next()
            if hold != self._board.hold:
                self._board.set_hold(hold)
            if hold is not None and self._board.held:
                await self._make_asked()
                if not self._waits:
                    await self._snapshot_and_test()
                    self._waits = not self._testing.idle
            self._waits = self._waits and not self._testing.idle
            await self._member.world.clock.sleep(LOOK_EVERY_S)

    def _note_held(self) -> None:
        now = self._member.world.clock.monotonic()
        if self._board.held:
            self.held_s += now - self._looked_at
        self._looked_at = now

    async def leave(self, patience_s: float) -> None:
        """Hold between two steps before leaving, and write a snapshot from which the job can go on.

        Does nothing for a peer that is not alone, or without snapshots. No snapshot is written when the step takes
        longer than ``patience_s`` seconds.
        """
        if self._snapshots is None or not self._member.alone:
            return
        self._board.set_hold(AT_ONCE)
        try:
            async with self._member.world.clock.timeout(patience_s):
                while not self._board.held:
                    await self._member.world.clock.sleep(LOOK_EVERY_S)
                await self._snapshot(leaving=True)
        except TimeoutError:
            self._member.world.say(f"{self._member.peer}: its step takes too long to wait for its end")
        finally:
            self._board.set_hold(None)

    def _next(self) -> int | None:
        """The next hold of the solver, in samples of the job; None for none."""
        if not self._member.alone:
            self._waits = False
            return None
        if self._waits:
            return self._board.hold
        if self._is_asked:
            return AT_ONCE
        due = [self._snapshots.next_samples] if self._snapshots is not None else []
        if self._testing.plan.nets:
            due.append(self._testing.plan.samples_at(self._testing.last_mark + 1))
        return min((samples for samples in due if samples is not None), default=None)

    @property
    def _is_asked(self) -> bool:
        return self._snapshots is not None and self._overseer.snapshots_wanted > self._snapshots_made

    async def _make_asked(self) -> None:
        """Write the snapshot that the supervisor has asked for, if it has. Several requests get one snapshot."""
        if self._is_asked:
            self._snapshots_made = self._overseer.snapshots_wanted
            await self._snapshot()

    async def _snapshot_and_test(self) -> None:
        """Write the snapshot that is due, then test: the order of Caffe's Solver::Step. The solver holds meanwhile."""
        samples = self._member.job_samples
        if self._snapshots is not None and self._snapshots.due(samples):
            await self._snapshot()
        testing = self._testing
        if (mark := testing.plan.marks(samples)) > testing.last_mark:
            # Of several tests that fell due while other peers trained, only the newest is made: all would test the
            # same weights.
            testing.take_weights(mark, samples, await asyncio.to_thread(self._weights))

    async def _snapshot(self, *, leaving: bool = False) -> None:
        if self._snapshots is None:
            return
        samples = self._member.job_samples
        history = None
        try:
            history = await self._member.trainer.history()
            weights = await asyncio.to_thread(self._weights)
            await self._snapshots.write(samples, weights, history, leaving=leaving)
        except EnvironmentProblem as error:
            self._member.world.warn(f"{self._member.peer}: {error}")
        finally:
            if history is not None:
                history.close()

    def _weights(self) -> NDArray[np.float32]:
        weights = np.empty(self._member.trainer.layout.size, dtype=np.float32)
        self._board.snapshot(weights)
        return weights
