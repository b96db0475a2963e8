"""What is added to Caffe's schema, so that the prototxts of public model families parse: checked like adaptations.py.

The families are BVLC 1.0, SSD, Fast and Faster R-CNN, center loss, SphereFace and CaffeOnSpark. A text prototxt names
its fields; a .caffemodel numbers them. So each field has the number of the family that it comes from. Where two
families gave one number to two fields, SSD's stands first, then Fast R-CNN's, then BVLC 1.0's; the other field gets a
number that no family uses, and FOREIGN_NUMBERS names it. A file of the other family still loads: its field is then
skipped as unknown, and weights do not depend on it.
"""

from __future__ import annotations

from adaptations import Change

_PROTO = "src/caffe/proto/caffe.proto"
_RESIZE = (
    "SSD's ResizeParameter is one of transform_param; the parameter of this Caffe's Resize layer had its name"
)
_SSD = "a field of SSD's"
_RCNN = "a field of Fast or Faster R-CNN's"
_BVLC = "a field of BVLC 1.0's"
_FACE = "a field of center loss's or SphereFace's"
_SPARK = "a field of CaffeOnSpark's, which names its own reader of data"
_TRANSFORMER = "src/caffe/data_transformer.cpp"

STALE = (
    "include/caffe/layers/smooth_L1_loss_layer.hpp",
    "src/caffe/layers/smooth_L1_loss_layer.cpp",
    "src/caffe/layers/smooth_L1_loss_layer.cu",
)
"""Replaced by layers/smooth_l1_loss.*: the same loss, and Faster R-CNN's sigma and outside weights."""

FOREIGN_NUMBERS = {
    "SolverParameter.layer_wise_reduce": (41, 45),
    "SolverParameter.weights": (42, 46),
    "LayerParameter.center_loss_param": (147, 8266713),
    "LayerParameter.margin_inner_product_param": (147, 8266714),
}
"""Fields that have another number here (the second) than in their family (the first), which clashes with another's."""


def _after(line: str, added: str, why: str) -> Change:
    """Add lines after a line of the schema that stands there once."""
    return Change(_PROTO, line, line + added, why)


