"""The loader process: it reads planned records, transforms them, and fills the ring.

Messages to it: {"open": DataSpec, "seed": n, "skip_corrupt": bool, "first_record": n} with the ring's descriptors;
{"plan": [[sequence, [[epoch, start, stop], …]], …]}; {"stop": true}. Messages from it: {"ready": true}; {"notice": one
line}; {"skipped": [epoch, record, reason]}; {"failed": one line, "remedy": …} before it ends with exit code 7.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.labels import check_labels
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.data.sources.boxes import packed
from gossip_caffe.data.sources.lmdb_environment import take_notices
from gossip_caffe.data.sources.source import RecordSource, open_source
from gossip_caffe.errors import CorruptRecord
from gossip_caffe.job.spec.spec import DataSpec, TopSpec, read_fields
from gossip_caffe.system.control import Control, run_child

WAIT_FOR_SLOT_S = 0.2
_LOOK_EVERY_S = 0.002
_SEED_STEP = 1_000_003


Skipped = Callable[[int, int, str], None]
"""Called for each corrupt record that is skipped, with (epoch, record number, reason)."""


class Sources(Protocol):
    """All sources of a job together."""

    def fill(
        self, parts: list[list[int]], arrays: list[NDArray[np.float32]], skipped: Skipped | None = None
    ) -> int:
        """Load the records of ``parts``, each (epoch, start, stop), into a slot's arrays. Returns their number.

        ``arrays``: one array for each top, shape (batch_records, *top.shape), float32. ``skipped``: see OpenSources.
        """
        ...


class OpenSources:
    """All sources of a job, which advance together.

    ``first_record``: the place of the job's record 0 in the data, counted through all epochs, when the job continues
    from a snapshot; its epochs begin there, too. ``rows``: the number of rows of each top that the last ``fill`` wrote.
    """

    def __init__(self, spec: DataSpec, seed: int, first_record: int = 0) -> None:
        self.rows: list[int] = []
        self._spec = spec
        self._records = spec.records
        self._first_record = first_record
        self._rounds = [-(-spec.pace(source, spec.records) // source.records) for source in spec.sources]
        self._sources: list[RecordSource] = [
            # Each source draws its own crops, as Caffe's layers do; the first one with the job's seed.
            open_source(source, spec.chunk_records, seed + index * _SEED_STEP)
            for index, source in enumerate(spec.sources)
        ]

    def close(self) -> None:
        """Close the files of all sources."""
        for source in self._sources:
            source.close()

    def where(self, record: int) -> list[str]:
        """Return a record's name for messages, one for each source. Raises DataError."""
        number = (record + self._first_record) % self._records
        return [
            source.where(self._spec.pace(spec, number) % spec.records)
            for source, spec in zip(self._sources, self._spec.sources, strict=True)
        ]

    def fill(
        self, parts: list[list[int]], arrays: list[NDArray[np.float32]], skipped: Skipped | None = None
    ) -> int:
        """Load the records of ``parts``, each (epoch, start, stop), into a slot's arrays. Returns their number.

        ``arrays``: one array for each top, shape (batch_records, *top.shape), float32. Corrupt records are skipped, and
        reported to ``skipped``; without it they raise CorruptRecord.
        """
        records, rows = 0, [0] * len(self._sources)
        for epoch, start, stop in parts:
            try:
                rows = self._fill(epoch, start, stop, arrays, rows)
                records += stop - start
            except CorruptRecord:
                if skipped is None:
                    raise
                for record in range(start, stop):  # one by one, to find the corrupt ones
                    try:
                        rows = self._fill(epoch, record, record + 1, arrays, rows)
                        records += 1
                    except CorruptRecord as error:
                        skipped(epoch, record, error.message)
        if records and not all(rows):
            epoch, start, _ = parts[0]
            rows = self._fill(epoch, start, start + 1, arrays, rows, at_least_one=True)
        self.rows = [
            # All records of the batch are there: their boxes come together.
            packed(array, count) if top.boxes else count
            for array, (count, top) in zip(arrays, self._rows_of_tops(rows), strict=True)
        ]
        return records

    def _rows_of_tops(self, rows: list[int]) -> list[tuple[int, TopSpec]]:
        return [
            (count, top) for count, spec in zip(rows, self._spec.sources, strict=True) for top in spec.tops
        ]

    def _fill(
        self,
        epoch: int,
        start: int,
        stop: int,
        arrays: list[NDArray[np.float32]],
        rows: list[int],
        *,
        at_least_one: bool = False,
    ) -> list[int]:
        """Load records behind the first ``rows`` rows of each source. Returns the new numbers of rows.

        ``at_least_one``: load one row, and only for sources without a row, whose batches are much smaller.
        """
        first = epoch * self._records + start + self._first_record
        for part_start, part_stop, offset in wrapped(first, first + stop - start, self._records):
            data_epoch = (first + offset) // self._records
            rows = self._fill_from_data(data_epoch, part_start, part_stop, arrays, rows, at_least_one)
        return rows

    def _fill_from_data(
        self,
        epoch: int,
        start: int,
        stop: int,
        arrays: list[NDArray[np.float32]],
        rows: list[int],
        at_least_one: bool,
    ) -> list[int]:
        top, filled = 0, []
        for source, rounds, spec, row in zip(
            self._sources, self._rounds, self._spec.sources, rows, strict=True
        ):
            tops, length = len(spec.tops), spec.records
            own_start, own_stop = self._spec.pace(spec, start), self._spec.pace(spec, stop)
            if at_least_one:
                own_stop = own_start + (row == 0)
            for piece_start, piece_stop, offset in wrapped(own_start, own_stop, length):
                place = slice(row + offset, row + offset + piece_stop - piece_start)
                out = [array[place] for array in arrays[top : top + tops]]
                # A source that begins again within an epoch counts as a new epoch, so that its crops differ.
                round_ = (own_start + offset) // length
                source.fill(epoch * rounds + round_, piece_start, piece_stop, out)
                if spec.labels:
                    check_labels(spec.labels, spec.tops, out, _namer(source, piece_start))
            top += tops
            filled.append(row + own_stop - own_start)
        return filled


