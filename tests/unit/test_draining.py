"""A peer that leaves chunks unsettled says why, also where it ran out of time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gossip_caffe.errors import StoreError
from gossip_caffe.peer.core.lifecycle import Cause
from gossip_caffe.peer.core.tasks import Tasks
from gossip_caffe.peer.draining import Draining


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "p: leaves 2 chunks unsettled (out of time)"),
        (StoreError("the store is away"), "p: leaves 2 chunks unsettled (the store is away)"),
    ],
)
async def test_the_reason_for_unsettled_chunks_is_named(error: Exception, said: str) -> None:
    lines: list[str] = []

    @asynccontextmanager
    async def timeout(_: float) -> AsyncIterator[None]:
        raise error
        yield

    async def nothing(*_: object) -> None:
        pass

    world = SimpleNamespace(warn=lines.append, grace_s=10.0, clock=SimpleNamespace(timeout=timeout))
    member: Any = SimpleNamespace(
        peer="p",
        leaving=False,
        world=world,
        claims=SimpleNamespace(owned=(1, 2)),
        trainer=SimpleNamespace(board=SimpleNamespace(step_s=0.1)),
        incarnation=SimpleNamespace(session=SimpleNamespace(lost=asyncio.Event())),
    )
    draining = Draining(
        member, cast(Any, SimpleNamespace(end=nothing)), cast(Any, SimpleNamespace(leave=nothing))
    )
    await draining.drain(cast(Tasks, SimpleNamespace(cancel=nothing)), Cause.ASKED_TO_LEAVE)
    assert lines == [said]
