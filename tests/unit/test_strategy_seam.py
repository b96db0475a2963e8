"""Another way of sharing behind the same two Protocols, strategy and transport: everybody takes everybody's mean."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

from gossip_caffe.gossip.averaging.average import distance
from gossip_caffe.gossip.codecs.message import Message, Refusal
from gossip_caffe.gossip.consensus import consensus
from gossip_caffe.gossip.protocol.answering import Answering
from gossip_caffe.gossip.protocol.local_peer import LocalPeer
from gossip_caffe.gossip.protocol.outcome import Outcome, OutcomeKind
from gossip_caffe.gossip.protocol.transport import Answerer, Carry
from gossip_caffe.observe.history.account import account
from gossip_caffe.peer.core.strategy import SharingFigures, Strategy, StrategyContext
from gossip_caffe.sim.job import SimulatedJob
from gossip_caffe.sim.peer import Pace
from gossip_caffe.sim.virtual_time import run
from gossip_caffe.solver.board import SnapshotInfo
from gossip_caffe.solver.engines.numpy_engine import NumpyEngine
from tests.unit.test_simulated_job import BATCH, spec_in

EVERY = 8
LOOK_S = 0.01


class EverybodysMean:
    """Every few iterations the mean of all who train now takes the place of the own weights, as a correction."""

    def __init__(self, around: StrategyContext) -> None:
        self._around = around
        self._peer = LocalPeer(
            name=around.peer,
            job=around.job,
            fingerprint=around.fingerprint,
            weights=around.board,
            clock=around.clock,
            rng=around.rng,
        )
        self._reads = Answering(self._peer)
        self._read: SnapshotInfo | None = None
        self._applied = 0

    @property
    def answerer(self) -> Answerer:
        return self

    @property
    def figures(self) -> SharingFigures:
        return SharingFigures(self._applied, 0, 0, 0.0, None)

    def accept(self) -> None:
        self._peer.accepting = None

    def refuse(self, refusal: Refusal) -> None:
        self._peer.accepting = refusal

    async def receive(
        self, header: Message, payload_bytes: int, read: Callable[[], Awaitable[Message]]
    ) -> Message:
        return await self.answer(header)

    async def answer(self, offer: Message) -> Message:
        around = self._around
        return Message(
            offer.exchange_id, around.peer, around.job, around.fingerprint, refusal=Refusal.UNKNOWN_CODEC
        )

    async def receive_swap(self, header: Message, carry: Carry) -> Message:
        return await self.answer(header)

    async def show(self, request: Message) -> Message:
        answer = await self._reads.show(request)
        if answer.refusal is Refusal.NONE:
            self._read = self._around.board.published
        return answer

    async def run(self) -> None:
        due = EVERY
        while True:
            self._around.board.pump()
            if self._around.board.iteration >= due or self._around.urgent():
                await self.exchange()
                due = self._around.board.iteration + EVERY
            await self._around.clock.sleep(LOOK_S)

    async def exchange(self) -> Outcome | None:
        around = self._around
        if not around.partners():
            return None
        own = np.empty(around.board.size, dtype=np.float32)

        def newest(out: np.ndarray) -> SnapshotInfo:
            info = around.board.snapshot(own)
            np.copyto(out, own)
            return info

        request = Message("", around.peer, around.job, around.fingerprint)
        others = around.partners()
        snapshot, agreed = await consensus(
            request, own.size, newest, others, around.transport, around.rng, most=8
        )
        around.board.add_correction(agreed.weights - own)
        self._applied += 1
        outcome = Outcome(OutcomeKind.APPLIED, f"mean-{self._applied}", "everybody", self._read or snapshot)
        if self._read is not None:
            around.shared(outcome)
        return outcome

    async def pause(self, outcome: Outcome | None, *, urgent: bool) -> None:
        await self._around.clock.sleep(LOOK_S)


def test_a_job_is_trained_by_another_strategy_without_a_change_to_the_peer(tmp_path: Path) -> None:
    spec = spec_in(tmp_path, 600)
    made: list[Strategy] = []

    def strategy(around: StrategyContext) -> Strategy:
        made.append(EverybodysMean(around))
        return made[-1]

    async def course() -> tuple[SimulatedJob, list[np.ndarray]]:
        job = SimulatedJob(spec, tmp_path / "run", NumpyEngine, seed=1, strategy=strategy)
        try:
            for index in range(3):
                await job.start(f"p{index}", Pace(0.02))
            await job.finished()
            ends = []
            for peer in job.peers.values():
                ends.append(np.empty(peer.trainer.board.size, dtype=np.float32))
                peer.trainer.board.snapshot(ends[-1])
            return job, ends
        finally:
            job.close()

    job, ends = run(course())
    found = account({name: log.events for name, log in job.logs.items()}, spec)
    assert (found.records_trained, found.records_lost) == (600 * BATCH, 0)
    assert len(made) == 3
    assert all(strategy.figures.applied > 600 / 3 / EVERY / 2 for strategy in made)
    assert job.carried.messages == 0  # no pairwise exchange
    assert max(distance(a, b) for a in ends for b in ends) < 1e-2
