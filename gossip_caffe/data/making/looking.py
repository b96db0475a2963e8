"""A look at a database of Caffe's Data layer: its records, its mean, and a check of all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.making.cores import batches, in_order
from gossip_caffe.data.making.databases import Item, count_of, records_of
from gossip_caffe.data.sources.datum import decode
from gossip_caffe.data.sources.lmdb_source import where_of
from gossip_caffe.errors import CorruptRecord, DataError, EnvironmentProblem
from gossip_caffe.wire import caffe_wire_pb2 as wire

TASK_RECORDS = 200
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Seen:
    """One record. ``shape``: as decoded; ``form``: "bytes", "floats" or "encoded"; ``size``: bytes in the database."""

    key: str
    label: int
    shape: tuple[int, ...]
    form: str
    size: int
    problem: str = ""


@dataclass(slots=True)
class Report:
    """The result of a check. ``bad``: one line for each record that cannot be decoded."""

    records: int = 0
    bad: list[str] = field(default_factory=list)
    shapes: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    labels: Counter[int] = field(default_factory=Counter)

    def add(self, path: str, seen: Iterable[Seen]) -> None:
        """Count these records."""
        for one in seen:
            self.records += 1
            self.forms[one.form] += 1
            if one.problem:
                self.bad.append(one.problem)
            else:
                self.shapes["×".join(map(str, one.shape))] += 1
                self.labels[one.label] += 1


def seen(path_and_items: tuple[str, Sequence[Item]]) -> list[Seen]:
    """Decode records. This is the work of a core."""
    path, items = path_and_items
    return [_seen(path, key, value) for key, value in items]


def _seen(path: str, key: bytes, value: bytes) -> Seen:
    name, label, form = key.decode("utf-8", "backslashreplace"), 0, "broken"
    try:
        record = decode(value, where_of(path, key))
        datum = wire.Datum.FromString(value)
        label = datum.label
        form = "encoded" if datum.encoded else "bytes" if datum.data else "floats"
    except CorruptRecord as error:
        return Seen(name, label, (), form, len(value), error.message)
    return Seen(name, label, record.values.shape, form, len(value))


def first_records(path: str, count: int) -> list[Seen]:
    """Return the first ``count`` records. Raises DataError."""
    return [_seen(path, key, value) for key, value in islice(records_of(path), count)]


def check(path: str, processes: int, on_progress: OnProgress) -> Report:
    """Decode every record. ``on_progress`` is called with (records done, records in all; 0: unknown).

    Raises DataError when the database cannot be read.
    """
    report, total = Report(), count_of(path)
    tasks = ((path, items) for items in batches(records_of(path), TASK_RECORDS))
    for found in in_order(seen, tasks, processes):
        report.add(path, found)
        on_progress(report.records, total)
    return report


def mean_of(path: str, on_progress: OnProgress) -> NDArray[np.float32]:
    """Return the mean of all records, shape (channels, height, width), as Caffe's compute_image_mean.

    The sums are exact for bytes; Caffe's are made in single precision. Raises DataError, naming the record, when the
    records have unlike shapes or cannot be decoded.
    """
    total, count = count_of(path), 0
    sums: NDArray[np.float64] | None = None
    for key, value in records_of(path):
        values = decode(value, where_of(path, key)).values
        if sums is None:
            sums = np.zeros(values.shape, dtype=np.float64)
        if values.shape != sums.shape:
            raise DataError(
                f"{where_of(path, key)}: the shape {values.shape}, and the records before it have {sums.shape}",
                remedy="make the database with --resize-height and --resize-width",
            )
        np.add(sums, values, out=sums)
        count += 1
        if not count % TASK_RECORDS:
            on_progress(count, total)
    if sums is None:
        raise DataError(f"the database at {path} is empty", remedy="write the data set")
    on_progress(count, total)
    return (sums / count).astype(np.float32)


def write_mean(path: Path, mean: NDArray[np.float32]) -> None:
    """Write a mean as Caffe's transform_param.mean_file. Raises EnvironmentProblem."""
    channels, height, width = mean.shape
    blob = wire.BlobProto(num=1, channels=channels, height=height, width=width)
    blob.data.extend(mean.reshape(-1).tolist())
    try:
        path.write_bytes(blob.SerializeToString())
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {path} ({error.strerror})", remedy="name a file that can be written"
        ) from None
