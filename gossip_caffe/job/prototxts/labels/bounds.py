"""The values that a net accepts as labels. Caffe uses a label as an index without a check, and crashes on a wrong one.

Follows the Reshape and Forward functions of Caffe's loss layers, of Accuracy and of Embed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from gossip_caffe.job.prototxts.labels.origins import LabelOrigins, Shapes, TopOfSource
from gossip_caffe.job.prototxts.nets import Layer
from gossip_caffe.job.spec.spec import DataSpec, LabelBound

Bounds = Mapping[TopOfSource, tuple[LabelBound, ...]]

_MAY_BE_NAN = frozenset({"hdf5", "dataset"})
"""The kinds of data whose labels may be NaN; the labels of the other kinds are integers."""
_KEEP_SHAPE = frozenset(
    {
        *(
            "AbsVal",
            "BatchNorm",
            "Bias",
            "BNLL",
            "Dropout",
            "ELU",
            "Eltwise",
            "Exp",
            "Log",
            "LRN",
            "MVN",
            "Power",
        ),
        *("PReLU", "ReLU", "Scale", "Sigmoid", "Softmax", "Split", "TanH", "Clip", "Swish"),
    }
)
_PRODUCTS = {"InnerProduct": "inner_product_param", "MarginInnerProduct": "margin_inner_product_param"}


def label_bounds(layers: Sequence[Layer], shapes: Shapes) -> dict[TopOfSource, tuple[LabelBound, ...]]:
    """The bounds on the values of a net's source layers' tops, as far as layers of the net imply them.

    Labels are followed through layers that only cut, join and reshape them, but not through layers that compute with
    them.
    """
    followed = LabelOrigins(layers, shapes)
    found: dict[TopOfSource, list[LabelBound]] = {}
    for layer in layers:
        bottoms = layer.fields.texts("bottom")
        for bottom, wanted in _wanted(layer, bottoms, shapes):
            for top, spans in followed.values_of(bottom):
                bound = dataclasses.replace(wanted, top=top[1], spans=spans)
                bounds = found.setdefault(top, [])
                if all(dataclasses.replace(had, layer=bound.layer) != bound for had in bounds):
                    bounds.append(bound)
        followed.pass_on(layer)
    return {top: tuple(bounds) for top, bounds in found.items()}


def shapes_from_text(layers: Sequence[Layer]) -> dict[str, tuple[int, ...]]:
    """The shapes of a net's blobs according to its text alone, for use without Caffe; 0 for an unknown size.

    The number of channels is a layer's num_output. Shapes are followed only through layers that set it and through
    layers that change no shape.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        bottoms = layer.fields.texts("bottom")
        shape: tuple[int, ...] | None = None
        if layer.type in _PRODUCTS:
            param = layer.fields.message(_PRODUCTS[layer.type])
            if param is not None and param.integer("axis", 1) == 1:
                shape = (0, param.integer("num_output"))
        elif layer.type in {"Convolution", "Deconvolution"}:
            param = layer.fields.message("convolution_param")
            if param is not None and param.integer("axis", 1) == 1:
                shape = (0, param.integer("num_output"), 0, 0)
        elif layer.type in _KEEP_SHAPE and bottoms:
            shape = shapes.get(bottoms[0])
        for top in layer.tops:
            if shape is not None:
                shapes[top] = shape
            else:
                shapes.pop(top, None)
    return shapes


def with_bounds(data: DataSpec, bounds: Bounds) -> DataSpec:
    """The data of a job, with the label bounds set in its sources."""
    sources = (
        dataclasses.replace(
            source,
            labels=tuple(
                bound
                for number, top in enumerate(source.tops)
                if not top.boxes
                for bound in bounds.get((source.layer, number), ())
                if bound.classes or source.kind in _MAY_BE_NAN
            ),
        )
        for source in data.sources
    )
    return dataclasses.replace(data, sources=tuple(sources))


def _wanted(layer: Layer, bottoms: Sequence[str], shapes: Shapes) -> Iterator[tuple[str, LabelBound]]:
    """(bottom, bound) for each bottom whose values a layer uses as class numbers, or whose values must be finite."""
    if layer.type == "Embed":
        param = layer.fields.message("embed_param")
        if bottoms and param is not None and (size := param.integer("input_dim")) > 0:
            yield bottoms[0], LabelBound(0, size, (), layer.name)
        return
    if len(bottoms) < 2:
        return
    if layer.type in _FINITE:
        # A third bottom of ContrastiveLoss tells whether a pair is similar.
        yield bottoms[-1], LabelBound(0, 0, (), layer.name)
        return
    count, shape = _CLASSES.get(layer.type), shapes.get(bottoms[0])
    if count is not None and shape and (classes := count(layer, shape)) > 0:
        yield bottoms[1], LabelBound(0, classes, _ignored(layer), layer.name)


def _along(param: str) -> Callable[[Layer, Sequence[int]], int]:
    """The number of classes is the size of the axis that ``param`` names, 1 by default."""

    def count(layer: Layer, shape: Sequence[int]) -> int:
        given = layer.fields.message(param)
        axis = given.integer("axis", 1) if given is not None else 1
        return shape[axis] if -len(shape) <= axis < len(shape) else 0

    return count


def _of_a_record(layer: Layer, shape: Sequence[int]) -> int:
    """The number of classes is the number of all values of a record."""
    del layer
    return math.prod(shape[1:])


def _as_given(param: str) -> Callable[[Layer, Sequence[int]], int]:
    """The number of classes is ``param``'s num_output."""

    def count(layer: Layer, shape: Sequence[int]) -> int:
        del shape
        given = layer.fields.message(param)
        return given.integer("num_output") if given is not None else 0

    return count


def _ignored(layer: Layer) -> tuple[int, ...]:
    names = {"Accuracy": "accuracy_param"}
    param = layer.fields.message(names.get(layer.type, "loss_param"))
    if layer.type in _WITHOUT_IGNORED or param is None or param.last("ignore_label") is None:
        return ()
    return (param.integer("ignore_label"),)


_CLASSES: dict[str, Callable[[Layer, Sequence[int]], int]] = {
    "SoftmaxWithLoss": _along("softmax_param"),
    "InfogainLoss": _along("infogain_loss_param"),
    "Accuracy": _along("accuracy_param"),
    "HingeLoss": _of_a_record,
    "MultinomialLogisticLoss": _of_a_record,
    "CenterLoss": _as_given("center_loss_param"),
    "MarginInnerProduct": _as_given("margin_inner_product_param"),
}
_WITHOUT_IGNORED = frozenset({"HingeLoss", "MultinomialLogisticLoss", "CenterLoss", "MarginInnerProduct"})
_FINITE = frozenset({"EuclideanLoss", "SigmoidCrossEntropyLoss", "ContrastiveLoss"})
