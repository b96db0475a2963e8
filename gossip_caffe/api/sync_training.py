"""The training of ``import gossip_caffe``: each function waits for its twin in ``gossip_caffe.aio``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Unpack

from gossip_caffe.api import running
from gossip_caffe.api.own_loop import LOOP
from gossip_caffe.api.sync import Connection
from gossip_caffe.api.train_options import TrainOptions
from gossip_caffe.api.values.result import Result
from gossip_caffe.api.values.views import Status


class Run:
    """A training in a cluster of this machine, which runs beside its caller. Made by ``start``."""

    def __init__(self, twin: running.Run) -> None:
        self._twin = twin

    @property
    def job(self) -> str:
        """The name of its job."""
        return self._twin.job

    @property
    def status(self) -> Status | None:
        """The newest status; None before the first."""
        return self._twin.status

    @property
    def done(self) -> bool:
        """True once all of its processes have ended."""
        return self._twin.done

    def wait(self, on_status: Callable[[Status], None] | None = None) -> Result:
        """Wait for the end. Returns the result, or raises the error for which it ended.

        ``on_status`` is called with each new status, in the caller's thread; an error of it takes everything down. An
        interrupt (Ctrl-C, a notebook's stop button) also takes everything down in good order: the newest weights are
        written, and the result says that the training is not finished. A second one kills the peers.
        """
        while True:
            try:
                for status in self.watch():
                    if on_status is not None:
                        on_status(status)
                return LOOP.call(self._twin.wait())
            except KeyboardInterrupt:
                if self.done:
                    raise
                self._down("SIGINT")
                on_status = None
            except BaseException:
                if not self.done:
                    self.down()
                    self._ended()
                raise

    def _ended(self) -> None:
        for _ in self.watch():
            pass

    def watch(self) -> Iterator[Status]:
        """Yield each new status until the end."""
        return LOOP.iterate(self._twin.watch())

    def connect(self) -> Connection:
        """Return a view of its job in etcd, once the job is there. Raises Conflict when the training has ended."""
        return Connection(LOOP.call(self._twin.connect()))

    def scale(self, peers: int) -> None:
        """Start or stop peers until ``peers`` of them run. A peer that is stopped first shares its weights."""
        LOOP.call(self._twin.scale(peers))

    def kill(self, peer: str, what: str = "all", signal: str = "KILL") -> list[int]:
        """Send a signal to a peer's "agent", "solver" or "loader", or to "all". Returns the process ids.

        Training survives it. ``signal``: "KILL", "TERM", "STOP" or "CONT". Raises UsageError, NotFound or Conflict.
        """
        return LOOP.call(self._twin.kill(peer, what, signal))

    def stop_peer(self, peer: str) -> None:
        """Let one peer leave in good order. Raises NotFound when it does not run."""
        LOOP.call(self._twin.stop_peer(peer))

    def down(self) -> None:
        """Take everything down: the peers share their weights, and the newest are written. A second call kills them."""
        self._down("asked from Python")

    def _down(self, reason: str) -> None:
        async def down() -> None:
            self._twin.down(reason)

        LOOP.call(down())

    def _repr_html_(self) -> str:
        return self._twin._repr_html_()


def start(solver: str | Path, peers: int | None = None, **options: Unpack[TrainOptions]) -> Run:
    """Start the training of a solver file, and return while it runs. The parameters are those of ``train``."""
    return Run(LOOP.call(running.start(solver, peers, **options)))


def train(
    solver: str | Path,
    peers: int | None = None,
    *,
    on_status: Callable[[Status], None] | None = None,
    **options: Unpack[TrainOptions],
) -> Result:
    """Train the net of a solver file with peers on this machine, as ``gossip-caffe train`` does.

    - ``solver``: the solver.prototxt. The .caffemodel is written where Caffe would write it.
    - ``peers``: the number of peers; None: one, or one for each of ``gpus``.
    - ``on_status``: is called with each new ``Status``, twice a second, in the caller's thread.
    - ``options``: see ``TrainOptions``.

    Returns the result. Raises GossipCaffeError with one line that says what to do: UsageError, ModelError or DataError
    for a wrong file, before anything is started. ``Run.wait`` says what an interrupt does.
    """
    return start(solver, peers, **options).wait(on_status)
