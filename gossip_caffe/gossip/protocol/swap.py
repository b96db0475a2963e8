"""The exchange of a large model, piece by piece: both payloads travel at the same time, and are halved as they come.

Each outgoing piece is encoded just before it is sent. Each incoming piece is halved while it is in the processor's
cache, and the half overwrites that piece of the snapshot, which has been sent already. So each side holds one vector
and no payload if the codec is float32 or float16. The other codecs are encoded before the first byte is sent, and
decoded after the last byte has come. All of this runs in the transport's threads: one sends, one receives.

The receiving thread waits while its own sending thread is behind it, because the half must not overwrite unsent values.
The wait costs nothing: a swap ends when both directions are done. It cannot deadlock. Proof, with the sending thread S
and the receiving thread R of one side, and S' and R' of the other; s and s' are the values that S and S' have sent:

1. R waits for S only while s is less than R has received, which is at most s'. So R waits only while s < s'.
2. Likewise R' waits for S' only while s' < s. Both cannot hold, so at least one of R and R' reads on.
3. The sender that this receiver reads from is not blocked. It sends on until the other receiver's wait ends, too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.averaging import compiled
from gossip_caffe.gossip.averaging.average import HalfStats, HalfStatsBuilder
from gossip_caffe.gossip.codecs.codec import (
    CODECS,
    PayloadBroken,
    codec_named,
    largest_payload_bytes,
    without_ranges,
)
from gossip_caffe.gossip.codecs.message import FramesCorrupt, Payload, Refusal
from gossip_caffe.gossip.codecs.narrow import FLOAT16_MAX
from gossip_caffe.gossip.protocol.payload import Reason

Flat = NDArray[np.float32]

PIECE_VALUES = 1 << 17
"""The number of values that are encoded, sent and halved together: few enough for a core's cache."""
PIECE_BYTES = 4 * PIECE_VALUES
"""The length of the longest piece."""
PATIENCE_S = 10.0
"""The longest time that the receiving thread waits for the sending thread, whose partner may have stopped reading."""


class Refused(ExchangeFailed):
    """One side refuses to continue the exchange; it has applied nothing."""

    def __init__(self, refusal: Refusal, reason: str) -> None:
        super().__init__(reason)
        self.refusal = refusal
        self.reason = reason


class Sent(Protocol):
    """The progress of one side's sending."""

    sent_bytes: int

    def give_up(self) -> None:
        """Record that no more will be sent, and end every wait for it."""
        ...


class Leaving(Protocol):
    """The bytes that one side sends."""

    @property
    def gone(self) -> Sent:
        """Its progress."""
        ...

    def pieces(self) -> Iterator[memoryview]:
        """The bytes in order. A piece is valid until the next one is requested."""
        ...

    @property
    def plain(self) -> Flat | None:
        """The float32 values where they lie, shape (values,), if the other side may read them itself; else None."""
        ...

    def note_read(self, read_bytes: int) -> None:
        """Record that the other side has read so many bytes of ``plain``: these may be overwritten."""
        ...


class Arriving(Protocol):
    """The bytes that one side receives. ``came_bytes``: their number so far; ``by``: what carries them, or ""."""

    came_bytes: int
    by: str

    def expect_plain(self) -> None:
        """Take float32 values from now on, whatever the codec: this side has read the other's ``plain`` values."""
        ...

    def would_wait(self, piece: memoryview) -> bool:
        """Whether ``take`` would now have to wait for the own sending."""
        ...

    def take(self, piece: memoryview) -> None:
        """Take the next piece. Raises FramesCorrupt if it cannot be what was announced."""
        ...


class BothWays(Protocol):
    """The two directions of one side of a transfer."""

    @property
    def leaving(self) -> Leaving:
        """What is sent."""
        ...

    @property
    def arriving(self) -> Arriving:
        """What is received."""
        ...


