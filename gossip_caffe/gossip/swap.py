"""A large model's exchange, piece by piece: the two payloads travel at the same time, and are halved as they come.

What goes out is encoded when its turn comes, what comes in is halved while it is still in the processor's cache, and
the half takes the place of the snapshot, of which that part has left: each side holds one vector, and no payload, as
long as the codec is float32 or float16. The other codecs are encoded before the first byte leaves, and decoded after
the last one came. Runs in the transport's threads.

Whoever receives waits for its own sender where that is behind. This costs nothing, for the swap ends when both are
done, and never locks up: what this side has received its partner has sent, so two that wait for each other would both
be behind the other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip import compiled
from gossip_caffe.gossip.average import Halved, Tally
from gossip_caffe.gossip.codec import (
    CODECS,
    PayloadBroken,
    codec_named,
    largest_payload_bytes,
    without_ranges,
)
from gossip_caffe.gossip.message import FramesCorrupt, Payload, Refusal
from gossip_caffe.gossip.narrow import FLOAT16_MAX
from gossip_caffe.gossip.payload import Reason

Flat = NDArray[np.float32]

PIECE_VALUES = 1 << 17
"""Values that are encoded, sent and halved together: few enough for a core's cache."""
PIECE_BYTES = 4 * PIECE_VALUES
"""No piece is longer."""
PATIENCE_S = 10.0
"""How long a receiver waits for its own sender, which the partner does not let go on."""


class Refused(ExchangeFailed):
    """One side will not go on; nothing was applied by it."""

    def __init__(self, refusal: Refusal, reason: str) -> None:
        super().__init__(reason)
        self.refusal = refusal
        self.reason = reason


class Gone:
    """How many values of a snapshot need not be kept any more, because they were sent or encoded."""

    def __init__(self) -> None:
        self._values = 0
        self._given_up = False
        self._changed = threading.Condition()

    def note(self, values: int) -> None:
        """The first ``values`` have gone."""
        with self._changed:
            self._values = values
            self._changed.notify_all()

    def give_up(self) -> None:
        """No more will go: whoever waits must not."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def wait_for(self, values: int) -> None:
        """Until the first ``values`` have gone. Raises FramesCorrupt when they will not."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._values >= values or self._given_up, PATIENCE_S)
            if not came or self._values < values:
                raise FramesCorrupt(f"only {self._values} of our first {values} values could be sent")


@dataclass(frozen=True, slots=True)
class Leaving:
    """A snapshot on its way out. ``mine`` is what the partner will read of it once it is rounded as ``rounds`` says.

    ``payload`` is None when it is made piece by piece; then ``gone`` says how far.
    """

    mine: Flat
    rounds: bool
    payload: Payload | None
    gone: Gone = field(default_factory=Gone)

    @classmethod
    def of(
        cls, codec: str, mine: Flat, blobs: Sequence[int] = (), rng: np.random.Generator | None = None
    ) -> Leaving | None:
        """Ready to leave; None when it holds NaN or Inf. Other codecs than float32 and float16 change ``mine``."""
        if not np.isfinite(most := compiled.magnitude(mine)):
            return None
        if codec == "float32" or (codec == "float16" and most <= FLOAT16_MAX):
            return cls(mine, codec == "float16", None)
        payload = codec_named(codec).encode(mine, blobs, rng)
        CODECS[codec].decode(payload, mine)
        return cls(mine, False, payload)

    def pieces(self) -> Iterator[memoryview]:
        """The payload, in order; each piece is overwritten once the next one is asked for."""
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


class Arriving:
    """The partner's snapshot on its way in, and the own half, which takes the place of the own snapshot."""

    def __init__(self, codec: str, leaving: Leaving) -> None:
        self._codec = CODECS[codec]
        self._leaving = leaving
        self._mine = leaving.mine
        self._here = 0
        self._tally = Tally()
        self._dtype: type[np.float32] | type[np.float16] | None = None
        if codec == "float32":
            self._dtype = np.float32
        self._may_be_plain = codec == "float16"
        self._whole = bytearray()

    def take(self, piece: memoryview) -> None:
        """The next piece. Raises FramesCorrupt when no codec makes such a payload of so many values."""
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
        theirs: NDArray[Any] = np.frombuffer(piece, dtype)
        self._tally.add(*compiled.halve(part, theirs, part, self._leaving.rounds))
        self._here = stop

    def half(self) -> Halved | Reason:
        """After the last piece went and came: the figures of the half, which is where the snapshot was.

        Or why it must not be applied.
        """
        if self._dtype is None:
            theirs = np.empty_like(self._mine)
            try:
                self._codec.decode(self._whole, theirs)
            except PayloadBroken as error:
                return Refusal.CORRUPT_FRAME, str(error)
            finally:
                self._whole = bytearray()
            self._tally.add(*compiled.halve(self._mine, theirs, self._mine, self._leaving.rounds))
        elif self._here != self._mine.size:
            return Refusal.CORRUPT_FRAME, f"{self._here} of {self._mine.size} values came"
        if not self._tally.is_finite:
            return Refusal.NON_FINITE, "the partner's weights hold NaN or Inf"
        return self._tally.result()


@dataclass(frozen=True, slots=True)
class Swap:
    """What goes out, and where what comes in goes: the half is in ``leaving.mine`` in the end."""

    leaving: Leaving
    arriving: Arriving
