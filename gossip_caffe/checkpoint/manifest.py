"""The manifest of a checkpoint: its job and net, its progress, and its files with their digests."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gossip_caffe.checkpoint.formats.caffemodel import written_bytes
from gossip_caffe.checkpoint.formats.digest import digest_of
from gossip_caffe.errors import CheckpointRefused
from gossip_caffe.json_records import is_count, read_object
from gossip_caffe.plain import is_plain, shown
from gossip_caffe.solver.engines.layout import Entry, WeightLayout, read_entries

FORMAT = 2
"""The version of the format. Version 1 used SHA-256 in place of BLAKE3."""
MANIFEST = "manifest.json"
MODEL = "model.caffemodel"
STATE = "model.solverstate"
"""The maker's momentum, for plain Caffe's ``solver.restore``. Absent when the maker's Caffe does not provide it."""
FILES = frozenset({MODEL, STATE})
"""All files that a checkpoint can have besides its manifest."""
MOST_BYTES = 8 << 20
"""Limit of a manifest, in bytes. A net of ten thousand blobs with ten thousand ranges of chunks needs two million."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a checkpoint: name, size in bytes and BLAKE3 digest."""

    name: str
    size_bytes: int
    blake3: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a checkpoint.

    ``folded`` epochs were folded, and ``done`` holds the settled chunks of each open epoch as ranges [start, stop).
    Both were read before the weights were collected, so the weights of the peers that trained these chunks contain
    them. ``job_identity`` is "" if an older version made it. ``structure``: see WeightLayout; the model has it, too.
    """

    checkpoint: str
    job: str
    job_fingerprint: str
    layout: tuple[Entry, ...]
    progress_samples: int
    folded: int
    done: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]
    maker: str
    contributors: tuple[str, ...]
    made_at: float
    files: tuple[FileEntry, ...] = ()
    job_identity: str = ""
    structure: bytes = b""

    def with_files(self, files: Iterable[FileEntry]) -> Manifest:
        """The same manifest with its files listed."""
        return replace(self, files=tuple(files))

    def weight_layout(self) -> WeightLayout:
        """The layout of the flat weight vector. Every parsed manifest has a valid one."""
        return replace(WeightLayout.of(self.layout), structure=self.structure)

    def to_json(self) -> bytes:
        """The manifest as a file. Equal manifests give equal bytes."""
        record = {"format": FORMAT, **asdict(self), "structure": base64.b64encode(self.structure).decode()}
        for name in ("job_identity", "structure"):
            if not record[name]:
                del record[name]  # so that an older version's manifest keeps its digest
        return json.dumps(record, sort_keys=True, indent=1).encode()

    @property
    def digest(self) -> str:
        """BLAKE3 of the file, in hexadecimal."""
        return digest_of(self.to_json())

    @classmethod
    def from_json(cls, content: bytes) -> Manifest:
        """Parse a manifest and check all of its values. Raises CheckpointRefused with the wrong value."""
        try:
            if len(content) > MOST_BYTES:
                raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
            record = read_object(content)
            if record.pop("format") != FORMAT:
                raise ValueError("it is of another version")
            manifest = cls(
                checkpoint=_text(record, "checkpoint"),
                job=_text(record, "job"),
                job_fingerprint=_text(record, "job_fingerprint"),
                layout=read_entries(record["layout"]),
                progress_samples=_count(record["progress_samples"]),
                folded=_count(record["folded"]),
                done=tuple(
                    (_count(epoch), tuple((_count(start), _count(stop)) for start, stop in ranges))
                    for epoch, ranges in record["done"]
                ),
                maker=_text(record, "maker"),
                contributors=tuple(map(_unicode, record["contributors"])),
                made_at=float(record["made_at"]),
                files=tuple(
                    FileEntry(_file_name(entry["name"]), _count(entry["size_bytes"]), _text(entry, "blake3"))
                    for entry in record["files"]
                ),
                job_identity=_text(record, "job_identity") if "job_identity" in record else "",
                structure=base64.b64decode(_text(record, "structure"), validate=True)
                if "structure" in record
                else b"",
            )
            if not is_plain(manifest.checkpoint):
                raise ValueError(f"its id is {shown(manifest.checkpoint)}")
            if len({entry.name for entry in manifest.files}) != len(manifest.files):
                raise ValueError("it lists a file twice")
            written_bytes(manifest.weight_layout())
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise CheckpointRefused(
                f"the manifest cannot be read ({type(error).__name__}: {error})",
                remedy="use another checkpoint",
            ) from None
        return manifest


def ranges_of(numbers: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Numbers as ranges [start, stop), ascending."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number:
            ranges[-1] = (ranges[-1][0], number + 1)
        else:
            ranges.append((number, number + 1))
    return tuple(ranges)


def numbers_of(ranges: Iterable[tuple[int, int]]) -> frozenset[int]:
    """The numbers in ranges [start, stop)."""
    return frozenset(number for start, stop in ranges for number in range(start, stop))


def _text(record: Mapping[str, Any], key: str) -> str:
    return _unicode(record[key])


def _unicode(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text")
    value.encode()  # raises ValueError for half of a surrogate pair
    return value


def _file_name(value: object) -> str:
    name = _unicode(value)
    if name not in FILES:
        raise ValueError(f"it lists a file {name!r:.80}")
    return name


def _count(value: object) -> int:
    if not is_count(value):
        raise TypeError(f"{value!r:.80} is not a count")
    return value
