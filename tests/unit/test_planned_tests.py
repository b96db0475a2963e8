"""When a job's nets are tested, and which."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.job.prototxts.testing import PlannedTests, plan_of
from gossip_caffe.job.spec.spec import DataSpec, JobSpec, NetTest
from tests.bare_job import bare_job

NET = 'layer { name: "in" type: "Data" top: "x" include { phase: TEST } }'


def job(solver: str, *nets: str) -> JobSpec:
    return bare_job(
        name="a",
        solver_text=solver,
        tests=tuple(NetTest(net, 3) for net in nets),
        iter_size=2,
        budget_samples=1600,
        data=DataSpec((), 100, 10, 8),
    )


def test_a_test_is_due_at_the_start_and_after_each_interval_of_the_whole_jobs_iterations() -> None:
    plan = plan_of(job("test_interval: 5", NET))
    assert [plan.marks(samples) for samples in (0, 79, 80, 159, 160, 1000)] == [1, 1, 2, 2, 3, 13]
    later = plan_of(job("test_interval: 5 test_initialization: false", NET))
    assert [later.marks(samples) for samples in (0, 79, 80, 160)] == [0, 0, 1, 2]


def test_a_job_that_goes_on_counts_from_its_first_iteration() -> None:
    spec = job("test_interval: 5", NET)

    def marks(first: int) -> list[int]:
        schedule = dataclasses.replace(spec.schedule, first_iteration=first)
        plan = plan_of(dataclasses.replace(spec, schedule=schedule))
        return [plan.marks(iterations * 16) for iterations in (0, 1, 4, 5, 10)]

    assert marks(10) == [1, 1, 1, 2, 3]  # Caffe tests at the multiple with which it goes on
    assert marks(11) == [0, 0, 1, 1, 2]


def test_all_nets_are_tested() -> None:
    assert len(plan_of(job("test_interval: 5", NET, NET)).nets) == 2


def test_without_test_nets_nothing_is_due_and_nothing_is_said() -> None:
    plan = plan_of(job("test_interval: 5"))
    assert (plan.nets, plan.why_not, plan.marks(10_000)) == ((), "", 0)


@pytest.mark.parametrize("kind", ["MemoryData", "Input"])
def test_a_net_that_a_program_has_to_feed_is_not_tested_and_the_reason_names_its_layer(kind: str) -> None:
    plan = plan_of(job("test_interval: 5", NET.replace('"Data"', f'"{kind}"')))
    assert plan.nets == ()
    assert plan.why_not.startswith(f"layer 'in' of the TEST net is of type {kind}")


def test_a_layer_of_another_stage_is_no_reason() -> None:
    fed = ' layer { name: "m" type: "MemoryData" top: "y" include { stage: "big" } }'
    spec = job("test_interval: 5", NET + fed)
    assert plan_of(spec).nets
    staged = dataclasses.replace(spec, tests=(NetTest(NET + fed, 3, 0, ("big",)),))
    assert "layer 'm'" in plan_of(staged).why_not


def test_detection_is_not_tested() -> None:
    plan = plan_of(job('test_interval: 5 eval_type: "detection"', NET))
    assert plan.nets == ()
    assert "eval_type 'detection'" in plan.why_not


@given(st.integers(1, 50), st.booleans(), st.integers(0, 200), st.integers(1, 9), st.integers(1, 20))
def test_each_test_is_due_at_just_the_iteration_that_is_its_own(
    interval: int, at_start: bool, first: int, size: int, mark: int
) -> None:
    plan = PlannedTests((NetTest("", 1),), interval, at_start, first, size)
    at = plan.samples_at(mark)
    assert at >= 0
    assert plan.iteration_of(mark) % interval == 0
    assert plan.marks(at) == mark
    assert at == 0 or plan.marks(at - 1) == mark - 1
    # As Solver::Step: iter_ % test_interval == 0 && (iter_ > 0 || test_initialization).
    caffes = [
        it for it in range(first, plan.iteration_of(mark) + 1) if it % interval == 0 and (it > 0 or at_start)
    ]
    assert len(caffes) == mark
    assert caffes[-1] == plan.iteration_of(mark)
