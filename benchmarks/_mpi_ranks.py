"""MPI in a process of a benchmark: the ranks of a launch, and calls of MPI by the one thread that may make them."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from gossip_caffe.gossip.transport.mpi.mpi4py_communicator import Mpi4pyCommunicator, connect
from gossip_caffe.gossip.transport.mpi.mpi_thread import MpiThread
from gossip_caffe.gossip.transport.mpi.ranks import MpiRanks, in_loop
from gossip_caffe.system.launch import Launch

T = TypeVar("T")


class InThread:
    """A function that the thread of MPI calls, in the place of a swap."""

    def __init__(self, do: Callable[[], Any], done: Callable[[], None]) -> None:
        self.is_over = False
        self.result: Any = None
        self._do = do
        self._done = done

    def begin(self) -> None: ...

    def step(self) -> bool:
        self.result = self._do()
        self.is_over = True
        self._done()
        return True

    def fail(self, error: Exception) -> None:
        self.is_over = True

    def abandoned(self) -> list[Any]:
        return []


async def begin(launch: Launch, apart: bool) -> tuple[MpiThread, MpiRanks]:
    """Begin MPI. ``apart``: weights go by messages, as between machines, although the ranks are on one."""
    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    thread = MpiThread(lambda: connect(launch), lambda: in_loop(loop, begun))
    thread.start()
    await begun.wait()
    if (communicator := thread.communicator) is None:
        raise SystemExit(str(thread.error))
    if apart:
        cast(Mpi4pyCommunicator, communicator).nearby = {}
    ranks = MpiRanks(sys.exit, random.Random())
    ranks.use(thread, communicator)
    return thread, ranks


async def in_thread(thread: MpiThread, do: Callable[[], T]) -> T:
    """The result of a function that calls MPI."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    work = InThread(do, lambda: in_loop(loop, done))
    thread.begin(cast(Any, work))
    await done.wait()
    return cast(T, work.result)


def mpirun_of(named: str) -> str:
    """Open MPI's mpirun: the named one, that beside this Python, or the one on $PATH; "" if there is none."""
    beside = Path(sys.executable).with_name("mpirun")
    return named or (str(beside) if beside.exists() else shutil.which("mpirun") or "")
