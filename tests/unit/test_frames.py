"""How a message is cut into pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.transport.frames import FRAME_BYTES, to_frames


def pieces_of(size: int, most: int, first: int) -> list[bytes]:
    payload = bytes(number % 251 for number in range(size))
    header, *pieces = to_frames(Message("x", "p", "job", "layout", payload=payload), most, first)
    assert header.header.payload_bytes == size
    assert b"".join(bytes(piece.data) for piece in pieces) == payload
    return [bytes(piece.data) for piece in pieces]


@given(st.integers(0, 5000), st.integers(1, 600), st.integers(1, 600))
def test_the_pieces_are_the_whole_whatever_their_sizes(size: int, most: int, first: int) -> None:
    assert all(0 < len(piece) <= most for piece in pieces_of(size, most, first))


def test_a_small_message_is_one_piece() -> None:
    assert list(map(len, pieces_of(1000, FRAME_BYTES, FRAME_BYTES))) == [1000]


def test_first_pieces_are_small_and_the_others_grow_with_what_was_taken() -> None:
    lengths = list(map(len, pieces_of(100_000, 4096, 64)))
    assert lengths[:8] == [64] * 8
    assert lengths[:-1] == sorted(lengths[:-1])
    assert lengths[-2] == 4096
    assert len(lengths) < 100
