"""``train`` as one of several ranks of MPI: rank 0 trains as always, and each other rank becomes a peer of its job."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from gossip_caffe.system.launch import Launch, launch_in, launcher
from gossip_caffe.system.signals import left_on_signals

Started = Callable[[tuple[str, ...]], None]


def launch_of_several() -> Launch | None:
    """The launch that has started this process, if it has other ranks."""
    launch = launch_in(os.environ)
    return launch if launch is not None and launch.size != 1 else None


@contextmanager
def as_rank_0(launch: Launch | None) -> Iterator[Started | None]:
    """Yield the function by which the other ranks become peers; None if there are none. An error is told to them."""
    if launch is None:
        yield None
        return
    from gossip_caffe.cluster.meeting import Meeting

    meeting = Meeting(launcher())
    with meeting.held():
        yield meeting.tell


def become_peer(
    launch: Launch, gpus: str, engine: str, known: Sequence[str], start: Callable[[list[str]], object]
) -> NoReturn:
    """Run ``peer start`` as this rank, and end after rank 0: launchers may end all ranks when one has ended.

    ``known``: its arguments, if the user has named etcd and the job; else rank 0 tells them. ``start``: runs it.
    """
    from gossip_caffe.api.starting.gpus import gpu_of_rank
    from gossip_caffe.cluster.meeting import WAIT_S, Meeting
    from gossip_caffe.errors import ExitCode

    meeting = Meeting(launcher())
    with left_on_signals():
        gpu = gpu_of_rank(gpus, launch.local, engine)
        if known:
            arguments = [*known, "--engine", engine, "--wait-for-job", f"{WAIT_S:g}"]
        else:
            arguments = [*meeting.heard(), "--name", f"r{launch.rank}"]
    if gpu is not None:
        arguments += ["--gpu", str(gpu)]
    # Ranks share a machine's cores: each has one BLAS thread, unless the user has set the number.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code: object = ExitCode.OK
    try:
        start(arguments)
    except SystemExit as end:
        code = end.code
    meeting.ends()
    # MPICH kills the other ranks when one ends with another code than 0; the code of rank 0 tells how the job stands.
    sys.exit(ExitCode.OK if code == ExitCode.LEFT else code)  # type: ignore[arg-type]
