"""The NumPy engine trains for real, and the loop around it steps, corrects and publishes as a solver's process does."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import SolverDied
from gossip_caffe.job.spec.spec import RateSchedule, TopSpec
from gossip_caffe.solver.board import Flat, WeightBoard
from gossip_caffe.solver.engines.engine import EngineSpec
from gossip_caffe.solver.engines.numpy_engine import NumpyEngine
from gossip_caffe.solver.stepped_solver import SteppedSolver

BATCH, FEATURES = 8, 6
FIXED = RateSchedule(
    policy="fixed", base_lr=0.05, gamma=0.0, power=0.0, stepsize=0, stepvalues=(), max_iter=100
)


def spec_of(iter_size: int = 1, seed: int = 3) -> EngineSpec:
    return EngineSpec("numpy", "", iter_size=iter_size, batch_records=BATCH, seed=seed)


@pytest.fixture
def ring() -> Iterator[BatchRing]:
    made = BatchRing.create((TopSpec("data", (2, 3)), TopSpec("label", ())), BATCH, slots=16)
    yield made
    made.close()


def points(sequence: int, records: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Records whose label is which of six features stands out."""
    rng = np.random.default_rng(sequence)
    labels = rng.integers(0, FEATURES, records)
    data = rng.normal(0, 0.3, (records, FEATURES)) + 2 * np.eye(FEATURES)[labels]
    return data.astype(np.float32).reshape(records, 2, 3), labels.astype(np.float32)


def feed(ring: BatchRing, batches: int, records: int = BATCH) -> None:
    for _ in range(batches):
        arrays = ring.reserve(0.0)
        assert arrays is not None
        arrays[0][:records], arrays[1][:records] = points(ring.head, records)
        ring.commit(ring.head, records)


def weights_of(engine: NumpyEngine) -> Flat:
    out = np.empty(engine.layout.size, dtype=np.float32)
    engine.read_weights(out)
    return out


def test_it_learns(ring: BatchRing) -> None:
    engine = NumpyEngine(spec_of(), ring)
    losses = []
    for _ in range(200):
        feed(ring, 1)
        losses.append(engine.step(ring, 1, 0.05))
    assert losses[0] == pytest.approx(math.log(10), rel=0.2)
    assert np.mean(losses[-20:]) < 0.2


def test_the_same_seed_and_batches_give_the_same_weights_bit_for_bit(ring: BatchRing) -> None:
    results = []
    for seed in (3, 3, 4):
        engine = NumpyEngine(spec_of(seed=seed), ring)
        ring.rewind(0)
        for _ in range(20):
            feed(ring, 1)
            engine.step(ring, 1, 0.05)
        results.append(weights_of(engine))
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_its_gradient_is_the_slope_of_its_loss(ring: BatchRing) -> None:
    engine = NumpyEngine(spec_of(), ring)
    before = weights_of(engine)
    feed(ring, 1)
    loss = engine.step(ring, 1, 1.0)
    gradient = before - weights_of(engine)  # the first step of momentum SGD at rate 1
    direction = gradient / np.linalg.norm(gradient)
    ring.rewind(0)
    feed(ring, 1)
    engine.write_weights((before - 1e-2 * direction).astype(np.float32))
    assert (loss - engine.step(ring, 1, 0.0)) / 1e-2 == pytest.approx(np.linalg.norm(gradient), rel=0.02)


def test_an_iteration_of_several_batches_steps_once_along_their_mean(ring: BatchRing) -> None:
    one, several = NumpyEngine(spec_of(), ring), NumpyEngine(spec_of(iter_size=3), ring)
    start = weights_of(one)
    feed(ring, 3)
    alone = []
    for _ in range(3):
        one = NumpyEngine(spec_of(), ring)
        one.step(ring, 1, 0.1)
        alone.append(weights_of(one) - start)
    ring.rewind(0)
    feed(ring, 3)
    several.step(ring, 3, 0.1)
    assert weights_of(several) - start == pytest.approx(np.mean(alone, axis=0), abs=1e-6)


# The loop, in the twin that is stepped by hand.


