"""The words of a round between its leader and a member, and the Protocols of the streams that carry them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, cast

from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.wire import gossip_pb2 as wire


class WordKind(IntEnum):
    """The kinds of words; values and meanings are those of protos/gossip.proto."""

    ATTEND = wire.RoundWord.ATTEND
    READY = wire.RoundWord.READY
    FORMED = wire.RoundWord.FORMED
    SCATTERED = wire.RoundWord.SCATTERED
    COMMITTED = wire.RoundWord.COMMITTED
    ABORTED = wire.RoundWord.ABORTED
    LEFT_OUT = wire.RoundWord.LEFT_OUT
    LOST = wire.RoundWord.LOST
    CONFIRMED = wire.RoundWord.CONFIRMED
    REFUSED = wire.RoundWord.REFUSED


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A member of a round, and the address at which it answers."""

    peer: str
    address: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of one member, measured by the owner of a segment.

    ``finite``: its part of the segment has no NaN, Inf or absurd value. ``apart``: the squared distance of that part
    from the mean of the segment.
    """

    peer: str
    finite: bool
    apart: float


@dataclass(frozen=True, slots=True)
class Word:
    """One word. The fields that a kind uses are listed in protos/gossip.proto; the others have their defaults."""

    kind: WordKind
    peer: str = ""
    job: str = ""
    fingerprint: str = ""
    round: str = ""
    last: str = ""
    stepped: bool = False
    wants: bool = False
    guest: bool = False
    started: bool = False
    everyone: bool = False
    lost: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    confirmed: tuple[str, ...] = ()
    checksums: tuple[int, ...] = ()
    figures: tuple[Figure, ...] = ()
    square: float = 0.0
    reason: str = ""
    refusal: Refusal = Refusal.NONE


class RoundLink(Protocol):
    """One side of a stream of words between a member and the leader.

    Words arrive in order, each once. Both methods raise ExchangeFailed once the other side is gone.
    """

    async def send(self, word: Word) -> None:
        """Send a word."""
        ...

    async def receive(self) -> Word:
        """Wait for the next word."""
        ...

    def close(self) -> None:
        """End the stream. The other side notices."""
        ...


class RoundCarrier(Protocol):
    """A transport that carries words."""

    async def attend(self, address: str) -> RoundLink:
        """Open a stream of words to the peer at ``address``. Raises ExchangeFailed if no peer answers there."""
        ...


class RoundAnswerer(Protocol):
    """A peer that other peers may attend."""

    async def attend(self, link: RoundLink) -> None:
        """Speak with one member until the stream ends. Returns when it has ended."""
        ...


def carrier_of(transport: object) -> RoundCarrier | None:
    """The transport, if it carries words; else None. It may be wrapped, so only the method tells."""
    return cast(RoundCarrier, transport) if hasattr(transport, "attend") else None


def answerer_of(answerer: object) -> RoundAnswerer | None:
    """The answerer, if other peers may attend it; else None."""
    return cast(RoundAnswerer, answerer) if hasattr(answerer, "attend") else None
