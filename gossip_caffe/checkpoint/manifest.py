"""What a checkpoint is: of which job and net, how far it was, which files it has, and what they must hash to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gossip_caffe.checkpoint.digest import digest_of
from gossip_caffe.errors import CheckpointRefused
from gossip_caffe.solver.layout import Entry, WeightLayout, read_entries
from gossip_caffe.stored import read_object

FORMAT = 2
"""1 had SHA-256 where BLAKE3 is."""
MOST_NAME_BYTES = 255
"""That a file system takes."""
MANIFEST = "manifest.json"
MODEL = "model.caffemodel"
STATE = "model.solverstate"
"""The maker's momentum, for plain Caffe's ``solver.restore``; not there when the maker's Caffe does not give it."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a checkpoint."""

    name: str
    size_bytes: int
    blake3: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checkpoint's description.

    ``folded`` epochs were finished, and ``done`` holds the done chunks of each open epoch as ranges [start, stop), both
    read before the weights were collected: everything that they name is in the weights of the peers that trained it.
    ``job_identity`` is "" where an older version made it.
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

    def with_files(self, files: Iterable[FileEntry]) -> Manifest:
        """The same with its files listed."""
        return replace(self, files=tuple(files))

    def weight_layout(self) -> WeightLayout:
        """How the weights lie in the flat vector; there is one for every manifest that was read."""
        return WeightLayout.of(self.layout)

    def to_json(self) -> bytes:
        """The manifest as a file; the same bytes for the same manifest."""
        record = {"format": FORMAT, **asdict(self)}
        if not self.job_identity:
            del record["job_identity"]  # an older version's manifest keeps its digest
        return json.dumps(record, sort_keys=True, indent=1).encode()

    @property
    def digest(self) -> str:
        """BLAKE3 of the file."""
        return digest_of(self.to_json())

    @classmethod
    def from_json(cls, content: bytes) -> Manifest:
        """Read a manifest; whatever it gives can be used. Raises CheckpointRefused naming what does not fit."""
        try:
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
            )
            manifest.weight_layout()
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
    """The numbers that ranges [start, stop) hold."""
    return frozenset(number for start, stop in ranges for number in range(start, stop))


def is_plain(name: str) -> bool:
    """Whether it names something in a folder, and nothing that leads elsewhere or is hidden there."""
    return (
        0 < len(name.encode()) <= MOST_NAME_BYTES and not name.startswith(".") and not {"/", "\0"} & set(name)
    )


def _text(record: Mapping[str, Any], key: str) -> str:
    return _unicode(record[key])


def _unicode(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text")
    value.encode()  # half of a surrogate pair is none either: a ValueError
    return value


def _file_name(value: object) -> str:
    name = _unicode(value)
    if not is_plain(name) or name == MANIFEST:
        raise ValueError(f"it lists a file {name!r:.80}")
    return name


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{value!r:.80} is no number of anything")
    return value
