"""Shared memory without a name."""

from __future__ import annotations

import gc
import mmap
import os
import resource

import numpy as np
import pytest

from gossip_caffe.system.sharedmem import SharedMemory

PAGES = 4096


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_a_segment_that_is_attached_present_has_every_page_before_the_first_touch() -> None:
    made = SharedMemory.create("test", PAGES * mmap.PAGESIZE)
    other = SharedMemory.attach(os.dup(made.fd), present=True)
    pages = np.frombuffer(other.view, np.uint8).reshape(PAGES, mmap.PAGESIZE)
    before = faults()
    pages[:, 0] = 1
    assert faults() - before < PAGES / 8
    assert np.frombuffer(made.view, np.uint8).sum() == PAGES
    del pages
    for memory in (made, other):
        memory.close()


def test_a_segment_that_nobody_has_any_more_is_closed() -> None:
    made = SharedMemory.create("test", mmap.PAGESIZE)
    kept, fd = np.frombuffer(made.view, np.uint8), made.fd
    other = SharedMemory.attach(os.dup(fd))
    del made
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    kept[:] = 7
    assert (np.frombuffer(other.view, np.uint8) == 7).all(), "its pages go with the last who looks at them"
    other.close()
