"""Nets in the formats of before 2015, rewritten as Caffe upgrades them. All other text stays byte for byte.

Follows UpgradeNetDataTransformation, UpgradeV1Net and UpgradeNetInput of upgrade_proto.cpp. Line numbers do not
change, so messages name the lines of the user's file.
"""

from __future__ import annotations

import json

from gossip_caffe.job.prototxts.prototxt import Document, Field, Scalar, TextMessage, edited

Edit = tuple[int, int, str]

_TYPES = {
    "NONE": (0, ""),
    "ACCURACY": (1, "Accuracy"),
    "BNLL": (2, "BNLL"),
    "CONCAT": (3, "Concat"),
    "CONVOLUTION": (4, "Convolution"),
    "DATA": (5, "Data"),
    "DROPOUT": (6, "Dropout"),
    "EUCLIDEAN_LOSS": (7, "EuclideanLoss"),
    "FLATTEN": (8, "Flatten"),
    "HDF5_DATA": (9, "HDF5Data"),
    "HDF5_OUTPUT": (10, "HDF5Output"),
    "IM2COL": (11, "Im2col"),
    "IMAGE_DATA": (12, "ImageData"),
    "INFOGAIN_LOSS": (13, "InfogainLoss"),
    "INNER_PRODUCT": (14, "InnerProduct"),
    "LRN": (15, "LRN"),
    "MULTINOMIAL_LOGISTIC_LOSS": (16, "MultinomialLogisticLoss"),
    "POOLING": (17, "Pooling"),
    "RELU": (18, "ReLU"),
    "SIGMOID": (19, "Sigmoid"),
    "SOFTMAX": (20, "Softmax"),
    "SOFTMAX_LOSS": (21, "SoftmaxWithLoss"),
    "SPLIT": (22, "Split"),
    "TANH": (23, "TanH"),
    "WINDOW_DATA": (24, "WindowData"),
    "ELTWISE": (25, "Eltwise"),
    "POWER": (26, "Power"),
    "SIGMOID_CROSS_ENTROPY_LOSS": (27, "SigmoidCrossEntropyLoss"),
    "HINGE_LOSS": (28, "HingeLoss"),
    "MEMORY_DATA": (29, "MemoryData"),
    "ARGMAX": (30, "ArgMax"),
    "THRESHOLD": (31, "Threshold"),
    "DUMMY_DATA": (32, "DummyData"),
    "SLICE": (33, "Slice"),
    "MVN": (34, "MVN"),
    "ABSVAL": (35, "AbsVal"),
    "SILENCE": (36, "Silence"),
    "CONTRASTIVE_LOSS": (37, "ContrastiveLoss"),
    "EXP": (38, "Exp"),
    "DECONVOLUTION": (39, "Deconvolution"),
}
"""caffe.V1LayerParameter.LayerType: name → its number, and the type name that replaced it."""

_BY_NUMBER = {str(number): name for number, name in _TYPES.values()}
_BY_NAME = {word: name for word, (_, name) in _TYPES.items()}
_TRANSFORMED = {"Data": "data_param", "ImageData": "image_data_param", "WindowData": "window_data_param"}
_TRANSFORMS = ("scale", "mean_file", "crop_size", "mirror")
_PARAMS = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}
_INPUTS = ("input", "input_dim", "input_shape")
_DIMS = 4


def upgraded(net: Document) -> Document:
    """The net in today's format; the same object if it already is.

    Raises ModelError where Caffe would not upgrade it.
    """
    layers = net.root.all("layers")
    inputs = [entry for name in _INPUTS for entry in net.root.all(name)]
    if not layers and not inputs:
        return net
    if layers and net.root.all("layer"):
        remedy = 'write all layers as layer { type: "Name" … }'
        raise net.error(layers[0].start, "the net has both 'layer' and 'layers'", remedy)
    edits: list[Edit] = []
    for entry in layers:
        edits += _layer(net, entry, net.message_of(entry))
    if inputs:
        edits += _inputs(net, inputs)
    return Document(edited(net.text, list(dict.fromkeys(edits))), net.name)


