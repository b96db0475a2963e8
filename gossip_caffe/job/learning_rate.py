"""The learning rate at a point of the job, by Caffe's policies, and what many peers multiply it by."""

from __future__ import annotations

import numpy as np

from gossip_caffe.errors import ModelError
from gossip_caffe.job.spec import RateSchedule

POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")

_F = np.float32


def rate(schedule: RateSchedule, iteration: int) -> float:
    """The rate of iteration ``iteration``, in float32 as Caffe's SGDSolver::GetLearningRate computes it.

    Caffe mixes widths: parameters are floats, ``pow`` of a float and an int is done in double, and the result is a
    float again. Raises ModelError for a policy that Caffe does not have.
    """
    base, gamma, power = _F(schedule.base_lr), _F(schedule.gamma), _F(schedule.power)
    match schedule.policy:
        case "fixed":
            return float(base)
        case "step":
            return float(_F(float(base) * float(gamma) ** (iteration // schedule.stepsize)))
        case "multistep":
            steps = sum(1 for value in schedule.stepvalues if iteration >= value)
            return float(_F(float(base) * float(gamma) ** steps))
        case "exp":
            return float(_F(float(base) * float(gamma) ** iteration))
        case "inv":
            # pow(float, float) stays in float
            return float(_F(base * np.power(_F(1) + gamma * _F(iteration), -power, dtype=_F)))
        case "poly":
            left = _F(1.0) - _F(_F(iteration) / _F(schedule.max_iter))
            return float(_F(base * np.power(left, power, dtype=_F)))
        case "sigmoid":
            exponent = float(-gamma) * (float(iteration) - schedule.stepsize)
            return float(_F(float(base) * (1.0 / (1.0 + float(np.exp(exponent))))))
    raise ModelError(
        f"unknown lr_policy {schedule.policy!r}", remedy=f"use one of {', '.join(POLICIES)}"
    )


def factor(scaling: str, living: int) -> float:
    """What ``living`` peers multiply the schedule's rate by: 1, √n or n for "none", "sqrt", "linear"."""
    peers = max(1, living)
    return {"none": 1.0, "sqrt": float(np.sqrt(peers)), "linear": float(peers)}[scaling]


def warmup_factor(progress: float, warmup: float) -> float:
    """How far the warm-up is, 0 to 1, at a share ``progress`` of the budget; it lasts a share ``warmup`` of it."""
    if warmup <= 0:
        return 1.0
    return min(1.0, max(0.0, progress / warmup))
