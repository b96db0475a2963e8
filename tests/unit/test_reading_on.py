"""A job that goes on from a snapshot reads on behind what the snapshot's solver had read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gossip_caffe.data import loader
from gossip_caffe.job.spec.spec import DataSpec, JobSpec, RateSchedule, SourceSpec, TopSpec
from tests.bare_job import bare_job

RECORDS, SHORT = 23, 7
SOURCES = (
    SourceSpec("long", "dataset", "", (TopSpec("a", ()),), RECORDS),
    SourceSpec("short", "dataset", "", (TopSpec("b", ()),), SHORT),
)
DATA = DataSpec(SOURCES, RECORDS, 5, 4)


class Source:
    """Tells which of its records was read, and in which round."""

    def __init__(self, spec: SourceSpec, chunk_records: int, seed: int) -> None:
        del chunk_records, seed
        assert spec.records

    def fill(self, epoch: int, start: int, stop: int, out: list[NDArray[np.float32]]) -> None:
        out[0][:] = 1000 * epoch + np.arange(start, stop)

    def close(self) -> None:
        pass


def read(parts: list[list[int]], first_record: int, opened: Any = None) -> list[tuple[float, float]]:
    sources = (opened or loader.OpenSources)(DATA, 1, first_record)
    size = sum(stop - start for _, start, stop in parts)
    arrays = [np.zeros(size, np.float32), np.zeros(size, np.float32)]
    assert sources.fill(parts, arrays) == size
    return list(zip(arrays[0].tolist(), arrays[1].tolist(), strict=True))


def whole_job(samples: int) -> list[list[int]]:
    return [[epoch, 0, min(RECORDS, samples - epoch * RECORDS)] for epoch in range(-(-samples // RECORDS))]


@given(st.integers(0, 100), st.integers(1, 100))
def test_what_is_left_of_a_job_is_read_as_the_undisturbed_job_reads_it(done: int, left: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "open_source", Source)
        undisturbed = read(whole_job(done + left), 0)
        assert read(whole_job(left), done) == undisturbed[done:]


def test_a_job_knows_how_far_a_snapshots_solver_had_read() -> None:
    def job(data: DataSpec, first_iteration: int) -> JobSpec:
        schedule = RateSchedule("fixed", 0.1, first_iteration=first_iteration)
        return bare_job(data=data, schedule=schedule, iter_size=3)

    assert job(DATA, 0).first_record == 0
    assert job(DATA, 10).first_record == 10 * 4 * 3
    assert job(DataSpec((), 100, 10, 4), 10).first_record == 0  # a net that makes its own data
