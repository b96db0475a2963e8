"""The clock of other tests."""

from __future__ import annotations

import asyncio

import pytest

from tests.fake_clock import FakeClock


async def test_time_goes_on_for_others_when_the_next_sleeper_is_cancelled() -> None:
    clock = FakeClock(automatic=True)
    first, second = (asyncio.create_task(clock.sleep(seconds)) for seconds in (1.0, 2.0))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    async with asyncio.timeout(60):
        await second
    assert clock.monotonic() == 1002.0
