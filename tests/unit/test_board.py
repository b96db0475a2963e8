"""The board between a solver and its agent: interrupted at any word, killed at any word, written at full speed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from numpy.typing import NDArray

from gossip_caffe.errors import EnvironmentProblem, GossipCaffeError
from gossip_caffe.observe.metrics.figures import Durations
from gossip_caffe.observe.metrics.table import STEP_BUCKETS_S
from gossip_caffe.solver.board import Flat, WeightBoard
from gossip_caffe.system.sharedmem import SharedMemory

SIZE = 3
Words = NDArray[np.int64]


def vector(*values: float) -> Flat:
    return np.array(values, dtype=np.float32)


def other_side(board: WeightBoard) -> WeightBoard:
    """The board as another process would see it."""
    return WeightBoard.attach(os.dup(board.fd))


class Killed(Exception):
    """The solver ends between two stores."""


class WatchedWords(np.ndarray[tuple[int], np.dtype[np.int64]]):
    """The header's words, with something happening before each load or store."""

    before: Callable[[], None] | None = None

    def __getitem__(self, key: Any) -> Any:
        if self.before is not None:
            self.before()
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.before is not None:
            self.before()
        super().__setitem__(key, value)


def watch(board: WeightBoard, before: Callable[[], None]) -> WatchedWords:
    words = board._words.view(WatchedWords)
    words.before = before
    board._words = words
    return words


VALUES = st.integers(-8, 8)
VECTORS = st.tuples(VALUES, VALUES, VALUES).map(lambda values: vector(*values))
SOLVER_STEPS = st.sampled_from(["gradient", "begin to publish", "publish", "correct"])


class BoardAgainstASum(RuleBasedStateMachine):
    """Small whole numbers add up exactly in float32, so every sum can be compared for equality."""

    def __init__(self) -> None:
        super().__init__()
        self.agent = WeightBoard.create(SIZE)
        self.initial = vector(1, 2, 3)
        self.agent.install(self.initial)
        self.gradients: list[Flat] = []
        self.corrections: list[Flat] = []
        self.interruptions: list[str] = []
        self.interrupting = False
        self.stores_left = -1
        watch(self.agent, self.interrupt)
        self.restart()

    def teardown(self) -> None:
        self.agent.close()

    # What the solver process does.

    def restart(self) -> None:
        self.stores_left, self.publishing = -1, False
        self.solver = other_side(self.agent)
        watch(self.solver, self.maybe_die)
        self.live = np.empty(SIZE, dtype=np.float32)
        info = self.solver.restore(self.live)
        assert info.batches <= len(self.gradients)
        del self.gradients[info.batches :]  # they will be trained again

    def maybe_die(self) -> None:
        if self.stores_left == 0:
            raise Killed
        self.stores_left -= 1

    def solver_does(self, what: str, gradient: Flat) -> None:
        if self.publishing and what != "begin to publish":
            self.finish_publication()
        if what == "gradient":
            self.live += gradient
            self.gradients.append(gradient)
        elif "publish" in what and not self.publishing:
            self.publishing = True
            self.target = self.solver.next_slot()
            self.target[:2] = self.live[:2]
            if what == "publish":
                self.finish_publication()
        elif what == "correct" and (correction := self.solver.waiting_correction()) is not None:
            self.live += correction
            self.solver.correction_applied()

    def finish_publication(self) -> None:
        batches = len(self.gradients)
        self.target[2:] = self.live[2:]
        self.solver.publish_slot(iteration=batches, batches=batches, samples=8 * batches)
        self.publishing = False

    def interrupt(self) -> None:
        if self.interruptions and not self.interrupting:
            self.interrupting = True
            self.solver_does(self.interruptions.pop(), vector(1, 1, 1))
            self.interrupting = False

    @rule(what=SOLVER_STEPS, gradient=VECTORS)
    def solver_runs(self, what: str, gradient: Flat) -> None:
        self.solver_does(what, gradient)

    @rule(what=SOLVER_STEPS, after=st.integers(0, 14))
    def solver_is_killed(self, what: str, after: int) -> None:
        self.stores_left = after
        try:
            self.solver_does(what, vector(1, 1, 1))
        except Killed:
            pass
        self.restart()

    # What the agent does, with the solver getting on at any moment.

    @rule(delta=VECTORS, interruptions=st.lists(SOLVER_STEPS, max_size=12))
    def agent_adds_a_correction(self, delta: Flat, interruptions: list[str]) -> None:
        self.interruptions = interruptions
        self.corrections.append(delta.copy())
        self.agent.add_correction(delta)
        delta[:] = 99  # the board keeps a copy
        self.interruptions = []

    @rule(interruptions=st.lists(SOLVER_STEPS, max_size=12))
    def agent_pumps(self, interruptions: list[str]) -> None:
        self.interruptions = interruptions
        self.agent.pump()
        self.interruptions = []

    @rule(interruptions=st.lists(SOLVER_STEPS, max_size=12))
    def agent_takes_a_snapshot(self, interruptions: list[str]) -> None:
        self.interruptions = interruptions
        self.check_snapshot()
        self.interruptions = []

    def check_snapshot(self) -> None:
        out = np.empty(SIZE, dtype=np.float32)
        info = self.agent.snapshot(out)
        assert info.samples == 8 * info.batches == 8 * info.iteration
        assert out.tolist() == self.expected(info.batches).tolist()

    def expected(self, batches: int) -> Flat:
        return sum([*self.gradients[:batches], *self.corrections], self.initial)

    @invariant()
    def every_snapshot_holds_its_batches_and_all_corrections(self) -> None:
        self.check_snapshot()

    @rule()
    def in_the_end_the_solver_has_each_correction_once(self) -> None:
        for _ in range(3):  # one in the mailbox, one waiting behind it
            self.solver_does("correct", self.initial)
            self.solver_does("publish", self.initial)
            self.agent.pump()
        assert self.live.tolist() == self.expected(len(self.gradients)).tolist()
        assert self.solver.waiting_correction() is None


