"""Learning rates, held against what Caffe's own formulas give when they are compiled (g++ -O3, x86-64)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gossip_caffe.errors import ModelError
from gossip_caffe.job.spec.learning_rate import POLICIES, Ramp, factor, rate
from gossip_caffe.job.spec.spec import RateSchedule

INV = RateSchedule("inv", 0.01, gamma=0.0001, power=0.75)
STEP = RateSchedule("step", 0.01, gamma=0.1, stepsize=5000)
MULTISTEP = RateSchedule("multistep", 0.1, gamma=0.1, stepvalues=(100, 250))
POLY = RateSchedule("poly", 0.05, power=0.5, max_iter=1000)
EXP = RateSchedule("exp", 0.01, gamma=0.999)
SIGMOID = RateSchedule("sigmoid", 0.01, gamma=-0.01, stepsize=500)


@pytest.mark.parametrize(
    ("schedule", "iteration", "expected"),
    [
        (INV, 0, "0.00999999978"),
        (INV, 1, "0.00999925006"),
        (INV, 100, "0.00992565043"),
        (INV, 9999, "0.00594625808"),
        (STEP, 0, "0.00999999978"),
        (STEP, 4999, "0.00999999978"),
        (STEP, 5000, "0.00100000005"),
        (STEP, 12345, "9.99999975e-05"),
        (MULTISTEP, 99, "0.100000001"),
        (MULTISTEP, 100, "0.0100000007"),
        (MULTISTEP, 249, "0.0100000007"),
        (MULTISTEP, 250, "0.00100000005"),
        (POLY, 0, "0.0500000007"),
        (POLY, 1, "0.0499749929"),
        (POLY, 500, "0.0353553407"),
        (POLY, 999, "0.00158112869"),
        (EXP, 0, "0.00999999978"),
        (EXP, 1, "0.00999000017"),
        (EXP, 1000, "0.00367700146"),
        (EXP, 20000, "2.04115717e-11"),
        (SIGMOID, 0, "0.00993307121"),
        (SIGMOID, 500, "0.00499999989"),
        (SIGMOID, 1000, "6.69285073e-05"),
    ],
)
def test_rates_are_caffes_to_the_last_bit(schedule: RateSchedule, iteration: int, expected: str) -> None:
    assert np.float32(rate(schedule, iteration)) == np.float32(expected)


@settings(deadline=None)
@given(
    st.sampled_from(POLICIES),
    st.floats(1e-6, 10),
    st.floats(-1, 2),
    st.floats(0, 4),
    st.integers(1, 10**6),
    st.integers(0, 10**7),
)
def test_a_rate_is_never_negative_nor_undefined_whatever_the_iteration(
    policy: str, base: float, gamma: float, power: float, size: int, iteration: int
) -> None:
    if policy not in {"sigmoid"}:
        gamma = abs(gamma)
    schedule = RateSchedule(policy, base, gamma, power, size, (size, 2 * size), max_iter=size)
    assert rate(schedule, iteration) >= 0


def test_poly_is_zero_from_max_iter_on() -> None:
    assert rate(POLY, 1000) == rate(POLY, 5000) == 0


def test_an_unknown_policy_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="unknown lr_policy 'cosine'"):
        rate(RateSchedule("cosine", 0.1), 0)


@pytest.mark.parametrize(("scaling", "expected"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_the_factor_of_four_peers_is_one_two_or_four(scaling: str, expected: float) -> None:
    assert factor(scaling, 4) == expected
    assert factor(scaling, 1) == factor(scaling, 0) == 1


@settings(deadline=None)
@example(
    begun=1.0, since=1, target=2.0, samples=0, length=0.0
)  # without a warm-up, and etcd forgot what was done
@given(st.floats(1, 10), st.integers(0, 1000), st.floats(1, 10), st.integers(0, 2000), st.floats(0, 1000))
def test_a_ramp_goes_from_where_it_began_to_its_target_and_stays(
    begun: float, since: int, target: float, samples: int, length: float
) -> None:
    value = Ramp(begun, since, target).at(samples, length)
    assert min(begun, target) - 1e-9 <= value <= max(begun, target) + 1e-9
    if max(0, samples - since) >= length:
        assert value == pytest.approx(target)
    elif samples <= since:
        assert value == begun
