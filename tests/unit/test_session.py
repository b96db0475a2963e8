"""A lease: whatever ends its renewal, its peer is told."""

from __future__ import annotations

import asyncio

import pytest

from gossip_caffe.errors import StoreUnavailable
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.session import LeaseSession
from tests.fake_clock import FakeClock

TTL_S = 3.0


class Store(MemoryStore):
    """Its renewals raise ``error``, once."""

    error: BaseException | None = None

    async def renew(self, lease_id: int) -> float:
        if (error := self.error) is not None:
            self.error = None
            raise error
        return await super().renew(lease_id)


async def begun() -> tuple[FakeClock, Store, LeaseSession]:
    clock = FakeClock()
    store = Store(MemoryEtcd(clock))
    session = LeaseSession(store, clock, TTL_S)
    await session.start()
    return clock, store, session


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cannot schedule new futures"),
        OSError("no buffer space"),
        ValueError("not what was expected"),
        asyncio.InvalidStateError("RPC already finished."),
        asyncio.CancelledError(),  # gRPC's, when its channel is closed; nobody has cancelled the session
    ],
)
async def test_whatever_ends_the_renewal_the_lease_is_lost_and_says_why(error: BaseException) -> None:
    clock, store, session = await begun()
    store.error = error
    await clock.advance(TTL_S / 3 + 0.1)
    assert session.lost.is_set()
    assert not session.owns()
    assert type(error).__name__ in session.reason
    await session.close()


async def test_a_store_that_is_away_for_a_moment_costs_nothing() -> None:
    clock, store, session = await begun()
    store.error = StoreUnavailable("away")
    await clock.advance(4 * TTL_S)
    assert session.owns()
    await session.close()


async def test_closing_revokes_the_lease_and_is_its_own_reason() -> None:
    _, store, session = await begun()
    await session.close()
    assert session.reason == "closed"
    assert await store.renew(session.id) == 0.0
