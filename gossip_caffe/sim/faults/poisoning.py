"""Partners that are alive and wrong: the weights that they send are spoilt in one of the ways of ``Poison``."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.gossip.codecs.codec import CODECS, PayloadBroken
from gossip_caffe.gossip.codecs.message import Message

Flat = NDArray[np.float32]


class Poison(StrEnum):
    """The ways in which weights are spoilt."""

    HUGE = "huge"  # every weight is 1e30
    ZEROS = "zeros"  # every weight is 0
    FLIP = "flip"  # every sign is flipped
    NOISE = "noise"  # random weights with the same norm
    BIT = "bit"  # one bit of one weight's exponent is flipped
    NAN = "nan"  # one weight is NaN
    STALE = "stale"  # the oldest known weights
    SCALED = "scaled"  # ten times as long, or a tenth


HUGE = 1e30
EXPONENT_BITS = range(23, 31)


def poisoned(poison: Poison, weights: Flat, rng: random.Random, oldest: Flat | None = None) -> Flat:
    """The spoilt weights, shape as ``weights``, which stay unchanged. ``oldest``: the oldest known weights."""
    spoilt = weights.copy()
    match poison:
        case Poison.HUGE:
            spoilt[:] = HUGE
        case Poison.ZEROS:
            spoilt[:] = 0.0
        case Poison.FLIP:
            np.negative(spoilt, out=spoilt)
        case Poison.NOISE:
            size = np.sqrt(np.mean(weights.astype(np.float64) ** 2))
            spoilt[:] = np.random.default_rng(rng.getrandbits(64)).normal(0.0, size, weights.size)
        case Poison.BIT:
            place = rng.randrange(weights.size)
            spoilt[place : place + 1].view(np.uint32)[0] ^= np.uint32(1 << rng.choice(EXPONENT_BITS))
        case Poison.NAN:
            spoilt[rng.randrange(weights.size)] = np.nan
        case Poison.STALE:
            spoilt[:] = weights if oldest is None else oldest
        case Poison.SCALED:
            spoilt *= np.float32(rng.choice((0.1, 10.0)))
    return spoilt


@dataclass(frozen=True, slots=True)
class Poisoned:
    """A machine that is wrong now, in ``share`` of its messages with weights.

    ``poison``: the way; None: a random one.
    """

    share: float
    poison: Poison | None = None


def _unnoted(exchange: str, sender: str, poison: Poison) -> None:
    del exchange, sender, poison


class Poisoners:
    """The machines that are wrong now. ``all_others``: all machines that are not listed.

    ``note`` is called for each spoilt message with its exchange, sender and way.
    """

    def __init__(self, rng: random.Random, note: Callable[[str, str, Poison], None] = _unnoted) -> None:
        self.wrong: dict[str, Poisoned] = {}
        self.all_others: Poisoned | None = None
        self._rng = rng
        self._note = note
        self._oldest: dict[tuple[str, int], Flat] = {}

    def spoilt(self, sender: str, message: Message) -> Message:
        """The message that leaves the sender in place of ``message``."""
        wrong = self.wrong.get(sender, self.all_others)
        # Remember the first weights of every sender: a machine that becomes wrong later may send them.
        if not message.payload or (wrong is None and (sender, message.values) in self._oldest):
            return message
        if (weights := _weights_of(message)) is None:
            return message
        oldest = self._oldest.setdefault((sender, weights.size), weights)
        if wrong is None or self._rng.random() >= wrong.share:
            return message
        poison = wrong.poison or self._rng.choice(list(Poison))
        self._note(message.exchange_id, sender, poison)
        return with_weights(message, poisoned(poison, weights, self._rng, oldest))


def with_weights(message: Message, weights: Flat) -> Message:
    """The message with other weights in it, as float32, which can hold all values."""
    return replace(message, codec="float32", payload=weights.astype("<f4").tobytes())


def _weights_of(message: Message) -> Flat | None:
    """The weights in a message; None if it has none that this version can decode."""
    if message.codec not in CODECS:
        return None
    weights = np.empty(message.values, dtype=np.float32)
    try:
        CODECS[message.codec].decode(message.payload, weights)
    except PayloadBroken:
        return None
    return weights
