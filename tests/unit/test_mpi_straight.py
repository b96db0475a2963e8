"""A swap between two ranks of one machine, which read each other's memory: any order of steps, any early end."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.gossip.averaging.average import HalfStats
from gossip_caffe.gossip.protocol.swap import PIECE_VALUES, BothWays, IncomingWeights, OutgoingWeights, Swap
from gossip_caffe.gossip.rounds.rows import LeavingRow, Row, RowSwap
from gossip_caffe.gossip.transport.mpi import straight
from gossip_caffe.gossip.transport.mpi.straight import AHEAD
from gossip_caffe.gossip.transport.mpi.transfer import Transfer
from gossip_caffe.gossip.transport.mpi.way import Route
from gossip_caffe.gossip.transport.weights_socket import SILENCE_S, SwapInterrupted
from gossip_caffe.system import process_memory
from tests.fake_mpi import Launch, Message

TICKET = bytes(range(16))
PIECE = 4096
SIZE = (2 * AHEAD + 3) * PIECE // 4 + 77


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(straight, "PIECE_BYTES", PIECE)


def weights(seed: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def exchange(values: np.ndarray, codec: str = "float32") -> Swap:
    leaving = OutgoingWeights.of(codec, values, (values.size,), np.random.default_rng(1))
    assert leaving is not None
    return Swap(leaving, IncomingWeights(codec, leaving))


class Sides:
    """Both ranks' sides of a swap."""

    def __init__(
        self, launch: Launch, swaps: Sequence[BothWays], tickets: tuple[bytes, bytes] = (TICKET,) * 2
    ) -> None:
        self.now = 0.0
        self.ends = [0, 0]
        self.transfers = []
        for rank, swap in enumerate(swaps):
            to, back = (10, 11) if rank == 0 else (11, 10)
            transfer = Transfer(
                launch.ranks[rank],
                swap,
                Route(1 - rank, to, back, tickets[rank]),
                lambda: self.now,
                self._ended(rank),
            )
            transfer.begin()
            self.transfers.append(transfer)

    def _ended(self, rank: int) -> Callable[[], None]:
        def note() -> None:
            self.ends[rank] += 1

        return note

    def carry(self, seed: int = 0) -> None:
        """Let the sides step, in any order, until both are over or nothing moves any more."""
        rng, idle = random.Random(seed), 0
        while idle < 50 and not all(transfer.is_over for transfer in self.transfers):
            idle = 0 if rng.choice(self.transfers).step() else idle + 1

    @property
    def errors(self) -> list[BaseException | None]:
        return [transfer.error for transfer in self.transfers]


@pytest.mark.parametrize("codec", ["float32", "float16", "int8"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1 << 30), size=st.sampled_from([1, 77, PIECE // 4, SIZE]))
def test_both_sides_get_exactly_opposite_halves_in_any_order_of_steps(
    codec: str, seed: int, size: int
) -> None:
    launch = Launch(one_machine=True)
    first = [weights(0, size), weights(1, size)]
    a, b = swaps = [exchange(values.copy(), codec) for values in first]
    sides = Sides(launch, swaps)
    sides.carry(seed)
    assert sides.errors == [None, None]
    assert sides.ends == [1, 1]
    assert all(isinstance(swap.arriving.half(), HalfStats) for swap in swaps)
    np.testing.assert_array_equal(a.leaving.mine, -b.leaving.mine)
    if codec != "int8":  # whose payload is made beforehand, and goes in messages
        np.testing.assert_array_equal(a.leaving.mine, first[1] * np.float32(0.5) - first[0] * np.float32(0.5))
    assert a.leaving.gone.sent_bytes == b.arriving.came_bytes
    assert [transfer.abandoned() for transfer in sides.transfers] == [[], []]
    assert all(not receipts for receipts in launch.open.values())


def test_if_one_side_has_made_a_payload_both_use_messages() -> None:
    launch = Launch(one_machine=True)
    large = weights(0)
    large[5] = 1e6  # float16 cannot hold it
    a, b = swaps = [exchange(large, "float16"), exchange(weights(1), "float16")]
    sides = Sides(launch, swaps)
    sides.carry()
    assert sides.errors == [None, None]
    assert all(isinstance(swap.arriving.half(), HalfStats) for swap in swaps)
    np.testing.assert_array_equal(a.leaving.mine, -b.leaving.mine)


@pytest.mark.parametrize("one_machine", [False, True], ids=["messages", "straight"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1 << 30), sizes=st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)))
def test_rows_of_a_round_of_any_two_lengths_are_traded(
    one_machine: bool, seed: int, sizes: tuple[int, int]
) -> None:
    launch = Launch(one_machine=one_machine)
    sent = [weights(rank, size) for rank, size in enumerate(sizes)]
    came = [np.empty(size, np.float32) for size in reversed(sizes)]
    swaps = [
        RowSwap(LeavingRow(leaving, leaving, None), Row(into, is_summed=False))
        for leaving, into in zip(sent, came, strict=True)
    ]
    sides = Sides(launch, swaps)
    sides.carry(seed)
    assert sides.errors == [None, None]
    assert all(swap.arriving.is_whole for swap in swaps)
    np.testing.assert_array_equal(came[0], sent[1])
    np.testing.assert_array_equal(came[1], sent[0])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1 << 30), steps=st.integers(0, 60))
