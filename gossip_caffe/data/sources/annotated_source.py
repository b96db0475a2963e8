"""Records with boxes in an LMDB or LevelDB: AnnotatedDatums, as SSD's tools write them, for AnnotatedData layers.

A record is transformed in the same way on every peer: the piece that is drawn of its picture, the crop and the
mirroring are functions of (seed, epoch, record).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from gossip_caffe.data.sources.boxes import (
    CORNERS,
    MOST_BOXES,
    VALUES,
    Draws,
    Floats,
    drawn_window,
    mirrored,
    seen,
)
from gossip_caffe.data.sources.datum import Record, record_of
from gossip_caffe.data.sources.transform import Transformer
from gossip_caffe.errors import CorruptRecord
from gossip_caffe.job.spec.spec import SourceSpec
from gossip_caffe.wire import caffe_wire_pb2 as wire

BBOX = 0


class Database(Protocol):
    """A source of serialised records in a fixed order."""

    def raw(self, start: int, stop: int) -> Iterator[tuple[str, bytes]]:
        """Yield (name for messages, value) of the records [start, stop)."""
        ...

    def where(self, index: int) -> str:
        """Return a record's name for messages."""
        ...

    def check_unwritten(self) -> None:
        """Raise DataError when the database was written to while it was read."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


def annotated_shapes(spec: SourceSpec, value: bytes, where: str) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a layer's tops, from the first record. Raises CorruptRecord."""
    datum = _parsed(value, where)
    record = record_of(datum.datum, where, spec.transform)
    label = (MOST_BOXES, VALUES) if datum.HasField("type") else (1, 1, 1)  # Caffe's label has four axes
    return (Transformer(spec.transform, seed=0).shape_of(record), label)[: len(spec.tops)]


class AnnotatedSource:
    """A RecordSource over a database of AnnotatedDatums."""

    def __init__(self, database: Database, spec: SourceSpec, seed: int) -> None:
        self._database = database
        self._spec = spec
        self._seed = seed
        self._transformer = Transformer(spec.transform, seed)

    @classmethod
    def of(
        cls,
        open_: Callable[[SourceSpec, int, int], Database],
        spec: SourceSpec,
        chunk_records: int,
        seed: int,
    ) -> AnnotatedSource:
        """Open a source with the class of its database. Raises DataError."""
        return cls(open_(spec, chunk_records, seed), spec, seed)

    def fill(self, epoch: int, start: int, stop: int, out: Sequence[NDArray[np.float32]]) -> None:
        """Write the records [start, stop) to ``out``, transformed. Raises DataError, naming database and key.

        The second of ``out`` has shape (records, most boxes, VALUES), with the number of a record's boxes in the first
        value; or (records, 1, 1, 1) when records have labels instead.
        """
        try:
            for row, (where, value) in enumerate(self._database.raw(start, stop)):
                places = [array[row : row + 1] for array in out]
                self._place(_parsed(value, where), where, epoch, start + row, places)
        finally:
            self._database.check_unwritten()  # a write is then the cause of any other error

    def _place(
        self, datum: wire.AnnotatedDatum, where: str, epoch: int, number: int, out: Sequence[Floats]
    ) -> None:
        record = record_of(datum.datum, where, self._spec.transform)
        rows = self._rows(datum, where)
        if self._spec.boxes.samplers:
            draws = Draws(self._seed, epoch, number)
            window = drawn_window(rows, self._spec.boxes.samplers, draws)
            if window is not None:
                record, rows = _piece(record, window), seen(rows, window, self._spec.boxes)
        window, is_mirrored = self._transformer.apply_one(record, epoch, number, out[0][0])
        if len(out) < 2:
            return
        if not self._spec.tops[1].boxes:
            out[1][...] = record.label
            return
        rows = seen(rows, window, self._spec.boxes)
        rows = mirrored(rows) if is_mirrored else rows
        out[1][0, : len(rows)] = rows
        out[1][0, 0, 0] = len(rows)

    def _rows(self, datum: wire.AnnotatedDatum, where: str) -> Floats:
        """Return a record's boxes, shape (n, VALUES). Raises CorruptRecord."""
        with_boxes = len(self._spec.tops) > 1 and self._spec.tops[1].boxes
        if with_boxes and not (datum.HasField("type") and datum.type == BBOX):
            raise CorruptRecord(
                f"{where}: no boxes, and the first record has some", remedy="write all records alike"
            )
        found = [
            (
                *(0, group.group_label, annotation.instance_id),
                *(annotation.bbox.xmin, annotation.bbox.ymin, annotation.bbox.xmax, annotation.bbox.ymax),
                annotation.bbox.difficult,
            )
            for group in datum.annotation_group
            for annotation in group.annotation
        ]
        if len(found) > MOST_BOXES:
            raise CorruptRecord(
                f"{where}: {len(found):,} boxes", remedy=f"give a picture at most {MOST_BOXES:,}"
            )
        rows = np.array(found, dtype=np.float32).reshape(-1, VALUES)
        if not np.isfinite(rows[:, CORNERS]).all():
            raise CorruptRecord(f"{where}: a box that is not finite", remedy="correct the record")
        return rows

    def where(self, index: int) -> str:
        """Return a record's name for messages: the database and the key."""
        return self._database.where(index)

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def _parsed(value: bytes, where: str) -> wire.AnnotatedDatum:
    try:
        datum = wire.AnnotatedDatum.FromString(value)
    except DecodeError:
        datum = wire.AnnotatedDatum()
    if not datum.HasField("datum"):
        raise CorruptRecord(
            f"{where}: not an AnnotatedDatum", remedy='use a layer of type "Data" for records without boxes'
        )
    return datum


def _piece(record: Record, window: Floats) -> Record:
    """Cut a window out of a picture, in whole pixels as Caffe does, at least one."""
    height, width = record.values.shape[1:]
    scaled = window * np.array([width, height, width, height], dtype=np.float32)
    left, top = int(scaled[0]), int(scaled[1])
    wide, high = max(1, int(scaled[2] - scaled[0])), max(1, int(scaled[3] - scaled[1]))
    left, top = min(left, width - wide), min(top, height - high)
    return Record(record.values[:, top : top + high, left : left + wide], record.label, record.where)