BoardAgainstASum.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestTheBoardAgainstASum = BoardAgainstASum.TestCase


@pytest.fixture
def board() -> Iterator[WeightBoard]:
    made = WeightBoard.create(SIZE)
    yield made
    made.close()


@pytest.mark.parametrize("stores", range(5))
def test_what_is_read_while_the_solver_overwrites_it_is_read_again(board: WeightBoard, stores: int) -> None:
    solver = other_side(board)
    loads, stores_left = 0, -1

    def publish(number: int) -> None:
        weights = vector(number, number, number)
        solver.publish(weights, iteration=number, batches=number, samples=number)

    def maybe_die() -> None:
        nonlocal stores_left
        if stores_left == 0:
            raise Killed
        stores_left -= 1

    def overtake() -> None:
        nonlocal loads, stores_left
        loads += 1
        if loads % 10 == 3:  # the agent knows the newest slot and its stamp, and nothing else yet
            publish(2)
            publish(3)
            solver.next_slot()[:2] = 4
            watch(solver, maybe_die)
            stores_left = 2 + stores  # it begins with loads
            with pytest.raises(Killed):
                solver.publish_slot(iteration=4, batches=4, samples=4)
            watch(solver, lambda: None)

    publish(1)
    watch(board, overtake)
    assert board.published.batches == 3
    loads = 0
    out = np.empty(SIZE, dtype=np.float32)
    assert board.snapshot(out).batches == 3
    assert out.tolist() == [3, 3, 3]


def test_the_mailbox_is_not_used_again_before_a_published_snapshot_holds_its_correction(
    board: WeightBoard,
) -> None:
    solver = other_side(board)
    board.install(vector(0, 0, 0))
    board.add_correction(vector(1, 0, 0))
    correction = solver.waiting_correction()
    assert correction is not None
    assert correction.tolist() == [1, 0, 0]
    solver.correction_applied()
    assert solver.waiting_correction() is None
    board.add_correction(vector(0, 1, 0))
    assert solver.waiting_correction() is None, "the first could still be needed by a successor"
    solver.publish(vector(1, 0, 0), iteration=0, batches=0, samples=0)
    board.pump()
    again = solver.waiting_correction()
    assert again is not None
    assert again.tolist() == [0, 1, 0]


def test_versions_grow_also_over_a_death_between_the_last_two_stores(board: WeightBoard) -> None:
    solver = other_side(board)
    solver.publish(vector(0, 0, 0), iteration=1, batches=1, samples=1)
    board._words[9] -= 1  # the solver was killed before it counted its version
    assert other_side(board).publish(vector(0, 0, 0), iteration=1, batches=1, samples=1) == 2


def test_weights_that_are_not_finite_are_never_installed(board: WeightBoard) -> None:
    for bad in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(GossipCaffeError, match="NaN or Inf"):
            board.install(vector(1, bad, 1))
    assert board.published.version == 0


