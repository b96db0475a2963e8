"""Transformations against Caffe's DataTransformer, written out value by value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gossip_caffe.data.sources.datum import Record
from gossip_caffe.data.sources.transform import Transformer, read_mean
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec.spec import TransformSpec
from gossip_caffe.wire import caffe_wire_pb2 as wire

Image = NDArray[np.uint8] | NDArray[np.float32]


def images(seed: int, count: int, shape: tuple[int, int, int], *, floats: bool = False) -> list[Record]:
    numbers = np.random.default_rng(seed).integers(0, 256, (count, *shape))
    values = numbers.astype(np.float32) / np.float32(7) if floats else numbers.astype(np.uint8)
    return [Record(value, index, f"record {index}") for index, value in enumerate(values)]


def transformed(
    transformer: Transformer, records: list[Record], epoch: int, first: int, crop: int
) -> NDArray[np.float32]:
    channels, height, width = records[0].values.shape
    out = np.full((len(records), channels, crop or height, crop or width), np.nan, dtype=np.float32)
    transformer.apply(records, epoch, first, out)
    return out


def as_caffe_does(
    image: Image, mean: Image | None, scale: float, crop: int, offset: tuple[int, int], turned: bool
) -> NDArray[np.float32]:
    """DataTransformer::Transform: its loops and its float arithmetic."""
    channels, height, width = image.shape
    rows, columns = crop or height, crop or width
    top = np.empty((channels, rows, columns), dtype=np.float32)
    for c in range(channels):
        for h in range(rows):
            for w in range(columns):
                element = np.float32(image[c, offset[0] + h, offset[1] + w])
                if mean is not None:
                    whole = mean.shape == image.shape
                    element -= np.float32(
                        mean[c, offset[0] + h, offset[1] + w] if whole else mean[c % len(mean), 0, 0]
                    )
                top[c, h, columns - 1 - w if turned else w] = element * np.float32(scale)
    return top


@settings(deadline=None)
@given(
    seed=st.integers(0, 99),
    shape=st.tuples(st.integers(1, 3), st.integers(3, 6), st.integers(3, 6)),
    crop=st.integers(0, 3),
    mirror=st.booleans(),
    scale=st.sampled_from([1.0, 0.00390625, 0.017]),
    means=st.sampled_from(["none", "one", "channels"]),
    floats=st.booleans(),
)
def test_every_record_is_one_of_those_that_caffe_could_have_made(
    seed: int,
    shape: tuple[int, int, int],
    crop: int,
    mirror: bool,
    scale: float,
    means: str,
    floats: bool,
) -> None:
    mean_values = {"none": (), "one": (33.3,), "channels": (104.0, 116.7, 122.9)[: shape[0]]}[means]
    mean = np.array(mean_values, dtype=np.float32).reshape(-1, 1, 1) if mean_values else None
    records = images(seed, 3, shape, floats=floats)
    spec = TransformSpec(scale=scale, mirror=mirror, crop_size=crop, mean_values=mean_values)
    found = transformed(Transformer(spec, seed), records, epoch=0, first=0, crop=crop)
    offsets = [
        (top, left)
        for top in range(shape[1] - crop + 1 if crop else 1)
        for left in range(shape[2] - crop + 1 if crop else 1)
    ]
    for record, result in zip(records, found, strict=True):
        possible = [
            as_caffe_does(record.values, mean, scale, crop, offset, turned)
            for offset in offsets
            for turned in ([False, True] if mirror else [False])
        ]
        assert any(np.array_equal(result, candidate) for candidate in possible)


def test_a_mean_file_is_subtracted_where_the_pixel_came_from(tmp_path: Path) -> None:
    """A record that equals its mean image is 0 however it is cropped and turned."""
    (record,) = images(1, 1, (3, 5, 6))
    mean = wire.BlobProto(num=1, channels=3, height=5, width=6, data=record.values.astype(np.float32).ravel())
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(mean.SerializeToString())
    assert np.array_equal(read_mean(str(path)), record.values)
    transformer = Transformer(TransformSpec(mirror=True, crop_size=3, scale=2.0, mean_file=str(path)), seed=5)
    assert not transformed(transformer, [record] * 50, 0, 0, crop=3).any()
    newer = wire.BlobProto(data=mean.data, shape=wire.BlobShape(dim=[3, 5, 6]))
    path.write_bytes(newer.SerializeToString())
    assert np.array_equal(read_mean(str(path)), record.values)


def test_whoever_trains_a_record_transforms_it_alike() -> None:
    records = images(2, 20, (1, 8, 8))
    spec = TransformSpec(mirror=True, crop_size=5)
    whole = transformed(Transformer(spec, seed=7), records, epoch=3, first=100, crop=5)
    other = Transformer(spec, seed=7)
    parts = [transformed(other, records[at : at + 6], 3, 100 + at, crop=5) for at in range(0, 20, 6)]
    assert np.array_equal(np.concatenate(parts[::1]), whole)


def test_seed_and_epoch_change_what_is_random() -> None:
    records = images(3, 40, (1, 9, 9))
    spec = TransformSpec(mirror=True, crop_size=4)
    results = [
        transformed(Transformer(spec, seed), records, epoch, 0, crop=4).tobytes()
        for seed, epoch in [(1, 0), (1, 1), (2, 0), (2, 1)]
    ]
    assert len(set(results)) == 4


def test_offsets_and_turns_are_drawn_evenly_and_independently() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    count = 3000
    records = [Record(image, 0, "")] * count
    found = transformed(Transformer(TransformSpec(mirror=True, crop_size=2), 1), records, 0, 0, crop=2)
    turned = found[:, 0, 0, 0] > found[:, 0, 0, 1]
    left_top = np.minimum(found[:, 0, 0, 0], found[:, 0, 0, 1]).astype(int)
    cells = np.zeros((2, 16))
    np.add.at(cells, (turned.astype(int), left_top), 1)
    drawn = cells[cells > 0]
    assert len(drawn) == 2 * 9
    # 18 equally likely cells: five standard deviations around the mean.
    expected = count / 18
    assert np.abs(drawn - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        (TransformSpec(crop_size=6), (1, 5, 7), "record 0: 1×5×7 is smaller than crop_size 6"),
        (TransformSpec(mean_values=(1.0, 2.0)), (3, 5, 5), "record 0: 2 mean values for 3 channels"),
        (TransformSpec(), (1, 5, 5), "record 0: 1×5×5, but the data set began with 3×5×5"),
        (TransformSpec(crop_size=5), (1, 9, 9), "record 0: 1×9×9, but the data set began with 3×5×5"),
    ],
)
def test_a_record_that_does_not_fit_is_named(
    spec: TransformSpec, shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        Transformer(spec, 0).apply(images(0, 1, shape), 0, 0, np.empty((1, 3, 5, 5), dtype=np.float32))


def test_a_mean_file_must_be_readable_and_of_the_records_shape(tmp_path: Path) -> None:
    path = tmp_path / "mean.binaryproto"
    with pytest.raises(DataError, match="cannot read the mean file"):
        Transformer(TransformSpec(mean_file=str(path)), 0)
    path.write_bytes(wire.BlobProto(num=1, channels=1, height=4, width=4, data=[0.0] * 3).SerializeToString())
    with pytest.raises(DataError, match="cannot read the mean file"):
        Transformer(TransformSpec(mean_file=str(path)), 0)
    path.write_bytes(
        wire.BlobProto(num=1, channels=1, height=4, width=4, data=[0.0] * 16).SerializeToString()
    )
    with pytest.raises(DataError, match="record 0: 3×4×4, but 1×4×4 in the mean file"):
        Transformer(TransformSpec(mean_file=str(path)), 0).check(images(0, 1, (3, 4, 4))[0])


def test_records_of_several_sizes_are_fine_when_they_are_cropped() -> None:
    records = images(0, 2, (1, 6, 6)) + images(1, 2, (1, 7, 5))
    assert np.isfinite(transformed(Transformer(TransformSpec(crop_size=4), 0), records, 0, 0, crop=4)).all()
