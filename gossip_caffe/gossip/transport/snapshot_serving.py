"""The serving of a peer's weights (Snapshot): to two callers at a time, so that many callers cannot use up its memory.

A further caller waits a little, and is then told to ask again (RESOURCE_EXHAUSTED). A caller that reads too slowly
loses its place to a waiting one. The call of a caller that reads nothing ends at its deadline.
"""

from __future__ import annotations

import asyncio
from typing import Any

from gossip_caffe.clock import Clock, SystemClock
from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.protocol.admission import Caller
from gossip_caffe.gossip.protocol.places import PlaceLost, Places, TooSlow, connection
from gossip_caffe.gossip.protocol.transport import Answerer
from gossip_caffe.gossip.transport.frame_codec import FrameUnreadable, RawFrame
from gossip_caffe.gossip.transport.frames import to_frames
from gossip_caffe.grpc_runtime import grpc

MOST_SHOWN = 2
"""The number of callers that a snapshot is made for, or sent to, at one time."""
SHOWN_BYTES = 1 << 18
FIRST_BYTES = 1 << 14
"""The size of a frame, and of the first frames: gRPC keeps one for a caller that reads nothing until it hangs up."""
PLACE_WAIT_S = 4.0
"""A caller that has no place after this time is told to ask again."""


class SnapshotServing:
    """Answers the calls of Snapshot."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._places = Places(MOST_SHOWN, clock or SystemClock())

    def prove(self, peer: str, end: str) -> None:
        """Prefer that peer, on that connection, to unproven callers: an offer of it came whole."""
        self._places.prove(Caller(peer, connection(end)))

    async def show(self, answerer: Answerer, request: Any, context: Any) -> None:
        """Answer one call of Snapshot."""
        if isinstance(request, FrameUnreadable):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, request.why)
            return
        caller = Caller(request.peer or context.peer(), connection(context.peer()))
        if not await self._places.wait_for(caller, PLACE_WAIT_S):
            busy = f"{MOST_SHOWN} callers are being shown the weights already; ask again"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, busy)
            return
        async with self._places.taken(caller, 0) as place:
            await place.vacated()  # its copy of the weights is freed before another one is made
            sending = _Sending(await answerer.show(_asked(request)))
            place.size_bytes = sending.size_bytes
            place.allowed_s = context.time_remaining() or 0.0
            place.moved = lambda: sending.moved_bytes
            try:
                await place.transfer(sending.to(context))
            except (PlaceLost, TooSlow):
                raise asyncio.CancelledError from None


def _asked(request: Any) -> Message:
    return Message("snapshot", request.peer, request.job, request.fingerprint)


class _Sending:
    """The sending of a message, frame by frame. It holds no reference to the message after its end."""

    def __init__(self, message: Message) -> None:
        self.moved_bytes = 0
        self.size_bytes = len(message.payload)
        self._frames = to_frames(message, SHOWN_BYTES, FIRST_BYTES)

    async def to(self, context: Any) -> None:
        """Write the message to a call."""
        part: Any = None
        try:
            for part in self._frames:
                await context.write(part)
                self.moved_bytes += len(part.data) if isinstance(part, RawFrame) else 0
        finally:
            del part  # the traceback of an error keeps the variables of this frame
            self._frames.close()
