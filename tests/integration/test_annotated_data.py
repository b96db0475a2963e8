"""An AnnotatedData layer is read as by SSD's Caffe: bit for bit without randomness, alike in distribution with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import caffe
import numpy as np
import pytest
from numpy.typing import NDArray

from gossip_caffe.data.loader import OpenSources
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.data.sources.source import measure
from gossip_caffe.job.prototxts.nets import layers_of
from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.prototxts.rewriting import ring_layer
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings, JobSpec
from gossip_caffe.solver.engines import source_layer
from tests.boxed_data import Box, annotated, data_layer, squares, ssd, write_records
from tests.one_peer import bare, trained

pytestmark = pytest.mark.integration

Batch = list[NDArray[np.float32]]
MEANS = "mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.017"
READ = """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 1 } }
layer { name: "loss" type: "Reduction" bottom: "ip" top: "loss" loss_weight: 1 }
"""
SIZE, ITERATIONS = 32, 20


def odd_boxes(rng: np.random.Generator, count: int) -> list[Box]:
    """Boxes in and around the picture."""
    found: list[Box] = []
    for _ in range(count):
        xs, ys = np.sort(rng.uniform(-0.2, 1.2, 2)), np.sort(rng.uniform(-0.2, 1.2, 2))
        label, instance, difficult = rng.integers(1, 4), rng.integers(0, 5), rng.integers(2)
        found.append((int(label), int(instance), xs[0], ys[0], xs[1], ys[1], bool(difficult)))
    return found


def records(height: int, width: int, boxes: list[int], *, typed: bool = True) -> list[bytes]:
    rng = np.random.default_rng(7)
    return [
        annotated(
            rng.integers(0, 256, (3, height, width), dtype=np.uint8), odd_boxes(rng, count), typed=typed
        )
        for count in boxes
    ]


def job_of(folder: Path, layer: str, net: str = READ, solver: str = "") -> JobSpec:
    (folder / "net.prototxt").write_text(layer + net)
    text = f'net: "{folder}/net.prototxt" lr_policy: "fixed" max_iter: 1000 snapshot_after_train: false {solver}\n'
    (folder / "solver.prototxt").write_text(text if "base_lr" in solver else f"{text} base_lr: 0.01")
    return read_job("boxes", folder / "solver.prototxt", JobSettings(), measure)


def ours(spec: JobSpec, batches: int) -> Iterator[Batch]:
    """Yield the tops of batches, as the solver gets them from the ring."""
    size, count = spec.data.batch_records, spec.data.records
    ring, sources = BatchRing.create(spec.data.tops, size, 2), OpenSources(spec.data, spec.settings.seed)
    for sequence in range(batches):
        epoch, start = divmod(sequence * size, count)
        arrays = ring.reserve(0.0)
        assert arrays is not None
        ring.commit(sequence, sources.fill([[epoch, start, start + size]], arrays), sources.rows)
        batch = ring.take(0.0)
        assert batch is not None
        yield [array.copy() for array in batch.arrays]
        ring.release()
    sources.close()


def caffes(folder: Path, batches: int, seed: int = 1) -> Iterator[Batch]:
    """Yield the tops of batches of Caffe's own layer in the TRAIN phase."""
    caffe.set_random_seed(seed)
    net = caffe.Net(str(folder / "net.prototxt"), caffe.TRAIN)
    for _ in range(batches):
        net.forward()
        yield [net.blobs[top].data.copy() for top in ("data", "label")]


@pytest.mark.parametrize(
    "transform",
    [
        "",
        MEANS,
        f"{MEANS} emit_constraint {{ emit_type: CENTER }}",
        "emit_constraint { emit_type: MIN_OVERLAP emit_overlap: 0.6 }",
    ],
)
def test_without_randomness_pixels_and_boxes_are_caffes_bit_for_bit(tmp_path: Path, transform: str) -> None:
    write_records(tmp_path / "db", records(7, 9, [0, 2, 3, 1, 0, 0, 0, 9, 4, 2]))
    spec = job_of(tmp_path, data_layer(tmp_path / "db", 2, transform=transform))
    shapes = []
    for mine, wanted in zip(ours(spec, 10), caffes(tmp_path, 10), strict=True):
        assert [array.shape for array in mine] == [array.shape for array in wanted]
        assert all(np.array_equal(one, other) for one, other in zip(mine, wanted, strict=True))
        shapes.append(mine[1].shape[2])
    assert len(set(shapes)) > 2, "the number of boxes differs from batch to batch"


def test_records_without_boxes_have_a_label_as_in_caffe(tmp_path: Path) -> None:
    write_records(tmp_path / "db", records(7, 9, [0, 1, 0, 1], typed=False))
    spec = job_of(tmp_path, data_layer(tmp_path / "db", 2))
    (mine,), (wanted,) = ours(spec, 1), caffes(tmp_path, 1)
    assert all(np.array_equal(one, other) for one, other in zip(mine, wanted, strict=True))


def test_crops_and_mirrors_are_those_that_caffe_can_draw_and_boxes_move_with_the_pixels(
    tmp_path: Path,
) -> None:
    write_records(tmp_path / "db", records(7, 9, [3, 1]))
    spec = job_of(tmp_path, data_layer(tmp_path / "db", 2, transform=f"{MEANS} crop_size: 6 mirror: true"))
    found, wanted = (
        {record for batch in batches for record in by_record(batch)}
        for batches in (ours(spec, 400), caffes(tmp_path, 400))
    )
    assert found == wanted
    assert len(found) == 2 * 2 * 4 * 2  # records, rows, columns, sides


