"""The loader process: reads planned records, transforms them, and fills the ring.

Messages to it: {"open": DataSpec, "seed": n, "skip_corrupt": bool} with the ring's descriptors; {"plan":
[[sequence, [[epoch, start, stop], …]], …]}; {"stop": true}. From it: {"ready": true}; {"skipped": [epoch, record,
reason]}; {"failed": one line, "remedy": …} before it ends with exit code 7.
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

from gossip_caffe.children import Control, run_child
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.data.source import RecordSource, open_source
from gossip_caffe.errors import CorruptRecord
from gossip_caffe.job.spec import DataSpec, read_fields

WAIT_FOR_SLOT_S = 0.2
_LOOK_EVERY_S = 0.002
_SEED_STEP = 1_000_003


Skipped = Callable[[int, int, str], None]
"""Told of a corrupt record that is left out: epoch, number, reason."""


class Sources(Protocol):
    """All sources of a job, however they are held."""

    def fill(
        self, parts: list[list[int]], arrays: list[NDArray[np.float32]], skipped: Skipped | None = None
    ) -> int:
        """Load the records of ``parts`` into a slot's arrays; returns how many there are."""
        ...


class OpenSources:
    """All sources of a job, which advance together."""

    def __init__(self, spec: DataSpec, seed: int) -> None:
        self._lengths = [source.records for source in spec.sources]
        self._rounds = [-(-spec.records // length) for length in self._lengths]
        self._tops = [len(source.tops) for source in spec.sources]
        self._sources: list[RecordSource] = [
            # Each draws its own crops, as Caffe's layers do; the first one with the job's own seed.
            open_source(source, spec.chunk_records, seed + index * _SEED_STEP)
            for index, source in enumerate(spec.sources)
        ]

    def close(self) -> None:
        """Let go of their files."""
        for source in self._sources:
            source.close()

    def fill(
        self, parts: list[list[int]], arrays: list[NDArray[np.float32]], skipped: Skipped | None = None
    ) -> int:
        """Load the records of ``parts`` into a slot's arrays; returns how many there are.

        Corrupt ones are told to ``skipped`` and left out; without it they raise CorruptRecord.
        """
        row = 0
        for epoch, start, stop in parts:
            try:
                self._fill(epoch, start, stop, arrays, row)
                row += stop - start
            except CorruptRecord:
                if skipped is None:
                    raise
                row += self._fill_one_by_one(epoch, start, stop, arrays, row, skipped)
        return row

    def _fill_one_by_one(
        self,
        epoch: int,
        start: int,
        stop: int,
        arrays: list[NDArray[np.float32]],
        row: int,
        skipped: Skipped,
    ) -> int:
        good = 0
        for record in range(start, stop):
            try:
                self._fill(epoch, record, record + 1, arrays, row + good)
                good += 1
            except CorruptRecord as error:
                skipped(epoch, record, error.message)
        return good

    def _fill(self, epoch: int, start: int, stop: int, arrays: list[NDArray[np.float32]], row: int) -> None:
        top = 0
        for source, length, rounds, tops in zip(
            self._sources, self._lengths, self._rounds, self._tops, strict=True
        ):
            for piece_start, piece_stop, offset in wrapped(start, stop, length):
                rows = slice(row + offset, row + offset + piece_stop - piece_start)
                out = [array[rows] for array in arrays[top : top + tops]]
                # A source that begins again within an epoch draws anew.
                round_ = (start + offset) // length
                source.fill(epoch * rounds + round_, piece_start, piece_stop, out)
            top += tops


def wrapped(start: int, stop: int, length: int) -> Iterator[tuple[int, int, int]]:
    """Cut records [start, stop) of the job where a source of ``length`` records begins again.

    Yields (start, stop, offset from the range's start) in the source's own numbers.
    """
    at = start
    while at < stop:
        first = at % length
        last = min(length, first + stop - at)
        yield first, last, at - start
        at += last - first


def serve(control: Control) -> None:
    """Open what the first message names, then load what is planned until told to stop."""
    received = control.receive(None)
    if received is None:
        return
    message, fds = received
    spec = read_fields(DataSpec, message["open"], "data")
    ring = BatchRing.attach(fds)
    with closing(OpenSources(spec, message["seed"])) as sources:
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
        # With plans at hand the socket is looked at now and then only: a look costs as much as some small records.
        if not plan or time.monotonic() - looked_at >= _LOOK_EVERY_S:
            received = control.receive(0.0 if plan else None)
            looked_at = time.monotonic()
        if received is not None:
            if "stop" in received[0]:
                return
            plan.extend(received[0]["plan"])
            looked_at = -math.inf  # there may be more
            continue
        arrays = ring.reserve(WAIT_FOR_SLOT_S)
        if arrays is not None:
            sequence, parts = plan.popleft()
            ring.commit(sequence, sources.fill(parts, arrays, skipped))


def main() -> int:
    """Entry of the process."""
    return run_child(serve)


if __name__ == "__main__":
    sys.exit(main())
