"""Small nets after the public forms of whole families: SSD, R-CNN, faces, BVLC 1.0, CaffeOnSpark.

Caffe builds and trains each, and `job validate` accepts it; tests/nets/public has them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import caffe
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from tests.added_layers import added_layers
from tests.cluster_run import ClusterRun, cluster_run

pytestmark = [pytest.mark.integration, added_layers()]

NETS = Path(__file__).parents[1] / "nets" / "public"
FAMILIES = ("ssd", "fast_rcnn", "faster_rcnn", "center_loss", "sphereface", "bvlc_1_0")
BLOBS: dict[str, dict[str, tuple[int, ...]]] = {
    "ssd": {"mbox_loc": (2, 5120), "mbox_conf": (2, 3840), "mbox_priorbox": (1, 2, 5120)},
    "fast_rcnn": {"pool5": (6, 8, 6, 6), "bbox_pred": (6, 16)},
    "faster_rcnn": {"rpn_cls_prob_reshape": (1, 18, 16, 16), "roi_pool_conv5": (6, 8, 6, 6)},
    "center_loss": {"fc5": (8, 16), "center_loss": ()},
    "sphereface": {"fc6": (8, 10), "lambda": (1,)},
    "bvlc_1_0": {"pool": (4, 4, 3, 3), "clip": (4, 5)},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all the nets and their Python layers, which is the working folder."""
    shutil.copytree(NETS, tmp_path / "nets", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path / "nets")
    monkeypatch.syspath_prepend(str(tmp_path / "nets"))
    caffe.set_mode_cpu()
    return tmp_path / "nets"


@pytest.mark.parametrize("family", FAMILIES)
def test_caffe_builds_and_trains_it(folder: Path, family: str) -> None:
    solver = caffe.get_solver(str(folder / f"{family}_solver.prototxt"))
    for name, shape in BLOBS[family].items():
        assert tuple(solver.net.blobs[name].shape) == shape
    before = {name: [blob.data.copy() for blob in blobs] for name, blobs in solver.net.params.items()}
    solver.step(2)
    after = {name: [blob.data for blob in blobs] for name, blobs in solver.net.params.items()}
    assert all(np.isfinite(values).all() for blobs in after.values() for values in blobs)
    assert any((before[name][0] != after[name][0]).any() for name in before)
    for net in solver.test_nets:
        net.forward()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as found:
        yield found


@pytest.mark.parametrize("family", FAMILIES)
def test_job_validate_accepts_it(
    folder: Path, run: ClusterRun, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    done = run.run("job", "validate", str(folder / f"{family}_solver.prototxt"))
    assert done.returncode == 0, done.stderr


def test_caffe_on_sparks_own_fields_are_read_past_with_a_notice(
    folder: Path, run: ClusterRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine.py").write_text(
        "import numpy as np\n"
        "class Data:\n"
        "    def __len__(self): return 64\n"
        "    def __getitem__(self, at): return np.zeros((1, 28, 28), np.float32), np.float32(at % 10)\n"
        "def train(): return Data()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    done = run.run(
        "job", "validate", str(folder / "caffe_on_spark_solver.prototxt"), "--dataset", "mine:train"
    )
    assert done.returncode == 0, done.stderr
    assert "source_class of layer 'data' is not used" in done.stderr


AS_PUBLISHED = """
layer {
  name: "data" type: "AnnotatedData" top: "data" top: "label" include { phase: TRAIN }
  transform_param {
    mirror: true mean_value: 104 mean_value: 117 mean_value: 123
    resize_param {
      prob: 1 resize_mode: WARP height: 300 width: 300
      interp_mode: LINEAR interp_mode: AREA interp_mode: NEAREST interp_mode: CUBIC interp_mode: LANCZOS4
    }
    emit_constraint { emit_type: CENTER }
    distort_param {
      brightness_prob: 0.5 brightness_delta: 32 contrast_prob: 0.5 contrast_lower: 0.5 contrast_upper: 1.5
      hue_prob: 0.5 hue_delta: 18 saturation_prob: 0.5 saturation_lower: 0.5 saturation_upper: 1.5 random_order_prob: 0
    }
    expand_param { prob: 0.5 max_expand_ratio: 4 }
    noise_param { prob: 0.1 hist_eq: true }
  }
  data_param { source: "trainval_lmdb" batch_size: 8 backend: LMDB }
  annotated_data_param {
    batch_sampler { max_sample: 1 max_trials: 1 }
    batch_sampler {
      sampler { min_scale: 0.3 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }
      sample_constraint { min_jaccard_overlap: 0.1 } max_sample: 1 max_trials: 50
    }
    label_map_file: "labelmap_voc.prototxt" anno_type: BBOX
  }
}
layer {
  name: "spark" type: "CoSData" top: "x" top: "y" source_class: "com.yahoo.ml.caffe.DataFrameSource"
  cos_data_param {
    source: "frames" batch_size: 2 dataframe_format: "parquet"
    top { name: "x" type: ENCODED_IMAGE channels: 3 height: 32 width: 32 transform_param { mirror: true } }
    top { name: "y" type: INT sample_num_axes: 0 }
  }
}
layer { name: "resize" type: "Resize" bottom: "data" top: "small" resize_param { height: 8 width: 9 } }
"""


def test_data_layers_as_they_are_published_parse() -> None:
    net = text_format.Parse(AS_PUBLISHED, caffe_pb2.NetParameter())
    transform = net.layer[0].transform_param
    assert transform.resize_param.interp_mode[4] == caffe_pb2.ResizeParameter.LANCZOS4
    assert transform.distort_param.hue_delta == 18
    assert net.layer[2].resize_param.width == 9


def test_a_transformation_that_this_caffe_cannot_make_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(
        'layer { name: "data" type: "MemoryData" top: "data" top: "label" '
        "memory_data_param { batch_size: 1 channels: 3 height: 8 width: 8 } "
        "transform_param { resize_param { height: 4 width: 4 } } }"
    )
    program = f"import caffe; caffe.Net({str(net)!r}, caffe.TRAIN)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == -signal.SIGABRT
    assert "resize_param" in done.stderr
    assert "OpenCV" in done.stderr


def test_fields_have_the_numbers_of_their_families() -> None:
    fields = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name
    numbers = {
        "swish_param": 147,
        "clip_param": 148,
        "roi_pooling_param": 8266711,
        "smooth_l1_loss_param": 8266712,
    }
    numbers |= {"source_class": 10001, "cos_data_param": 10010, "annotated_data_param": 200}
    assert {name: fields[name].number for name in numbers} == numbers
    transform = caffe_pb2.TransformationParameter.DESCRIPTOR.fields_by_name
    assert [transform[f"{name}_param"].number for name in ("resize", "noise", "distort", "expand")] == [
        8,
        9,
        13,
        14,
    ]
