"""The consensus of several peers: the mean of their newest snapshots.

All of them come at the same time, piece by piece, and each piece is averaged in float64 where the result will be: one
vector of the model's size is held, however many contribute. Who does not send all of it is left out, and then the
others are asked again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.average import all_finite
from gossip_caffe.gossip.deadline import first_deadline_s
from gossip_caffe.gossip.message import Message, Payload, Refusal
from gossip_caffe.gossip.party import Elsewhere
from gossip_caffe.gossip.payload import objection_to_layout
from gossip_caffe.gossip.seams import Offload
from gossip_caffe.gossip.shown import Shown
from gossip_caffe.gossip.transport import Transport

Flat = NDArray[np.float32]
T = TypeVar("T")

PIECE_VALUES = 1 << 18
"""Values that are averaged together: a frame's worth."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """``weights``: shape (size,), float32; ``contributors``: the peers whose weights are in it."""

    weights: Flat
    contributors: tuple[str, ...]


async def consensus(
    request: Message,
    size: int,
    own: Callable[[Flat], T],
    others: Mapping[str, str],
    transport: Transport,
    rng: random.Random,
    *,
    most: int,
    deadline_s: float = 0.0,
    offload: Offload | None = None,
) -> tuple[T, Consensus]:
    """Own weights and those of random others (peer → address), of up to ``most`` peers; and what ``own`` said.

    ``own`` writes the own newest weights into a vector, shape (size,); it is called again when another peer failed on
    the way. ``offload`` takes the arithmetic of large models out of the event loop's thread.

    Who does not answer well within ``deadline_s`` (0: as the size of the weights demands) is left out. Raises
    ExchangeFailed when the own weights are not finite.
    """
    collecting = _Collecting(request, size, transport, deadline_s, Elsewhere(offload, size))
    asked = collecting.chosen(others, most - 1, rng)
    while True:
        said = own(collecting.mean)
        if not await collecting.run(all_finite, collecting.mean):
            raise ExchangeFailed(
                f"the weights of {request.peer} hold NaN or Inf: its training has diverged",
                remedy="lower base_lr, or set clip_gradients in the solver",
            )
        if (contributors := await collecting.averaged(asked, with_own=True)) is not None:
            return said, Consensus(collecting.mean, (request.peer, *contributors))


async def mean_of(
    request: Message,
    size: int,
    peers: Mapping[str, str],
    transport: Transport,
    rng: random.Random,
    *,
    most: int,
    deadline_s: float = 0.0,
    offload: Offload | None = None,
) -> Consensus | None:
    """The mean of up to ``most`` random peers, without own weights; None when nobody answered."""
    collecting = _Collecting(request, size, transport, deadline_s, Elsewhere(offload, size))
    asked = collecting.chosen(peers, most, rng)
    while asked:
        if (contributors := await collecting.averaged(asked, with_own=False)) is not None:
            return Consensus(collecting.mean, contributors) if contributors else None
    return None


class _Collecting:
    """One consensus in the making, in ``mean``, shape (size,)."""

    def __init__(
        self, request: Message, size: int, transport: Transport, deadline_s: float, run: Elsewhere
    ) -> None:
        self.mean: Flat = np.empty(size, dtype=np.float32)
        self.run = run
        self._request = replace(request, values=size)
        self._transport = transport
        self._deadline_s = deadline_s

    def chosen(self, peers: Mapping[str, str], most: int, rng: random.Random) -> dict[str, str]:
        """Whom to ask: peer → address."""
        return {peer: peers[peer] for peer in rng.sample(sorted(peers), min(len(peers), most))}

    async def averaged(self, asked: dict[str, str], *, with_own: bool) -> tuple[str, ...] | None:
        """Average what they show, and with ``with_own`` what ``mean`` holds, into it; returns who they are.

        None when some failed on the way, who are then no more among ``asked``: all of it has to be done again.
        """
        shown = await self._opened(asked)
        try:
            for start in range(0, self.mean.size, PIECE_VALUES) if shown else ():
                part = self.mean[start : start + PIECE_VALUES]
                if failed := await self._piece(part, shown, with_own):
                    for peer in failed:
                        del asked[peer]
                    return None
        finally:
            for stream in shown.values():
                stream.close()
        return tuple(shown)

    async def _opened(self, asked: dict[str, str]) -> dict[str, Shown]:
        """Those who begin to show their weights; the others are no more among ``asked``."""
        deadline_s = self._deadline_s or first_deadline_s(4 * self.mean.size * len(asked))
        shown: dict[str, Shown] = {}

        async def open_one(peer: str) -> None:
            try:
                stream = await self._transport.snapshot(asked[peer], self._request, deadline_s)
            except ExchangeFailed:
                return
            if self._suits(stream):
                shown[peer] = stream
            else:
                stream.close()

        try:
            await asyncio.gather(*map(open_one, asked))
        except asyncio.CancelledError:
            for stream in shown.values():
                stream.close()
            raise
        for peer in asked.keys() - shown.keys():
            del asked[peer]
        return {peer: shown[peer] for peer in asked}

    def _suits(self, stream: Shown) -> bool:
        header, size = stream.header, self.mean.size
        return (
            header.refusal is Refusal.NONE
            and objection_to_layout(header, self._request.fingerprint, size) is None
            and header.codec == "float32"
            and stream.payload_bytes == 4 * size
        )

    async def _piece(self, part: Flat, shown: Mapping[str, Shown], with_own: bool) -> list[str]:
        """Average one piece in place; returns who failed, or sent NaN or Inf."""
        read = (stream.read(4 * part.size) for stream in shown.values())
        came = await asyncio.gather(*read, return_exceptions=True)
        pieces: list[Payload] = []
        failed = []
        for peer, piece in zip(shown, came, strict=True):
            if isinstance(piece, ExchangeFailed):
                failed.append(peer)
            elif isinstance(piece, BaseException):
                raise piece
            else:
                pieces.append(piece)
        if failed:
            return failed
        worst = await self.run(_average, part, pieces, with_own)
        return [] if worst is None else [list(shown)[worst]]


def _average(part: Flat, pieces: Sequence[Payload], with_own: bool) -> int | None:
    """The mean of the pieces, and of ``part`` itself, into ``part``; or which of them is not finite."""
    total = part.astype(np.float64) if with_own else np.zeros(part.size)
    for index, piece in enumerate(pieces):
        theirs = np.frombuffer(piece, dtype="<f4")
        if not all_finite(theirs):
            return index
        total += theirs
    np.divide(total, len(pieces) + with_own, out=part, casting="same_kind")
    return None
