"""Anonymous shared memory: a memfd has no name in the file system, so a killed process cannot leak it."""

from __future__ import annotations

import mmap
import os

from gossip_caffe.errors import EnvironmentProblem


class SharedMemory:
    """A mapped memfd.

    Its creator passes ``fd`` to a child, by inheritance or over a Unix socket; both map its pages.
    """

    def __init__(self, fd: int, size_bytes: int, present: bool = False) -> None:
        self.fd = fd
        self.size_bytes = size_bytes
        self._map = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED | (mmap.MAP_POPULATE if present else 0))

    @classmethod
    def create(cls, name: str, size_bytes: int) -> SharedMemory:
        """Create a zeroed segment; ``name`` only labels it in /proc. Raises EnvironmentProblem when memory is short."""
        fd = os.memfd_create(f"gossip-caffe-{name}", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size_bytes)
            return cls(fd, size_bytes)
        except OSError as error:
            os.close(fd)
            raise EnvironmentProblem(
                f"cannot map {size_bytes} bytes of shared memory for the {name} ({error.strerror})",
                remedy="free some memory or train a smaller batch",
            ) from error

    @classmethod
    def attach(cls, fd: int, present: bool = False) -> SharedMemory:
        """Map a segment of another process. Its size is the descriptor's.

        The new object owns the descriptor. ``present``: map all pages now. That takes time, but no later access then
        waits for a page.
        """
        return cls(fd, os.fstat(fd).st_size, present)

    def __del__(self) -> None:
        # A segment that was not closed, such as the weights of a replaced solver, would otherwise stay until the
        # process ends.
        if hasattr(self, "_map"):
            self.close()

    @property
    def view(self) -> memoryview:
        """The segment's bytes, writable. Release all views of it, arrays too, before ``close``."""
        return memoryview(self._map)

    def close(self) -> None:
        """Close the descriptor, and unmap the pages unless arrays still use them.

        Pages that are still in use are unmapped at the end of the process.
        """
        try:
            self._map.close()
        except BufferError:
            pass  # an array still uses the view; the pages are unmapped together with it
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
