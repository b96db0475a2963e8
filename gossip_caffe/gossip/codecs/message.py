"""The message of an offer or an answer, as both the protocol and the transports use it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.wire import gossip_pb2 as wire

Payload = bytes | bytearray | memoryview


class Refusal(IntEnum):
    """The reasons for which an offer is refused; values and meanings are those of protos/gossip.proto."""

    NONE = wire.REFUSAL_NONE
    CROSSING = wire.CROSSING
    LAYOUT_MISMATCH = wire.LAYOUT_MISMATCH
    NOT_TRAINING = wire.NOT_TRAINING
    NON_FINITE = wire.NON_FINITE
    CORRUPT_FRAME = wire.CORRUPT_FRAME
    OVERLOADED = wire.OVERLOADED
    SHUTTING_DOWN = wire.SHUTTING_DOWN
    UNKNOWN_CODEC = wire.UNKNOWN_CODEC
    REPEATED = wire.REPEATED
    UNAUTHORIZED = wire.UNAUTHORIZED
    TOO_FAR = wire.TOO_FAR
    OTHER_ROUND = wire.OTHER_ROUND


@dataclass(frozen=True, slots=True)
class Message:
    """One side's message of an exchange. ``payload`` holds ``values`` weights in ``codec``; empty in a refusal.

    ``answered`` and ``withdraws`` name exchanges, separated by spaces. By them two peers that offer to each other at
    once agree on one exchange (crossing_offers.py), and learn which halves only one side applied (one_sided.py).
    """

    exchange_id: str
    peer: str
    job: str
    fingerprint: str
    version: int = 0
    codec: str = ""
    values: int = 0
    payload: Payload = b""
    refusal: Refusal = Refusal.NONE
    reason: str = ""
    answered: str = ""
    withdraws: str = ""
    phase: str = ""
    contributes: bool = False


class FramesCorrupt(ExchangeFailed):
    """The received bytes are not the sent ones: a checksum, a length or the order does not fit."""


class PartUnreadable(FramesCorrupt):
    """A part of a stream is not a message of the protocol; more parts may follow."""


class Undelivered(ExchangeFailed):
    """The offer did not leave this peer whole, so the partner certainly applied nothing."""
