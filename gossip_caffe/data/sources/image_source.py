"""Pictures in files, as Caffe's ImageData reads them: a list of names and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.sources.datum import Record
from gossip_caffe.data.sources.listed import ListFile, find, labelled, read_list
from gossip_caffe.data.sources.pictures import decoded
from gossip_caffe.data.sources.transform import Transformer
from gossip_caffe.errors import CorruptRecord, DataError
from gossip_caffe.job.spec.spec import SourceSpec
from gossip_caffe.printable import printable_line


class ImageDataSet:
    """The facts about a list of pictures that a new job needs: ``records``, ``shapes``, ``digest``.

    Raises DataError when the data does not fit its layer.
    """

    def __init__(self, spec: SourceSpec) -> None:
        images = _Images(spec)
        self.records = len(images.entries)
        self.digest = images.listed.digest
        record = images.record(0)
        shape = Transformer(spec.transform, seed=0).shape_of(record)
        self.shapes: tuple[tuple[int, ...], ...] = (shape, ())

    def chunk_keys(self, chunk_records: int) -> tuple[str, ...]:
        """Return no keys: a picture is found by its number."""
        del chunk_records
        return ()


class ImageSource:
    """A RecordSource over a list of pictures: records are read by number, in the order of the list."""

    def __init__(self, spec: SourceSpec, chunk_records: int, seed: int) -> None:
        del chunk_records
        self._images = _Images(spec)
        self._transformer = Transformer(spec.transform, seed)
        if self._images.listed.digest != spec.digest:
            raise DataError(
                f"the list {spec.path} is not the job's list",
                remedy="bring the same list to this machine, or create the job again",
            )

    def fill(self, epoch: int, start: int, stop: int, out: Sequence[NDArray[np.float32]]) -> None:
        """Write the pictures [start, stop) to ``out``. Raises DataError, naming the list's line and the file."""
        records = list(self.read(start, stop))
        self._transformer.apply(records, epoch, start, out[0])
        out[1][:] = [record.label for record in records]

    def read(self, start: int, stop: int) -> Iterator[Record]:
        """Yield the pictures [start, stop), untransformed. Raises as ``fill``."""
        return (self._images.record(index) for index in range(start, stop))

    @property
    def labels(self) -> list[int]:
        """The labels of all pictures, in the order of the list."""
        return [label for _, _, label in self._images.entries]

    def where(self, index: int) -> str:
        """Return a record's name for messages: the list's line and the file."""
        return self._images.where(index)

    def close(self) -> None:
        """Do nothing: no file stays open."""


class _Images:
    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self.listed: ListFile = read_list(spec.path)
        self.entries = [(number, *labelled(self.listed, number, line)) for number, line in self.listed.lines]

    def path(self, index: int) -> Path:
        return find(self._spec.image.root_folder + self.entries[index][1], self._spec.folder, self.listed)

    def where(self, index: int) -> str:
        return f"{self.listed.where(self.entries[index][0])}, {printable_line(str(self.path(index)))}"

    def record(self, index: int) -> Record:
        image, label = self._spec.image, self.entries[index][2]
        path, where = self.path(index), self.where(index)
        pixels = decoded(_content(path, where), color=image.color, height=image.height, width=image.width)
        if pixels is None:
            raise CorruptRecord(
                f"{where}: not a picture that OpenCV reads", remedy="replace the file, or remove the line"
            )
        return Record(pixels, label, where)


def _content(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorruptRecord(
            f"{where}: cannot be read ({error.strerror})", remedy="check the list and root_folder"
        ) from None
