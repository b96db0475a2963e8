"""The computations of an exchange on whole vectors. They are pure, so that they may run in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.gossip.averaging.average import HalfStats, all_finite, halve
from gossip_caffe.gossip.codecs.codec import CODECS, PayloadBroken, codec_named
from gossip_caffe.gossip.codecs.message import Message, Payload, Refusal

Flat = NDArray[np.float32]
Reason = tuple[Refusal, str]


@dataclass(frozen=True, slots=True)
class EncodedSnapshot:
    """A snapshot in the bytes of a codec."""

    codec: str
    payload: Payload


def encoded(
    codec: str, mine: Flat, blobs: Sequence[int] = (), rng: np.random.Generator | None = None
) -> EncodedSnapshot | None:
    """Encode ``mine``, shape (exchanged,), into memory of its own; None if it holds NaN or Inf.

    ``blobs``: the sizes of its blobs. ``rng``: the generator of a stochastic codec.
    """
    if not all_finite(mine):
        return None
    return EncodedSnapshot(codec, codec_named(codec).encode(mine, blobs, rng))


def objection_to_layout(message: Message, fingerprint: str, size: int) -> Reason | None:
    """The reason why weights with that header do not fit this peer's net, or None."""
    if message.fingerprint != fingerprint or message.values != size:
        offered = f"{message.values} weights of layout {message.fingerprint[:12]}"
        return Refusal.LAYOUT_MISMATCH, f"{offered}, here {size} of {fingerprint[:12]}"
    if message.codec not in CODECS:
        return Refusal.UNKNOWN_CODEC, f"no codec {message.codec!r} here"
    return None


def decoded(message: Message, fingerprint: str, out: Flat) -> Reason | None:
    """Decode a message's weights into ``out``, shape (exchanged,); the reason why they must not be applied, or None."""
    if (objection := objection_to_layout(message, fingerprint, out.size)) is not None:
        return objection
    try:
        CODECS[message.codec].decode(message.payload, out)
    except PayloadBroken as error:
        return Refusal.CORRUPT_FRAME, str(error)
    if not all_finite(out):
        return Refusal.NON_FINITE, f"the weights of {message.peer} hold NaN or Inf"
    return None


def halved(sent: EncodedSnapshot, other: Flat, mine: Flat, weighs_other: bool = False) -> HalfStats:
    """Compute the own half into ``mine`` from the sent snapshot and the partner's, and return its figures.

    ``mine`` must hold the snapshot. ``weighs_other``: also compute the length of ``other``.
    """
    noise = CODECS[sent.codec].settle(sent.payload, mine)
    return halve(mine, other, mine, weighs_other, noise)


def answered(
    codec: str,
    other: Flat,
    mine: Flat,
    blobs: Sequence[int] = (),
    rng: np.random.Generator | None = None,
    weighs_other: bool = False,
) -> tuple[EncodedSnapshot, HalfStats] | None:
    """Call ``encoded``, then ``halved``; None if ``mine`` holds NaN or Inf."""
    if (sent := encoded(codec, mine, blobs, rng)) is None:
        return None
    return sent, halved(sent, other, mine, weighs_other)