def test_a_side_that_gives_up_and_uses_its_memory_again_never_leads_to_a_wrong_half(
    seed: int, steps: int
) -> None:
    launch, rng = Launch(one_machine=True), random.Random(seed)
    first = [weights(0), weights(1)]
    swaps = [exchange(values.copy()) for values in first]
    sides = Sides(launch, swaps)
    for _ in range(steps):
        rng.choice(sides.transfers).step()
    stopped = not sides.transfers[0].is_over
    sides.transfers[0].stop()
    if stopped:
        swaps[0].leaving.mine[:] = 7.0
    sides.carry(seed)
    sides.now += SILENCE_S + 1
    sides.carry(seed)
    assert sides.transfers[1].is_over
    if sides.errors[1] is None:
        expected = first[0] * np.float32(0.5) - first[1] * np.float32(0.5)
        np.testing.assert_array_equal(swaps[1].leaving.mine, expected)
    else:
        assert isinstance(sides.errors[1], SwapInterrupted)
    if stopped:
        assert (swaps[0].leaving.mine == 7.0).all()


@pytest.mark.parametrize("number", [0, 1], ids=["the place", "the end"])
@pytest.mark.parametrize("place", [0, 17, 25, 33, 40])
def test_a_message_that_is_not_as_it_was_sent_ends_the_swap(number: int, place: int) -> None:
    launch = Launch(one_machine=True)

    def flipped(message: Message) -> list[bytes]:
        spoilt = bytearray(message.data)
        if (message.source, message.number) == (0, number):
            spoilt[place % len(spoilt)] ^= 0x10
        return [bytes(spoilt)]

    launch.on_the_way = flipped
    sides = Sides(launch, [exchange(weights(0)), exchange(weights(1))])
    sides.carry()
    error = sides.errors[1]
    assert isinstance(error, SwapInterrupted)
    assert not error.is_cut


def test_messages_of_another_exchange_are_refused() -> None:
    launch = Launch(one_machine=True)
    sides = Sides(launch, [exchange(weights(0)), exchange(weights(1))], (bytes(16), TICKET))
    sides.carry()
    assert all(isinstance(error, SwapInterrupted) and not error.is_cut for error in sides.errors)
    assert all("another exchange" in str(error) for error in sides.errors)


@pytest.mark.parametrize("after", [0, 3, 12])
def test_a_partner_whose_memory_is_gone_ends_the_swap(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    launch, read, reads = Launch(one_machine=True), process_memory.read, 0

    def gone(pid: int, address: int, into: np.ndarray) -> None:
        nonlocal reads
        reads += 1
        if reads > after:
            raise OSError(errno.ESRCH, "No such process")
        read(pid, address, into)

    monkeypatch.setattr(process_memory, "read", gone)
    sides = Sides(launch, [exchange(weights(0)), exchange(weights(1))])
    sides.carry()
    for error in sides.errors:
        assert isinstance(error, SwapInterrupted)
        assert (error.is_cut, error.all_sent) == (True, False)
        assert "No such process" in error.message


def test_a_side_that_hears_nothing_gives_up_and_cannot_have_been_applied() -> None:
    launch = Launch(one_machine=True)
    launch.dead.add(1)
    sides = Sides(launch, [exchange(weights(0)), exchange(weights(1))])
    sides.carry()
    assert not sides.transfers[0].is_over
    sides.now += SILENCE_S + 0.1
    sides.transfers[0].step()
    error = sides.errors[0]
    assert isinstance(error, SwapInterrupted)
    assert (error.all_sent, error.is_cut) == (False, True)
    assert sides.transfers[0].abandoned() == []


def test_weights_that_are_longer_than_the_own_ones_are_refused() -> None:
    launch = Launch(one_machine=True)
    sides = Sides(launch, [exchange(weights(0, SIZE)), exchange(weights(1, SIZE + PIECE_VALUES))])
    sides.carry()
    assert isinstance(sides.errors[0], SwapInterrupted)
    assert not sides.errors[0].is_cut
