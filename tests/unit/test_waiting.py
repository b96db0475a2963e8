"""A new peer waits for etcd and for its job no longer than it was told, and says once what it waits for."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gossip_caffe.errors import GossipCaffeError, NotFound, StoreRefused, StoreUnavailable
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.jobs import create_job
from gossip_caffe.peer.joining.waiting import Patience, wait_for_job
from tests.bare_job import bare_job
from tests.fake_clock import FakeClock

AWAY = StoreUnavailable("etcd does not answer")


class Start:
    """An etcd and a job that are there from a certain second on. It reads as a store."""

    def __init__(
        self, clock: FakeClock, *, etcd_s: float, job_s: float, error: GossipCaffeError = AWAY
    ) -> None:
        self._clock, self._began = clock, clock.monotonic()
        self._etcd_s, self._job_s, self._error = etcd_s, job_s, error
        self._store = MemoryStore(MemoryEtcd(FakeClock()))
        self._created = False

    async def get(self, key: str) -> Any:
        passed = self._clock.monotonic() - self._began
        if passed < self._etcd_s:
            raise self._error
        if passed >= self._job_s and not self._created:
            self._created = await create_job(self._store, bare_job())
        return await self._store.get(key)

    async def keys(self, prefix: str) -> Any:
        return await self._store.keys(prefix)


async def waited(
    patience: Patience, *, etcd_s: float, job_s: float, error: GossipCaffeError = AWAY
) -> tuple[float, list[str]]:
    """The seconds for which it waited, and what it said; raises as it does."""
    clock = FakeClock(automatic=True)
    said: list[str] = []
    start = cast("Any", Start(clock, etcd_s=etcd_s, job_s=job_s, error=error))
    try:
        await wait_for_job(start, bare_job().name, patience, clock, said.append, ["h:1"])
    except GossipCaffeError as problem:
        problem.add_note(f"{clock.monotonic() - 1000.0:g}")
        raise
    return clock.monotonic() - 1000.0, said


async def test_each_wait_has_a_time_of_its_own_and_a_line() -> None:
    took_s, said = await waited(Patience(10, 10), etcd_s=8, job_s=16)
    assert 16 <= took_s < 17
    assert said == [
        "waits up to 10 s for etcd at h:1 (etcd does not answer)",
        f"waits up to 10 s for job {bare_job().name} (there is no job {bare_job().name!r} (known: none))",
    ]


async def test_without_a_wait_for_it_all_is_as_it_was() -> None:
    assert await waited(Patience(10, 10), etcd_s=0, job_s=0) == (0.0, [])
    for patience, etcd_s, kind in ((Patience(0, 10), 1, StoreUnavailable), (Patience(10, 0), 0, NotFound)):
        with pytest.raises(kind) as raised:
            await waited(patience, etcd_s=etcd_s, job_s=1)
        assert raised.value.__notes__[-1:] == ["0"]


async def test_after_the_wait_the_ordinary_error_comes() -> None:
    with pytest.raises(StoreUnavailable) as raised:
        await waited(Patience(5, 10), etcd_s=60, job_s=60)
    assert raised.value.__notes__[-1:] == ["5"]
    with pytest.raises(NotFound, match="job create") as missing:
        await waited(Patience(5, 10), etcd_s=2, job_s=60)
    assert missing.value.__notes__[-1:] == ["12"]


async def test_an_error_that_waiting_does_not_mend_comes_at_once() -> None:
    with pytest.raises(StoreRefused) as raised:
        await waited(Patience(60, 60), etcd_s=1, job_s=1, error=StoreRefused("permission denied"))
    assert raised.value.__notes__[-1:] == ["0"]
