"""How weights lie in one vector, and when two nets count as the same."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.checkpoint.formats.caffemodel import read_caffemodel, write_caffemodel
from gossip_caffe.solver.engines.layout import WeightLayout
from gossip_caffe.wire import caffe_wire_pb2 as wire

SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)
LAYOUTS = st.lists(st.tuples(st.text(max_size=5), st.integers(0, 2), SHAPES), max_size=6).map(WeightLayout.of)


@given(LAYOUTS)
def test_a_layout_comes_back_from_json_as_it_was(layout: WeightLayout) -> None:
    again = WeightLayout.from_record(json.loads(json.dumps(layout.to_record())))
    assert again == layout
    assert again.fingerprint == layout.fingerprint


@given(LAYOUTS, LAYOUTS)
def test_the_fingerprint_differs_exactly_when_the_layout_does(one: WeightLayout, other: WeightLayout) -> None:
    assert (one.fingerprint == other.fingerprint) == (one == other)


@given(LAYOUTS)
def test_the_blobs_cover_the_vector_once_each_and_are_views_of_it(layout: WeightLayout) -> None:
    flat = np.arange(layout.size, dtype=np.float32)
    parts = layout.split(flat)
    assert [part.shape for part in parts] == [blob.shape for blob in layout.blobs]
    assert [value for part in parts for value in part.reshape(-1)] == flat.tolist()
    for part in parts:
        np.add(part, 1, out=part)
    assert flat.tolist() == list(range(1, layout.size + 1))


def test_the_fingerprint_is_the_same_in_every_release() -> None:
    layout = WeightLayout.of([("conv1", 0, (20, 1, 5, 5)), ("conv1", 1, (20,))])
    assert layout.fingerprint == "7b26fba2b22c7ed8d862d5db4406b38a37ba7b260a5e295426f9da5d49cd1290"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("ip", 0, (2, 3))], [("ip", 0, (3, 2))]),
        ([("ip", 0, (2, 3))], [("ip", 0, (6,))]),
        ([("ip", 0, (2,)), ("ip", 1, (2,))], [("ip", 1, (2,)), ("ip", 0, (2,))]),
        ([("ip", 0, (2,))], [("fc", 0, (2,))]),
    ],
    ids=["transposed", "flattened", "another order", "another name"],
)
def test_nets_of_equal_size_and_other_shapes_or_names_are_strangers(
    one: list[tuple[str, int, tuple[int, ...]]], other: list[tuple[str, int, tuple[int, ...]]]
) -> None:
    assert WeightLayout.of(one).size == WeightLayout.of(other).size
    assert WeightLayout.of(one).fingerprint != WeightLayout.of(other).fingerprint


BLOB = ["ip", 0, [2, 3]]


@pytest.mark.parametrize(
    ("entries", "frozen"),
    [
        ([["ip", 0]], 0),
        ([["ip", "x", [1]]], 0),
        ([["ip", 0, 3]], 0),
        ([3], 0),
        ([BLOB], 2),
        ([BLOB], -1),
        ([BLOB, ["other", 0, [2, 3], 1]], 0),
        ([BLOB, ["other", 0, [2, 4], 0]], 0),
        ([["other", 0, [2, 3], 0], BLOB], 0),
    ],
)
def test_what_is_no_layout_is_refused(entries: list[object], frozen: int) -> None:
    with pytest.raises(ValueError, match="not a weight layout"):
        WeightLayout.from_record({"entries": entries, "frozen": frozen})


def test_what_is_neither_entries_nor_frozen_is_refused() -> None:
    with pytest.raises(ValueError, match="not a weight layout"):
        WeightLayout.from_record([BLOB])


SHARED = WeightLayout.of([("a", 0, (2, 3)), ("a", 1, (4,)), ("c", 0, (5,)), ("b", 0, (3, 2), 0)], frozen=1)


def test_a_shared_blob_is_in_the_vector_once_and_a_frozen_one_is_not_exchanged() -> None:
    assert (SHARED.size, SHARED.exchanged) == (15, 10)
    assert [(blob.layer, blob.offset) for blob in SHARED.blobs] == [("a", 0), ("a", 6), ("c", 10)]
    assert [(blob.layer, blob.offset, blob.shape) for blob in SHARED.aliases] == [("b", 0, (3, 2))]
    assert WeightLayout.from_record(json.loads(json.dumps(SHARED.to_record()))) == SHARED
    assert WeightLayout.of(SHARED.entries).fingerprint == SHARED.fingerprint
    assert WeightLayout.of(SHARED.entries[:3]).fingerprint != SHARED.fingerprint


def test_a_caffemodel_holds_a_shared_blob_for_each_layer_and_blobs_in_their_order() -> None:
    layout = WeightLayout.of(
        [("a", 1, (2,)), ("b", 1, (3,)), ("a", 0, (2, 3)), ("b", 0, (2, 3), 2)], frozen=1
    )
    weights = np.arange(layout.size, dtype=np.float32)
    file = io.BytesIO()
    write_caffemodel(file, layout, weights)
    net = wire.NetParameter.FromString(file.getvalue())
    found = {layer.name: [list(blob.data) for blob in layer.blobs] for layer in net.layer}
    assert found == {"a": [[5, 6, 7, 8, 9, 10], [0, 1]], "b": [[5, 6, 7, 8, 9, 10], [2, 3, 4]]}
    assert np.array_equal(read_caffemodel(file.getvalue(), layout), weights)
