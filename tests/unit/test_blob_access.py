"""The three ways to a blob's values are one: the host's, the GPU's, and a plain vector's."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.solver.engines.blob_access import BlobAccess, Flat, HostBlobs
from gossip_caffe.solver.engines.device_blobs import DeviceBlobs, device_blobs
from gossip_caffe.solver.engines.layout import Entry, WeightLayout
from tests.fake_cupy import Blob, FakeGpu, Head, blobs_of, make_cupy

SHAPES = ((2, 3), (3,), (1, 1, 2, 2), (5,))
LAYOUT = WeightLayout.of([(f"layer{index}", 0, shape) for index, shape in enumerate(SHAPES)])
FROZEN = WeightLayout.of([(f"layer{index}", 0, shape) for index, shape in enumerate(SHAPES)], frozen=2)


def on_device(layout: WeightLayout = LAYOUT, **having: bool) -> tuple[list[Blob], DeviceBlobs, FakeGpu]:
    blobs = blobs_of([spec.shape for spec in layout.blobs])
    cupy, gpu = make_cupy(**having)
    return blobs, DeviceBlobs(blobs, layout, Blob.gpu_data_ptr, cupy, 3), gpu


def on_host(layout: WeightLayout = LAYOUT) -> tuple[list[Blob], HostBlobs]:
    blobs = blobs_of([spec.shape for spec in layout.blobs])
    return blobs, HostBlobs(blobs, layout)


def read(access: BlobAccess, layout: WeightLayout = LAYOUT) -> Flat:
    out = np.full(layout.size, np.nan, dtype=np.float32)
    access.read(out)
    return out


numbers = st.floats(-100, 100, width=32)
operations = st.one_of(
    st.tuples(st.just("read"), st.none()),
    st.tuples(st.just("write"), st.lists(numbers, min_size=LAYOUT.size, max_size=LAYOUT.size)),
    st.tuples(st.just("add"), st.lists(numbers, min_size=FROZEN.exchanged, max_size=FROZEN.exchanged)),
    st.tuples(st.just("step"), numbers),
    st.tuples(st.just("host"), st.tuples(st.integers(0, len(SHAPES) - 1), numbers)),
)


def play(done: list[tuple[str, Any]], blobs: list[Blob], access: BlobAccess) -> list[Flat]:
    """Do it through an access; what every read saw, and the end."""
    seen = []
    for what, value in done:
        if what == "read":
            seen.append(read(access, FROZEN))
        elif what == "write":
            access.write(np.array(value, dtype=np.float32))
        elif what == "add":
            access.add(np.array(value, dtype=np.float32))
        elif what == "step":
            for blob in blobs:
                blob.kernel(0.5, value)
        else:
            blobs[value[0]].data[...] = value[1]
    return [*seen, read(access, FROZEN)]


def play_plainly(done: list[tuple[str, Any]]) -> list[Flat]:
    """The same on one vector."""
    flat = np.arange(1, FROZEN.size + 1, dtype=np.float32)
    seen = []
    for what, value in done:
        if what == "read":
            seen.append(flat.copy())
        elif what == "write":
            flat[:] = value
        elif what == "add":
            flat[: FROZEN.exchanged] += np.array(value, dtype=np.float32)
        elif what == "step":
            flat *= np.float32(0.5)
            flat += np.float32(value)
        else:
            FROZEN.split(flat)[value[0]][...] = value[1]
    return [*seen, flat]


@given(st.lists(operations, max_size=12))
def test_whatever_is_done_all_ways_see_the_same_values_to_the_last_bit(done: list[tuple[str, Any]]) -> None:
    expected = play_plainly(done)
    blobs, device, _ = on_device(FROZEN)
    host_blobs, host = on_host(FROZEN)
    for seen in (play(done, blobs, device), play(done, host_blobs, host)):
        for got, wanted in zip(seen, expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_a_snapshot_is_one_copy_of_each_value_off_the_gpu_and_leaves_the_newest_there() -> None:
    blobs, device, gpu = on_device()
    before = [dict(blob.copied) for blob in blobs]
    read(device)
    assert (gpu.to_host, gpu.to_gpu) == (LAYOUT.size, 0)
    assert [blob.copied for blob in blobs] == before
    assert {blob.head for blob in blobs} == {Head.AT_GPU}


def test_the_plain_way_costs_two_copies_by_caffe_itself() -> None:
    blobs, host = on_host()
    before = [dict(blob.copied) for blob in blobs]
    read(host)
    for blob in blobs:
        blob.kernel(1, 0)  # the next step
    for blob, was in zip(blobs, before, strict=True):
        size = int(np.prod(blob.shape))
        assert blob.copied == {"to GPU": was["to GPU"] + size, "to host": was["to host"] + size}


def test_a_correction_is_one_copy_onto_the_gpu_and_its_memory_is_free_afterwards() -> None:
    blobs, device, gpu = on_device(FROZEN)
    before = read(device, FROZEN)
    correction = np.ones(FROZEN.exchanged, dtype=np.float32)
    gpu.to_gpu = 0
    device.add(correction)
    correction[:] = 1000
    assert gpu.to_gpu == FROZEN.exchanged
    after = read(device, FROZEN)
    np.testing.assert_array_equal(after[: FROZEN.exchanged], before[: FROZEN.exchanged] + 1)
    np.testing.assert_array_equal(after[FROZEN.exchanged :], before[FROZEN.exchanged :])
    assert {blob.head for blob in blobs} == {Head.AT_GPU}


def test_a_read_returns_when_the_copy_is_done() -> None:
    _, device, gpu = on_device()
    assert not np.isnan(read(device)).any()
    assert not gpu.waiting


def test_weights_that_caffe_loaded_on_the_host_are_what_a_snapshot_holds() -> None:
    blobs, device, _ = on_device()
    blobs[1].data[...] = 7  # as Net.copy_from does
    np.testing.assert_array_equal(LAYOUT.split(read(device))[1], 7)


def test_the_memory_of_the_board_is_locked_whole_on_the_chosen_gpu() -> None:
    _, device, gpu = on_device()
    memory = np.zeros(64, dtype=np.uint8)
    device.lend(memory)
    assert gpu.locked == [(memory.ctypes.data, 64)]
    assert gpu.used == 3


def test_memory_that_cannot_be_locked_is_used_as_it_is() -> None:
    _, device, gpu = on_device(locks=False)
    device.lend(np.zeros(64, dtype=np.uint8))
    assert not gpu.locked
    assert not np.isnan(read(device)).any()


def made(monkeypatch: pytest.MonkeyPatch, cupy: object) -> tuple[DeviceBlobs | None, str]:
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return device_blobs(blobs_of(SHAPES), LAYOUT, Blob.gpu_data_ptr, 0)


def test_with_cupy_the_gpu_is_read_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    access, why_not = made(monkeypatch, make_cupy()[0])
    assert isinstance(access, DeviceBlobs)
    assert not why_not


@pytest.mark.parametrize(
    ("cupy", "why"),
    [
        (lambda: None, r"CuPy is not used \("),
        (lambda: make_cupy(compiles=False)[0], r"CuPy cannot be used \(CompileException: nvrtc"),
    ],
)
def test_without_cupy_or_its_compiler_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, cupy: Callable[[], object], why: str
) -> None:
    access, why_not = made(monkeypatch, cupy())
    assert access is None
    assert re.match(why, why_not)


def entries_with_nothing() -> list[Entry]:
    return [("empty", 0, (0,)), ("full", 0, (2,))]


def test_a_blob_without_values_is_passed_over() -> None:
    layout = WeightLayout.of(entries_with_nothing())
    _, device, _ = on_device(layout)
    np.testing.assert_array_equal(read(device, layout), [1, 2])
