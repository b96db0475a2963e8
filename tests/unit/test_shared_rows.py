"""Rows in memory that peers of one machine share: they are read where they are, and a stamp says for which round."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from gossip_caffe.gossip.codecs.message import FramesCorrupt
from gossip_caffe.gossip.rounds.rows import Row
from gossip_caffe.gossip.rounds.shared_rows import STAMP_BYTES, OwnRows, Place, TheirRows

VALUES = 100


def shared() -> tuple[OwnRows, TheirRows]:
    own = OwnRows(VALUES)
    own.begin()
    own.snapshot[:] = np.arange(VALUES)
    return own, TheirRows(os.dup(own.fd))


def test_a_partner_reads_the_rows_of_the_round_that_it_was_told() -> None:
    own, theirs = shared()
    place = own.place(own.snapshot[10:20])
    np.testing.assert_array_equal(theirs.row(place), np.arange(10, 20, dtype=np.float32))
    assert theirs.is_still(place)
    own.begin()
    assert not theirs.is_still(place)


def test_a_partner_cannot_write_into_the_rows() -> None:
    own, theirs = shared()
    with pytest.raises(ValueError, match="read-only"):
        theirs.row(own.place(own.snapshot))[0] = 1.0


def test_rows_outlive_the_peer_that_made_them() -> None:
    own, theirs = shared()
    place = own.place(own.snapshot)
    del own
    np.testing.assert_array_equal(theirs.row(place), np.arange(VALUES, dtype=np.float32))


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 8), (STAMP_BYTES + 1, 8), (STAMP_BYTES, 1 << 40), (STAMP_BYTES, 6), (1 << 40, 4), (-4, 4)],
)
def test_a_place_outside_the_memory_is_refused(offset: int, length: int) -> None:
    own, theirs = shared()
    with pytest.raises(FramesCorrupt, match="no row"):
        theirs.row(replace(own.place(own.snapshot), offset=offset, length=length))


def test_memory_that_could_become_shorter_is_refused() -> None:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    with pytest.raises(FramesCorrupt, match="shorter"):
        TheirRows(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_what_is_no_memory_is_refused() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with pytest.raises(FramesCorrupt, match="cannot be mapped"):
        TheirRows(reading)


def test_a_row_takes_only_a_place_of_its_own_length() -> None:
    own, theirs = shared()
    place = own.place(own.snapshot[:10])
    row = Row(np.empty(10, np.float32), is_summed=True)
    row.point(theirs, place, place)
    assert row.is_whole
    assert row.is_pointed
    with pytest.raises(FramesCorrupt, match="for a segment of 44"):
        Row(np.empty(11, np.float32), is_summed=False).point(theirs, place, place)


def test_a_place_names_the_memory_and_its_stamp() -> None:
    own, _ = shared()
    first = own.place(own.mean)
    own.begin()
    assert own.place(own.mean) == Place(
        first.memory, own.place(own.snapshot).stamp, first.offset, first.length
    )
    assert own.place(own.mean).stamp != first.stamp
