"""A swap of weights between two ranks, step by step, in any order of steps and with any fault of the messages."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.gossip.averaging.average import HalfStats
from gossip_caffe.gossip.codecs.message import FramesCorrupt
from gossip_caffe.gossip.protocol.swap import PIECE_VALUES, IncomingWeights, OutgoingWeights, Swap
from gossip_caffe.gossip.transport.mpi.pieces import SLOTS
from gossip_caffe.gossip.transport.mpi.transfer import Transfer
from gossip_caffe.gossip.transport.mpi.way import Route
from gossip_caffe.gossip.transport.weights_socket import SILENCE_S, SwapInterrupted
from tests.fake_mpi import Launch, Message

TICKET = bytes(range(16))
SIZE = (SLOTS + 3) * PIECE_VALUES + 77


def weights(seed: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


class Side:
    """One rank's side of a swap."""

    def __init__(
        self,
        launch: Launch,
        rank: int,
        codec: str,
        values: np.ndarray,
        ticket: bytes = TICKET,
        now: Callable[[], float] = lambda: 0.0,
    ) -> None:
        leaving = OutgoingWeights.of(codec, values, (values.size,), np.random.default_rng(rank))
        assert leaving is not None
        self.swap = Swap(leaving, IncomingWeights(codec, leaving))
        to, back = (10, 11) if rank == 0 else (11, 10)
        self.ends = 0
        self.transfer = Transfer(
            launch.ranks[rank], self.swap, Route(1 - rank, to, back, ticket), now, self._ended
        )
        self.transfer.begin()

    def _ended(self) -> None:
        self.ends += 1


def carry(sides: Sequence[Side], rng: random.Random) -> None:
    """Let the sides step, in any order, until both are over or nothing moves any more."""
    idle = 0
    while idle < 50 and not all(side.transfer.is_over for side in sides):
        idle = 0 if rng.choice(sides).transfer.step() else idle + 1


def pair(launch: Launch, codec: str = "float32", size: int = SIZE) -> list[Side]:
    return [Side(launch, rank, codec, weights(rank, size)) for rank in (0, 1)]


@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16", "int8", "int4"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1 << 30), size=st.sampled_from([1, 77, PIECE_VALUES, SIZE]))
def test_both_sides_get_exactly_opposite_halves_in_any_order_of_steps(
    codec: str, seed: int, size: int
) -> None:
    launch, rng = Launch(), random.Random(seed)
    a, b = sides = pair(launch, codec, size)
    carry(sides, rng)
    for side in sides:
        assert side.transfer.is_over
        assert side.transfer.error is None
        assert side.ends == 1
        assert isinstance(side.swap.arriving.half(), HalfStats)
        assert side.transfer.abandoned() == []
    np.testing.assert_array_equal(a.swap.leaving.mine, -b.swap.leaving.mine)
    assert all(not receipts for receipts in launch.open.values())


def test_sides_whose_float16_payloads_differ_in_form_get_opposite_halves_too() -> None:
    launch = Launch()
    large = weights(0)
    large[5] = 1e6  # float16 cannot hold it: this side's payload is made before it is sent
    a, b = Side(launch, 0, "float16", large), Side(launch, 1, "float16", weights(1))
    carry((a, b), random.Random(1))
    assert [side.transfer.error for side in (a, b)] == [None, None]
    halves = [side.swap.arriving.half() for side in (a, b)]
    assert all(isinstance(half, HalfStats) for half in halves)
    np.testing.assert_array_equal(a.swap.leaving.mine, -b.swap.leaving.mine)


def flip(place: int) -> Callable[[bytes], list[bytes]]:
    def flipped(data: bytes) -> list[bytes]:
        spoilt = bytearray(data)
        spoilt[place % len(spoilt)] ^= 0x10
        return [bytes(spoilt)]

    return flipped


