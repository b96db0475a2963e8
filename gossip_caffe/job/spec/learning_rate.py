"""The learning rate at a point of the job, by Caffe's policies, and its factor for several peers."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import numpy as np

from gossip_caffe.errors import ModelError
from gossip_caffe.job.spec.spec import RateSchedule

POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")

_F = np.float32


def _libm() -> ctypes.CDLL:
    """The C library's math functions, which Caffe calls. Unlike Python's they compute with float and never raise."""
    library = ctypes.CDLL("libm.so.6")
    for name, kind, arguments in (
        ("pow", ctypes.c_double, 2),
        ("powf", ctypes.c_float, 2),
        ("expf", ctypes.c_float, 1),
    ):
        function = library[name]
        function.restype, function.argtypes = kind, [kind] * arguments
        setattr(library, name, function)
    return library


_LIBM = _libm()


def rate(schedule: RateSchedule, iteration: int) -> float:
    """The learning rate of iteration ``iteration``, as Caffe's SGDSolver<float>::GetLearningRate computes it.

    The precision follows C++: ``pow`` of a float and an int is computed in double and rounded at the end; ``pow`` of
    two floats is the C library's ``powf``, exact to the last bit. There are two differences, both because a peer takes
    the iteration from the whole job's progress: every step value that was passed counts at once, and beyond max_iter
    the policy "poly" stays at 0 instead of becoming NaN. Raises ModelError for a policy that Caffe does not have.
    """
    base, gamma, power = _F(schedule.base_lr), _F(schedule.gamma), _F(schedule.power)
    with np.errstate(over="ignore", under="ignore"):
        match schedule.policy:
            case "fixed":
                result = base
            case "step":
                result = _F(float(base) * _power(gamma, iteration // schedule.stepsize))
            case "multistep":
                steps = sum(1 for value in schedule.stepvalues if iteration >= value)
                result = _F(float(base) * _power(gamma, steps))
            case "exp":
                result = _F(float(base) * _power(gamma, iteration))
            case "inv":
                result = base * _F(_LIBM.powf(_F(1) + gamma * _F(iteration), -power))
            case "poly":
                left = _F(1) - _F(min(iteration, schedule.max_iter)) / _F(schedule.max_iter)
                result = base * _F(_LIBM.powf(left, power))
            case "sigmoid":
                exponent = -gamma * (_F(iteration) - _F(schedule.stepsize))
                result = base * (_F(1) / (_F(1) + _F(_LIBM.expf(exponent))))
            case _:
                raise ModelError(
                    f"unknown lr_policy {schedule.policy!r}", remedy=f"use one of {', '.join(POLICIES)}"
                )
    return float(result)


def _power(base: np.float32, exponent: int) -> float:
    return float(_LIBM.pow(base, exponent))


def factor(scaling: str, living: int) -> float:
    """The factor on the rate for ``living`` peers: 1, √n or n for "none", "sqrt", "linear"."""
    peers = max(1, living)
    return {"none": 1.0, "sqrt": math.sqrt(peers), "linear": float(peers)}[scaling]


@dataclass(frozen=True, slots=True)
class Ramp:
    """A factor that moves linearly to ``target``, from its value ``begun`` after ``since_samples`` of the job."""

    begun: float
    since_samples: int
    target: float

    def at(self, samples: int, length_samples: float) -> float:
        """The factor after so many samples, when the ramp takes ``length_samples``."""
        gone = max(0, samples - self.since_samples)  # negative after etcd lost settled chunks
        way = 1.0 if gone >= length_samples else gone / length_samples
        return self.begun + (self.target - self.begun) * way

    def turned(self, target: float, samples: int, length_samples: float) -> Ramp:
        """A ramp to another target.

        A higher target is approached slowly, so that momentum can follow; a lower one at once.
        """
        if target == self.target:
            return self
        return Ramp(min(target, self.at(samples, length_samples)), samples, target)
