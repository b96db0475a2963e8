"""List files: one name a line, as HDF5Data and ImageData layers read them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.errors import DataError


@dataclass(frozen=True, slots=True)
class ListFile:
    """A list's lines with their numbers (from 1), blank ones left out; ``digest``: SHA-256 of the file."""

    path: Path
    lines: tuple[tuple[int, str], ...]
    digest: str

    def where(self, number: int) -> str:
        """A line as messages name it."""
        return f"{self.path}:{number}"


def read_list(path: str) -> ListFile:
    """Read a list file. Raises DataError when there is none, or nothing is in it."""
    try:
        content = Path(path).read_bytes()
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list {path} ({error})", remedy="check the path") from None
    lines = tuple(
        (number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), start=1) if line.strip()
    )
    if not lines:
        raise DataError(f"the list {path} is empty", remedy="write one name a line")
    return ListFile(Path(path), lines, hashlib.sha256(content).hexdigest())


def find(name: str, folder: str, listed_in: ListFile) -> Path:
    """Where a listed name lies: relative ones begin at ``folder``, as for Caffe, and else beside the list."""
    beside = listed_in.path.parent / name
    path = Path(folder) / name
    return beside if not path.exists() and beside.exists() else path
