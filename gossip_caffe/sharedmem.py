"""Anonymous shared memory: a memfd has no name in the file system, so nothing can leak when a process is killed."""

from __future__ import annotations

import mmap
import os

from gossip_caffe.errors import EnvironmentProblem


class SharedMemory:
    """A mapped memfd. The maker hands ``fd`` to a child, by inheritance or over a Unix socket; both map its pages."""

    def __init__(self, fd: int, size_bytes: int, present: bool = False) -> None:
        self.fd = fd
        self.size_bytes = size_bytes
        self._map = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED | (mmap.MAP_POPULATE if present else 0))

    @classmethod
    def create(cls, name: str, size_bytes: int) -> SharedMemory:
        """Make a zeroed segment; ``name`` only labels it in /proc. Raises EnvironmentProblem when memory is short."""
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
        """Map a segment that another process made; its size is the descriptor's, which this object then owns.

        ``present``: with all its pages at once, which takes its time, so that no later touch waits for one.
        """
        return cls(fd, os.fstat(fd).st_size, present)

    def __del__(self) -> None:
        # What nobody closed, such as the weights of a solver that another took the place of, would stay until the end.
        if hasattr(self, "_map"):
            self.close()

    @property
    def view(self) -> memoryview:
        """The segment's bytes, writable; release every view of it (arrays too) before ``close``."""
        return memoryview(self._map)

    def close(self) -> None:
        """Close the descriptor, and unmap unless arrays still point into the pages (they then go with the process)."""
        try:
            self._map.close()
        except BufferError:
            pass  # an array made from the view is alive; the pages go when it does
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
