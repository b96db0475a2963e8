"""The Protocols of a communicator of MPI, as an exchange needs it. The real one is ``mpi4py_communicator``.

All methods are called by one thread, and return at once, except ``close``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import ExchangeFailed

Bytes = NDArray[np.uint8]
_RANK = re.compile(r"([0-9a-f]{16})/([0-9]{1,9})", re.ASCII)


class MpiFailed(ExchangeFailed):
    """MPI reports an error. No further call of this communicator can be relied on."""


@dataclass(frozen=True, slots=True)
class Rank:
    """A process of one launch. ``communicator``: 16 hexadecimal digits that all processes of the launch share."""

    communicator: str
    number: int

    def __str__(self) -> str:
        """The rank as a peer's record has it."""
        return f"{self.communicator}/{self.number}"

    @classmethod
    def parse(cls, text: str) -> Rank | None:
        """The rank of a peer's record; None if the text names none."""
        found = _RANK.fullmatch(text)
        return cls(found[1], int(found[2])) if found is not None else None


class Request(Protocol):
    """A message that is being sent or received. Its buffer must stay until it is done."""

    def is_done(self) -> bool:
        """Whether the message was sent or received, or was cancelled. Raises MpiFailed."""
        ...

    def cancel(self) -> None:
        """Give a receipt up, unless its message is being received already. Raises MpiFailed."""
        ...


class Communicator(Protocol):
    """The processes of one launch. Messages of one sender with one tag are received in the order of their sending."""

    @property
    def own(self) -> Rank:
        """The rank of this process."""
        ...

    @property
    def size(self) -> int:
        """The number of processes."""
        ...

    @property
    def nearby(self) -> Mapping[int, int]:
        """The ranks of this machine whose memory this process can read, and which can read this one's: → process id."""
        ...

    @property
    def most_tag(self) -> int:
        """The largest tag."""
        ...

    @property
    def library(self) -> str:
        """The name and version of the library, for people."""
        ...

    def send(self, data: Bytes, to: int, tag: int, *, until_met: bool = False) -> Request:
        """Begin to send a message to a rank. Raises MpiFailed.

        ``until_met``: the request is not done before the rank receives the message.
        """
        ...

    def receive(self, into: Bytes, source: int, tag: int) -> Request:
        """Begin to receive a rank's next message with this tag; it may be shorter than ``into``. Raises MpiFailed."""
        ...

    def progress(self) -> None:
        """Let MPI send what it holds back: the last words of messages that are done on this side. Raises MpiFailed."""
        ...

    def close(self) -> None:
        """End MPI in this process. Waits for the other ranks, possibly for ever. Raises MpiFailed."""
        ...
