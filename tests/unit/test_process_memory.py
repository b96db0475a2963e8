"""The memory of another process, as it is read by one copy."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from gossip_caffe.system import process_memory
from gossip_caffe.system.process_memory import address_of

CHILD = """
import os, sys, numpy as np
from gossip_caffe.system.process_memory import address_of
values = np.arange(1000, dtype=np.float32)
print(address_of(values), flush=True)
sys.stdin.read()
"""


def test_memory_of_a_child_is_read_and_is_gone_with_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        address = int(child.stdout.readline())
        came = np.empty(1000, np.float32)
        try:
            process_memory.read(child.pid, address, came.view(np.uint8))
        except PermissionError:
            child.stdin.close()
            pytest.skip("this system lets no process read another's memory")
        np.testing.assert_array_equal(came, np.arange(1000, dtype=np.float32))
        child.stdin.close()
    with pytest.raises(ProcessLookupError):
        process_memory.read(child.pid, address, came.view(np.uint8))


def test_an_address_without_memory_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad address") as raised:
        process_memory.read(os.getpid(), 4096, np.empty(8, np.uint8))
    assert raised.value.errno == errno.EFAULT


def test_the_address_of_a_part_is_where_the_part_begins() -> None:
    values = np.arange(100, dtype=np.uint8)
    came = np.empty(3, np.uint8)
    process_memory.read(os.getpid(), address_of(values[7:10]), came)
    assert came.tolist() == [7, 8, 9]


def test_processes_of_one_kernel_say_the_same() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "from gossip_caffe.system.process_memory import kernel; print(kernel())"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == process_memory.kernel() != ""