class Ticks:
    """A clock that goes on by a second with every look at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def solver_on(ring: BatchRing, board: WeightBoard | None = None, *, iter_size: int = 1) -> SteppedSolver:
    return SteppedSolver(spec_of(iter_size), FIXED, ring, board, monotonic=Ticks())


def snapshot_of(board: WeightBoard) -> tuple[Flat, int]:
    out = np.empty(board.size, dtype=np.float32)
    return out, board.snapshot(out).batches


async def test_it_steps_while_there_are_batches_and_counts_what_it_trained(ring: BatchRing) -> None:
    solver = solver_on(ring)
    await solver.build()
    await solver.start(None)
    feed(ring, 3)
    feed(ring, 1, records=5)
    assert solver.advance(10) == 4
    board = solver.board
    assert (board.iteration, board.batches, board.samples) == (4, 4, 3 * BATCH + 5)
    assert board.published.batches == 4
    assert board.published.samples == 3 * BATCH + 5
    assert board.loss > 0
    assert board.learning_rate == pytest.approx(0.05)


async def test_too_few_batches_for_an_iteration_wait_until_they_are_flushed(ring: BatchRing) -> None:
    solver = solver_on(ring, iter_size=3)
    await solver.build()
    await solver.start(None)
    feed(ring, 5)
    assert solver.advance(10) == 1
    assert ring.ready == 2
    solver.board.set_flush(True)
    assert solver.advance(10) == 1
    assert (solver.board.iteration, solver.board.batches) == (2, 5)


async def test_a_solver_without_batches_still_adds_corrections_and_publishes_them(ring: BatchRing) -> None:
    solver = solver_on(ring)
    layout = await solver.build()
    await solver.start(np.zeros(layout.size, dtype=np.float32))
    board, ones = solver.board, np.ones(layout.size, dtype=np.float32)
    for total in (1, 2, 3):
        board.add_correction(ones)
        version = board.published.version
        assert solver.advance(1) == 0
        assert board.published.version == version + 1
        assert snapshot_of(board)[0].tolist() == [total] * layout.size


async def test_the_rate_follows_the_whole_jobs_progress_times_the_factor(ring: BatchRing) -> None:
    halving = RateSchedule(
        policy="step", base_lr=1.0, gamma=0.5, power=0.0, stepsize=10, stepvalues=(), max_iter=100
    )
    solver = SteppedSolver(spec_of(), halving, ring, monotonic=Ticks())
    await solver.build()
    await solver.start(None)
    board = solver.board
    feed(ring, 2)
    board.set_pace(others_samples=8 * BATCH, rate_factor=2.0)
    solver.advance(1)
    assert board.learning_rate == 2.0  # iteration 8 of the job
    board.set_pace(others_samples=29 * BATCH, rate_factor=2.0)
    solver.advance(1)
    assert board.learning_rate == 0.25  # iteration 30, of which one was its own


async def test_a_successor_goes_on_from_the_newest_snapshot_with_every_correction_once(
    ring: BatchRing,
) -> None:
    first = solver_on(ring)
    layout = await first.build()
    await first.start(None)
    board, ones = first.board, np.ones(layout.size, dtype=np.float32)
    feed(ring, 4)
    first.advance(4)
    board.add_correction(ones)
    board.add_correction(ones)
    first.kill()
    assert (await first.wait()).code == -9
    expected, batches = snapshot_of(board)
    assert batches == board.published.batches
    ring.rewind(batches)
    second = solver_on(ring, board)
    await second.build()
    await second.start(None)
    assert np.array_equal(snapshot_of(board)[0], expected)
    for _ in range(3):
        second.advance(1)
    assert np.array_equal(snapshot_of(board)[0], expected)
    feed(ring, 1)
    assert second.advance(1) == 1
    assert board.batches == batches + 1


async def test_a_loss_that_is_not_finite_ends_the_solver_for_good_with_iteration_and_remedy(
    ring: BatchRing,
) -> None:
    solver = solver_on(ring)
    layout = await solver.build()
    await solver.start(None)
    feed(ring, 2)
    solver.advance(1)
    solver.board.add_correction(np.full(layout.size, 3e38, dtype=np.float32))
    with np.errstate(all="ignore"):
        solver.advance(1)
    end = await asyncio.wait_for(solver.wait(), 10)
    assert end.final
    assert "diverged: loss nan at iteration 1" in end.cause
    assert "lower base_lr" in end.remedy


async def test_stopping_publishes_what_was_trained(ring: BatchRing) -> None:
    solver = SteppedSolver(
        spec_of(), FIXED, ring, monotonic=lambda: 0.0
    )  # no time passes: nothing is old enough
    await solver.build()
    with pytest.raises(SolverDied, match="not built"):
        await solver_on(ring).start(None)
    await solver.start(None)
    feed(ring, 3)
    assert solver.advance(3) == 3
    await solver.stop()
    assert solver.board.published.batches == 3
    assert (await solver.wait()).code == 0
    assert solver.advance(1) == 0
