"""A launch of MPI within one process: messages are matched as MPI matches them, and every fault can be ordered.

Messages of one sender with one tag are received in their order. A short message is done when it is sent, as MPI's eager
ones are; a long one, or one that is to be met, when it is received.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable

from gossip_caffe.gossip.transport.mpi.communicator import Bytes, MpiFailed, Rank

COMMUNICATOR = "0123456789abcdef"
EAGER_BYTES = 64

OnTheWay = Callable[["Message"], list[bytes]]
"""Returns what becomes of a message: its data, altered or not, none, or several times."""


class Message:
    """A message on its way. ``number`` counts the messages of this sender."""

    def __init__(self, source: int, to: int, tag: int, number: int, data: Bytes) -> None:
        self.source, self.to, self.tag, self.number = source, to, tag, number
        self.buffer = data
        self.is_done = False
        self.is_met = False

    @property
    def data(self) -> bytes:
        return self.buffer.tobytes()


class Launch:
    """The ranks of a launch. ``dead`` ranks take part no more; ``broken`` is what every call reports.

    ``one_machine``: the ranks read each other's memory, which is that of this process.
    """

    def __init__(self, size: int = 2, *, one_machine: bool = False) -> None:
        self.size = size
        self.one_machine = one_machine
        self.dead: set[int] = set()
        self.broken = ""
        self.on_the_way: OnTheWay = lambda message: [message.data]
        self.lock = threading.RLock()
        self.sent: dict[tuple[int, int, int], deque[tuple[bytes | None, Message]]] = defaultdict(deque)
        self.open: dict[tuple[int, int, int], deque[Receipt]] = defaultdict(deque)
        self.count: dict[int, int] = defaultdict(int)
        self.ranks = [FakeCommunicator(self, number) for number in range(size)]

    def check(self) -> None:
        if self.broken:
            raise MpiFailed(f"MPI reports: {self.broken}")

    def match(self, key: tuple[int, int, int]) -> None:
        """Give the receipts that are open what was sent to them."""
        if self.dead & set(key[:2]):
            return
        while self.sent[key] and self.open[key]:
            data, message = self.sent[key].popleft()
            receipt = self.open[key].popleft()
            came = message.data if data is None else data
            if len(came) > receipt.into.size:
                self.broken = "message truncated"
                return
            receipt.into[: len(came)] = memoryview(came)
            receipt.done = message.is_met = True


class Sending:
    def __init__(self, launch: Launch, message: Message, eager: bool) -> None:
        self._launch, self._message, self._eager = launch, message, eager

    def is_done(self) -> bool:
        with self._launch.lock:
            self._launch.check()
            return self._eager or self._message.is_met

    def cancel(self) -> None: ...


class Receipt:
    def __init__(self, launch: Launch, key: tuple[int, int, int], into: Bytes) -> None:
        self._launch, self._key = launch, key
        self.into = into
        self.done = False

    def is_done(self) -> bool:
        with self._launch.lock:
            self._launch.check()
            return self.done

    def cancel(self) -> None:
        with self._launch.lock:
            if not self.done:
                self._launch.open[self._key].remove(self)
                self.done = True


class FakeCommunicator:
    """A ``Communicator``: one rank of a ``Launch``."""

    library = "Fake MPI 1.0"
    most_tag = 32767

    def __init__(self, launch: Launch, number: int) -> None:
        self.own = Rank(COMMUNICATOR, number)
        self.size = launch.size
        others = set(range(launch.size)) - {number} if launch.one_machine else set()
        self.nearby = dict.fromkeys(others, os.getpid())
        self.is_closed = False
        self._launch = launch

    def send(self, data: Bytes, to: int, tag: int, *, until_met: bool = False) -> Sending:
        launch, source = self._launch, self.own.number
        with launch.lock:
            launch.check()
            message = Message(source, to, tag, launch.count[source], data)
            launch.count[source] += 1
            eager = data.size <= EAGER_BYTES and not until_met
            key = (source, to, tag)
            if source not in launch.dead:
                copies = launch.on_the_way(message)
                altered = eager or copies != [message.data]
                launch.sent[key] += [(copy if altered else None, message) for copy in copies]
                launch.match(key)
            return Sending(launch, message, eager)

    def receive(self, into: Bytes, source: int, tag: int) -> Receipt:
        launch, key = self._launch, (source, self.own.number, tag)
        with launch.lock:
            launch.check()
            receipt = Receipt(launch, key, into)
            launch.open[key].append(receipt)
            launch.match(key)
            return receipt

    def progress(self) -> None:
        self._launch.check()

    def close(self) -> None:
        self.is_closed = True
