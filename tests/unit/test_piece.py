"""Frames written and read by hand are those of the generated classes."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.gossip.transport.frame_codec import RawFrame, parsed, serialized
from gossip_caffe.wire import gossip_pb2 as wire

pieces = st.builds(
    RawFrame,
    st.integers(0, 2**62),
    st.binary(min_size=1, max_size=300).map(memoryview),
    st.integers(0, 2**32 - 1),
)


@given(pieces)
def test_a_piece_reads_as_the_frame_of_the_generated_classes(piece: RawFrame) -> None:
    frame = wire.ExchangeMessage.FromString(serialized(piece)).frame
    assert (frame.offset, frame.data, frame.crc32) == (piece.offset, bytes(piece.data), piece.crc32)
    assert parsed(serialized(piece)) == piece


@given(pieces)
def test_a_frame_of_the_generated_classes_reads_as_the_same(piece: RawFrame) -> None:
    frame = wire.Frame(offset=piece.offset, data=bytes(piece.data), crc32=piece.crc32)
    message = wire.ExchangeMessage(frame=frame)
    assert parsed(message.SerializeToString()).frame == frame
    assert serialized(message) == message.SerializeToString()


def test_a_header_is_none_of_them() -> None:
    header = wire.ExchangeMessage(header=wire.ExchangeHeader(exchange_id="x"))
    assert parsed(serialized(header)) == header


@given(pieces, st.data())
def test_a_torn_piece_is_never_read_as_one(piece: RawFrame, data: st.DataObject) -> None:
    whole = serialized(piece)
    torn = whole[: data.draw(st.integers(1, len(whole) - 1))]
    with pytest.raises(DecodeError):
        parsed(torn)
