"""Layers with unlike batch sizes go round their data at their own pace, as Caffe's do, and miss no record."""

from __future__ import annotations

import dataclasses
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.data.loader import OpenSources
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.data.sources.source import measure
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import DataSpec, JobSettings, JobSpec, SourceSpec, TopSpec
from tests.tiny_job import write_job, write_lmdb


def _data(*layers: tuple[int, int], batch: int) -> DataSpec:
    """``layers``: records and batch size of each."""
    records = max(-(-length * batch // own) for length, own in layers)
    sources = tuple(
        SourceSpec(f"d{i}", "lmdb", "/l", (TopSpec(f"t{i}", ()),), length, batch_records=own % batch)
        for i, (length, own) in enumerate(layers)
    )
    return DataSpec(sources, records, batch, batch)


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=3),
    st.integers(0, 20),
)
def test_a_whole_batch_has_just_the_records_that_caffe_would_read(
    largest: int, others: list[tuple[int, int]], number: int
) -> None:
    data = _data((50, largest), *((length, min(own, largest)) for length, own in others), batch=largest)
    for source in data.sources:
        own = source.batch_records or largest
        start, stop = data.pace(source, number * largest), data.pace(source, (number + 1) * largest)
        assert (start, stop) == (number * own, (number + 1) * own)
        assert data.pace(source, data.records) >= source.records, "an epoch misses nobody"


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    job = write_job(tmp_path / "job", records=40, batch=8)
    write_lmdb(tmp_path / "job" / "more", 30, seed=7)
    more = f"""layer {{
  name: "more" type: "Data" top: "more" top: "more_label" include {{ phase: TRAIN }}
  data_param {{ source: "{tmp_path}/job/more" backend: LMDB batch_size: 3 }}
}}
layer {{ name: "s" type: "Silence" bottom: "more" bottom: "more_label" include {{ phase: TRAIN }} }}
"""
    job.net.write_text(more + job.net.read_text())
    return read_job("job", job.solver, JobSettings(), measure)


def test_the_largest_batch_is_the_jobs_and_its_epoch_the_longest(spec: JobSpec) -> None:
    assert spec.data.batch_records == 8
    assert spec.data.records == 80, "30 records by 3 are ten batches of 8"
    assert [top.batch_records for top in spec.data.tops] == [3, 3, 0, 0]
    assert [source.batch_records for source in spec.data.sources] == [3, 0]
    assert JobSpec.from_json(spec.to_json()) == spec


def test_every_record_of_every_layer_is_loaded_in_an_epoch_however_it_is_cut(spec: JobSpec) -> None:
    whole = {source.path: _records(source) for source in spec.data.sources}
    arrays = [np.zeros((8, *top.shape), np.float32) for top in spec.data.tops]
    seen: list[Counter[bytes]] = [Counter(), Counter()]
    with closing(OpenSources(spec.data, 1)) as sources:
        for start in (*range(0, 40, 5), *range(40, 80, 8)):
            size = 5 if start < 40 else 8
            assert sources.fill([[0, start, start + size]], arrays) == size
            assert sources.rows[2:] == [size, size]
            assert size != 8 or sources.rows == [3, 3, 8, 8]
            for top, counter in zip((0, 2), seen, strict=True):
                counter.update(row.tobytes() for row in arrays[top][: sources.rows[top]])
        for start in range(80):  # alone, none is without a row
            sources.fill([[0, start, start + 1]], arrays)
            assert sources.rows == [1, 1, 1, 1]
    assert seen[0] == whole[spec.data.sources[0].path]
    assert seen[1] == Counter({row: 2 * count for row, count in whole[spec.data.sources[1].path].items()})


def _records(source: SourceSpec) -> Counter[bytes]:
    alone = dataclasses.replace(source, batch_records=0)
    arrays = [np.zeros((source.records, *top.shape), np.float32) for top in source.tops]
    with closing(OpenSources(DataSpec((alone,), source.records, 1 << 20, source.records), 1)) as sources:
        sources.fill([[0, 0, source.records]], arrays)
    return Counter(row.tobytes() for row in arrays[0])


def test_a_ring_knows_the_rows_of_each_top(spec: JobSpec) -> None:
    ring = BatchRing.create(spec.data.tops, 8, 2)
    try:
        assert ring.tops == spec.data.tops
        ring.reserve(0.0)
        ring.commit(0, 8, [3, 3, 8, 8])
        batch = ring.take(0.0)
        assert batch is not None
        assert [len(array) for array in batch.arrays] == [3, 3, 8, 8]
        assert batch.records == 8
        del batch
    finally:
        ring.close()
