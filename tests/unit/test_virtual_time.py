"""An event loop whose time jumps."""

from __future__ import annotations

import asyncio
import time

import pytest

from gossip_caffe.sim.virtual_time import Deadlock, VirtualClock, run


def test_an_hour_of_sleep_takes_no_time_and_wakes_come_in_their_order() -> None:
    clock, woken = VirtualClock(), []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.monotonic()))

    async def course() -> float:
        began = clock.monotonic()
        await asyncio.gather(sleeper(3600), sleeper(0.25), sleeper(60))
        return began

    began_really = time.monotonic()
    began = run(course())
    assert [seconds for seconds, _ in woken] == [0.25, 60, 3600]
    for seconds, at in woken:
        assert began + seconds < at < began + seconds + 1e-3
    assert time.monotonic() - began_really < 60


def test_whoever_sleeps_until_a_moment_never_wakes_before_it() -> None:
    clock = VirtualClock()

    async def course() -> None:
        await clock.sleep(0.1 + 0.2)
        for step in range(1, 2000):
            until = clock.monotonic() + step / 7e5
            await clock.sleep(until - clock.monotonic())
            assert clock.monotonic() >= until

    run(course())


def test_a_timeout_is_of_virtual_seconds() -> None:
    clock = VirtualClock()

    async def course() -> float:
        began = clock.monotonic()
        with pytest.raises(TimeoutError):
            async with clock.timeout(100):
                await clock.sleep(1000)
        return clock.monotonic() - began

    assert run(course()) == pytest.approx(100)


def test_work_for_another_thread_is_done_at_once_with_its_error() -> None:
    def fails() -> None:
        raise OSError("no disk")

    async def course() -> int:
        with pytest.raises(OSError, match="no disk"):
            await asyncio.to_thread(fails)
        return await asyncio.to_thread(int, "7")

    assert run(course()) == 7


def test_when_everybody_waits_for_ever_that_is_said() -> None:
    async def course() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run(course())


def test_timers_of_one_moment_come_in_the_order_in_which_they_were_asked_for_and_none_that_was_called_off() -> (
    None
):
    async def course() -> list[int]:
        called: list[int] = []
        loop = asyncio.get_running_loop()
        at = loop.time() + 1.0
        timers = [loop.call_at(at, called.append, number) for number in range(5000)]
        for timer in timers[1::2]:
            timer.cancel()
        await VirtualClock().sleep(2.0)
        return called

    assert run(course()) == list(range(0, 5000, 2))


def test_time_does_not_go_on_to_the_end_of_a_sleep_that_nobody_sleeps_any_more() -> None:
    clock = VirtualClock()

    async def course() -> float:
        began = clock.monotonic()
        sleeper = asyncio.create_task(clock.sleep(100.0))
        await clock.sleep(1.0)
        sleeper.cancel()
        await clock.sleep(1.0)
        return clock.monotonic() - began

    assert run(course()) == pytest.approx(2.0)
