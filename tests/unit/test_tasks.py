"""Tasks that run beside each other."""

from __future__ import annotations

import asyncio

import pytest

from gossip_caffe.peer.tasks import Tasks


async def test_a_task_that_is_awaited_is_left_alone_when_the_wait_is_given_up() -> None:
    tasks, go_on = Tasks(), asyncio.Event()
    steps: list[str] = []

    async def work() -> None:
        await go_on.wait()
        steps.append("done")

    tasks.spawn("work", work())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await tasks.ended("work")
    go_on.set()
    await tasks.ended("work")
    assert steps == ["done"]
    await tasks.ended("work")  # it has


async def test_the_error_of_a_task_that_is_awaited_is_raised() -> None:
    async def work() -> None:
        raise ValueError("broken")

    tasks = Tasks()
    tasks.spawn("work", work())
    with pytest.raises(ValueError, match="broken"):
        await tasks.ended("work")
