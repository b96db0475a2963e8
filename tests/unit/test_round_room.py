"""The memory of a round: segments, the order of trades, the mean, and the step to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.gossip.codecs.message import FramesCorrupt
from gossip_caffe.gossip.rounds.room import Room, RoundMemory
from gossip_caffe.gossip.rounds.rows import Row
from gossip_caffe.gossip.rounds.segments import calls_of, segments


@given(st.integers(0, 5000), st.integers(1, 40))
def test_the_segments_cover_every_value_once(values: int, members: int) -> None:
    found = segments(values, members)
    assert len(found) == members
    assert [index for segment in found for index in range(values)[segment]] == list(range(values))
    assert found[0].stop - found[0].start == max(segment.stop - segment.start for segment in found)


@given(st.integers(1, 40))
def test_every_pair_trades_once_and_nobody_calls_itself(members: int) -> None:
    called = [(index, other) for index in range(members) for other in calls_of(index, members)]
    assert all(index < other < members for index, other in called)
    assert len(set(called)) == len(called) == members * (members - 1) // 2


def room_of(own: np.ndarray, index: int, members: int) -> Room:
    memory = RoundMemory(own.size)
    memory.snapshot[:] = own
    return Room(memory, index, members)


def row_of(values: np.ndarray) -> Row:
    row = Row(np.empty_like(values), is_summed=True)
    row.take(values.view(np.uint8).data)
    return row


def all_steps(weights: list[np.ndarray], counting: list[int]) -> list[np.ndarray]:
    """The steps of all members of a round that trade by hand."""
    rooms = [room_of(own, index, len(weights)) for index, own in enumerate(weights)]
    for room in rooms:
        for other in rooms:
            if other is not room:
                room.parts[other.index] = row_of(other.part_for(room.index))
    checksums = [room.mean(counting).checksum for room in rooms]
    for room in rooms:
        for other in rooms:
            room.means[other.index] = row_of(other.own_mean)
            assert room.means[other.index].checksum == checksums[other.index]
    for room in rooms:
        room.step()
    return [room.snapshot for room in rooms]


@given(st.integers(2, 6), st.integers(1, 300), st.integers(0, 2**31))
def test_all_members_go_to_the_mean_of_those_that_count(members: int, values: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(values).astype(np.float32) for _ in range(members)]
    counting = sorted(rng.choice(members, size=rng.integers(1, members + 1), replace=False).tolist())
    mean = np.mean([weights[index].astype(np.float64) for index in counting], axis=0)
    for own, step in zip(weights, all_steps(weights, counting), strict=True):
        np.testing.assert_allclose(own + step, mean, rtol=1e-5, atol=1e-6)


def test_the_figures_name_the_member_that_is_far_away() -> None:
    weights = [np.ones(64, np.float32), np.ones(64, np.float32), np.full(64, 10.0, np.float32)]
    room = room_of(weights[0], 0, 3)
    for other in (1, 2):
        room.parts[other] = row_of(weights[other][room.segments[0]])
    found = room.mean([0, 1, 2])
    assert found.apart[2] == pytest.approx(4 * found.apart[0])
    assert found.apart[0] == pytest.approx(found.apart[1])
    assert not found.wild


def test_a_row_takes_no_more_than_it_holds() -> None:
    row = Row(np.empty(4, np.float32), is_summed=False)
    row.take(np.ones(2, np.float32).view(np.uint8).data)
    assert not row.is_whole
    with pytest.raises(FramesCorrupt):
        row.take(np.ones(3, np.float32).view(np.uint8).data)
    row.take(np.ones(2, np.float32).view(np.uint8).data)
    assert row.is_whole


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30])
@pytest.mark.parametrize("own", [True, False])
def test_a_member_with_a_wild_value_is_named(value: float, own: bool) -> None:
    weights = [np.ones(64, np.float32), np.ones(64, np.float32)]
    weights[0 if own else 1][7] = value
    room = room_of(weights[0], 0, 2)
    room.parts[1] = row_of(weights[1][room.segments[0]])
    assert room.mean([0, 1]).wild == {0 if own else 1}


def test_the_memory_of_rounds_is_used_again() -> None:
    memory = RoundMemory(100)
    first = Room(memory, 0, 4)
    second = Room(memory, 0, 4)
    assert np.shares_memory(first.row(1, 0), second.row(1, 0))
    assert np.shares_memory(first.own_mean, second.own_mean)
    assert Room(memory, 1, 7).row(6, 1).size == 16
