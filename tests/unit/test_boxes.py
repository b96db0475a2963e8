"""Boxes: seen through windows, drawn around, packed into a batch; and the layer and the records that hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gossip_caffe.data.loader import OpenSources
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.data.sources.boxes import (
    MOST_BOXES,
    VALUES,
    WHOLE,
    Draws,
    drawn_window,
    mirrored,
    packed,
    pieces,
    satisfies,
    seen,
)
from gossip_caffe.data.sources.source import measure
from gossip_caffe.errors import CorruptRecord, DataError, ModelError
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import BoxesSpec, JobSettings, JobSpec, SamplerSpec, TopSpec
from tests.boxed_data import Box, annotated, data_layer, write_records

Floats = NDArray[np.float32]
parts = st.floats(0, 1, width=32)
ALL = BoxesSpec()


def rows_of(*corners: tuple[float, float, float, float]) -> Floats:
    rows = np.zeros((len(corners), VALUES), np.float32)
    rows[:, 1], rows[:, 3:7] = 1, np.array(corners, np.float32).reshape(-1, 4)
    return rows


@st.composite
def boxes(draw: st.DrawFn, most: int = 6) -> Floats:
    corners = []
    for _ in range(draw(st.integers(0, most))):
        xs, ys = sorted((draw(parts), draw(parts))), sorted((draw(parts), draw(parts)))
        corners.append((xs[0], ys[0], xs[1], ys[1]))
    return rows_of(*corners)


@given(boxes())
def test_the_whole_picture_shows_every_box_that_has_an_area(rows: Floats) -> None:
    sizes = rows[:, 5:7] - rows[:, 3:5]
    assert np.array_equal(seen(rows, WHOLE, ALL), rows[sizes[:, 0] * sizes[:, 1] > 0])


@given(boxes(), st.floats(0, 0.5, width=32), st.floats(0.5, 1, width=32))
def test_boxes_seen_through_a_window_lie_in_it(rows: Floats, low: float, high: float) -> None:
    window = np.array([low, low, max(high, low + 0.125), max(high, low + 0.125)], np.float32)
    found = seen(rows, window, ALL)[:, 3:7]
    assert ((found >= 0) & (found <= 1)).all()
    assert (found[:, 2:] > found[:, :2]).all()
    centred = seen(rows, window, BoxesSpec(emit="CENTER"))
    assert {row.tobytes() for row in centred} <= {row.tobytes() for row in seen(rows, window, ALL)}


def test_a_window_cuts_boxes_and_emit_constraints_leave_some_out() -> None:
    rows = rows_of((0.0, 0.0, 0.5, 0.5), (0.125, 0.125, 0.375, 1.0), (0.75, 0.75, 1.0, 1.0))
    window = np.array([0.25, 0.25, 0.75, 0.75], np.float32)
    assert seen(rows, window, ALL)[:, 3:7].tolist() == [[0, 0, 0.5, 0.5], [0, 0, 0.25, 1.0]]
    assert seen(rows, window, BoxesSpec(emit="CENTER"))[:, 3:7].tolist() == [
        [0, 0, 0.5, 0.5],
        [0, 0, 0.25, 1.0],
    ]
    assert len(seen(rows, window, BoxesSpec(emit="MIN_OVERLAP", emit_overlap=0.27))) == 1
    assert mirrored(rows)[0, 3:7].tolist() == [0.5, 0.0, 1.0, 0.5]


@given(
    *(st.floats(0.125, 1), st.floats(0.125, 1)),
    *(st.floats(0.25, 1), st.floats(1, 5), st.integers(0, 2**31)),
)
def test_pieces_lie_in_the_picture_and_have_the_scales_and_aspect_ratios_that_are_asked_for(
    one: float, other: float, least: float, most: float, seed: int
) -> None:
    sampler = SamplerSpec(min(one, other), max(one, other), least, most)
    found = pieces(sampler, Draws(seed, 0, 0).uniform(80).reshape(-1, 4))
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6
    width, height = found[:, 2] - found[:, 0], found[:, 3] - found[:, 1]
    scales = np.sqrt(width * height)
    assert (scales >= sampler.min_scale - 1e-4).all()
    assert (scales <= sampler.max_scale + 1e-4).all()
    aspects = width / height
    assert (aspects >= least - 1e-2).all()
    assert (aspects <= most + 1e-2).all()


@pytest.mark.parametrize(
    ("measure_", "value"),
    [("jaccard", 1 / 7), ("sample", 0.25), ("object", 0.25)],
    ids=str,
)
def test_a_sampler_accepts_a_piece_by_its_overlap_with_some_box(measure_: str, value: float) -> None:
    windows = np.array([[0.0, 0.0, 0.5, 0.5]], np.float32)
    corners = np.array([[0.25, 0.25, 0.75, 0.75], [0.9, 0.9, 1.0, 1.0]], np.float32)

    def accepted(least: float, most: float = 2.0) -> bool:
        return bool(satisfies(SamplerSpec(measure=measure_, least=least, most=most), windows, corners)[0])

    assert accepted(value - 0.01)
    assert not accepted(value + 0.01)
    assert not accepted(0.01, value - 0.01)
    assert accepted(0.0, 0.0), "the other box has nothing in common with it"
    assert not satisfies(SamplerSpec(measure=measure_), windows, corners[:0])[0]


def test_a_window_is_one_of_the_accepted_and_a_function_of_seed_epoch_and_record() -> None:
    rows = rows_of((0.2, 0.2, 0.6, 0.6))
    samplers = (SamplerSpec(0.3, 0.9, 0.5, 2.0, "jaccard", 0.5, 2.0, 1, 50),)
    window = drawn_window(rows, samplers, Draws(1, 2, 3))
    assert window is not None
    assert satisfies(samplers[0], window[None], rows[:, 3:7])[0]
    places = ((1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4))
    again, *others = (drawn_window(rows, samplers, Draws(*place)) for place in places)
    assert again is not None
    assert again.tolist() == window.tolist()
    assert all(other is None or other.tolist() != window.tolist() for other in others)
    assert drawn_window(rows, (SamplerSpec(measure="jaccard", least=1.5),), Draws(1, 2, 3)) is None


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_packed_boxes_follow_one_another_with_the_number_of_their_record(counts: list[int]) -> None:
    array = np.full((len(counts) + 1, 5, VALUES), 77, np.float32)
    wanted = []
    for record, count in enumerate(counts):
        array[record, :count, 1] = np.arange(count)
        array[record, 0, 0] = count
        wanted += [(record, number) for number in range(count)]
    found = array.reshape(-1, VALUES)
    assert packed(array, len(counts)) == max(1, len(wanted))
    if wanted:
        assert [(row[0], row[1]) for row in found[: len(wanted)]] == wanted
    else:
        assert (found[0] == -1).all()


def test_a_ring_gives_boxes_as_caffe_shapes_them() -> None:
    ring = BatchRing.create([TopSpec("data", (1, 2, 2)), TopSpec("label", (4, VALUES), boxes=True)], 3, 2)
    arrays = ring.reserve(0.0)
    assert arrays is not None
    assert arrays[1].shape == (3, 4, VALUES)
    arrays[1].reshape(-1, VALUES)[:5] = np.arange(5)[:, None]
    ring.commit(0, 2, [2, 5])
    batch = ring.take(0.0)
    assert batch is not None
    assert [array.shape for array in batch.arrays] == [(2, 1, 2, 2), (1, 1, 5, VALUES)]
    assert batch.arrays[1][0, 0, :, 0].tolist() == [0, 1, 2, 3, 4]
    ring.close()


def job_of(folder: Path, layer: str) -> JobSpec:
    (folder / "net.prototxt").write_text(layer)
    (folder / "solver.prototxt").write_text(
        f'net: "{folder}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 10\n'
    )
    return read_job("boxes", folder / "solver.prototxt", JobSettings(), measure)


BOX: Box = (1, 0, 0.25, 0.25, 0.75, 0.75, False)
PIXELS = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)


@pytest.mark.parametrize(
    ("param", "found"),
    [
        ("", ()),
        ("batch_sampler { }", (SamplerSpec(),)),
        ("batch_sampler { use_original_image: false }", ()),
        ("batch_sampler { max_sample: 0 }", (SamplerSpec(max_trials=0),)),
        (
            "batch_sampler { sampler { min_scale: 0.5 max_aspect_ratio: 2 } max_sample: 1 max_trials: 50 "
            "sample_constraint { min_jaccard_overlap: 0.25 min_object_coverage: 0.9 } }",
            (SamplerSpec(0.5, 1.0, 1.0, 2.0, "jaccard", 0.25, 2.0, 1, 50),),
        ),
        (
            "batch_sampler { sample_constraint { max_sample_coverage: 0.75 } }",
            (SamplerSpec(measure="sample", most=0.75),),
        ),
    ],
)
def test_a_layers_samplers_are_read(tmp_path: Path, param: str, found: tuple[SamplerSpec, ...]) -> None:
    write_records(tmp_path / "db", [annotated(PIXELS, [BOX])] * 2)
    spec = job_of(tmp_path, data_layer(tmp_path / "db", 1, transform="crop_size: 4", annotated_data=param))
    (source,) = spec.data.sources
    assert (source.kind, source.boxes.samplers) == ("annotated_lmdb", found)
    assert source.tops == (TopSpec("data", (3, 4, 4)), TopSpec("label", (MOST_BOXES, VALUES), boxes=True))
    assert JobSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("transform", "param", "message"),
    [
        ("", "batch_sampler { sampler { min_scale: 0 } }", "scales 0 to 1"),
        ("", "batch_sampler { sampler { max_scale: 1.5 } }", "scales 1 to 1.5"),
        ("", "batch_sampler { max_trials: 100000 }", "max_trials 100000"),
        ("", "batch_sampler { sampler { min_scale: 0.5 } }", "pieces of unlike sizes"),
        ("emit_constraint { emit_type: EDGE }", "", "emit_type EDGE"),
        ("noise_param { }", "", "noise_param is not BVLC Caffe's"),
        ("resize_param { }", "", "resize_param is not BVLC Caffe's"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(
    tmp_path: Path, transform: str, param: str, message: str
) -> None:
    write_records(tmp_path / "db", [annotated(PIXELS, [BOX])])
    with pytest.raises(ModelError, match=f"net.prototxt:1:.*{message}"):
        job_of(tmp_path, data_layer(tmp_path / "db", 1, transform=transform, annotated_data=param))


def filled(spec: JobSpec) -> list[Floats]:
    sources = OpenSources(spec.data, 1)
    arrays = [np.zeros((spec.data.records, *top.shape), np.float32) for top in spec.data.tops]
    try:
        sources.fill([[0, 0, spec.data.records]], arrays)
    finally:
        sources.close()
    return [arrays[0], arrays[1].reshape(-1, VALUES)[: sources.rows[1]]]


def test_records_that_fit_not_the_first_one_are_named(tmp_path: Path) -> None:
    good = annotated(PIXELS, [BOX])
    wrong = {
        "not an AnnotatedDatum": b"\xff\xff",
        "no boxes, and the first record has some": annotated(PIXELS, [], typed=False),
        "3×2×4, but the data set began with": annotated(PIXELS[:, :2], [BOX]),
        "2,049 boxes": annotated(PIXELS, [BOX] * 2049),
        "a box that is not finite": annotated(PIXELS, [(1, 0, float("nan"), 0, 1, 1, False)]),
    }
    for number, (message, record) in enumerate(wrong.items()):
        spec = job_of(tmp_path, data_layer(write_records(tmp_path / f"db{number}", [good, record]), 1))
        with pytest.raises(CorruptRecord, match=f"db{number}, key '000001': .*{message}"):
            filled(spec)


def test_a_database_without_annotations_is_refused_with_the_way_out(tmp_path: Path) -> None:
    write_records(tmp_path / "db", [b"\x08\x03\x10\x04\x18\x04"])
    with pytest.raises(DataError, match="not an AnnotatedDatum") as caught:
        job_of(tmp_path, data_layer(tmp_path / "db", 1))
    assert '"Data"' in caught.value.remedy


@pytest.mark.needs("plyvel")
def test_a_leveldb_holds_the_same(tmp_path: Path) -> None:
    import plyvel  # noqa: PLC0415

    records = [annotated(PIXELS, [BOX] * count) for count in (2, 0, 1)]
    write_records(tmp_path / "db", records)
    database = plyvel.DB(str(tmp_path / "level"), create_if_missing=True)
    for index, record in enumerate(records):
        database.put(b"%06d" % index, record)
    database.close()
    mine = filled(job_of(tmp_path, data_layer(tmp_path / "db", 1)))
    layer = data_layer(tmp_path / "level", 1).replace("backend: LMDB", "backend: LEVELDB")
    other = filled(job_of(tmp_path, layer))
    assert all(np.array_equal(one, two) for one, two in zip(mine, other, strict=True))
    assert mine[1][:, 0].tolist() == [0, 0, 2]
