"""The check of some labels before a job is made, so that a label which the net cannot take is reported at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing

import numpy as np

from gossip_caffe.data.labels import check_labels
from gossip_caffe.data.sources.image_source import ImageSource
from gossip_caffe.data.sources.source import RecordSource, open_source
from gossip_caffe.errors import CorruptRecord
from gossip_caffe.job.prototxts.labels.bounds import Bounds, with_bounds
from gossip_caffe.job.spec.spec import DataSpec, NetTest, SourceSpec

MOST_RECORDS = 1024
MOST_VALUES = 1 << 24
"""The limit on the values of all checked records: of large pictures fewer are checked."""
MOST_OF_A_PROGRAMS = 64
"""The most records that are checked of a user's own data set, which may need long to make one."""
_AT_ONCE = 32


def look_at_labels(data: DataSpec, seed: int) -> None:
    """Check a sample of the labels of each source whose labels have bounds; of a list of pictures all labels.

    Raises CorruptRecord for the first label that the net cannot take, and DataError for data that cannot be opened.
    """
    for spec in data.sources:
        if spec.labels:
            with closing(open_source(spec, data.chunk_records, seed)) as source:
                if isinstance(source, ImageSource):
                    _look_at_list(spec, source)
                    continue
                for start, stop in sampled(spec, data.chunk_records):
                    _look(spec, source, start, stop)


def look_at_tested(test: NetTest, bounds: Bounds) -> str:
    """Return one line about the first label that a tested net cannot take; "" when the sample contains none."""
    for fed in test.fed:
        source = fed.source
        alone = with_bounds(DataSpec((source,), source.records, source.records, fed.batch_records), bounds)
        try:
            look_at_labels(alone, 0)
        except CorruptRecord as error:
            return error.message
    return ""


def sampled(spec: SourceSpec, chunk_records: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of a source's records: all if they are few, else the beginning and the first record of chunks."""
    a_record = sum(math.prod(top.shape) for top in spec.tops)
    most = max(1, min(MOST_RECORDS, MOST_VALUES // max(1, a_record)))
    if spec.kind == "dataset":
        most = min(most, MOST_OF_A_PROGRAMS)
    beginning = min(spec.records, most if most >= spec.records else most // 2)
    for start in range(0, beginning, _AT_ONCE):
        yield start, min(start + _AT_ONCE, beginning)
    chunks = range(-(-beginning // chunk_records), -(-spec.records // chunk_records))
    for chunk in chunks[:: max(1, -(-len(chunks) // max(1, most - beginning)))]:
        yield chunk * chunk_records, chunk * chunk_records + 1


def _look_at_list(spec: SourceSpec, source: ImageSource) -> None:
    """Check all labels of a list. No picture has to be read for that."""
    labels = np.array(source.labels, np.float32)
    bounds = [bound for bound in spec.labels if bound.top == 1]
    check_labels(bounds, spec.tops, (labels, labels), source.where)


def _look(spec: SourceSpec, source: RecordSource, start: int, stop: int) -> None:
    arrays = [np.empty((stop - start, *top.shape), np.float32) for top in spec.tops]
    try:
        source.fill(0, start, stop, arrays)
    except CorruptRecord:
        if stop - start > 1:
            for record in range(start, stop):
                _look(spec, source, record, record + 1)
        return  # a record that cannot be read is reported when the job reaches it
    check_labels(spec.labels, spec.tops, arrays, lambda row: source.where(start + row))
