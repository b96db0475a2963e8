"""Fields of public families that layers of this Caffe's get, with what they do: checked like adaptations.py."""

from __future__ import annotations

from adaptations import Change

_PROTO = "src/caffe/proto/caffe.proto"
_DROPOUT = "src/caffe/layers/dropout_layer"
_ROUND = "BVLC 1.0's pooling_param.round_mode; this Caffe has another name for it, with the same number"
_SCALE = "Faster R-CNN's dropout_param.scale_train: false scales in the test instead of in training"

CHANGES = (
    Change(
        _PROTO,
        "  optional bool ceil_mode = 13 [default = true];  \n",
        "  enum RoundMode {\n    CEIL = 0;\n    FLOOR = 1;\n  }\n"
        "  optional RoundMode round_mode = 13 [default = CEIL];\n"
        "  // Another name for it; 13 in the forks that have it.\n"
        "  optional bool ceil_mode = 14 [default = true];\n",
        _ROUND,
    ),
    Change(
        "src/caffe/layers/pooling_layer.cpp",
        "  ceil_mode_ = pool_param.ceil_mode();\n",
        "  ceil_mode_ = pool_param.ceil_mode() && pool_param.round_mode() == PoolingParameter_RoundMode_CEIL;\n",
        _ROUND,
    ),
    Change(
        _PROTO,
        "  optional float dropout_ratio = 1 [default = 0.5]; // dropout ratio\n}\n",
        "  optional float dropout_ratio = 1 [default = 0.5]; // dropout ratio\n"
        "  // Scale what is kept by 1 / (1 - ratio) in training; if false, everything by 1 - ratio in the test.\n"
        "  optional bool scale_train = 2 [default = true];\n}\n",
        _SCALE,
    ),
    Change(
        "include/caffe/layers/dropout_layer.hpp",
        "  unsigned int uint_thres_;\n",
        "  unsigned int uint_thres_;\n  bool scale_train_;\n",
        _SCALE,
    ),
    Change(
        f"{_DROPOUT}.cpp",
        "  scale_ = 1. / (1. - threshold_);\n",
        "  scale_train_ = this->layer_param_.dropout_param().scale_train();\n"
        "  scale_ = scale_train_ ? 1. / (1. - threshold_) : 1.;\n",
        _SCALE,
    ),
    *(
        Change(
            f"{_DROPOUT}.{suffix}",
            f"    caffe_copy({count}, bottom_data, top_data);\n",
            f"    caffe_copy({count}, bottom_data, top_data);\n"
            f"    if (!scale_train_) {scale}({count}, Dtype(1 - threshold_), top_data);\n",
            _SCALE,
        )
        for suffix, count, scale in (
            ("cpp", "bottom[0]->count()", "caffe_scal"),
            ("cu", "count", "caffe_gpu_scal"),
        )
    ),
    *(
        Change(
            f"{_DROPOUT}.{suffix}",
            "      caffe_copy(top[0]->count(), top_diff, bottom_diff);\n",
            "      caffe_copy(top[0]->count(), top_diff, bottom_diff);\n"
            f"      if (!scale_train_) {scale}(top[0]->count(), Dtype(1 - threshold_), bottom_diff);\n",
            _SCALE,
        )
        for suffix, scale in (("cpp", "caffe_scal"), ("cu", "caffe_gpu_scal"))
    ),
)
