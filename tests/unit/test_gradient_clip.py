"""The limit of gradients for several peers: which one fits, which peer measures it, and which peers use it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.data.sources import source
from gossip_caffe.errors import ModelError, UsageError
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.gradient_clip import (
    FEWEST_LENGTHS,
    MEASURED_ITERATIONS,
    GradientClip,
    fitted,
    scaling,
    unmeasurable,
)
from gossip_caffe.job.spec.gradient_clip import given as given_by
from gossip_caffe.job.spec.settings import JobSettings, with_overrides
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.peer.work.clipping import clip_from_json, clip_to_json, first_batches
from gossip_caffe.peer.work.progress import steered_rate
from gossip_caffe.sim.job import SimulatedJob
from gossip_caffe.sim.peer import Pace
from gossip_caffe.sim.virtual_time import run
from gossip_caffe.solver.engines.numpy_engine import NumpyEngine
from tests.bare_job import bare_job
from tests.tiny_job import write_job

AUTO = JobSettings(lr_scaling="linear", clip="auto")
STEP_S = 0.02
Log = list[dict[str, Any]]


@given(st.lists(st.floats(1e-6, 1e6), min_size=FEWEST_LENGTHS, max_size=MEASURED_ITERATIONS))
def test_the_limit_is_half_the_median_and_scales_with_the_gradients(lengths: list[float]) -> None:
    limit = fitted(lengths).limit
    ordered = sorted(lengths)
    assert ordered[(len(ordered) - 1) // 2] * 0.499 <= limit <= ordered[len(ordered) // 2] * 0.501
    assert math.isclose(fitted([3 * length for length in lengths]).limit, 3 * limit, rel_tol=1e-4)


def test_where_no_limit_fits_there_is_none_and_a_reason() -> None:
    for lengths in ([], [1.0] * (FEWEST_LENGTHS - 1), [0.0] * 20, [1.0] * 19 + [math.inf], [math.nan] * 20):
        found = fitted(lengths)
        assert not found.limit
        assert found.reason


def test_linear_scaling_with_a_limit_to_be_measured_stays_at_the_root_until_it_is_known() -> None:
    known, none = GradientClip(0.5, ""), GradientClip(0.0, "")
    assert (scaling(AUTO, none), scaling(AUTO, known)) == ("sqrt", "linear")
    assert scaling(JobSettings(lr_scaling="linear"), none) == "linear", "without a limit to wait for"
    assert scaling(JobSettings(lr_scaling="none", clip="auto"), known) == "none"
    ramp, factor = steered_rate(None, AUTO, 4, 0, 1000, none)
    ramp, factor = steered_rate(ramp, AUTO, 4, 50, 1000, none)
    assert factor == 2.0
    ramp, factor = steered_rate(ramp, AUTO, 4, 60, 1000, known)
    assert factor == 2.0, "the factor rises from where it is"
    _, factor = steered_rate(ramp, AUTO, 4, 110, 1000, known)
    assert factor == 4.0


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "1e31", "much"])
def test_a_clip_that_is_none_is_refused_with_the_valid_ones(text: str) -> None:
    with pytest.raises(UsageError, match="auto, none, or a number above 0"):
        with_overrides(JobSettings(), {"clip": text})


def test_a_clip_that_is_given_is_used_as_it_is() -> None:
    assert given_by(with_overrides(JobSettings(), {"clip": "0.25"})).limit == 0.25
    assert given_by(JobSettings()).limit == 0.0


def test_solvers_that_divide_by_their_gradients_and_nets_that_make_data_are_not_measured() -> None:
    assert "Adam" in unmeasurable(bare_job(solver_type="Adam"))
    assert "makes its own data" in unmeasurable(bare_job())


def test_a_job_without_the_setting_keeps_its_fingerprint() -> None:
    assert bare_job().fingerprint != bare_job(settings=AUTO).fingerprint


def test_a_stored_limit_is_read_back_and_any_other_value_is_refused() -> None:
    clip = GradientClip(0.125, "half the median")
    assert clip_from_json(clip_to_json(clip)) == clip
    for value in (
        b"",
        b"[]",
        b'{"limit": 1}',
        b'{"limit": -1, "reason": ""}',
        b'{"limit": 1e999, "reason": ""}',
    ):
        with pytest.raises(ValueError, match=r"."):
            clip_from_json(value)


def spec_in(folder: Path, iterations: int = 400, settings: JobSettings = AUTO) -> JobSpec:
    job = write_job(folder / "job", records=400, batch=16, iterations=iterations)
    return read_job("tiny", job.solver, settings, source.measure)


def test_the_first_batches_are_the_first_of_the_jobs_order_and_whole(tmp_path: Path) -> None:
    spec = spec_in(tmp_path)
    batches = first_batches(spec)
    assert len(batches) == MEASURED_ITERATIONS
    assert {sum(stop - start for _, start, stop in batch) for batch in batches} == {16}
    assert len(first_batches(spec_in(tmp_path / "short", iterations=3))) == 3


def limits(log: Log) -> list[float]:
    return [event["limit"] for event in log if event["event"] == "clip"]


def test_founders_of_any_name_find_one_limit_and_joiners_read_it(tmp_path: Path) -> None:
    """Two jobs alike, founded by peers of different names at different speeds; a peer joins late in each."""
    spec = spec_in(tmp_path)

    async def course(names: tuple[str, str, str], folder: Path) -> dict[str, Log]:
        job = SimulatedJob(spec, folder, NumpyEngine, seed=ord(names[0]))
        try:
            await job.start(names[0], Pace(STEP_S))
            await job.start(names[1], Pace(2 * STEP_S))
            await job.clock.sleep(3.0)
            await job.start(names[2], Pace(STEP_S))
            await job.finished()
            return {name: log.events for name, log in job.logs.items()}
        finally:
            job.close()

    first = run(course(("a", "b", "c"), tmp_path / "first"))
    other = run(course(("z", "y", "x"), tmp_path / "other"))
    found = [limit for log in (*first.values(), *other.values()) for limit in limits(log)]
    assert len(found) == 6
    assert len(set(found)) == 1
    assert found[0] > 0


def test_the_limit_survives_the_death_of_every_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_in(tmp_path, iterations=1200)
    measured: list[object] = []

    def lengths(*of: object) -> list[float]:
        measured.append(of)
        return [2.0 * len(measured)] * MEASURED_ITERATIONS

    monkeypatch.setattr("gossip_caffe.sim.peer.gradient_lengths", lengths)

    async def course() -> dict[str, Log]:
        job = SimulatedJob(spec, tmp_path / "run", NumpyEngine, seed=1)
        try:
            for name in ("p0", "p1"):
                await job.start(name, Pace(STEP_S))
            await job.clock.sleep(8.0)
            job.kill("p0")  # p1 is left, and takes what p0 has not shared
            for name in ("p2", "p3"):
                await job.start(name, Pace(STEP_S))
            await job.clock.sleep(3.0)
            job.kill("p1")
            await job.finished()
            return {name: log.events for name, log in job.logs.items()}
        finally:
            job.close()

    found = run(course())
    assert len(measured) == 1
    assert [limits(log) for log in found.values()] == [[1.0]] * 4


def test_a_lone_peer_measures_nothing_and_is_not_clipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model(settings: JobSettings, folder: Path) -> bytes:
        async def course() -> bytes:
            job = SimulatedJob(spec_in(folder, 100, settings), folder / "run", NumpyEngine, seed=1)
            try:
                await job.start("p0", Pace(STEP_S))
                return (await job.finished()).read_bytes()
            finally:
                job.close()

        return run(course())

    def lengths(*_: object) -> list[float]:
        raise AssertionError("a lone peer has measured")

    monkeypatch.setattr("gossip_caffe.sim.peer.gradient_lengths", lengths)
    assert model(AUTO, tmp_path / "auto") == model(JobSettings(), tmp_path / "usual")


def test_where_nothing_can_be_measured_the_job_goes_on_at_the_root_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lengths(*_: object) -> list[float]:
        raise ModelError("out of memory")

    monkeypatch.setattr("gossip_caffe.sim.peer.gradient_lengths", lengths)
    said: list[str] = []
    monkeypatch.setattr("gossip_caffe.sim.job._say_nothing", said.append)

    async def course() -> dict[str, Log]:
        job = SimulatedJob(spec_in(tmp_path), tmp_path / "run", NumpyEngine, seed=1)
        try:
            for name in ("p0", "p1"):
                await job.start(name, Pace(STEP_S))
            await job.finished()
            return {name: log.events for name, log in job.logs.items()}
        finally:
            job.close()

    found = run(course())
    assert not any(map(limits, found.values()))
    assert [line for line in said if "cannot be measured here" in line] == [
        "p0: the limit of gradients cannot be measured here: out of memory"
    ]
