"""Old formats of nets: what is rewritten, what stays as it was, and what is refused with its line."""

from __future__ import annotations

import pytest

from gossip_caffe.errors import ModelError
from gossip_caffe.job.prototxts.legacy import upgraded
from gossip_caffe.job.prototxts.prototxt import Document


def rewritten(text: str) -> str:
    return upgraded(Document(text, "net")).text


def test_a_net_of_today_stays_as_it_is() -> None:
    document = Document(
        'layer { name: "a" type: "Data" data_param { scale: 2 } param { lr_mult: 1 } }', "net"
    )
    assert upgraded(document) is document


def test_only_what_is_old_is_changed() -> None:
    text = """# head
layers {  # first
  type : RELU  name: 'r' bottom: "x" top: "x"
  relu_param < negative_slope: .1 >  # slope
};
"""
    assert rewritten(text) == text.replace("layers", "layer").replace("type : RELU", 'type: "ReLU"')


def test_multipliers_and_names_become_one_list() -> None:
    text = (
        "layers { blobs_lr: 1 blobs_lr: 2. weight_decay: 0 param: \"w\" param: 'b' blob_share_mode: STRICT }"
    )
    assert rewritten(text).split() == [
        "layer",
        "{",
        "param",
        "{",
        "name:",
        '"w"',
        "share_mode:",
        "STRICT",
        "lr_mult:",
        "1",
        "decay_mult:",
        "0",
        "}",
        "param",
        "{",
        "name:",
        "'b'",
        "lr_mult:",
        "2.",
        "}",
        "}",
    ]


def test_the_transformation_of_a_data_param_counts_before_the_layers_own() -> None:
    text = "layers { type: DATA data_param { scale: 2 batch_size: 4 } transform_param { scale: 3 mirror: true } }"
    layer = Document(rewritten(text), "net").root.messages("layer")[0]
    assert [entry.name for entry in layer.messages("data_param")[0].fields] == ["batch_size"]
    (transform,) = layer.messages("transform_param")
    assert [(entry.name, transform.text(entry.name)) for entry in transform.fields] == [
        ("scale", "2"),
        ("mirror", "true"),
    ]


def test_other_layers_with_such_a_field_keep_it() -> None:
    text = "layers { type: HDF5_DATA hdf5_data_param { source: 'a' } power_param { scale: 2 } }"
    assert "power_param { scale: 2 }" in rewritten(text)


def test_an_input_becomes_the_first_layer_wherever_it_stands() -> None:
    text = 'layer { name: "a" }\ninput: "x" input: "y"\ninput_dim: [1, 2, 3, 4] input_dim: [5, 6, 7, 8]'
    layers = Document(rewritten(text), "net").root.messages("layer")
    assert [layer.text("name") for layer in layers] == ["input", "a"]
    assert layers[0].texts("top") == ["x", "y"]
    shapes = layers[0].messages("input_param")[0].messages("shape")
    assert [shape.texts("dim") for shape in shapes] == [["1", "2", "3", "4"], ["5", "6", "7", "8"]]


def test_an_input_without_a_shape_says_nothing() -> None:
    assert rewritten('input: "x"\nlayer { name: "a" }').strip() == 'layer { name: "a" }'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "layers { layer { name: 'a' } }",
            "net:1:10: 'layers { layer { … } }' is the format of 2013, which is not read; upgrade the file with",
        ),
        (
            "layer { }\nlayers { }",
            "net:2:1: the net has both 'layer' and 'layers'; write all layers as layer {",
        ),
        (
            "layers { type: CONV }",
            "net:1:10: unknown layer type CONV; in 'layers' use an old name without quotes",
        ),
        ("layers { type: 99 }", "net:1:10: unknown layer type 99"),
        ('layers { type: "DATA" }', 'net:1:10: unknown layer type "DATA"; in'),
        ("input: 'x' input_dim: 3", "net:1:1: 1 input for 0 shapes; give one input_shape, or four input_dim"),
    ],
)
def test_what_cannot_be_upgraded_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        rewritten(text)
    assert str(caught.value).startswith(message)
