"""A simulated machine's way out: messages leave one after another, at so many bytes a second."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gossip_caffe.sim.link import SimulatedLink
from gossip_caffe.sim.virtual_time import run, sleep

FOR_EVER_S = 1e6
NEARLY_S = 1e-4
"""Timers of virtual time are a little late."""

sizes = st.integers(1, 2000)
waits_s = st.floats(0.0, 10.0)
rates = st.floats(10.0, 3000.0)


def now() -> float:
    return asyncio.get_running_loop().time()


async def left_at(
    link: SimulatedLink, began: float, after_s: float, size: int, patience_s: float = FOR_EVER_S
) -> float:
    """The second at which a message has left that is sent after some time; infinite, when it never does."""
    await sleep(after_s)
    return now() - began if await link.leave(size, patience_s) else float("inf")


def departures(messages: list[tuple[float, int]], link: SimulatedLink) -> list[float]:
    async def course() -> list[float]:
        began = now()
        return await asyncio.gather(*(left_at(link, began, after_s, size) for after_s, size in messages))

    return run(course())


def test_where_as_many_bytes_pass_as_there_are_nobody_waits() -> None:
    async def course() -> None:
        link, began = SimulatedLink(), now()
        assert link.is_free
        assert await link.leave(1 << 40, 0.0)
        assert now() == began

    run(course())


@given(messages=st.lists(st.tuples(waits_s, sizes), min_size=1, max_size=12), rate=rates)
def test_a_message_leaves_so_many_bytes_after_the_one_before_it(
    messages: list[tuple[float, int]], rate: float
) -> None:
    messages = [(round(after_s, 2), size) for after_s, size in messages]
    left = departures(messages, SimulatedLink(rate))
    free_s = 0.0
    for (after_s, size), at_s in sorted(zip(messages, left, strict=True), key=lambda pair: pair[0][0]):
        free_s = max(free_s, after_s) + size / rate
        assert at_s == pytest.approx(free_s, abs=NEARLY_S)


@given(
    messages=st.lists(st.tuples(waits_s, sizes), min_size=1, max_size=12),
    narrowings=st.lists(st.tuples(waits_s, st.floats(0.1, 10.0), rates), max_size=5),
    usual=st.one_of(st.just(0.0), rates),
)
@example(messages=[(5e-229, 1)], narrowings=[(4e-10, 1.0, 10.0)], usual=0.0)
def test_while_it_is_narrowed_and_widened_no_more_leaves_than_passes_and_none_overtakes(
    messages: list[tuple[float, int]], narrowings: list[tuple[float, float, float]], usual: float
) -> None:
    link = SimulatedLink(usual)
    rate_since: list[tuple[float, float]] = [(0.0, usual)]

    async def narrowed(began: float, after_s: float, lasts_s: float, rate: float) -> None:
        await sleep(after_s)
        link.narrow(rate)
        rate_since.append((now() - began, link.bytes_per_s))
        await sleep(lasts_s)
        link.widen(rate)
        rate_since.append((now() - began, link.bytes_per_s))

    order: list[tuple[float, int]] = []

    async def sent(began: float, after_s: float, size: int) -> tuple[float, float, int]:
        await sleep(after_s)
        number, since = len(order), now() - began
        order.append((since, number))
        assert await link.leave(size, FOR_EVER_S)
        return since, now() - began, number

    async def course() -> list[tuple[float, float, int]]:
        began = now()
        changes = [asyncio.ensure_future(narrowed(began, *one)) for one in narrowings]
        trips = await asyncio.gather(*(sent(began, *one) for one in messages))
        await asyncio.gather(*changes)
        return trips

    def passed(since_s: float, until_s: float) -> float:
        """How many bytes pass between two moments."""
        ends = [at for at, _ in rate_since[1:]] + [float("inf")]
        total = 0.0
        for (start, rate), end in zip(rate_since, ends, strict=True):
            if (seconds := min(end, until_s) - max(start, since_s)) > 0:
                total += (rate or float("inf")) * seconds
        return total

    trips = run(course())
    bytes_of = {number: size for (_, _, number), (_, size) in zip(trips, messages, strict=True)}
    trips.sort(key=lambda trip: trip[2])
    for (_, before, _), (_, after, _) in pairwise(trips):
        assert before <= after
    for first, (since, _, _) in enumerate(trips):
        for last in range(first, len(trips)):
            size = sum(bytes_of[number] for number in range(first, last + 1))
            # Narrowed in the moment in which it was sent, it may have been sent before.
            assert size <= passed(since - NEARLY_S, trips[last][1] + NEARLY_S) + 1e-3
    # Nor does it idle: whoever sends last is gone when all have passed that began when nobody was there.
    for last, (_, at, _) in enumerate(trips):
        busy = last
        while busy and trips[busy - 1][1] > trips[busy][0]:
            busy -= 1
        size = sum(bytes_of[number] for number in range(busy, last + 1))
        assert passed(trips[busy][0], at - NEARLY_S) <= size + 1e-3


@given(
    fates=st.lists(
        st.tuples(sizes, st.sampled_from(["stays", "is cancelled", "gives up"]), waits_s), max_size=10
    )
)
def test_whoever_is_cancelled_or_gives_up_leaves_the_way_to_those_behind(
    fates: list[tuple[int, str, float]],
) -> None:
    link = SimulatedLink(100.0)

    async def course() -> None:
        began = now()
        trips = []
        for size, fate, seconds in fates:
            patience_s = seconds if fate == "gives up" else FOR_EVER_S
            trips.append(asyncio.ensure_future(left_at(link, began, 0.0, size, patience_s)))
            if fate == "is cancelled":
                asyncio.get_running_loop().call_later(seconds, trips[-1].cancel)
        left = await asyncio.gather(*trips, return_exceptions=True)
        stayed_s = 0.0
        for at_s, (size, fate, _) in zip(left, fates, strict=True):
            if fate == "stays":
                stayed_s += size / 100.0
                assert isinstance(at_s, float)
                assert stayed_s - NEARLY_S <= at_s < float("inf")
        assert await left_at(link, now(), 0.0, 100) == pytest.approx(1.0, abs=NEARLY_S)
        link.narrow(50.0)
        link.widen(50.0)
        assert not link.is_free

    run(course())


def test_a_message_that_has_begun_goes_on_and_one_whose_turn_does_not_come_in_time_never_leaves() -> None:
    async def course() -> tuple[float, float]:
        link, began = SimulatedLink(10.0), now()
        first, second = await asyncio.gather(
            left_at(link, began, 0.0, 100, 2.0), left_at(link, began, 0.0, 100, 2.0)
        )
        return first, second

    first, second = run(course())
    assert first == pytest.approx(10.0, abs=NEARLY_S)
    assert second == float("inf")


def test_of_two_narrowings_at_once_the_narrower_counts_and_each_is_taken_back_by_itself() -> None:
    link = SimulatedLink(1000.0)
    link.narrow(10.0)
    link.narrow(100.0)
    assert link.bytes_per_s == 10.0
    link.widen(10.0)
    assert link.bytes_per_s == 100.0
    link.widen(100.0)
    assert link.bytes_per_s == 1000.0
