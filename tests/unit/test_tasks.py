"""Tasks that run beside each other."""

from __future__ import annotations

import asyncio

import pytest

from gossip_caffe.errors import StoreError
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import MembersView
from gossip_caffe.peer.core.tasks import Tasks
from tests.fake_clock import FakeClock


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


async def test_a_task_that_failed_while_nobody_was_beside_it_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        raise RuntimeError("unseen")

    tasks = Tasks()
    tasks.spawn("work", work())
    await asyncio.sleep(0.01)
    await tasks.cancel()
    assert ["unseen" in record.getMessage() for record in caplog.records] == [True]


async def test_the_view_whose_watch_ends_ends_its_peer() -> None:
    store = MemoryStore(MemoryEtcd(FakeClock()))
    tasks, view = Tasks(), MembersView(store, JobKeys("j"))
    tasks.spawn("members", view.follow())
    await view.known.wait()
    store.cut_off()
    with pytest.raises(StoreError, match="watch"):
        await tasks.beside(asyncio.Event().wait())
    await tasks.cancel()
