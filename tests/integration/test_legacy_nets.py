"""Nets in Caffe's old formats: rewritten by us they are the nets that Caffe's own upgrade makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import caffe
import pytest
from caffe.proto import caffe_pb2

from gossip_caffe.data.sources.source import measure
from gossip_caffe.job.prototxts.legacy import upgraded
from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.reading import job_of, read_model
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.solver.checks.trial import try_with_caffe
from tests.tiny_job import write_lmdb

pytestmark = pytest.mark.integration

V1 = """name: "old"
layers {
  name: "mnist" type: DATA top: "data" top: "label"
  data_param { source: "SOURCE" backend: LMDB batch_size: 4 scale: 0.0039 crop_size: 4 mirror: true }
  include: { phase: TRAIN }
}
layers {
  name: "mnist" type: 5 top: "data" top: "label"  # by its number
  data_param { source: "SOURCE" backend: LMDB batch_size: 3 scale: 0.0039 }
  transform_param < crop_size: 4 scale: 2 >
  include: { phase: TEST }
}
layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv"
  blobs_lr: 1
  blobs_lr: 2
  weight_decay: 1, weight_decay: 0;
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "constant" value: 1 } } }
layers { name: "relu" type: RELU bottom: "conv" top: "conv" relu_param { negative_slope: 0.1 } }
layers { name: "a" type: INNER_PRODUCT bottom: "conv" top: "a" blobs_lr: [1, 0.5] param: "w" param: 'b'
  blob_share_mode: STRICT inner_product_param { num_output: 7 } }
layers { name: "c" type: INNER_PRODUCT bottom: "conv" top: "c" param: "w" param: "b"
  blob_share_mode: PERMISSIVE weight_decay: 3 inner_product_param { num_output: 7 } }
layers { name: "d" type: DROPOUT bottom: "a" top: "a" dropout_param { dropout_ratio: 0.3 } exclude { phase: TEST } }
layers { name: "sum" type: ELTWISE bottom: "a" bottom: "c" top: "sum" eltwise_param { coeff: 1 coeff: -1 } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "sum" bottom: "label" top: "loss" loss_weight: 2 }
layers { name: "acc" type: ACCURACY bottom: "sum" bottom: "label" top: "acc" include { phase: TEST } }
"""
INPUT_DIM = """name: "deployed" input: "data"
input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 6
input: "more" input_dim: [2, 1, 1, 5]
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "quiet" type: "Silence" bottom: "more" bottom: "ip" }
"""
INPUT_SHAPE = """layers {
  name: "ip" type: INNER_PRODUCT bottom: "data" top: "ip" inner_product_param { num_output: 2 } }
input: "data"
input_shape { dim: 2 dim: 9 }
"""


def built(text: str, phase: int, folder: Path) -> Any:
    """What Caffe has made of a net: each layer's parameters as it keeps them, and the shapes of all blobs."""
    (folder / "net.prototxt").write_text(text)
    net = caffe.Net(str(folder / "net.prototxt"), phase)
    net.save(str(folder / "net.caffemodel"))
    saved = caffe_pb2.NetParameter.FromString((folder / "net.caffemodel").read_bytes())
    for layer in saved.layer:
        layer.ClearField("blobs")
    return saved, {name: tuple(blob.shape) for name, blob in net.blobs.items()}


@pytest.mark.parametrize("phase", [0, 1], ids=["TRAIN", "TEST"])
@pytest.mark.parametrize("text", [V1, INPUT_DIM, INPUT_SHAPE], ids=["layers", "input_dim", "input_shape"])
def test_our_upgrade_is_caffes(text: str, phase: int, tmp_path: Path) -> None:
    write_lmdb(tmp_path / "data", 16, seed=1)
    text = text.replace("SOURCE", str(tmp_path / "data"))
    ours = upgraded(Document(text, "net")).text
    assert not {"layers", "input", "input_dim", "input_shape"} & {
        entry.name for entry in Document(ours, "net").root.fields
    }
    assert ours.count("\n") == text.count("\n")
    assert built(ours, phase, tmp_path) == built(text, phase, tmp_path)


def test_what_is_compared_holds_the_multipliers_and_the_transformation(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "data", 16, seed=1)
    saved, _ = built(V1.replace("SOURCE", str(tmp_path / "data")), 0, tmp_path)
    layers = {layer.name: layer for layer in saved.layer}
    assert [(param.lr_mult, param.decay_mult) for param in layers["conv"].param] == [(1, 1), (2, 0)]
    assert [param.name for param in layers["c"].param] == ["w", "b"]
    assert (layers["mnist"].transform_param.crop_size, layers["mnist"].transform_param.mirror) == (4, True)


def test_a_job_of_an_old_net_is_a_job(tmp_path: Path) -> None:
    """Its files are checked, its data is read, and Caffe builds its nets as a peer will."""
    write_lmdb(tmp_path / "data", 16, seed=1)
    (tmp_path / "net.prototxt").write_text(V1.replace("SOURCE", "data"))
    solver = tmp_path / "solver.prototxt"
    solver.write_text(
        'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 10 test_iter: 1 test_interval: 5'
    )
    model = read_model(solver)
    spec = job_of("old", model, JobSettings(), measure)
    assert [source.layer for source in spec.data.sources] == ["mnist"]
    assert spec.data.tops[0].shape == (1, 4, 4)
    assert spec.data.sources[0].transform.scale == 0.0039
    try_with_caffe(model, spec, measure, lambda: None)
