"""The real communicator: mpi4py over whichever MPI library the launcher belongs to."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from gossip_caffe.errors import EnvironmentProblem, NotInstalled
from gossip_caffe.gossip.transport.mpi.communicator import Bytes, MpiFailed, Rank, Request
from gossip_caffe.system import process_memory
from gossip_caffe.system.launch import Launch

MPI4PY = "mpi4py"
MEETING_LOOK_S = 1e-3
INSTALL = "pip install 'gossip-caffe[mpi]'"


def connect(launch: Launch) -> Mpi4pyCommunicator:
    """Begin MPI, with all other ranks of the launch: this waits until each of them has done so.

    Raises NotInstalled, and EnvironmentProblem where the library is not the launcher's.
    """
    try:
        import mpi4py  # noqa: PLC0415 - optional
    except ImportError:
        raise NotInstalled("mpi4py is not installed", name=MPI4PY, remedy=INSTALL) from None
    # The end of MPI waits for the other ranks, and a leaving peer must not; ``close`` ends it with a limit.
    mpi4py.rc.initialize = mpi4py.rc.finalize = False
    try:
        from mpi4py import MPI  # noqa: PLC0415 - see above; it opens the library
    except (ImportError, RuntimeError) as error:
        cause = str(error).splitlines()[0]
        raise EnvironmentProblem(
            f"mpi4py finds no MPI library ({cause})", remedy="name it in $MPI4PY_LIBMPI"
        ) from None
    MPI.Init_thread(MPI.THREAD_FUNNELED)
    world = MPI.COMM_WORLD
    if launch.size and world.Get_size() != launch.size:
        library = _short(MPI.Get_library_version())
        raise EnvironmentProblem(
            f"the launcher has started {launch.size} ranks, and {library} knows of {world.Get_size()}",
            remedy="use that library's mpirun, or name the launcher's library in $MPI4PY_LIBMPI",
        )
    identity = world.bcast(secrets.token_hex(8) if world.Get_rank() == 0 else None)
    own = world.Dup()
    own.Set_errhandler(MPI.ERRORS_RETURN)
    return Mpi4pyCommunicator(MPI, own, str(identity), _nearby(own))


def _nearby(communicator: Any) -> dict[int, int]:
    """The ranks that this process can read the memory of, and that can read its: → process id. All ranks call this."""
    secret = np.frombuffer(secrets.token_bytes(16), np.uint8).copy()
    here = process_memory.kernel()
    told = communicator.allgather((here, os.getpid(), process_memory.address_of(secret), secret.tobytes()))
    own, readable, came = communicator.Get_rank(), set(), np.empty_like(secret)
    for rank, (kernel, pid, address, expected) in enumerate(told):
        if rank == own or not here or kernel != here:
            continue
        try:
            process_memory.read(pid, address, came)
        except OSError:
            continue  # a container, or a rule of the system, forbids it
        if came.tobytes() == expected:
            readable.add(rank)
    readers = communicator.allgather(readable)  # after this, all have read: the secret may go
    return {rank: told[rank][1] for rank in readable if own in readers[rank]}


def _short(version: str) -> str:
    """The name and version in the first line of what a library says of itself: "Open MPI v5.0.11", "MPICH 5.0.2"."""
    first = version.splitlines()[0].partition(",")[0]
    return " ".join(word for word in first.split() if word != "Version:")


class _Request:
    def __init__(self, failure: type[Exception], request: Any) -> None:
        self._failure = failure
        self._request = request
        self._is_done = False

    def is_done(self) -> bool:
        """Whether the message was sent, received or cancelled."""
        if not self._is_done:
            try:
                self._is_done = bool(self._request.Test())
            except self._failure as error:
                raise _failed(error) from error
        return self._is_done

    def cancel(self) -> None:
        """Give a receipt up."""
        try:
            self._request.Cancel()
        except self._failure as error:
            raise _failed(error) from error


class Mpi4pyCommunicator:
    """A ``Communicator`` of ``mpi`` (the module mpi4py.MPI)."""

    def __init__(self, mpi: Any, communicator: Any, identity: str, nearby: Mapping[int, int]) -> None:
        self.own = Rank(identity, communicator.Get_rank())
        self.size = int(communicator.Get_size())
        self.nearby = nearby
        self.most_tag = int(communicator.Get_attr(mpi.TAG_UB))
        self.library = _short(mpi.Get_library_version())
        self._mpi = mpi
        self._communicator = communicator

    def send(self, data: Bytes, to: int, tag: int, *, until_met: bool = False) -> Request:
        """Begin to send a message."""
        begin = self._communicator.Issend if until_met else self._communicator.Isend
        try:
            return _Request(self._mpi.Exception, begin((data, self._mpi.BYTE), to, tag))
        except self._mpi.Exception as error:
            raise _failed(error) from error

    def receive(self, into: Bytes, source: int, tag: int) -> Request:
        """Begin to receive a message."""
        try:
            request = self._communicator.Irecv((into, self._mpi.BYTE), source, tag)
        except self._mpi.Exception as error:
            raise _failed(error) from error
        return _Request(self._mpi.Exception, request)

    def progress(self) -> None:
        """Let MPI work."""
        try:
            self._communicator.Iprobe(self._mpi.ANY_SOURCE, self._mpi.ANY_TAG)
        except self._mpi.Exception as error:
            raise _failed(error) from error

    def close(self) -> None:
        """End MPI in this process, together with the other ranks.

        mpi4py holds Python's lock during ``Finalize``, which waits for the other ranks: this process would stand still.
        So all of them meet before it, by a barrier that does not wait.
        """
        try:
            met = self._communicator.Ibarrier()
            while not met.Test():
                time.sleep(MEETING_LOOK_S)
        except self._mpi.Exception as error:
            raise _failed(error) from error
        self._mpi.Finalize()


def _failed(error: Exception) -> MpiFailed:
    return MpiFailed(f"MPI reports: {' '.join(str(error).split())}")
