"""The memory of a round: segments, the order of trades, the mean, and the step to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.gossip.codecs.message import FramesCorrupt
from gossip_caffe.gossip.rounds.room import Room, Row
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


def all_steps(weights: list[np.ndarray], counting: list[int]) -> list[np.ndarray]:
    """The steps of all members of a round that trade by hand."""
    rooms = [Room(own.copy(), index, len(weights)) for index, own in enumerate(weights)]
    for room in rooms:
        for other in rooms:
            if other is not room:
                np.copyto(room.row(other.index, room.index), other.part_for(room.index))
    checksums = [room.mean(counting).checksum for room in rooms]
    for room in rooms:
        for other in rooms:
            np.copyto(room.row(other.index, other.index), other.row(other.index, other.index))
            assert room.checksum(other.index) == checksums[other.index]
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
    room = Room(weights[0].copy(), 0, 3)
    for other in (1, 2):
        np.copyto(room.row(other, 0), weights[other][room.segments[0]])
    found = room.mean([0, 1, 2])
    assert found.apart[2] == pytest.approx(4 * found.apart[0])
    assert found.apart[0] == pytest.approx(found.apart[1])


def test_a_row_takes_no_more_than_it_holds_and_says_what_is_wild() -> None:
    row = Row(np.empty(4, np.float32))
    row.take(np.array([1.0, np.nan], np.float32).view(np.uint8).data)
    assert row.is_wild
    assert not row.is_whole
    with pytest.raises(FramesCorrupt):
        row.take(np.ones(3, np.float32).view(np.uint8).data)


def test_a_part_of_absurd_size_is_wild_too() -> None:
    row = Row(np.empty(1, np.float32))
    row.take(np.array([1e30], np.float32).view(np.uint8).data)
    assert row.is_wild


def test_the_memory_of_a_room_is_used_again_where_it_is_large_enough() -> None:
    own = np.ones(100, np.float32)
    first = Room(own, 0, 4)
    assert Room(own, 0, 4, first.memory).memory is first.memory
    assert Room(own, 0, 4, np.empty(3, np.float32)).memory.size == first.memory.size
