"""The use of MPI by one peer process: whether it is wanted and possible, its beginning, and its end."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial

from gossip_caffe.errors import EnvironmentProblem, NotInstalled, UsageError
from gossip_caffe.gossip.transport.mpi import mpi4py_communicator
from gossip_caffe.gossip.transport.mpi.communicator import Communicator
from gossip_caffe.gossip.transport.mpi.mpi4py_communicator import INSTALL, MPI4PY
from gossip_caffe.gossip.transport.mpi.mpi_thread import MpiThread
from gossip_caffe.gossip.transport.mpi.ranks import MpiRanks, NoRanks, Ranks, in_loop
from gossip_caffe.observe.log.events import Event, EventLog
from gossip_caffe.system.launch import Launch, launch_in

BEGIN_S = 30.0
"""The time for which the other ranks of a launch are awaited: MPI begins only when all of them have started."""
LAST_S, EARLY_S = 30.0, 2.0
"""The time that MPI gets for its end, where all ranks end together, and where only this one does."""
ONLY_GRPC = "weights go over gRPC"

Say = Callable[[str], None]
Connect = Callable[[Launch], Communicator]


class Way(StrEnum):
    """The values of ``--transport``."""

    AUTO = "auto"  # by MPI where a launcher of MPI has started this peer and mpi4py is installed
    MPI = "mpi"
    GRPC = "grpc"


def wanted_launch(way: str, environment: Mapping[str, str], say: Say) -> Launch | None:
    """The launch whose ranks are to send each other weights by MPI; None if they go over gRPC.

    Raises UsageError or NotInstalled if the user has asked for MPI, and it cannot be used.
    """
    launch = launch_in(environment) if way != Way.GRPC else None
    if launch is None:
        if way == Way.MPI:
            raise UsageError(
                "--transport mpi: no launcher of MPI has started this peer",
                remedy="start it by mpirun or mpiexec, or leave the option out",
            )
        return None
    if importlib.util.find_spec(MPI4PY) is None:
        if way == Way.MPI:
            raise NotInstalled("--transport mpi: mpi4py is not installed", name=MPI4PY, remedy=INSTALL)
        say(f"a launcher of MPI has started this peer, but mpi4py is not installed: {ONLY_GRPC} ({INSTALL})")
        return None
    return launch if launch.size != 1 else None


def _named(peer: str, say: Say, line: str) -> None:
    say(f"{peer}: {line}")


class MpiOfPeer:
    """MPI in one peer process. ``ranks`` is what its transport uses, from the beginning on.

    ``say`` prints a line for people, ``warn`` one that they should see; each line begins with ``peer``.
    ``ends_with_job``: the peer ends because the job is finished, so the other ranks end now, too.
    """

    def __init__(
        self,
        peer: str,
        way: str,
        say: Say,
        warn: Say,
        rng: random.Random,
        environment: Mapping[str, str] | None = None,
        connect: Connect = mpi4py_communicator.connect,
    ) -> None:
        self.ends_with_job = False
        self.ranks: Ranks = NoRanks()
        self._way = way
        self._say = say = partial(_named, peer, say)
        self._warn = partial(_named, peer, warn)
        self._log: EventLog | None = None
        self._thread: MpiThread | None = None
        self._connected = asyncio.Event()
        launch = wanted_launch(way, os.environ if environment is None else environment, say)
        if launch is not None:
            self.ranks = self._own = MpiRanks(self._given_up, rng, carries_rounds=way == Way.MPI)
            told = partial(in_loop, asyncio.get_running_loop(), self._connected)
            self._thread = MpiThread(partial(connect, launch), told)
            self._thread.start()

    async def begin(self, log: EventLog) -> str:
        """Send weights by MPI from now on, if MPI begins in time; returns this peer's rank as its record has it, or "".

        Raises EnvironmentProblem if the user has asked for MPI, and it does not begin.
        """
        self._log = log
        if self._thread is None:
            return ""
        try:
            async with asyncio.timeout(BEGIN_S):
                await self._connected.wait()
        except TimeoutError:
            return self._without(f"not all ranks of the launch have begun MPI within {BEGIN_S:g} s")
        if (communicator := self._thread.communicator) is None:
            return self._without(f"MPI does not begin: {self._thread.error}")
        self._own.use(self._thread, communicator)
        rank, size, library = communicator.own.number, communicator.size, communicator.library
        self._say(f"weights go to the other ranks by MPI ({library}, rank {rank} of {size})")
        if (cores := len(os.sched_getaffinity(0))) < (here := os.cpu_count() or 1):
            self._say(
                f"the launcher lets this rank use {cores} of {here} cores; --bind-to none lets it use all"
            )
        log.emit(Event.MPI, used=True, rank=rank, size=size, library=library)
        return str(communicator.own)

    def _without(self, why: str) -> str:
        if self._way == Way.MPI:
            raise EnvironmentProblem(why, remedy="see docs/mpi.md, or leave --transport mpi out")
        self._warn(f"{why}; {ONLY_GRPC}")
        return ""

    def _given_up(self, why: str) -> None:
        self._warn(f"{why}: from now on {ONLY_GRPC}")
        if self._log is not None:
            self._log.emit(Event.MPI, used=False, reason=why)

    async def end(self) -> None:
        """End MPI as far as the other ranks let it end in time."""
        if self._thread is None or self._thread.communicator is None or self._own.end:
            return
        patience_s = LAST_S if self.ends_with_job and not self._own.some_left else EARLY_S
        await asyncio.to_thread(self._thread.close, patience_s)
