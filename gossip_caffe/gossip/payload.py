"""What an exchange computes on whole vectors: pure, so that it may run in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.gossip.average import Halved, all_finite, halve
from gossip_caffe.gossip.codec import CODECS, PayloadBroken, codec_named
from gossip_caffe.gossip.message import Message, Payload, Refusal

Flat = NDArray[np.float32]
Reason = tuple[Refusal, str]


@dataclass(frozen=True, slots=True)
class Sent:
    """A snapshot as it goes out."""

    codec: str
    payload: Payload


def encoded(
    codec: str, mine: Flat, blobs: Sequence[int] = (), rng: np.random.Generator | None = None
) -> Sent | None:
    """A snapshot to send, which does not share the vector's memory; None when it holds NaN or Inf."""
    if not all_finite(mine):
        return None
    return Sent(codec, codec_named(codec).encode(mine, blobs, rng))


def objection_to_layout(message: Message, fingerprint: str, size: int) -> Reason | None:
    """Why weights with that header cannot be ours, or None."""
    if message.fingerprint != fingerprint or message.values != size:
        theirs = f"{message.values} weights of layout {message.fingerprint[:12]}"
        return Refusal.LAYOUT_MISMATCH, f"{theirs}, here {size} of {fingerprint[:12]}"
    if message.codec not in CODECS:
        return Refusal.UNKNOWN_CODEC, f"no codec {message.codec!r} here"
    return None


def decoded(message: Message, fingerprint: str, out: Flat) -> Reason | None:
    """A message's weights into ``out``; why they must not be applied, or None."""
    if (objection := objection_to_layout(message, fingerprint, out.size)) is not None:
        return objection
    try:
        CODECS[message.codec].decode(message.payload, out)
    except PayloadBroken as error:
        return Refusal.CORRUPT_FRAME, str(error)
    if not all_finite(out):
        return Refusal.NON_FINITE, f"the weights of {message.peer} hold NaN or Inf"
    return None


def halved(sent: Sent, theirs: Flat, mine: Flat) -> Halved:
    """The own half into ``mine``, from what was sent and what came; returns its figures."""
    if sent.codec != "float32":  # what was sent is what is there
        CODECS[sent.codec].decode(sent.payload, mine)
    return halve(mine, theirs, mine)


def answered(
    codec: str,
    theirs: Flat,
    mine: Flat,
    blobs: Sequence[int] = (),
    rng: np.random.Generator | None = None,
) -> tuple[Sent, Halved] | None:
    """``encoded`` and ``halved`` in one go."""
    if (sent := encoded(codec, mine, blobs, rng)) is None:
        return None
    return sent, halved(sent, theirs, mine)
