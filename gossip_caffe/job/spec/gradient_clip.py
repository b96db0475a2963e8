"""The limit of the gradient's length with which several peers can train at n times the schedule's rate (``clip``).

At n times the rate a few long gradients ruin the weights, for an all-reduce as for exchanges. A limit prevents that,
but only one that fits the net: with a loose one 16 peers lose all that they have learned, and a tight one costs
learning. So ``clip=auto`` measures: the limit is half the median length of the first gradients of a solver that begins
as the job begins. Later gradients are not measured, because they may be ten to a hundred times shorter.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gossip_caffe.job.spec.settings import AUTO, LARGEST_CLIP, NO_CLIP, JobSettings
from gossip_caffe.job.spec.spec import JobSpec

MEASURED_ITERATIONS = 20
SHARE = 0.5
"""The limit, as a share of the median length. Halves and wholes were tried on digits and Fashion-MNIST."""
FEWEST_LENGTHS = 10
"""A median of fewer lengths is no measure: the data set holds only a few batches."""
PLAIN = ("SGD", "Nesterov")
"""The solvers whose steps are as long as their gradients. The others divide by the lengths of past gradients, so a
limit shortens no step, and √n is their factor."""


@dataclass(frozen=True, slots=True)
class GradientClip:
    """``limit``: the longest gradient, L2 over all parameters, as Caffe's clip_gradients takes it; 0.0: none."""

    limit: float
    reason: str


UNKNOWN = GradientClip(0.0, "it is not measured yet")


def fitted(lengths: Sequence[float]) -> GradientClip:
    """The limit that fits gradients of these lengths, or none. Pure."""
    if len(lengths) < FEWEST_LENGTHS:
        return GradientClip(0.0, f"only {len(lengths)} gradients could be measured")
    if not all(map(math.isfinite, lengths)):
        return GradientClip(0.0, "training diverged while the gradients were measured")
    limit = float(f"{SHARE * statistics.median(lengths):.6g}")
    if not 0 < limit <= LARGEST_CLIP:
        return GradientClip(0.0, f"the median of the gradients' lengths is {2 * limit:g}")
    return GradientClip(limit, f"half the median length of the first {len(lengths)} gradients")


def given(settings: JobSettings) -> GradientClip:
    """The limit that the settings name; UNKNOWN for ``auto``, which has to be measured."""
    if settings.clip == AUTO:
        return UNKNOWN
    if settings.clip == NO_CLIP:
        return GradientClip(0.0, "the job has none")
    return GradientClip(float(settings.clip), "the job's setting")


def unmeasurable(spec: JobSpec) -> str:
    """Why no peer can measure a limit for this job; "" if a peer can."""
    if spec.solver_type not in PLAIN:
        return f"a step of {spec.solver_type} does not grow with the gradient"
    if not spec.data.sources:
        return "the net makes its own data, which cannot be made twice"
    return ""


def scaling(settings: JobSettings, clip: GradientClip) -> str:
    """The scaling of the learning rate that the peers use now: n needs the limit that the job asks for."""
    if settings.lr_scaling == "linear" and settings.clip == AUTO and not clip.limit:
        return "sqrt"
    return settings.lr_scaling
