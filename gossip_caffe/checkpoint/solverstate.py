"""A solver's state as Caffe stores it: a binary SolverState, which ``solver.restore`` loads."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.checkpoint.blobs import blob_head, float_bytes
from gossip_caffe.job.spec import RateSchedule
from gossip_caffe.protofields import number_field, text_field

# Field numbers of caffe.proto.
_ITER, _LEARNED_NET, _HISTORY, _CURRENT_STEP = 1, 2, 3, 4

History = Sequence[NDArray[np.float32]]


def current_step(schedule: RateSchedule, iteration: int) -> int:
    """Steps of the learning rate that a solver has counted which has made ``iteration`` iterations.

    As SGDSolver::GetLearningRate in sgd_solver.cpp, which counts them before each iteration.
    """
    if not iteration:
        return 0
    if schedule.policy == "step" and schedule.stepsize:
        return (iteration - 1) // schedule.stepsize
    if schedule.policy == "multistep":
        return bisect.bisect_right(schedule.stepvalues, iteration - 1)
    return 0


def write_solverstate(
    file: BinaryIO, *, iteration: int, learned_net: str, history: History, step: int
) -> None:
    """Write a .solverstate; ``history`` is in the solver's order, ``learned_net`` the path of the weights."""
    file.write(number_field(_ITER, iteration))
    file.write(text_field(_LEARNED_NET, learned_net))
    for values in history:
        file.write(blob_head(_HISTORY, values.shape, values.size))
        file.write(float_bytes(values))
    file.write(number_field(_CURRENT_STEP, step))


def learned_net_field(path: str) -> bytes:
    """What makes a .solverstate name other weights when put at its end: of two such fields the last counts."""
    return text_field(_LEARNED_NET, path)
