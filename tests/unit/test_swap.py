"""A swap's two sides, piece by piece: the same halves as those of whole payloads, and nothing else is taken."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.gossip.averaging.average import HalfStats, halve
from gossip_caffe.gossip.codecs.codec import CODECS, largest_payload_bytes
from gossip_caffe.gossip.codecs.message import FramesCorrupt, Refusal
from gossip_caffe.gossip.protocol import swap
from gossip_caffe.gossip.protocol.swap import PIECE_BYTES, PIECE_VALUES, IncomingWeights, OutgoingWeights

SIZE = 2 * PIECE_VALUES + 77
DTYPES: dict[str, type] = {"float32": np.float32, "float16": np.float16}


def weights(seed: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


def leaving(codec: str, mine: np.ndarray, blobs: tuple[int, ...] = (), seed: int = 5) -> OutgoingWeights:
    made = OutgoingWeights.of(codec, mine, blobs, np.random.default_rng(seed))
    assert made is not None
    return made


def pieces(side: OutgoingWeights) -> list[bytes]:
    return [bytes(piece) for piece in side.pieces()]


def arrived(codec: str, mine: OutgoingWeights, payload: list[bytes]) -> tuple[np.ndarray, object]:
    mine.gone.note(mine.mine.size)  # whatever there was to send has been sent
    arriving = IncomingWeights(codec, mine)
    for piece in payload:
        arriving.take(memoryview(piece))
    return mine.mine, arriving.half()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [1, 77, PIECE_VALUES, SIZE])
def test_pieces_together_are_the_codecs_payload(codec: str, size: int) -> None:
    mine = weights(1, size)
    payload = bytes(CODECS[codec].encode(mine, (), np.random.default_rng(5)))
    parts = pieces(leaving(codec, mine.copy()))
    assert b"".join(parts) == payload
    assert max(map(len, parts)) <= PIECE_BYTES


@settings(max_examples=40)
@given(
    codec=st.sampled_from(sorted(CODECS)),
    seed=st.integers(0, 10**6),
    wide=st.tuples(st.booleans(), st.booleans()),
    cut=st.integers(0, 3000),
)
def test_both_halves_are_those_of_whole_payloads_and_exact_opposites(
    codec: str, seed: int, wide: tuple[bool, bool], cut: int
) -> None:
    size = 3000
    values = [weights(seed + side, size) for side in range(2)]
    for side, beyond in enumerate(wide):
        if beyond:
            values[side][seed % size] = 1e6  # float16 cannot hold it, so its blob travels as float32
    sides = [leaving(codec, mine.copy(), (cut, size - cut), seed) for mine in values]
    payloads = [pieces(side) for side in sides]
    quantised = []
    for payload in payloads:
        decoded = np.empty(size, dtype=np.float32)
        CODECS[codec].decode(b"".join(payload), decoded)
        quantised.append(decoded)
    halves = [arrived(codec, sides[side], payloads[1 - side]) for side in range(2)]
    expected = np.empty(size, dtype=np.float32)
    figures = halve(quantised[0], quantised[1], expected)
    assert np.array_equal(halves[0][0], expected)
    assert np.array_equal(halves[1][0], -expected)
    assert isinstance(halves[0][1], HalfStats)
    assert halves[0][1].total == pytest.approx(figures.total, abs=1e-6)
    assert halves[0][1].norm == pytest.approx(figures.norm, rel=1e-9)
    assert 0 <= halves[0][1].distance <= figures.distance * (1 + 1e-9), "without the noise of rounding"


@pytest.mark.parametrize("codec", CODECS)
def test_weights_with_nan_do_not_leave(codec: str) -> None:
    mine = weights(1, 100)
    mine[99] = np.nan
    assert OutgoingWeights.of(codec, mine) is None


@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_with_nan_do_not_arrive(codec: str, bad: float) -> None:
    theirs = weights(2, 100)
    theirs[50] = bad
    mine = leaving(codec, weights(1, 100))
    with np.errstate(all="ignore"):
        payload = {
            "float32": [theirs.tobytes()],
            "float16": [bytes(8), theirs.astype(np.float16).tobytes()],
            "bfloat16": [bytes(8), (theirs.view(np.uint32) >> 16).astype(np.uint16).tobytes()],
        }[codec]
        _, half = arrived(codec, mine, payload)
    assert isinstance(half, tuple)
    assert half[0] is Refusal.NON_FINITE


@pytest.mark.parametrize("codec", CODECS)
def test_too_few_pieces_are_no_half(codec: str) -> None:
    mine, theirs = leaving(codec, weights(1)), leaving(codec, weights(2))
    whole = pieces(theirs)
    for cut in range(len(whole)):
        _, half = arrived(codec, mine, whole[:cut])
        assert isinstance(half, tuple)
        assert half[0] is Refusal.CORRUPT_FRAME


@pytest.mark.parametrize("codec", CODECS)
def test_too_many_pieces_are_refused_before_they_take_memory(codec: str) -> None:
    mine, theirs = leaving(codec, weights(1, 100)), leaving(codec, weights(2, 100))
    mine.gone.note(100)
    arriving = IncomingWeights(codec, mine)
    for piece in pieces(theirs):
        arriving.take(memoryview(piece))
    filler = memoryview(bytes(PIECE_BYTES))
    assert len(filler) > largest_payload_bytes(100)
    with pytest.raises(FramesCorrupt):
        arriving.take(filler)


def test_a_piece_that_ends_within_a_value_is_refused() -> None:
    arriving = IncomingWeights("float32", leaving("float32", weights(1, 100)))
    with pytest.raises(FramesCorrupt, match="a piece of 6 bytes"):
        arriving.take(memoryview(bytes(6)))


def test_float32_and_float16_need_no_payload_in_memory() -> None:
    for codec in ("float32", "float16"):
        assert leaving(codec, weights(1)).payload is None
    beyond = weights(1)
    beyond[3] = 70_000.0
    assert leaving("float16", beyond).payload is not None


@pytest.mark.parametrize("codec", ["float32", "float16"])
def test_a_half_takes_the_place_of_values_that_have_left_and_waits_for_them(codec: str) -> None:
    mine, theirs = leaving(codec, weights(1)), leaving(codec, weights(2))
    before = mine.mine.copy()
    arriving, coming = IncomingWeights(codec, mine), pieces(theirs)
    outcome: list[object] = []

    def receive() -> None:
        for piece in coming:
            arriving.take(memoryview(piece))
        outcome.append(arriving.half())

    receiving = threading.Thread(target=receive)
    receiving.start()
    sent = b"".join(bytes(piece) for piece in mine.pieces())
    receiving.join(30)
    assert sent == bytes(CODECS[codec].encode(before))  # nothing of it was overwritten before it had left
    expected = np.empty_like(before)
    quantised = [part.astype(DTYPES[codec]).astype(np.float32) for part in (before, weights(2))]
    halve(quantised[0], quantised[1], expected)
    assert np.array_equal(mine.mine, expected)
    assert isinstance(outcome[0], HalfStats)


@pytest.mark.parametrize("codec", ["float32", "float16"])
def test_whoever_waits_for_values_that_will_not_leave_is_told(codec: str) -> None:
    mine, theirs = leaving(codec, weights(1)), leaving(codec, weights(2))
    arriving, coming = IncomingWeights(codec, mine), pieces(theirs)
    told: list[str] = []

    def receive() -> None:
        try:
            for piece in coming:
                arriving.take(memoryview(piece))
        except FramesCorrupt as error:
            told.append(error.message)

    receiving = threading.Thread(target=receive)
    receiving.start()
    mine.gone.give_up()
    receiving.join(30)
    assert told == [f"only 0 of our first {PIECE_VALUES} values could be sent"]


def test_a_refusal_says_why() -> None:
    refused = swap.Refused(Refusal.CROSSING, "p offered first")
    assert (refused.refusal, refused.reason, refused.message) == (
        Refusal.CROSSING,
        "p offered first",
        "p offered first",
    )
