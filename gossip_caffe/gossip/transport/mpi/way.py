"""The seam between one swap of weights and the way that its weights go to the other rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from gossip_caffe.gossip.transport.mpi.communicator import Bytes, Request


class Route(NamedTuple):
    """The partner's rank, the tags of the messages to it and from it, and the ticket of the exchange."""

    partner: int
    to_partner: int
    from_partner: int
    ticket: bytes


class Slot:
    """The buffers of a head and of data, and the messages that use them."""

    def __init__(self, head_bytes: int, data_bytes: int = 0) -> None:
        self.head: Bytes = np.empty(head_bytes, dtype=np.uint8)
        self.data: Bytes = np.empty(data_bytes, dtype=np.uint8)
        self.requests: tuple[Request, ...] = ()

    @property
    def is_free(self) -> bool:
        """Whether no message uses the buffers. Raises MpiFailed."""
        return all(request.is_done() for request in self.requests)


class Way(Protocol):
    """The way of the weights of one swap, both ways at once. One thread at a time calls its methods.

    ``open`` and ``move`` raise ExchangeFailed when the swap cannot go on.
    """

    @property
    def sending(self) -> list[Slot]:
        """The slots of messages that were sent."""
        ...

    @property
    def receiving(self) -> list[Slot]:
        """The slots of messages that are still awaited."""
        ...

    @property
    def all_sent(self) -> bool:
        """Whether the partner may have all weights of this side."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether both directions are done."""
        ...

    @property
    def instead(self) -> Callable[[], Way] | None:
        """Makes the way that takes the place of this one, if this one does not serve for the swap."""
        ...

    def open(self) -> None:
        """Open the receipts, before the first ``move``."""
        ...

    def move(self) -> bool:
        """Send and take at most one piece each; never waits. Returns whether anything moved."""
        ...

    def let_go(self) -> None:
        """Tell the partner that it must not use this side's memory any more: the swap is over."""
        ...
