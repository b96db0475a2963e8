"""The consensus of several peers: the mean of their newest snapshots.

All snapshots are received at the same time, piece by piece, and each piece is averaged in float64 into its place in the
result. So one vector of the model's size is held, for any number of contributors. A peer that does not send its whole
snapshot is left out, and so is a peer whose weights are too far from the others' (outliers.py). After either, the
remaining peers are asked again.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.averaging.average import all_finite
from gossip_caffe.gossip.averaging.compiled import magnitude
from gossip_caffe.gossip.averaging.outliers import Sample, outliers
from gossip_caffe.gossip.codecs.message import Message, Payload, Refusal
from gossip_caffe.gossip.policy.contact import Contact, NoContact
from gossip_caffe.gossip.policy.deadline import first_deadline_s
from gossip_caffe.gossip.protocol.local_peer import Offloader
from gossip_caffe.gossip.protocol.payload import objection_to_layout
from gossip_caffe.gossip.protocol.ports import Offload
from gossip_caffe.gossip.protocol.snapshot_stream import SnapshotReader
from gossip_caffe.gossip.protocol.transport import Transport

Flat = NDArray[np.float32]
T = TypeVar("T")

PIECE_VALUES = 1 << 18
"""The number of values that are averaged together: those of one frame."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """A mean: ``weights``, shape (size,), float32, and ``contributors``, the peers whose weights are in it.

    ``left_out``: the peers that were too far from the others, each with its distance, measured as a half is.
    """

    weights: Flat
    contributors: tuple[str, ...]
    left_out: Mapping[str, float] = field(default_factory=dict)


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
    half_limit: float = 0.0,
    contact: Contact = NoContact(),  # noqa: B008 - it has no state
) -> tuple[T, Consensus]:
    """The mean of the own weights and those of random ``others`` (peer → address), together up to ``most`` peers.

    ``own`` writes the own newest weights into a vector, shape (size,); its result is returned, too. It is called again
    if another peer failed meanwhile. ``offload`` runs the arithmetic of large models outside the event loop's thread.

    A peer that does not send valid weights within ``deadline_s`` (0: a deadline from their size) is left out. A peer
    that is further than ``half_limit`` (0: no limit) from the others is left out, too, even this one. Peers that
    ``contact`` knows as unreached are not asked, so that they cause no wait. Raises ExchangeFailed if the own weights
    are not finite.
    """
    run = Offloader(offload, size)
    collecting = _Collecting(request, size, transport, deadline_s, run, half_limit, contact)
    asked = collecting.chosen(
        {peer: where for peer, where in others.items() if not contact.is_unreached(peer)}, most - 1, rng
    )
    while True:
        said = own(collecting.mean)
        if not await collecting.run(all_finite, collecting.mean):
            raise ExchangeFailed(
                f"the weights of {request.peer} hold NaN or Inf: its training has diverged",
                remedy="lower base_lr, or set clip_gradients in the solver",
            )
        with_own = request.peer not in collecting.left_out or not asked
        if (contributors := await collecting.averaged(asked, with_own=with_own)) is None:
            continue
        if with_own or contributors:
            own_name = (request.peer,) if with_own else ()
            left_out = {peer: far for peer, far in collecting.left_out.items() if peer not in own_name}
            return said, Consensus(collecting.mean, (*own_name, *contributors), left_out)


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
    half_limit: float = 0.0,
    contact: Contact = NoContact(),  # noqa: B008 - it has no state
) -> Consensus | None:
    """The mean of up to ``most`` random peers, without own weights; None if no peer answered.

    Of three or more peers, those further than ``half_limit`` (0: no limit) from the others are left out.
    """
    run = Offloader(offload, size)
    collecting = _Collecting(request, size, transport, deadline_s, run, half_limit, contact)
    asked = collecting.chosen(peers, most, rng)
    while asked:
        if (contributors := await collecting.averaged(asked, with_own=False)) is not None:
            if not contributors:
                return None
            return Consensus(collecting.mean, contributors, collecting.left_out)
    return None


class _Collecting:
    """The state of one consensus while it is computed in ``mean``, shape (size,), float32."""

    def __init__(
        self,
        request: Message,
        size: int,
        transport: Transport,
        deadline_s: float,
        run: Offloader,
        half_limit: float,
        contact: Contact,
    ) -> None:
        self._contact = contact
        self.left_out: dict[str, float] = {}
        self._half_limit = half_limit
        self.mean: Flat = np.empty(size, dtype=np.float32)
        self.run = run
        self._request = replace(request, values=size)
        self._transport = transport
        self._deadline_s = deadline_s

    def chosen(self, peers: Mapping[str, str], most: int, rng: random.Random) -> dict[str, str]:
        """Up to ``most`` random peers to ask: peer → address."""
        return {peer: peers[peer] for peer in rng.sample(sorted(peers), min(len(peers), most))}

    async def averaged(self, asked: dict[str, str], *, with_own: bool) -> tuple[str, ...] | None:
        """Average the snapshots of the ``asked`` peers into ``mean``; returns the contributors.

        ``with_own``: the own weights, which ``mean`` holds, are averaged, too. None if a peer failed or was too far
        away; it is then removed from ``asked``, and the whole computation must be repeated.
        """
        shown = await self._opened(asked)
        own = self._request.peer
        samples = {peer: Sample() for peer in ([own] if with_own else []) + list(shown)}
        try:
            for start in range(0, self.mean.size, PIECE_VALUES) if shown else ():
                part = self.mean[start : start + PIECE_VALUES]
                if failed := await self._piece(part, shown, samples, with_own):
                    for peer in failed:
                        del asked[peer]
                    return None
        finally:
            for stream in shown.values():
                stream.close()
        if far := await self.run(
            outliers, samples, self._half_limit if shown else 0.0, own if with_own else ""
        ):
            self.left_out |= far
            for peer in far:
                asked.pop(peer, None)
            return None
        return tuple(shown)

    async def _opened(self, asked: dict[str, str]) -> dict[str, SnapshotReader]:
        """Readers of the peers that begin to send their weights; the other peers are removed from ``asked``."""
        deadline_s = self._deadline_s or first_deadline_s(4 * self.mean.size * len(asked))
        shown: dict[str, SnapshotReader] = {}

        async def open_one(peer: str) -> None:
            try:
                stream = await self._transport.snapshot(asked[peer], self._request, deadline_s)
            except ExchangeFailed as error:
                self._contact.failed(peer, asked[peer], error.message)
                return
            self._contact.answered(peer)
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

    def _suits(self, stream: SnapshotReader) -> bool:
        header, size = stream.header, self.mean.size
        return (
            header.refusal is Refusal.NONE
            and objection_to_layout(header, self._request.fingerprint, size) is None
            and header.codec == "float32"
            and stream.payload_bytes == 4 * size
        )

    async def _piece(
        self, part: Flat, shown: Mapping[str, SnapshotReader], samples: Mapping[str, Sample], with_own: bool
    ) -> list[str]:
        """Average one piece in place; returns the peers that failed, or that sent NaN or Inf."""
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
        worst = await self.run(_average, part, pieces, list(samples.values()), with_own, self.mean.size)
        return [] if worst is None else [list(shown)[worst]]


def _average(
    part: Flat, pieces: Sequence[Payload], samples: Sequence[Sample], with_own: bool, values: int
) -> int | None:
    """Write the mean of the pieces, and with ``with_own`` of ``part`` itself, to ``part``.

    Returns the index of the first piece that is not finite, else None. ``samples``: the contributors' samples, the own
    one first; ``values``: the number of values in all pieces.
    """
    total = part.astype(np.float64) if with_own else np.zeros(part.size)
    if with_own:
        samples[0].take(part, magnitude(part), values)
    for index, piece in enumerate(pieces):
        received = np.frombuffer(piece, dtype="<f4")
        if not math.isfinite(most := magnitude(received)):
            return index
        samples[index + with_own].take(received, most, values)
        total += received
    np.divide(total, len(pieces) + with_own, out=part, casting="same_kind")
    return None