def _layer(net: Document, entry: Field, layer: TextMessage) -> list[Edit]:
    if (nested := layer.last("layer")) is not None:
        remedy = "upgrade the file with Caffe's upgrade_net_proto_text"
        raise net.error(
            nested.start, "'layers { layer { … } }' is the format of 2013, which is not read", remedy
        )
    edits = [(entry.start, entry.start + len(entry.name), "layer")]
    kind = ""
    if (written := layer.last("type")) is not None:
        kind = _type(net, written)
        edits.append((written.start, net.scalar_of(written).tokens[-1].end, f"type: {json.dumps(kind)}"))
    return [*edits, *_params(net, layer), *_transform(net, layer, kind)]


def _type(net: Document, entry: Field) -> str:
    value = net.scalar_of(entry)
    known = {"word": _BY_NAME, "number": _BY_NUMBER}.get(value.kind, {})
    if value.text not in known:
        remedy = "in 'layers' use an old name without quotes, like CONVOLUTION, or write layer { type: \"Name\" … }"
        raise net.error(entry.start, f"unknown layer type {value.raw}", remedy)
    return known[value.text]


def _params(net: Document, layer: TextMessage) -> list[Edit]:
    """Edits that merge ``param``, ``blob_share_mode``, ``blobs_lr`` and ``weight_decay`` into one list of ``param``."""
    old = [entry for entry in layer.fields if entry.name in _PARAMS]
    if not old:
        return []
    specs: list[list[str]] = []
    for name, new_name in _PARAMS.items():
        for index, entry in enumerate(layer.all(name)):
            while len(specs) <= index:
                specs.append([])
            specs[index].append(f"{new_name}: {net.scalar_of(entry).raw}")
    written = " ".join(f"param {{ {' '.join(spec)} }}" for spec in specs)
    spans = list(dict.fromkeys((entry.start, entry.end) for entry in old))
    return [(start, end, written if (start, end) == spans[0] else "") for start, end in spans]


def _transform(net: Document, layer: TextMessage, kind: str) -> list[Edit]:
    """Edits that move the transformation's fields from a data layer's own param to its ``transform_param``."""
    entry = layer.last(_TRANSFORMED[kind]) if kind in _TRANSFORMED else None
    if entry is None:
        return []
    moved = [found for name in _TRANSFORMS if (found := net.message_of(entry).last(name)) is not None]
    if not moved:
        return []
    edits = [(found.start, found.end, "") for found in moved]
    written = " ".join(f"{found.name}: {net.scalar_of(found).raw}" for found in moved)
    present = layer.last("transform_param")
    if present is None:
        return [*edits, (entry.end, entry.end, f" transform_param {{ {written} }}")]
    names = {found.name for found in moved}
    fields = net.message_of(present).fields
    edits += [(field.start, field.end, "") for field in fields if field.name in names]
    opening = next(token for token in net.tokens if token.start >= present.start and token.text in {"{", "<"})
    return [*edits, (opening.end, opening.end, f" {written} ")]


def _inputs(net: Document, entries: list[Field]) -> list[Edit]:
    """Edits that turn ``input`` with ``input_shape`` or ``input_dim`` into a first layer.

    ``input`` alone is ignored.
    """
    edits: list[Edit] = [(entry.start, entry.end, "") for entry in entries]
    tops, shapes, dims = (net.root.all(name) for name in ("input", "input_shape", "input_dim"))
    if not tops or not (shapes or dims):
        return edits
    written = [_shape_of(net, entry) for entry in shapes]
    if not shapes:
        sizes = [net.scalar_of(entry).raw for entry in dims]
        groups = [sizes[at : at + _DIMS] for at in range(0, len(sizes), _DIMS)]
        written = [" ".join(f"dim: {size}" for size in group) for group in groups if len(group) == _DIMS]
    if len(written) < len(tops):
        what = f"{len(tops)} input for {len(written)} shapes"
        raise net.error(tops[-1].start, what, "give one input_shape, or four input_dim, for each input")
    names = " ".join(f"top: {net.scalar_of(entry).raw}" for entry in tops)
    params = " ".join(f"shape {{ {shape} }}" for shape in written[: len(tops)])
    layer = f'layer {{ name: "input" type: "Input" {names} input_param {{ {params} }} }} '
    before = min(entry.start for entry in net.root.fields if entry.name in {"layer", "layers", *_INPUTS})
    return [(before, before, layer), *edits]


def _shape_of(net: Document, entry: Field) -> str:
    sizes = net.message_of(entry).all("dim")
    return " ".join(f"dim: {value.raw}" for size in sizes if isinstance(value := size.value, Scalar))
