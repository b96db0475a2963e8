"""A script as its peer's solver: one life after the other over one socket, with the messages of a solver process."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import ModelError, SolverDied, UsageError
from gossip_caffe.job.spec.spec import RateSchedule, TopSpec
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.peer.joining.same_net import refuse_another_net
from gossip_caffe.shards.epochs import ChunkId
from gossip_caffe.shards.stream import RecordStream
from gossip_caffe.solver.engines.engine import EngineSpec
from gossip_caffe.solver.engines.layout import WeightLayout
from gossip_caffe.solver.engines.numpy_engine import NumpyEngine
from gossip_caffe.solver.engines.place import LayerRank
from gossip_caffe.solver.script_link import ScriptLink
from gossip_caffe.solver.script_side import ScriptSide
from gossip_caffe.solver.solver_port import SolverProcess
from gossip_caffe.system.control import Control

BATCH = 4
DEADLINE_S = 30.0
FIXED = RateSchedule(
    policy="fixed", base_lr=0.05, gamma=0.0, power=0.0, stepsize=0, stepvalues=(), max_iter=100
)
SPEC = EngineSpec("numpy", "", iter_size=1, batch_records=BATCH, seed=3, place=LayerRank(1, 4, 9))


class OwnEngine(NumpyEngine):
    """The solver of a script. ``losses``: those that it tells, in order; its own without any."""

    def __init__(self, spec: EngineSpec, ring: BatchRing, losses: list[float]) -> None:
        super().__init__(spec, ring)
        self.has_stepped = False
        self.rates: list[float] = []
        self.losses = losses

    def set_rate(self, learning_rate: float) -> None:
        self.rates.append(learning_rate)

    def forget_momentum(self) -> None:
        self._velocity[...] = 0

    def step(self, ring: BatchRing, batches: int, learning_rate: float) -> float:
        if self.has_stepped:
            for _ in range(batches):
                ring.release()
            return 0.25
        loss = super().step(ring, batches, learning_rate)
        return self.losses.pop(0) if self.losses else loss


class Script:
    """A script in a thread of its own, which trains as ``train`` does while it can. ``engines``: one for each life."""

    def __init__(
        self, end: socket.socket, ring: BatchRing, losses: list[float], train: Callable[[ScriptSide], None]
    ) -> None:
        self.engines: list[OwnEngine] = []

        def made(spec: EngineSpec) -> OwnEngine:
            self.engines.append(OwnEngine(spec, ring, losses))
            return self.engines[-1]

        self.side = ScriptSide(Control(end.detach()), made)
        self.thread = threading.Thread(target=train, args=(self.side,), daemon=True)
        self.thread.start()


def trains(side: ScriptSide) -> None:
    while due := side.ready():
        side.step(due, made=False)


@pytest.fixture
def ring() -> Iterator[BatchRing]:
    made = BatchRing.create((TopSpec("data", (2,)), TopSpec("label", ())), BATCH, slots=8)
    yield made
    made.close()


def feed(ring: BatchRing, batches: int) -> None:
    for _ in range(batches):
        arrays = ring.reserve(0.0)
        assert arrays is not None
        arrays[0][...], arrays[1][...] = 1.0, 2.0
        ring.commit(ring.head, BATCH)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def script(
    ring: BatchRing,
    losses: list[float] | None = None,
    train: Callable[[ScriptSide], None] = trains,
    left: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[tuple[ScriptLink, Script]]:
    ours, theirs = socket.socketpair()
    link = ScriptLink(ours.detach(), left)
    run = Script(theirs, ring, losses or [], train)
    try:
        yield link, run
    finally:
        link.close()
        await asyncio.to_thread(run.thread.join, DEADLINE_S)
        assert not run.thread.is_alive()


async def test_a_script_is_one_solver_after_the_other(ring: BatchRing) -> None:
    async with script(ring) as (link, run):
        first = SolverProcess(SPEC, FIXED, ring, script=link)
        layout = await first.build()
        assert run.side.place.rank == 1
        feed(ring, 3)
        await first.start(None, passes=7)
        await until(lambda: first.board.batches == 3)
        assert run.side.passes == 7
        assert run.engines[0].rates == pytest.approx([0.05] * 3)
        momentum = await first.history()
        assert momentum.iteration == 3
        assert any(np.any(blob) for blob in momentum.blobs)
        momentum.close()
        await first.stop()
        assert (await first.wait()).code == 0
        assert not run.side.trains

        weights = np.empty(layout.size, np.float32)
        assert first.board.snapshot(weights).batches == 3
        again = SolverProcess(SPEC, FIXED, ring, first.board, script=link)
        await again.build()
        await again.start(None)
        assert not np.any(run.engines[1]._velocity), "momentum belongs to the weights of before"
        assert np.array_equal(run.engines[1]._flat, weights)
        feed(ring, 1)
        await until(lambda: again.board.batches == 4)


async def test_a_script_needs_nothing_of_its_agent_to_train_the_batches_that_are_there(
    ring: BatchRing,
) -> None:
    async with script(ring) as (link, _):
        solver = SolverProcess(SPEC, FIXED, ring, script=link)
        await solver.build()
        await solver.start(None)
        feed(ring, 5)
        deadline = time.monotonic() + DEADLINE_S
        while (
            solver.board.batches < 5
        ):  # the agent's event loop does not run: etcd and the network may be as slow
            assert time.monotonic() < deadline
            time.sleep(0.002)


async def test_a_correction_is_added_between_two_steps_or_while_none_is_made(ring: BatchRing) -> None:
    async with script(ring) as (link, run):
        solver = SolverProcess(SPEC, FIXED, ring, script=link)
        layout = await solver.build()
        await solver.start(None)
        before = run.engines[0]._flat.copy()
        solver.board.add_correction(np.ones(layout.exchanged, np.float32))
        await until(lambda: solver.board.published.applied == 1)
        assert np.allclose(run.engines[0]._flat, before + 1)


async def test_a_script_waits_at_the_gate_of_a_round_as_a_solver_process_does(ring: BatchRing) -> None:
    async with script(ring) as (link, _):
        solver = SolverProcess(SPEC, FIXED, ring, script=link)
        await solver.build()
        await solver.start(None)
        solver.board.set_gate(2)
        feed(ring, 4)
        await until(lambda: solver.board.at_gate)
        assert solver.board.published.batches == 2
        await until(lambda: solver.board.round_wait_s > 0)
        assert solver.board.batches == 2
        solver.board.set_gate(None)
        await until(lambda: solver.board.batches == 4)


async def test_steps_that_the_script_makes_itself_are_accounted_for_with_their_time(ring: BatchRing) -> None:
    def train(side: ScriptSide) -> None:
        while due := side.ready():
            side.step(due, made=True)

    async with script(ring, train=train) as (link, run):
        solver = SolverProcess(SPEC, FIXED, ring, script=link)
        await solver.build()
        feed(ring, 2)
        await solver.start(None)
        await until(lambda: solver.board.batches == 2)
        assert solver.board.samples == 2 * BATCH
        assert solver.board.loss == 0.25
        assert ring.ready == 0
        assert run.side.samples == 2 * BATCH


async def test_a_loss_that_is_not_finite_ends_the_life_with_its_reason(ring: BatchRing) -> None:
    async with script(ring, [math.nan]) as (link, run):
        solver = SolverProcess(SPEC, FIXED, ring, script=link)
        await solver.build()
        feed(ring, 1)
        await solver.start(None)
        end = await solver.wait()
        assert end.final
        assert end.cause.startswith("training diverged")
        assert run.side.failed is not None


async def test_what_a_script_says_of_an_earlier_life_is_not_heard_in_the_next() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        link = ScriptLink(ours.detach())
        heard: list[dict[str, object]] = []
        first, second = link.life(heard.append), link.life(heard.append)
        first.start()
        second.start()
        control = Control(os.dup(theirs.fileno()))
        control.send({"layout": 1, "life": 1})
        control.send({"ended": 0, "life": 1})
        control.send({"layout": 2, "life": 2})
        await until(lambda: bool(heard))
        assert heard == [{"layout": 2}]
        link.close()


async def test_a_script_that_asks_to_leave_is_heard(ring: BatchRing) -> None:
    asked: list[str] = []

    def train(side: ScriptSide) -> None:
        side.leave("done here")
        while not side.is_over:
            side.idle()

    async with script(ring, train=train, left=asked.append):
        await until(lambda: asked == ["done here"])


async def test_a_script_that_has_died_ends_this_life_and_every_next_one(ring: BatchRing) -> None:
    ours, theirs = socket.socketpair()
    link = ScriptLink(ours.detach())
    solver = SolverProcess(SPEC, FIXED, ring, script=link)
    building = asyncio.ensure_future(solver.build())
    await asyncio.sleep(0)
    theirs.close()
    with pytest.raises(SolverDied):
        await building
    assert (await solver.wait()).code == -signal.SIGKILL
    with pytest.raises(SolverDied):
        await SolverProcess(SPEC, FIXED, ring, script=link).build()


async def test_a_descriptor_that_is_no_socket_is_refused() -> None:
    with Path(os.devnull).open() as file, pytest.raises(UsageError, match="no socket"):
        ScriptLink(os.dup(file.fileno()))


def test_records_that_no_solver_will_train_are_given_up_and_the_trained_ones_stay() -> None:
    stream = RecordStream(4)
    for number in range(3):
        stream.add(ChunkId(0, number), 8 * number, 8 * number + 8)
    for _ in range(4):
        stream.cut()
    stream.trained(3)  # all of chunk 0, and half of chunk 1
    stream.give_up_untrained()
    assert not stream.untrained
    assert stream.unsettled
    assert stream.durable(3) == [ChunkId(0, 0)]
    assert not stream.unsettled
    assert stream.next_sequence == 3


def test_a_script_with_another_net_than_those_who_train_is_refused_with_their_names() -> None:
    layout, other = WeightLayout.of([("ip", 0, (2, 3))]), WeightLayout.of([("ip", 0, (3, 3))])
    record = PeerRecord("p0", "1f", "10.0.0.1:7100", "host", 7, "training", fingerprint=other.fingerprint)
    with pytest.raises(ModelError, match=r"\(p0\); give it the same layers"):
        refuse_another_net([record], layout)
    refuse_another_net([record], other)
    refuse_another_net([replace(record, state="joining")], layout)
    refuse_another_net([], layout)
