"""A caller that hangs up is no error of the peer that answers it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gossip_caffe.gossip.transport.replies import unless_gone
from gossip_caffe.grpc_runtime import grpc


async def test_a_write_to_a_caller_that_has_hung_up_ends_the_handler_as_cancelled() -> None:
    async def writes(request: Any, context: Any) -> None:
        raise grpc.aio.InternalError(f"Failed {request} {context}")

    with pytest.raises(asyncio.CancelledError):
        await unless_gone(writes)("request", "context")


async def test_an_error_of_the_handler_itself_is_still_raised() -> None:
    async def broken(request: Any, context: Any) -> None:
        raise ValueError(request, context)

    with pytest.raises(ValueError, match="request"):
        await unless_gone(broken)("request", "context")