def test_a_request_is_open_until_the_next_publication(board: WeightBoard) -> None:
    solver = other_side(board)
    solver.publish(vector(0, 0, 0), iteration=0, batches=0, samples=0)
    assert not solver.publication_requested
    board.request_publication()
    board.request_publication()
    assert solver.publication_requested
    solver.publish(vector(0, 0, 0), iteration=0, batches=0, samples=0)
    assert not solver.publication_requested


def test_counters_are_seen_on_the_other_side(board: WeightBoard) -> None:
    solver = other_side(board)
    assert board.rate_factor == 1.0
    board.set_pace(1 << 40, 2.5)
    board.set_flush(True)
    solver.note_step(7, 8, 9, loss=0.25, rate=0.125, step_s=2.0)
    solver.note_step(8, 9, 10, loss=0.5, rate=0.0625, step_s=4.0)
    solver.note_stall(0.5)
    solver.note_stall(0.25)
    assert (solver.others_samples, solver.rate_factor, solver.flush) == (1 << 40, 2.5, True)
    assert (board.iteration, board.batches, board.samples) == (8, 9, 10)
    assert (board.loss, board.learning_rate, board.stalled_s) == (0.5, 0.0625, 0.75)
    assert board.step_s == pytest.approx(0.9 * 2.0 + 0.1 * 4.0)


def test_each_step_is_counted_in_one_bucket_and_going_back_counts_none(board: WeightBoard) -> None:
    solver = other_side(board)
    solver.publish(vector(0, 0, 0), iteration=1, batches=1, samples=1)
    lasted = (0.0, STEP_BUCKETS_S[0], 0.0015, STEP_BUCKETS_S[-1], 1e6)
    for iteration, step_s in enumerate(lasted, 2):
        solver.note_step(iteration, iteration, iteration, loss=0.5, rate=0.1, step_s=step_s)
    counts = [0] * (len(STEP_BUCKETS_S) + 1)
    counts[0], counts[1], counts[-2], counts[-1] = 2, 1, 1, 1
    assert board.steps == Durations(tuple(counts), sum(lasted))
    board.rewind()
    assert (board.iteration, board.steps.counts) == (1, tuple(counts))


def test_memory_that_is_no_board_is_refused() -> None:
    memory = SharedMemory.create("test", 8192)
    with pytest.raises(EnvironmentProblem, match="not a weight board"):
        WeightBoard(memory)
    memory.close()


WRITER = """
    import sys
    import numpy as np
    from gossip_caffe.solver.board import WeightBoard

    board = WeightBoard.attach(int(sys.argv[1]))
    weights = np.empty(board.size, dtype=np.float32)
    number = applied = 0
    while not board.flush:
        number += 1
        correction = board.waiting_correction()
        if correction is not None:
            applied += int(correction[0])
            board.correction_applied()
        weights.fill(number + applied)
        board.publish(weights, iteration=number, batches=number, samples=number)
"""


def test_a_reader_never_gets_a_torn_snapshot_from_a_process_that_publishes_as_fast_as_it_can() -> None:
    size = 50_000
    board = WeightBoard.create(size)
    board.install(np.zeros(size, dtype=np.float32))
    out, ones = np.empty(size, dtype=np.float32), np.ones(size, dtype=np.float32)
    added, seen = 0, set()

    def check_snapshot() -> None:
        info = board.snapshot(out)
        assert out.min() == out.max() == info.iteration + added
        assert info.batches == info.samples == info.iteration
        seen.add(info.version)

    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(board.fd)], pass_fds=[board.fd]
    ) as writer:
        try:
            while len(seen) < 500:
                board.add_correction(ones)
                added += 1
                check_snapshot()
                assert writer.poll() is None
        finally:
            board.set_flush(True)
    assert writer.returncode == 0
    check_snapshot()
    board.close()


def test_a_board_is_corrected_only_where_it_is_exchanged() -> None:
    agent = WeightBoard.create(5, exchanged=3)
    solver = other_side(agent)
    agent.install(np.arange(5, dtype=np.float32))
    agent.add_correction(np.array([1, 1, 1], dtype=np.float32))
    agent.add_correction(np.array([2, 2, 2], dtype=np.float32))
    waiting = solver.waiting_correction()
    assert solver.exchanged == 3
    assert waiting is not None
    assert waiting.tolist() == [1, 1, 1]
    for size in (5, 3):
        out = np.empty(size, dtype=np.float32)
        agent.snapshot(out)
        assert out.tolist() == [3, 4, 5, 3, 4][:size]
    solver.close()
    agent.close()