def _namer(source: RecordSource, first: int) -> Callable[[int], str]:
    """Return a function that names a record by its row, in rows that begin with record ``first``."""
    return lambda row: source.where(first + row)


def wrapped(start: int, stop: int, length: int) -> Iterator[tuple[int, int, int]]:
    """Cut records [start, stop) of the job at the places where a source of ``length`` records begins again.

    Yields (start, stop, offset): start and stop in the source's numbers, the offset from the range's start.
    """
    at = start
    while at < stop:
        first = at % length
        last = min(length, first + stop - at)
        yield first, last, at - start
        at += last - first


def serve(control: Control) -> None:
    """Open the data of the first message, then load planned batches until "stop"."""
    received = control.receive(None)
    if received is None:
        return
    message, fds = received
    spec = read_fields(DataSpec, message["open"], "data")
    ring = BatchRing.attach(fds)
    with closing(OpenSources(spec, message["seed"], message["first_record"])) as sources:
        for line in take_notices():
            control.send({"notice": line})
        _load(control, ring, sources, skip_corrupt=message["skip_corrupt"])


def _load(control: Control, ring: BatchRing, sources: OpenSources, *, skip_corrupt: bool) -> None:
    def tell(epoch: int, record: int, reason: str) -> None:
        control.send({"skipped": [epoch, record, reason]})

    skipped = tell if skip_corrupt else None
    control.send({"ready": True})
    plan: deque[Any] = deque()
    looked_at = -math.inf
    while True:
        received = None
        # With a plan the socket is polled only every _LOOK_EVERY_S: a poll takes as long as some small records.
        if not plan or time.monotonic() - looked_at >= _LOOK_EVERY_S:
            received = control.receive(0.0 if plan else None)
            looked_at = time.monotonic()
        if received is not None:
            if "stop" in received[0]:
                return
            plan.extend(received[0]["plan"])
            looked_at = -math.inf  # more messages may wait
            continue
        arrays = ring.reserve(WAIT_FOR_SLOT_S)
        if arrays is not None:
            sequence, parts = plan.popleft()
            ring.commit(sequence, sources.fill(parts, arrays, skipped), sources.rows)


def main() -> int:
    """Entry of the process."""
    return run_child(serve)


if __name__ == "__main__":
    sys.exit(main())
