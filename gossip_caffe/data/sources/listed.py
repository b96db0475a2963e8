"""List files: one name a line, as HDF5Data and ImageData layers read them.

Names are bytes, as for Caffe: a list in any encoding finds the files whose names have the same bytes.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.errors import DataError

_LABEL = re.compile(r"([+-]?[0-9]{1,18})(?:\.0*)?")
"""A whole number. Caffe cuts off the rest of any other label (atoi), which no user can want."""


@dataclass(frozen=True, slots=True)
class ListFile:
    """A list file. ``lines``: (line number from 1, text), without blank lines; ``digest``: SHA-256 of the file."""

    path: Path
    lines: tuple[tuple[int, str], ...]
    digest: str

    def where(self, number: int) -> str:
        """Return a line's name for messages: FILE:NUMBER."""
        return f"{self.path}:{number}"


def read_list(path: str) -> ListFile:
    """Read a list file. Raises DataError when it cannot be read, is in UTF-16, or is empty."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the list {path} ({error.strerror})", remedy="check the path") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"the list {path} is in UTF-16", remedy="write it in UTF-8, or as the file names are")
    # A byte order mark of UTF-8, which some editors write, is no part of the first name.
    text = os.fsdecode(content.removeprefix(codecs.BOM_UTF8))
    lines = tuple(
        (number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), start=1) if line.strip()
    )
    if not lines:
        raise DataError(f"the list {path} is empty", remedy="write one name a line")
    return ListFile(Path(path), lines, hashlib.sha256(content).hexdigest())


def labelled(listed_in: ListFile, number: int, line: str) -> tuple[str, int]:
    """Split a line into the name, which may contain spaces, and the label after the last space. Raises DataError."""
    name, _, label = line.rstrip().rpartition(" ")
    if name and (number_of := _LABEL.fullmatch(label)):
        return name, int(number_of[1])
    raise DataError(
        f"{listed_in.where(number)}: {line!r} does not end with a label",
        remedy="write the name, a space and a number",
    )


def find(name: str, folder: str, listed_in: ListFile) -> Path:
    """Return the path of a listed name. A relative name begins at ``folder``, as for Caffe, or else beside the list."""
    beside = listed_in.path.parent / name
    path = Path(folder) / name
    return beside if not path.exists() and beside.exists() else path