CHANGES = (
    # ── SolverParameter ───────────────────────────────────────────────────────────────────────────────────────────
    _after(
        '  optional string ap_version = 42 [default = "Integral"];\n',
        "  // For the policy 'plateau', which this Caffe lacks.\n"
        "  repeated int32 plateau_winsize = 43;\n"
        "  // A log of the test for each class, which this Caffe lacks.\n"
        "  optional bool show_per_class_result = 44 [default = false];\n",
        _SSD,
    ),
    _after(
        "  optional SolverType solver_type = 30 [default = SGD];\n",
        "  // How several GPUs of one process share gradients: without meaning here. 41 in BVLC 1.0.\n"
        "  optional bool layer_wise_reduce = 45 [default = true];\n"
        "  // Models whose weights the nets begin with; each may be a list with commas. 42 in BVLC 1.0.\n"
        "  repeated string weights = 46;\n",
        _BVLC,
    ),
    # ── LayerParameter ────────────────────────────────────────────────────────────────────────────────────────────
    _after(
        "  optional PSROIPoolingParameter psroi_pooling_param = 149;\n",
        "  optional SwishParameter swish_param = 147;\n"
        "  optional ClipParameter clip_param = 148;\n"
        "  optional ROIPoolingParameter roi_pooling_param = 8266711;\n"
        "  optional SmoothL1LossParameter smooth_l1_loss_param = 8266712;\n"
        "  optional CenterLossParameter center_loss_param = 8266713;  // 147 in caffe-face\n"
        "  optional MarginInnerProductParameter margin_inner_product_param = 8266714;  // 147 in SphereFace\n"
        "  optional string source_class = 10001;\n"
        "  optional CoSDataParameter cos_data_param = 10010;\n",
        f"{_BVLC}; {_RCNN}; {_FACE}; {_SPARK}",
    ),
    Change(
        _PROTO,
        "// Message that stores parameters used by ProposalLayer\n",
        "// y = x / (1 + exp(-beta x)).\n"
        "message SwishParameter {\n  optional float beta = 1 [default = 1];\n}\n\n"
        "// y = x, at least min and at most max.\n"
        "message ClipParameter {\n  required float min = 1;\n  required float max = 2;\n}\n\n"
        "// Each region of interest becomes pooled_h x pooled_w maxima; its corners are multiplied by spatial_scale.\n"
        "message ROIPoolingParameter {\n"
        "  optional uint32 pooled_h = 1 [default = 0];\n"
        "  optional uint32 pooled_w = 2 [default = 0];\n"
        "  optional float spatial_scale = 3 [default = 1];\n}\n\n"
        "// The loss is quadratic up to 1 / sigma^2, and linear beyond.\n"
        "message SmoothL1LossParameter {\n  optional float sigma = 1 [default = 1];\n}\n\n"
        "// num_output classes, each with a center of the features behind axis.\n"
        "message CenterLossParameter {\n"
        "  optional uint32 num_output = 1;\n"
        "  optional FillerParameter center_filler = 2;\n"
        "  optional int32 axis = 3 [default = 1];\n}\n\n"
        "// An inner product with rows of length 1 and the angle to the label's row multiplied by the margin "
        "(type); the\n"
        "// plain cosine counts lambda times as much: max(lambda_min, base (1 + gamma iteration)^-power).\n"
        "message MarginInnerProductParameter {\n"
        "  enum MarginType {\n    SINGLE = 0;\n    DOUBLE = 1;\n    TRIPLE = 2;\n    QUADRUPLE = 3;\n  }\n"
        "  optional uint32 num_output = 1;\n"
        "  optional MarginType type = 2 [default = SINGLE];\n"
        "  optional FillerParameter weight_filler = 3;\n"
        "  optional int32 axis = 4 [default = 1];\n"
        "  optional float base = 5 [default = 1];\n"
        "  optional float gamma = 6 [default = 0];\n"
        "  optional float power = 7 [default = 1];\n"
        "  optional int32 iteration = 8 [default = 0];\n"
        "  optional float lambda_min = 9 [default = 0];\n}\n\n"
        "// What CaffeOnSpark's own data layer reads: parsed, and read by nothing here.\n"
        "message CoSDataParameter {\n"
        "  optional string source = 1;\n"
        "  optional uint32 batch_size = 2;\n"
        "  optional bool shuffle = 3 [default = false];\n"
        '  optional string dataframe_format = 4 [default = "parquet"];\n'
        "  enum DataType {\n"
        "    STRING = 0;\n    INT = 1;\n    FLOAT = 2;\n    INT_ARRAY = 3;\n    FLOAT_ARRAY = 4;\n"
        "    ENCODED_IMAGE = 5;\n    RAW_IMAGE = 6;\n    ENCODED_IMAGE_WITH_DIM = 7;\n  }\n"
        "  message TopBlob {\n"
        "    optional string name = 1;\n"
        "    optional DataType type = 2;\n"
        "    optional uint32 channels = 3 [default = 0];\n"
        "    optional uint32 height = 4 [default = 0];\n"
        "    optional uint32 width = 5 [default = 0];\n"
        "    optional uint32 sample_num_axes = 6 [default = 3];\n"
        "    optional TransformationParameter transform_param = 7;\n"
        "    optional uint32 out_channels = 8 [default = 0];\n"
        "    optional uint32 out_height = 9 [default = 0];\n"
        "    optional uint32 out_width = 10 [default = 0];\n"
        "    optional bool transpose = 11 [default = false];\n  }\n"
        "  repeated TopBlob top = 5;\n}\n\n"
        "// Message that stores parameters used by ProposalLayer\n",
        f"{_BVLC}; {_RCNN}; {_FACE}; {_SPARK}",
    ),
    Change(
        _PROTO,
        "message MemoryDataParameter {\n",
        "message MemoryDataParameter {\n"
        "  optional bool share_in_parallel = 10000 [default = true];\n"
        "  optional string source = 10001;\n"
        "  repeated string dataframe_column_select = 10002;\n"
        "  optional bool image_encoded = 10003 [default = false];\n"
        '  optional string dataframe_format = 10004 [default = "parquet"];\n',
        _SPARK,
    ),
    # ── SSD's transformations ─────────────────────────────────────────────────────────────────────────────────────
    Change(
        _PROTO,
        "optional ResizeParameter resize_param",
        "optional ResizeLayerParameter resize_param",
        _RESIZE,
        2,
    ),
    Change(_PROTO, "message ResizeParameter{", "message ResizeLayerParameter{", _RESIZE),
    Change("src/caffe/layers/resize_layer.cpp", "  ResizeParameter ", "  ResizeLayerParameter ", _RESIZE, 2),
    Change(_PROTO, "OldResizeParameter old_resize_param", "ResizeParameter resize_param", _RESIZE),
    Change(_PROTO, "message OldResizeParameter {", "message ResizeParameter {", _RESIZE),
    Change(_TRANSFORMER, "old_resize_param", "resize_param", _RESIZE, 19),
    Change("src/caffe/util/im_transforms.cpp", "OldResizeParameter", "ResizeParameter", _RESIZE, 16),
    Change("include/caffe/util/im_transforms.hpp", "OldResizeParameter", "ResizeParameter", _RESIZE, 2),
    _after(
        "  optional EmitConstraint emit_constraint = 10;\n",
        "  // Color distortion policy\n"
        "  optional DistortionParameter distort_param = 13;\n"
        "  // Expansion policy\n"
        "  optional ExpansionParameter expand_param = 14;\n",
        _SSD,
    ),
    _after(
        "  repeated Interp_mode interp_mode = 7;\n",
        "  // With FIT_SMALL_SIZE: the size of the crop that the boxes' coordinates are of.\n"
        "  optional uint32 height_scale = 8 [default = 0];\n"
        "  optional uint32 width_scale = 9 [default = 0];\n",
        _SSD,
    ),
    Change(
        _PROTO,
        "message SaltPepperParameter {\n",
        "// Each distortion happens with its probability: brightness within plus or minus delta, contrast "
        "and saturation\n"
        "// times a factor from lower to upper, hue within plus or minus delta, channels in random order.\n"
        "message DistortionParameter {\n"
        "  optional float brightness_prob = 1 [default = 0.0];\n"
        "  optional float brightness_delta = 2 [default = 0.0];\n"
        "  optional float contrast_prob = 3 [default = 0.0];\n"
        "  optional float contrast_lower = 4 [default = 0.0];\n"
        "  optional float contrast_upper = 5 [default = 0.0];\n"
        "  optional float hue_prob = 6 [default = 0.0];\n"
        "  optional float hue_delta = 7 [default = 0.0];\n"
        "  optional float saturation_prob = 8 [default = 0.0];\n"
        "  optional float saturation_lower = 9 [default = 0.0];\n"
        "  optional float saturation_upper = 10 [default = 0.0];\n"
        "  optional float random_order_prob = 11 [default = 0.0];\n}\n\n"
        "// With the probability, the image is put somewhere into one that is up to max_expand_ratio times as large.\n"
        "message ExpansionParameter {\n"
        "  optional float prob = 1 [default = 1];\n"
        "  optional float max_expand_ratio = 2 [default = 1.];\n}\n\n"
        "message SaltPepperParameter {\n",
        _SSD,
    ),
    Change(
        _TRANSFORMER,
        "  // check if we want to use mean_file\n",
        "#ifndef USE_OPENCV\n"
        "  CHECK(!param_.has_resize_param() && !param_.has_distort_param() && !param_.has_expand_param()\n"
        "      && param_.noise_param().prob() == 0)\n"
        '      << "resize_param, distort_param, expand_param and noise_param of transform_param need "\n'
        '      << "OpenCV, which this Caffe is built without";\n'
        "#endif\n"
        "  // check if we want to use mean_file\n",
        "a transformation that is not made must not be passed over in silence",
    ),
    # ── SSD's other fields ────────────────────────────────────────────────────────────────────────────────────────
    Change(
        _PROTO,
        "  optional string label_map_file = 2;\n}\n",
        "  optional string label_map_file = 2;\n"
        "  // The type of the annotations: here that of the records counts.\n"
        "  optional AnnotatedDatum.AnnotationType anno_type = 3;\n}\n",
        _SSD,
    ),
    Change(
        _PROTO,
        "  optional string name_size_file = 5;\n}\n",
        "  optional string name_size_file = 5;\n"
        "  // How the images were resized: without meaning here.\n"
        "  optional ResizeParameter resize_param = 6;\n}\n",
        _SSD,
    ),
    Change(
        _PROTO,
        "  optional uint32 num_test_image = 6;\n}\n",
        "  optional uint32 num_test_image = 6;\n"
        "  // How the images were resized: without meaning here.\n"
        "  optional ResizeParameter resize_param = 7;\n}\n",
        _SSD,
    ),
    Change(
        _PROTO,
        "  repeated float thresholds = 12;\n\n  optional string save_file = 13;\n",
        "  optional string save_file = 12;  // SSD's number\n\n  repeated float thresholds = 13;\n",
        _SSD,
    ),
    Change(
        _PROTO,
        "  optional bool clip = 5 [default = true];\n  // Variance",
        "  optional bool clip = 5 [default = false];\n  // Variance",
        "the default of SSD's PriorBox: its public nets leave clip out and mean false",
    ),
    _after("  optional string video_file = 3;\n", "  optional uint32 skip_frames = 4 [default = 0];\n", _SSD),
)