FAULTS: dict[str, Callable[[bytes], list[bytes]]] = {
    "a byte flipped": flip(9),
    "the ticket flipped": flip(0),
    "the length flipped": flip(16),
    "the checksum flipped": flip(20),
    "lost": lambda data: [],
    "twice": lambda data: [data, data],
    "cut": lambda data: [data[: len(data) // 2]],
    "empty": lambda data: [b""],
}


@pytest.mark.parametrize("fault", FAULTS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1 << 30), number=st.integers(0, 2 * (SLOTS + 3)))
def test_a_message_that_is_not_as_it_was_sent_never_leads_to_a_whole_wrong_half(
    fault: str, seed: int, number: int
) -> None:
    launch, clock = Launch(), [0.0]
    first = weights(0), weights(1)
    sides = [Side(launch, rank, "float32", first[rank].copy(), now=lambda: clock[0]) for rank in (0, 1)]

    def on_the_way(message: Message) -> list[bytes]:
        struck = message.source == 0 and message.number == number
        return FAULTS[fault](message.data) if struck else [message.data]

    launch.on_the_way = on_the_way
    carry(sides, random.Random(seed))
    clock[0] += SILENCE_S + 1
    carry(sides, random.Random(seed))
    assert all(side.transfer.is_over for side in sides)
    receiver = sides[1]
    if receiver.transfer.error is None and isinstance(receiver.swap.arriving.half(), HalfStats):
        # What nobody reads does no harm: the end's checksum, say.
        np.testing.assert_array_equal(receiver.swap.leaving.mine, (first[0] - first[1]) * np.float32(0.5))
    else:
        assert receiver.transfer.error is None or isinstance(receiver.transfer.error, FramesCorrupt)


def test_a_side_that_hears_nothing_gives_up_and_says_whether_its_own_weights_left() -> None:
    launch, clock = Launch(), [0.0]
    launch.dead.add(1)
    side = Side(launch, 0, "float32", weights(0), now=lambda: clock[0])
    carry([side], random.Random(0))
    assert not side.transfer.is_over
    clock[0] += SILENCE_S + 0.1
    side.transfer.step()
    error = side.transfer.error
    assert isinstance(error, SwapInterrupted)
    assert (error.all_sent, error.is_cut) == (False, True)
    assert "rank 1" in error.message


def test_weights_that_may_have_arrived_whole_count_as_sent() -> None:
    launch, clock = Launch(), [0.0]
    launch.on_the_way = lambda message: [] if message.source == 1 else [message.data]
    sides = [Side(launch, rank, "float32", weights(rank, 9), now=lambda: clock[0]) for rank in (0, 1)]
    carry(sides, random.Random(0))
    clock[0] += SILENCE_S + 0.1
    carry(sides[:1], random.Random(0))
    error = sides[0].transfer.error
    assert isinstance(error, SwapInterrupted)
    assert (error.all_sent, error.is_cut) == (True, True)


def test_after_a_stop_the_weights_are_not_touched_and_the_buffers_stay_as_long_as_mpi_needs_them() -> None:
    launch = Launch()
    a, b = pair(launch)
    for _ in range(3):
        a.transfer.step()
    a.transfer.stop()
    before = a.swap.leaving.mine.copy()
    while b.transfer.step():
        pass
    a.transfer.step()
    np.testing.assert_array_equal(a.swap.leaving.mine, before)
    assert (a.ends, a.transfer.error, a.transfer.is_over) == (0, None, True)
    left = a.transfer.abandoned()
    assert len(left) <= SLOTS
    assert all(not slot.is_free for slot in left)
    # The partner has received what was on its way: the buffers are free by now, or will never be asked for.
    assert not left or launch.dead or any(launch.sent.values())


def test_messages_of_another_exchange_are_refused() -> None:
    launch = Launch()
    sides = [Side(launch, 0, "float32", weights(0), bytes(16)), Side(launch, 1, "float32", weights(1))]
    carry(sides, random.Random(3))
    errors = [side.transfer.error for side in sides]
    assert all(isinstance(error, SwapInterrupted) and not error.is_cut for error in errors)
    assert all("another exchange" in str(error) for error in errors)


def test_an_error_of_mpi_ends_the_swap_and_is_named() -> None:
    launch = Launch()
    sides = pair(launch)
    sides[0].transfer.step()
    launch.broken = "process failed"
    carry(sides, random.Random(0))
    for side in sides:
        assert isinstance(side.transfer.error, SwapInterrupted)
        assert "process failed" in side.transfer.error.message
        assert side.transfer.abandoned()
