"""Pictures in files, as Caffe's ImageData reads them: a list of names and labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.datum import Record
from gossip_caffe.data.listed import ListFile, find, read_list
from gossip_caffe.data.pictures import decoded
from gossip_caffe.data.transform import Transformer
from gossip_caffe.errors import CorruptRecord, DataError
from gossip_caffe.job.spec import SourceSpec

_LABEL = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")
"""A whole number. Caffe cuts the rest off any other (atoi), which nobody can want."""


class ImageDataSet:
    """What a job must know of the pictures before they are cut. Raises DataError when they do not fit their layer."""

    def __init__(self, spec: SourceSpec) -> None:
        images = _Images(spec)
        self.records = len(images.entries)
        self.digest = images.listed.digest
        record = images.record(0)
        shape = Transformer(spec.transform, seed=0).shape_of(record)
        self.shapes: tuple[tuple[int, ...], ...] = (shape, ())

    def chunk_keys(self, chunk_records: int) -> tuple[str, ...]:
        """Numbers are enough to find a picture."""
        del chunk_records
        return ()


class ImageSource:
    """Random access by number, in the order of the list."""

    def __init__(self, spec: SourceSpec, chunk_records: int, seed: int) -> None:
        del chunk_records
        self._images = _Images(spec)
        self._transformer = Transformer(spec.transform, seed)
        if self._images.listed.digest != spec.digest:
            raise DataError(
                f"the list {spec.path} is not the one that the job was made with",
                remedy="bring the same list to this machine, or create the job again",
            )

    def fill(self, epoch: int, start: int, stop: int, out: Sequence[NDArray[np.float32]]) -> None:
        """Write the pictures [start, stop). Raises DataError naming the list's line and the file."""
        records = list(self.read(start, stop))
        self._transformer.apply(records, epoch, start, out[0])
        out[1][:] = [record.label for record in records]

    def read(self, start: int, stop: int) -> Iterator[Record]:
        """Yield the pictures [start, stop), untransformed. Raises as ``fill``."""
        return (self._images.record(index) for index in range(start, stop))

    def close(self) -> None:
        """No file stays open."""


class _Images:
    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self.listed: ListFile = read_list(spec.path)
        self.entries = [(number, *self._split(number, line)) for number, line in self.listed.lines]

    def _split(self, number: int, line: str) -> tuple[str, int]:
        """A name, which may hold spaces, and after the last space its label."""
        name, _, label = line.rstrip().rpartition(" ")
        if name and (number_of := _LABEL.fullmatch(label)):
            return name, int(number_of[1])
        raise DataError(
            f"{self.listed.where(number)}: {line!r} does not end with a label",
            remedy="write the name, a space and a number",
        )

    def record(self, index: int) -> Record:
        number, name, label = self.entries[index]
        image = self._spec.image
        path = find(image.root_folder + name, self._spec.folder, self.listed)
        where = f"{self.listed.where(number)}, {path}"
        pixels = decoded(_content(path, where), color=image.color, height=image.height, width=image.width)
        if pixels is None:
            raise CorruptRecord(
                f"{where}: no picture that OpenCV reads", remedy="replace the file, or remove the line"
            )
        return Record(pixels, label, where)


def _content(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorruptRecord(
            f"{where}: cannot be read ({error.strerror})", remedy="check the list and root_folder"
        ) from None
