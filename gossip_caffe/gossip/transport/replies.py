"""Replies of a peer's gRPC server to callers that may hang up at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from gossip_caffe.grpc_runtime import grpc

Handler = Callable[[Any, Any], Awaitable[None]]


def unless_gone(handler: Handler) -> Handler:
    """Return a handler of calls that ends without an error if the caller has hung up.

    gRPC raises InternalError from a write to such a caller, before it cancels the handler. It would log this error with
    its traceback; a cancelled handler is not logged.
    """

    async def handle(request: Any, context: Any) -> None:
        try:
            await handler(request, context)
        except grpc.aio.InternalError:
            raise asyncio.CancelledError from None

    return handle