class SentProgress:
    """The number of values of a snapshot that may be overwritten, because they were sent or encoded.

    ``sent_bytes``: the length of the pieces of the payload that were requested so far.
    """

    def __init__(self) -> None:
        self.sent_bytes = 0
        self._values = 0
        self._given_up = False
        self._changed = threading.Condition()

    def note(self, values: int) -> None:
        """Record that the first ``values`` values may be overwritten."""
        with self._changed:
            self._values = values
            self._changed.notify_all()

    def give_up(self) -> None:
        """Record that no more values will be sent, and end every wait with an error."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def has_gone(self, values: int) -> bool:
        """Whether ``wait_for`` would return, or raise, at once."""
        with self._changed:
            return self._values >= values or self._given_up

    def wait_for(self, values: int) -> None:
        """Wait until the first ``values`` values may be overwritten. Raises FramesCorrupt if that does not happen."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._values >= values or self._given_up, PATIENCE_S)
            if not came or self._values < values:
                raise FramesCorrupt(f"only {self._values} of our first {values} values could be sent")


@dataclass(frozen=True, slots=True)
class OutgoingWeights:
    """A snapshot that is being sent: ``mine``, shape (exchanged,), float32.

    ``rounds``: the partner gets ``mine`` rounded to float16, else unchanged. ``payload`` is None if the payload is made
    piece by piece; ``gone`` then counts the values that were sent. ``noise``: ‖Q(own) − own‖² of a payload that is
    made before it is sent.
    """

    mine: Flat
    rounds: bool
    payload: Payload | None
    noise: float = 0.0
    gone: SentProgress = field(default_factory=SentProgress)

    @classmethod
    def of(
        cls, codec: str, mine: Flat, blobs: Sequence[int] = (), rng: np.random.Generator | None = None
    ) -> OutgoingWeights | None:
        """Make ``mine`` ready to be sent; None if it holds NaN or Inf.

        Codecs other than float32 and float16 replace ``mine`` by the values that the partner will decode.
        """
        if not np.isfinite(most := compiled.magnitude(mine)):
            return None
        if codec == "float32" or (codec == "float16" and most <= FLOAT16_MAX):
            return cls(mine, codec == "float16", None)
        payload = codec_named(codec).encode(mine, blobs, rng)
        return cls(mine, False, payload, CODECS[codec].settle(payload, mine))

    def pieces(self) -> Iterator[memoryview]:
        """The payload in order, piece by piece. A piece is valid until the next one is requested."""
        for piece in self._pieces():
            self.gone.sent_bytes += len(piece)
            yield piece

    @property
    def plain(self) -> Flat | None:
        """The snapshot, unless its payload is made already: the partner must then decode what this side has decoded."""
        return self.mine if self.payload is None else None

    def note_read(self, read_bytes: int) -> None:
        """Let the values of the first ``read_bytes`` bytes be overwritten."""
        self.gone.sent_bytes = read_bytes
        self.gone.note(read_bytes // self.mine.itemsize)

    def _pieces(self) -> Iterator[memoryview]:
        if self.payload is not None:
            whole = memoryview(self.payload)
            for start in range(0, len(whole), PIECE_BYTES):
                yield whole[start : start + PIECE_BYTES]
            return
        if not self.rounds:
            for start in range(0, self.mine.size, PIECE_VALUES):
                part = self.mine[start : start + PIECE_VALUES]
                yield part.view(np.uint8).data
                self.gone.note(start + part.size)
            return
        yield memoryview(without_ranges())
        scratch = np.empty(min(PIECE_VALUES, self.mine.size), dtype=np.float16)
        for start in range(0, self.mine.size, PIECE_VALUES):
            part = self.mine[start : start + PIECE_VALUES]
            compiled.narrow(part, scratch[: part.size])
            self.gone.note(start + part.size)
            yield scratch[: part.size].view(np.uint8).data


class IncomingWeights:
    """The partner's snapshot as it is received, and the own half, which overwrites the own snapshot.

    ``came_bytes``: the number of bytes received so far. ``weighs_other``: also compute the length of the partner's
    weights. ``by``: the carrier that a log names; "" for the default one.
    """

    def __init__(self, codec: str, leaving: OutgoingWeights, weighs_other: bool = False) -> None:
        self._codec = CODECS[codec]
        self._weighs_other = weighs_other
        self._leaving = leaving
        self.came_bytes = 0
        self.by = ""
        self._mine = leaving.mine
        self._here = 0
        self._tally = HalfStatsBuilder()
        self._dtype: type[np.float32] | type[np.float16] | None = None
        if codec == "float32":
            self._dtype = np.float32
        self._may_be_plain = codec == "float16"
        self._rounds = leaving.rounds
        self._whole = bytearray()

    def expect_plain(self) -> None:
        """Take float32 values, and halve with the own ones as they are: neither side's were rounded."""
        self._dtype, self._may_be_plain, self._rounds = np.float32, False, False

    def would_wait(self, piece: memoryview) -> bool:
        """Whether ``take`` would wait for the own sender, because the half would overwrite values that are not sent."""
        if self._may_be_plain or self._dtype is None or self._leaving.payload is not None:
            return False
        stop = self._here + len(piece) // np.dtype(self._dtype).itemsize
        return stop <= self._mine.size and not self._leaving.gone.has_gone(stop)

    def take(self, piece: memoryview) -> None:
        """Take the next piece. Raises FramesCorrupt if no codec makes such a payload of that many values."""
        self.came_bytes += len(piece)
        if self._may_be_plain:
            self._may_be_plain = False
            if piece == without_ranges():
                self._dtype = np.float16
                return
        if self._dtype is not None:
            self._halve(piece, self._dtype)
            return
        if len(self._whole) + len(piece) > largest_payload_bytes(self._mine.size):
            raise FramesCorrupt(f"more bytes came than {self._mine.size} values take")
        self._whole += piece

    def _halve(self, piece: memoryview, dtype: type[np.float32] | type[np.float16]) -> None:
        values, rest = divmod(len(piece), np.dtype(dtype).itemsize)
        stop = self._here + values
        if rest or stop > self._mine.size:
            raise FramesCorrupt(
                f"a piece of {len(piece)} bytes after {self._here} of {self._mine.size} values"
            )
        if self._leaving.payload is None:
            self._leaving.gone.wait_for(stop)
        part = self._mine[self._here : stop]
        other: NDArray[Any] = np.frombuffer(piece, dtype)
        self._add(part, other)
        self._here = stop

    def _add(self, mine: Flat, other: NDArray[Any]) -> None:
        """Halve a piece in place, and add its figures."""
        if self._weighs_other:
            self._tally.add_other(compiled.sum_of_squares(other))
        self._tally.add(*compiled.halve(mine, other, mine, self._rounds))

    def half(self) -> HalfStats | Reason:
        """The figures of the half, which is now where the snapshot was; or the reason why it must not be applied.

        Valid after the last piece was sent and received.
        """
        if self._dtype is None:
            other = np.empty_like(self._mine)
            try:
                self._codec.decode(self._whole, other)
            except PayloadBroken as error:
                return Refusal.CORRUPT_FRAME, str(error)
            finally:
                self._whole = bytearray()
            self._tally.add_noise(self._leaving.noise)
            self._add(self._mine, other)
        elif self._here != self._mine.size:
            return Refusal.CORRUPT_FRAME, f"{self._here} of {self._mine.size} values came"
        if not self._tally.is_finite:
            return Refusal.NON_FINITE, "the partner's weights hold NaN or Inf"
        return replace(self._tally.result(), by=self.by)


@dataclass(frozen=True, slots=True)
class Swap:
    """The two directions of one side's swap. The half is in ``leaving.mine`` at its end."""

    leaving: OutgoingWeights
    arriving: IncomingWeights
