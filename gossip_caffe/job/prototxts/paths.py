"""Files that prototxts name: found as Caffe finds them, or else beside the solver file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gossip_caffe.errors import ModelError


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders at which relative paths begin: ``working``, as for Caffe, or else the ``folder`` of the solver file.

    Caffe's examples name their files from the root of Caffe's source ("examples/mnist/…"). A path with folders in it
    may therefore also begin at a folder above the solver file. ``texts``: absolute path → the text to read in place of
    the file, which need not exist: the texts of a job that are not on this machine's disk.
    """

    folder: Path
    working: Path
    texts: Mapping[Path, str] = field(default_factory=dict)

    def resolve(self, name: str) -> Path:
        """The absolute path of a file or folder that a prototxt names. It may not exist."""
        above = [folder for folder in self.folder.parents if folder != folder.parent and "/" in name]
        bases = (self.working, self.folder, *above)
        found = next((base for base in bases if self.has((base / name).absolute())), self.working)
        return (found / name).absolute()

    def has(self, path: Path) -> bool:
        """True if there is a text or a file for that absolute path."""
        return path in self.texts or path.exists()

    def read(self, path: Path, what: str) -> str:
        """The text of a file. Raises ModelError when it cannot be read; ``what`` is for the message."""
        text = self.texts.get(path.absolute())
        return read_text(path, what) if text is None else text

    def shown(self, path: Path) -> str:
        """A path as messages show it: relative to the working folder when it is below that folder."""
        return str(path.relative_to(self.working)) if path.is_relative_to(self.working) else str(path)


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """A context in which errors of reading a file that a user named are raised as ModelError."""
    try:
        yield
    except FileNotFoundError:
        raise ModelError(f"there is no {what} at {path}", remedy="check the path") from None
    except OSError as error:
        raise ModelError(
            f"cannot read the {what} {path} ({error.strerror})", remedy="check the file"
        ) from None


def read_text(path: Path, what: str) -> str:
    """Read a file's text as UTF-8, or else with one character per byte, for comments in old encodings.

    Raises ModelError when it cannot be read.
    """
    with readable(path, what):
        content = path.read_bytes()
    if b"\0" in content:
        raise ModelError(f"the {what} {path} is a binary file", remedy="give a prototxt, which is text")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")