def by_record(batch: Batch) -> Iterator[tuple[bytes, bytes]]:
    data, boxes = batch
    for item, pixels in enumerate(data):
        yield pixels.tobytes(), boxes[0, 0, boxes[0, 0, :, 0] == item, 1:].tobytes()


SAMPLERS = """
batch_sampler { max_sample: 1 max_trials: 1 }
batch_sampler {
  sampler { min_scale: 0.5 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }
  sample_constraint { min_jaccard_overlap: 0.3 } max_sample: 1 max_trials: 50
}
batch_sampler {
  sampler { min_scale: 0.6 max_scale: 0.9 min_aspect_ratio: 0.8 max_aspect_ratio: 1.25 }
  sample_constraint { max_object_coverage: 0.9 } max_sample: 2 max_trials: 20
}
batch_sampler {
  sampler { min_scale: 0.5 max_scale: 0.5 } sample_constraint { min_sample_coverage: 0.2 } max_trials: 5
}
"""


def test_drawn_pieces_are_distributed_as_caffes(tmp_path: Path) -> None:
    boxes: list[Box] = [(1, 0, 0.1, 0.1, 0.5, 0.6, False), (2, 0, 0.4, 0.3, 0.95, 0.9, False)]
    pixels = np.arange(3 * 40 * 40, dtype=np.uint32).astype(np.uint8).reshape(3, 40, 40)
    write_records(tmp_path / "db", [annotated(pixels, boxes)] * 8)
    layer = data_layer(tmp_path / "db", 8, transform="crop_size: 8", annotated_data=SAMPLERS)
    spec = job_of(tmp_path, layer)
    found, wanted = (
        np.concatenate([batch[1][0, 0] for batch in batches])
        for batches in (ours(spec, 300), caffes(tmp_path, 300))
    )
    assert abs(len(found) - len(wanted)) < 0.05 * len(wanted)
    assert abs((found[:, 1] == 1).mean() - (wanted[:, 1] == 1).mean()) < 0.03
    for column in range(3, 7):
        assert farthest(found[:, column], wanted[:, column]) < 0.05


def farthest(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the largest distance of two empirical distributions (Kolmogorov and Smirnov)."""
    at = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(values), at, side="right") / len(values) for values in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def test_a_record_is_transformed_alike_by_every_peer_and_anew_in_every_epoch(tmp_path: Path) -> None:
    write_records(tmp_path / "db", squares(8, 40, 3))
    spec = job_of(tmp_path, data_layer(tmp_path / "db", 8, annotated_data=SAMPLERS, transform="crop_size: 8"))
    one, other = list(ours(spec, 2)), list(ours(spec, 2))
    for first, second in zip(one, other, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(one[0][0], one[1][0])


def test_a_short_batch_that_is_filled_up_has_the_boxes_of_the_records_that_fill_it(tmp_path: Path) -> None:
    write_records(tmp_path / "db", squares(5, 8, 1))
    spec = job_of(tmp_path, data_layer(tmp_path / "db", 5))
    ring, sources = BatchRing.create(spec.data.tops, 5, 1), OpenSources(spec.data, 1)
    arrays = ring.reserve(0.0)
    assert arrays is not None
    ring.commit(0, sources.fill([[0, 0, 2]], arrays), sources.rows)
    batch = ring.take(0.0)
    assert batch is not None
    boxes = batch.arrays[1][0, 0].copy()
    layer = layers_of(Document(spec.train_net_text, "net").root)[0]
    (tmp_path / "fed.prototxt").write_text(ring_layer(layer, 0) + READ)
    source_layer.feed_from(ring, fill_up=True)
    net = caffe.Net(str(tmp_path / "fed.prototxt"), caffe.TRAIN)
    net.forward()
    filled = net.blobs["label"].data[0, 0]
    for item in range(5):
        mine = boxes[boxes[:, 0] == item % 2]
        assert np.array_equal(filled[filled[:, 0] == item, 1:], mine[:, 1:])
        assert np.array_equal(net.blobs["data"].data[item], net.blobs["data"].data[item % 2])
    sources.close()


@pytest.mark.parametrize("iter_size", [1, 2])
async def test_an_ssd_of_one_peer_has_the_weights_of_plain_caffe_bit_for_bit(
    tmp_path: Path, iter_size: int
) -> None:
    write_records(tmp_path / "db", squares(24, SIZE, 1))
    layer = data_layer(tmp_path / "db", 4, transform="mean_value: 128 scale: 0.01")
    solver = f"base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 random_seed: 3 iter_size: {iter_size}"
    spec = job_of(tmp_path, layer, ssd(SIZE), solver)
    peers = await trained(spec, ITERATIONS)
    caffe_alone = bare(tmp_path / "solver.prototxt", ITERATIONS, peers.layout, tmp_path, None)
    assert np.array_equal(peers.start, caffe_alone.start)
    assert np.array_equal(peers.weights, caffe_alone.weights)
    assert np.abs(peers.weights - peers.start).max() > 1e-3
