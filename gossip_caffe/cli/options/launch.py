"""``train`` as one of several ranks of MPI: rank 0 trains as always, and each other rank becomes a peer of its job."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from gossip_caffe.background import thread
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.system.launch import Launch, launch_in, launcher, step_in
from gossip_caffe.system.signals import left_on_signals

if TYPE_CHECKING:
    from gossip_caffe.cluster.meeting import Meeting

LOOK_EVERY_S = 1.0
LEAVES = "this rank leaves; the newest checkpoint is kept for a week, see docs/mpi.md"

Started = Callable[[tuple[str, ...]], None]


def launch_of_several() -> Launch | None:
    """The launch of MPI, or the step of Slurm, that has started this process, if it has other ranks."""
    launch = launch_in(os.environ) or step_in(os.environ)
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
    launch: Launch,
    gpus: str,
    engine: str,
    etcd: str,
    known: Sequence[str],
    start: Callable[[list[str]], object],
) -> NoReturn:
    """Run ``peer start`` as this rank, and end after rank 0: launchers may end all ranks when one has ended.

    ``etcd``: as the user has named it; "": that of rank 0, after whose death this peer leaves, too. ``known``: the
    arguments, if the user has also named the job; else rank 0 tells them. ``start``: runs it.
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
    if not etcd:
        thread(partial(_leave_after, meeting), "rank 0")
    code: object = ExitCode.OK
    try:
        start(arguments)
    except SystemExit as end:
        code = end.code
    meeting.ends()
    # MPICH kills the other ranks when one ends with another code than 0; the code of rank 0 tells how the job stands.
    sys.exit(ExitCode.OK if code == ExitCode.LEFT else code)  # type: ignore[arg-type]


def _leave_after(meeting: Meeting) -> None:
    """Let this peer leave when the process of rank 0 was killed, and with it the etcd that this peer needs."""
    while not meeting.was_killed:
        time.sleep(LOOK_EVERY_S)
    say(f"rank 0 was killed, and its etcd with it: {LEAVES}")
    os.kill(os.getpid(), signal.SIGTERM)
