"""Which labels a net takes is read from its text and shapes, and every record is held against it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gossip_caffe.data.labels import check_labels, first_wrong
from gossip_caffe.errors import CorruptRecord
from gossip_caffe.job.prototxts.labels.bounds import label_bounds, shapes_from_text, with_bounds
from gossip_caffe.job.prototxts.labels.origins import TopOfSource
from gossip_caffe.job.prototxts.nets import NetState, present
from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.spec.spec import DataSpec, JobSpec, LabelBound, SourceSpec, Span, TopSpec
from tests.bare_job import bare_job

LABEL = ("d", 1)
DATA = 'layer { name: "d" type: "Data" top: "data" top: "label" }\n'


def bounds_of(text: str, **shapes: tuple[int, ...]) -> dict[TopOfSource, list[tuple[int, tuple[int, ...]]]]:
    layers = present(Document(DATA + text, "net").root, NetState("TRAIN"))
    found = label_bounds(layers, {"ip": (8, 10), "label": (8,), **shapes})
    return {top: [(bound.classes, bound.ignored) for bound in bounds] for top, bounds in found.items()}


def layer(kind: str, *bottoms: str, top: str = "out", more: str = "") -> str:
    names = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
    return f'layer {{ name: "{kind}" type: "{kind}" {names} top: "{top}" {more} }}\n'


@pytest.mark.parametrize(
    ("text", "shape", "wanted"),
    [
        (layer("SoftmaxWithLoss", "ip", "label"), (8, 10), [(10, ())]),
        (layer("SoftmaxWithLoss", "ip", "label"), (8, 21, 5, 5), [(21, ())]),
        (layer("SoftmaxWithLoss", "ip", "label", more="softmax_param { axis: -1 }"), (8, 3, 4, 5), [(5, ())]),
        (
            layer("SoftmaxWithLoss", "ip", "label", more="loss_param { ignore_label: 255 }"),
            (8, 21, 5, 5),
            [(21, (255,))],
        ),
        (layer("SoftmaxWithLoss", "ip", "label", more="loss_weight: 0"), (8, 10), [(10, ())]),
        (layer("Accuracy", "ip", "label"), (8, 10), [(10, ())]),
        (
            layer("Accuracy", "ip", "label", more="accuracy_param { axis: 2 ignore_label: -1 }"),
            (8, 3, 4),
            [(4, (-1,))],
        ),
        (layer("HingeLoss", "ip", "label"), (8, 3, 4), [(12, ())]),
        (layer("MultinomialLogisticLoss", "ip", "label"), (8, 10), [(10, ())]),
        (layer("InfogainLoss", "ip", "label"), (8, 10), [(10, ())]),
        (layer("EuclideanLoss", "ip", "label"), (8, 10), [(0, ())]),
        (layer("SigmoidCrossEntropyLoss", "ip", "label"), (8, 10), [(0, ())]),
        (layer("ContrastiveLoss", "ip", "ip", "label"), (8, 10), [(0, ())]),
        (layer("Embed", "label", more="embed_param { input_dim: 7 num_output: 2 }"), (8, 10), [(7, ())]),
        (layer("SoftmaxWithLoss", "ip", "label", more="softmax_param { axis: 7 }"), (8, 10), None),
        (layer("CenterLoss", "ip", "label", more="center_loss_param { num_output: 6 }"), (8, 10), [(6, ())]),
        (
            layer("MarginInnerProduct", "ip", "label", more="margin_inner_product_param { num_output: 5 }"),
            (8, 10),
            [(5, ())],
        ),
        (layer("Python", "ip", "label"), (8, 10), None),
    ],
)
def test_a_layer_says_what_its_labels_may_be(
    text: str, shape: tuple[int, ...], wanted: list[tuple[int, tuple[int, ...]]] | None
) -> None:
    assert bounds_of(text, ip=shape) == ({} if wanted is None else {LABEL: wanted})


def test_labels_are_followed_as_far_as_they_stay_what_they_are() -> None:
    loss = layer("SoftmaxWithLoss", "ip", "x")
    for kind in ("Split", "Reshape", "Flatten"):
        assert bounds_of(layer(kind, "label", top="x") + loss) == {LABEL: [(10, ())]}
    for kind in ("Power", "ArgMax", "Eltwise", "Reduction"):
        assert bounds_of(layer(kind, "label", top="x") + loss) == {}
    in_place = layer("Power", "label", top="label") + layer("SoftmaxWithLoss", "ip", "label")
    assert bounds_of(in_place) == {}


def joined(kind: str, bottoms: list[str], tops: list[str], more: str = "") -> str:
    names = " ".join(f'bottom: "{bottom}"' for bottom in bottoms) + " "
    names += " ".join(f'top: "{top}"' for top in tops)
    return f'layer {{ name: "{kind}{tops}" type: "{kind}" {names} {more} }}\n'


def spans_of(
    text: str, **shapes: tuple[int, ...]
) -> dict[TopOfSource, list[tuple[int, list[tuple[int, int]]]]]:
    layers = present(Document(DATA + text, "net").root, NetState("TRAIN"))
    found = label_bounds(layers, {"ten": (8, 10), "five": (8, 5), **shapes})
    return {
        top: [(bound.classes, [(span.start, span.stop) for span in bound.spans]) for bound in bounds]
        for top, bounds in found.items()
    }


SOFTMAX = "SoftmaxWithLoss"


def test_a_label_that_is_cut_out_of_several_is_checked_where_it_lies() -> None:
    text = joined("Slice", ["label"], ["a", "b", "c"], "slice_param { slice_point: 1 slice_point: 3 }")
    text += layer(SOFTMAX, "ten", "a") + layer(SOFTMAX, "five", "c") + layer("Silence", "b")
    shapes = {"label": (8, 4, 1, 1), "a": (8, 1, 1, 1), "b": (8, 2, 1, 1), "c": (8, 1, 1, 1)}
    assert spans_of(text, **shapes) == {LABEL: [(10, [(0, 1)]), (5, [(3, 4)])]}


def test_a_label_map_that_is_cut_along_a_later_axis_is_checked_row_by_row() -> None:
    text = joined("Slice", ["label"], ["a", "b"], "slice_param { axis: -1 slice_point: 2 }")
    text += layer(SOFTMAX, "ten", "b")
    shapes = {"label": (8, 1, 3, 5), "a": (8, 1, 3, 2), "b": (8, 1, 3, 3)}
    assert spans_of(text, **shapes) == {LABEL: [(10, [(2, 5), (7, 10), (12, 15)])]}
    many = {"label": (8, 1, 500, 5), "a": (8, 1, 500, 2), "b": (8, 1, 500, 3)}
    assert spans_of(text, **many) == {}, "too many to be written down"


def test_a_label_is_followed_through_cuts_joins_and_other_shapes() -> None:
    text = joined("Slice", ["label"], ["a", "b"], "slice_param { slice_dim: 1 }")
    text += layer("Flatten", "b", top="flat") + joined("Split", ["flat"], ["s1", "s2"])
    text += joined("Slice", ["s1"], ["x", "y"]) + joined("Concat", ["y", "a"], ["back"])
    text += layer("Reshape", "back", top="same") + layer(SOFTMAX, "ten", "same")
    shapes = {"label": (8, 6, 1, 1), "a": (8, 2, 1, 1), "b": (8, 4, 1, 1), "flat": (8, 4), "s1": (8, 4)}
    shapes |= {"s2": (8, 4), "x": (8, 2), "y": (8, 2), "back": (8, 4), "same": (8, 1, 2, 2)}
    assert spans_of(text, **shapes) == {LABEL: [(10, [(0, 2), (4, 6)])]}


def test_labels_of_two_sources_that_are_joined_are_each_checked() -> None:
    text = 'layer { name: "e" type: "Data" top: "more" top: "other" }\n'
    text += joined("Concat", ["label", "other"], ["both"]) + layer(SOFTMAX, "ten", "both")
    shapes = {"label": (8, 1), "other": (8, 1), "both": (8, 2)}
    assert spans_of(text, **shapes) == {LABEL: [(10, [])], ("e", 1): [(10, [])]}
    below = text.replace('top: "both"', 'top: "both" concat_param { axis: 0 }')
    assert spans_of(below, **{**shapes, "both": (16, 1)}) == {LABEL: [(10, [])], ("e", 1): [(10, [])]}


def test_what_is_joined_with_something_computed_is_checked_as_far_as_it_is_a_label() -> None:
    text = layer("Power", "data", top="made") + joined("Concat", ["made", "label"], ["both"])
    text += layer(SOFTMAX, "ten", "both")
    assert spans_of(text, made=(8, 2), label=(8, 1), both=(8, 3)) == {LABEL: [(10, [])]}


def test_where_a_net_cuts_the_batch_or_no_shape_is_known_nothing_is_followed() -> None:
    """Which records of a batch come to which part nobody knows before."""
    text = joined("Slice", ["label"], ["a", "b"], "slice_param { axis: 0 }") + layer(SOFTMAX, "ten", "a")
    assert spans_of(text, label=(8, 1), a=(4, 1), b=(4, 1)) == {}
    assert spans_of(joined("Slice", ["label"], ["a", "b"]) + layer(SOFTMAX, "ten", "a")) == {}
    wide = layer("Reshape", "label", top="wide") + joined("Slice", ["wide"], ["a", "b"])
    assert spans_of(wide + layer(SOFTMAX, "ten", "a"), label=(8, 4), wide=(4, 8), a=(4, 4), b=(4, 4)) == {}
    assert spans_of(wide + layer(SOFTMAX, "ten", "wide"), label=(8, 4), wide=(4, 8)) == {LABEL: [(10, [])]}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            layer("InnerProduct", "data", top="a", more="inner_product_param { num_output: 7 }")
            + layer("ReLU", "a", top="a")
            + layer("Dropout", "a", top="b")
            + layer("SoftmaxWithLoss", "b", "label"),
            {LABEL: [7]},
        ),
        (
            layer(
                "MarginInnerProduct",
                "data",
                "label",
                top="a",
                more="margin_inner_product_param { num_output: 7 }",
            )
            + layer("Swish", "a", top="a")
            + layer("Clip", "a", top="a")
            + layer("Accuracy", "a", "label"),
            {LABEL: [7]},
        ),
        (
            layer("Convolution", "data", top="a", more="convolution_param { num_output: 21 }")
            + layer("SoftmaxWithLoss", "a", "label"),
            {LABEL: [21]},
        ),
        (
            layer("Convolution", "data", top="a", more="convolution_param { num_output: 21 }")
            + layer("HingeLoss", "a", "label"),
            {},
        ),
        (
            layer("InnerProduct", "data", top="a", more="inner_product_param { num_output: 7 }")
            + layer("Reshape", "a", top="b")
            + layer("SoftmaxWithLoss", "b", "label"),
            {},
        ),
        (
            layer("InnerProduct", "data", top="a", more="inner_product_param { num_output: 7 axis: 2 }")
            + layer("SoftmaxWithLoss", "a", "label"),
            {},
        ),
    ],
)
def test_without_a_caffe_the_text_says_how_many_classes_there_are_or_nothing(
    text: str, wanted: dict[TopOfSource, list[int]]
) -> None:
    layers = present(Document(DATA + text, "net").root, NetState("TRAIN"))
    found = label_bounds(layers, shapes_from_text(layers))
    assert {top: [bound.classes for bound in bounds] for top, bounds in found.items()} == wanted


def test_every_consumer_of_a_label_counts_once() -> None:
    text = (
        layer("SoftmaxWithLoss", "ip", "label")
        + layer("Accuracy", "ip", "label")
        + layer("HingeLoss", "few", "label")
    )
    assert bounds_of(text, few=(8, 3)) == {LABEL: [(10, ()), (3, ())]}


def test_bounds_reach_the_sources_and_the_store_and_leave_the_fingerprint() -> None:
    spec = bare_job()
    sources = tuple(
        dataclasses.replace(source, tops=(TopSpec("data", (2,)), TopSpec("label", (4,))))
        for source in spec.data.sources
    ) or (SourceSpec("d", "lmdb", "/l", (TopSpec("data", (2,)), TopSpec("label", (4,))), 5),)
    plain = dataclasses.replace(spec, data=dataclasses.replace(spec.data, sources=sources))
    bound = LabelBound(1, 10, (255,), "loss", (Span(0, 1), Span(3, 4)))
    bounded = dataclasses.replace(plain, data=with_bounds(plain.data, {(sources[0].layer, 1): (bound,)}))
    assert bounded.data.sources[0].labels == (bound,)
    assert JobSpec.from_json(bounded.to_json()) == bounded
    assert bounded.fingerprint == plain.fingerprint


def test_only_data_that_may_be_nan_is_asked_to_be_finite() -> None:
    tops = (TopSpec("data", (2,)), TopSpec("label", ()))
    data = DataSpec(tuple(SourceSpec("d", kind, "/l", tops, 5) for kind in ("lmdb", "hdf5")), 5, 5, 1)
    found = with_bounds(data, {LABEL: (LabelBound(1, 0, (), "loss"),)})
    assert [len(source.labels) for source in found.sources] == [0, 1]


@given(
    arrays(np.float32, (4, 3), elements=st.floats(width=32)),
    st.integers(0, 12),
    st.sets(st.integers(-3, 300), max_size=2),
)
def test_a_value_is_wrong_just_when_caffe_would_leave_the_blob(
    values: np.ndarray[tuple[int, int], np.dtype[np.float32]], classes: int, ignored: set[int]
) -> None:
    bound = LabelBound(0, classes, tuple(ignored))

    def is_right(value: float) -> bool:
        if not math.isfinite(value):
            return False
        return not classes or 0 <= math.trunc(value) < classes or math.trunc(value) in ignored

    wrong = [
        (row, column) for row in range(4) for column in range(3) if not is_right(float(values[row, column]))
    ]
    found = first_wrong(bound, values)
    if not wrong:
        assert found is None
    else:
        assert found is not None
        assert found[0] == wrong[0][0]
        assert found[1] == values[wrong[0]] or math.isnan(found[1])


@pytest.mark.parametrize(
    ("value", "shown"), [(5_000_000.0, "5000000"), (-1.0, "-1"), (math.nan, "nan"), (10.5, "10.5")]
)
def test_a_wrong_label_is_named_with_its_record_and_what_is_right(value: float, shown: str) -> None:
    tops = (TopSpec("data", (2,)), TopSpec("label", ()))
    values = [np.zeros((3, 2), np.float32), np.array([0, 9, value], np.float32)]
    with pytest.raises(CorruptRecord) as caught:
        check_labels([LabelBound(1, 10, (), "loss")], tops, values, lambda row: f"train, key '{row}'")
    assert caught.value.message == f"train, key '2': label {shown}, but layer 'loss' takes 0 to 9"


def test_a_wrong_value_of_several_is_named_with_its_place() -> None:
    tops = (TopSpec("data", (2,)), TopSpec("label", (4,)))
    values = [np.zeros((2, 2), np.float32), np.array([[99, 0, 99, 9], [0, 7, 99, 10]], np.float32)]
    bound = LabelBound(1, 10, (), "loss", (Span(1, 2), Span(3, 4)))
    with pytest.raises(CorruptRecord) as caught:
        check_labels([bound], tops, values, lambda row: f"train, key '{row}'")
    wanted = "train, key '1': value 3 of label 10, but layer 'loss' takes 0 to 9"
    assert caught.value.message == wanted
    check_labels([bound], tops, [values[0], values[1][:1]], str)
