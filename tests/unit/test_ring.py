"""The ring of batches against a queue, with its sides killed at any point."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.job.spec.spec import TopSpec

TOPS = (TopSpec("data", (2, 3)), TopSpec("label", ()))
DEADLINE_S = 30.0


@pytest.fixture
def ring() -> Iterator[BatchRing]:
    made = BatchRing.create(TOPS, batch_records=4, slots=2)
    yield made
    made.close()


def other_side(ring: BatchRing) -> BatchRing:
    """The ring as another process would see it."""
    return BatchRing.attach([os.dup(fd) for fd in ring.fds])


def write(ring: BatchRing, sequence: int, records: int = 4) -> None:
    arrays = ring.reserve(0.0)
    assert arrays is not None
    arrays[0][:records] = sequence
    arrays[1][:records] = sequence + 0.5
    ring.commit(sequence, records)


class RingAgainstAQueue(RuleBasedStateMachine):
    """Loader, solver and agent take turns, and may be replaced between any two of their steps."""

    def __init__(self) -> None:
        super().__init__()
        self.agent = BatchRing.create(TOPS, batch_records=4, slots=3)
        self.loader, self.solver = other_side(self.agent), other_side(self.agent)
        self.queue: deque[tuple[int, int]] = deque()
        self.head = self.tail = 0

    @rule(records=st.integers(1, 4))
    def load(self, records: int) -> None:
        arrays = self.loader.reserve(0.0)
        assert (arrays is None) == (len(self.queue) == 3)
        if arrays is not None:
            arrays[0][:records] = self.head
            arrays[1][:records] = -self.head
            self.loader.commit(self.head, records)
            self.queue.append((self.head, records))
            self.head += 1

    @precondition(lambda self: len(self.queue) < 3)
    @rule()
    def loader_is_killed_between_reserve_and_commit(self) -> None:
        arrays = self.loader.reserve(0.0)
        assert arrays is not None
        arrays[0][:] = 666.0
        self.loader.close()
        self.loader = other_side(self.agent)

    @rule()
    def train(self) -> None:
        batch = self.solver.take(0.0)
        assert (batch is None) == (not self.queue)
        if batch is not None:
            self._is_oldest_of_queue(batch.sequence, batch.records, batch.arrays)
            self.solver.release()
            self.queue.popleft()
            self.tail += 1

    @precondition(lambda self: self.queue)
    @rule()
    def solver_is_killed_between_take_and_release(self) -> None:
        batch = self.solver.take(0.0)
        assert batch is not None
        self._is_oldest_of_queue(batch.sequence, batch.records, batch.arrays)
        del batch
        self.solver.close()
        self.solver = other_side(self.agent)

    @rule()
    def wake_ups_are_lost(self) -> None:
        for fd in self.agent.fds[1:]:
            try:
                os.eventfd_read(fd)
            except BlockingIOError:
                pass

    @rule(back=st.integers(0, 5))
    def both_die_and_the_agent_rewinds(self, back: int) -> None:
        self.loader.close()
        self.solver.close()
        self.head = self.tail = max(0, self.tail - back)
        self.agent.rewind(self.tail)
        self.queue.clear()
        self.loader, self.solver = other_side(self.agent), other_side(self.agent)

    def _is_oldest_of_queue(self, sequence: int, records: int, arrays: list[NDArray[np.float32]]) -> None:
        assert (sequence, records) == self.queue[0]
        assert [array.shape for array in arrays] == [(records, 2, 3), (records,)]
        assert (arrays[0] == sequence).all()
        assert (arrays[1] == -sequence).all()

    @invariant()
    def everybody_sees_the_same_counters(self) -> None:
        for side in (self.agent, self.loader, self.solver):
            assert (side.head, side.tail, side.ready) == (self.head, self.tail, len(self.queue))

    def teardown(self) -> None:
        for side in (self.loader, self.solver, self.agent):
            side.close()


RingAgainstAQueue.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRingAgainstAQueue = RingAgainstAQueue.TestCase


def test_shapes_are_read_from_the_header(ring: BatchRing) -> None:
    attached = other_side(ring)
    assert (attached.tops, attached.batch_records, attached.slots) == (TOPS, 4, 2)
    arrays = attached.reserve(0.0)
    assert arrays is not None
    assert [(array.shape, array.dtype.name) for array in arrays] == [
        ((4, 2, 3), "float32"),
        ((4,), "float32"),
    ]
    assert all(array.ctypes.data % 64 == 0 for array in arrays)
    attached.close()


def test_a_partial_batch_is_a_view_of_its_rows(ring: BatchRing) -> None:
    write(ring, 0, records=3)
    batch = ring.take(0.0)
    assert batch is not None
    assert (batch.sequence, batch.records, len(batch.arrays[0])) == (0, 3, 3)
    assert ring.records_of(0) == 3


def test_a_batch_stays_until_it_is_released(ring: BatchRing) -> None:
    write(ring, 0)
    write(ring, 1)
    assert ring.reserve(0.0) is None
    first, again = ring.take(0.0), ring.take(0.0)
    assert first is not None
    assert again is not None
    assert first.sequence == again.sequence == 0
    ring.release()
    assert ring.reserve(0.0) is not None


def test_an_empty_ring_gives_nothing_in_time_and_a_stale_wake_up_nothing_either(ring: BatchRing) -> None:
    write(ring, 0)
    assert ring.take(0.0) is not None
    ring.release()
    # The wake-up of batch 0 was never read.
    assert ring.take(0.01) is None


@pytest.mark.parametrize("lost", [False, True])
def test_a_waiting_side_goes_on_when_the_other_has_done_its_step(ring: BatchRing, lost: bool) -> None:
    """Also when the other was killed after it moved its counter and before it woke anybody."""
    taken = []

    def solve() -> None:
        batch = ring.take(DEADLINE_S)
        taken.append(batch.sequence if batch else None)

    waiting = threading.Thread(target=solve)
    waiting.start()
    loader = other_side(ring)
    if lost:
        deaf = BatchRing.attach([os.dup(loader.fds[0]), os.eventfd(0), os.eventfd(0)])
        write(deaf, 0)
        deaf.close()
    else:
        write(loader, 0)
    waiting.join(DEADLINE_S)
    assert taken == [0]
    loader.close()


def test_batches_flow_in_order_between_two_threads(ring: BatchRing) -> None:
    loader, seen = other_side(ring), []

    def load() -> None:
        for sequence in range(200):
            assert loader.reserve(DEADLINE_S) is not None
            write(loader, sequence, records=1 + sequence % 4)

    loading = threading.Thread(target=load)
    loading.start()
    for _ in range(200):
        batch = ring.take(DEADLINE_S)
        assert batch is not None
        assert (batch.arrays[0] == batch.sequence).all()
        seen.append((batch.sequence, batch.records))
        ring.release()
    loading.join(DEADLINE_S)
    assert seen == [(sequence, 1 + sequence % 4) for sequence in range(200)]
    loader.close()


@pytest.mark.parametrize(("sequence", "records"), [(1, 4), (0, -1), (0, 5)])
def test_a_batch_out_of_order_or_of_a_wrong_size_is_refused(
    ring: BatchRing, sequence: int, records: int
) -> None:
    with pytest.raises(EnvironmentProblem, match=f"batch {sequence} of {records} records"):
        ring.commit(sequence, records)
    assert ring.head == 0


def test_nothing_is_committed_into_a_full_ring_nor_released_from_an_empty_one(ring: BatchRing) -> None:
    with pytest.raises(EnvironmentProblem, match="released and never written"):
        ring.release()
    write(ring, 0)
    write(ring, 1)
    with pytest.raises(EnvironmentProblem, match="batch 2"):
        ring.commit(2, 4)
    assert (ring.head, ring.tail) == (2, 0)


def test_what_is_no_ring_is_refused() -> None:
    fd = os.memfd_create("no-ring")
    os.ftruncate(fd, 8192)
    with pytest.raises(EnvironmentProblem, match="not a batch ring"):
        BatchRing.attach([fd, os.eventfd(0), os.eventfd(0)])
    with pytest.raises(EnvironmentProblem, match="0 slots"):
        BatchRing.create(TOPS, 4, 0)
