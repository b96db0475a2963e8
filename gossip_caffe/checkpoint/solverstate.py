"""The .solverstate format: a binary SolverState, which ``solver.restore`` loads."""

from __future__ import annotations

import bisect
import shutil
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.checkpoint.formats.blobs import blob_ends, float_bytes
from gossip_caffe.checkpoint.manifest import MODEL
from gossip_caffe.job.spec.spec import JobSpec, RateSchedule
from gossip_caffe.protofields import fields, head, number_field, text_field
from gossip_caffe.solver.history import SolverHistory

# Field numbers of caffe.proto.
_ITER, _LEARNED_NET, _HISTORY, _CURRENT_STEP = 1, 2, 3, 4
_HEAD_BYTES = 4096
"""Far more bytes than the fields before the history take; ``learned_net`` is a short name there."""

History = Sequence[NDArray[np.float32]]


def current_step(schedule: RateSchedule, iteration: int) -> int:
    """The steps of the learning rate that a solver has counted after ``iteration`` iterations.

    It follows SGDSolver::GetLearningRate in sgd_solver.cpp, which counts a step before each iteration.
    """
    if not iteration:
        return 0
    if schedule.policy == "step" and schedule.stepsize:
        return (iteration - 1) // schedule.stepsize
    if schedule.policy == "multistep":
        return bisect.bisect_right(schedule.stepvalues, iteration - 1)
    return 0


def state_writer(
    spec: JobSpec, history: SolverHistory | None, samples: int
) -> Callable[[BinaryIO], None] | None:
    """A function that writes the .solverstate of the job after so many samples; None without momentum."""
    if history is None or not history.blobs:
        return None
    blobs, iteration = tuple(history.blobs), spec.iteration_at(samples)
    step = current_step(spec.schedule, iteration)
    return lambda file: write_solverstate(
        file, iteration=iteration, learned_net=MODEL, history=blobs, step=step
    )


def write_solverstate(
    file: BinaryIO, *, iteration: int, learned_net: str, history: History, step: int
) -> None:
    """Write a .solverstate. ``history``: in the solver's order; ``learned_net``: the path of the weights."""
    file.write(number_field(_ITER, iteration))
    file.write(text_field(_LEARNED_NET, learned_net))
    for values in history:
        lead, tail = blob_ends(_HISTORY, values.shape, values.size)
        file.write(lead)
        file.write(float_bytes(values))
        file.write(tail)
    file.write(number_field(_CURRENT_STEP, step))


def copy_state(source: Path, target: Path, learned_net: str) -> None:
    """Copy a .solverstate that ``write_solverstate`` wrote, with another path of its weights. Raises OSError."""
    with source.open("rb") as read, target.open("wb") as write:
        start = read.read(_HEAD_BYTES)
        at = 0
        for field, kind, value in islice(
            fields(memoryview(start)), 2
        ):  # the iteration and the path of the weights come first
            if isinstance(value, int):
                write.write(number_field(field, value))
                at += len(number_field(field, value))
            else:
                write.write(text_field(_LEARNED_NET, learned_net))
                at += len(head(field, len(value))) + len(value)
            del kind
        read.seek(at)
        shutil.copyfileobj(read, write, 1 << 20)


def learned_net_field(path: str) -> bytes:
    """The bytes that replace the path of the weights when appended to a .solverstate: the last such field counts."""
    return text_field(_LEARNED_NET, path)
