"""Files that prototxts name: found as Caffe finds them, or beside the solver file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.errors import ModelError


@dataclass(frozen=True, slots=True)
class Paths:
    """Where relative paths begin: ``working`` as for Caffe, and else the ``folder`` of the solver file.

    The examples that come with Caffe name their files from the root of its source ("examples/mnist/…"), so a path
    with folders in it may also begin at a folder above.
    """

    folder: Path
    working: Path

    def resolve(self, name: str) -> Path:
        """Return the absolute path of a file or folder that a prototxt names; it may not exist."""
        above = [folder for folder in self.folder.parents if folder != folder.parent and "/" in name]
        bases = (self.working, self.folder, *above)
        found = next((base for base in bases if (base / name).exists()), self.working)
        return (found / name).absolute()

    def shown(self, path: Path) -> str:
        """Write a path as messages name it: relative to the working folder when it lies below."""
        return str(path.relative_to(self.working)) if path.is_relative_to(self.working) else str(path)


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Reading a file that a user named: what goes wrong is raised as ModelError."""
    try:
        yield
    except FileNotFoundError:
        raise ModelError(f"there is no {what} at {path}", remedy="check the path") from None
    except OSError as error:
        raise ModelError(
            f"cannot read the {what} {path} ({error.strerror})", remedy="check the file"
        ) from None


def read_text(path: Path, what: str) -> str:
    """Read a file's text: UTF-8, or else one character a byte, as old comments are written.

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
