"""Files that prototxts name: found as Caffe finds them, or else beside the solver file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.errors import ModelError


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders at which relative paths begin: ``working``, as for Caffe, or else the ``folder`` of the solver file.

    Caffe's examples name their files from the root of Caffe's source ("examples/mnist/…"). A path with folders in it
    may therefore also begin at a folder above the solver file.
    """

    folder: Path
    working: Path

    def resolve(self, name: str) -> Path:
        """The absolute path of a file or folder that a prototxt names. It may not exist."""
        above = [folder for folder in self.folder.parents if folder != folder.parent and "/" in name]
        bases = (self.working, self.folder, *above)
        found = next((base for base in bases if (base / name).exists()), self.working)
        return (found / name).absolute()

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
