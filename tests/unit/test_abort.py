"""From Caffe's last words to one line; the lines are what this Caffe prints."""

from __future__ import annotations

import pytest

from gossip_caffe.solver.checks.caffe_errors import abort_cause

F = "F20261123 08:10:16.218025 25333 "
NOISE = ["WARNING: Logging before InitGoogleLogging() is written to STDERR"]
STACK = ["*** Check failure stack trace: ***", "    @     0x7f3f0c7d2d4d  google::LogMessage::Fail()"]


@pytest.mark.parametrize(
    ("lines", "cause", "remedy"),
    [
        (
            [
                F
                + "layer_factory.hpp:81] Check failed: registry.count(type) == 1 (0 vs. 1) Unknown layer type: Foo"
                " (known types: AbsVal, Accuracy)"
            ],
            "Unknown layer type: Foo (layer_factory.hpp:81)",
            "use a layer type that this Caffe has",
        ),
        (
            [
                "[libprotobuf ERROR google/protobuf/text_format.cc:337] Error parsing text-format "
                'caffe.SolverParameter: 2:30: Message type "caffe.LayerParameter" has no field named "nam".',
                *NOISE,
                F
                + "upgrade_proto.cpp:1106] Check failed: ReadProtoFromTextFile(param_file, param) Failed to parse "
                "SolverParameter file: /proc/self/fd/3",
            ],
            "line 2, column 30 of the SolverParameter: "
            'Message type "caffe.LayerParameter" has no field named "nam".',
            "correct the prototxt at that line",
        ),
        (
            [F + "insert_splits.cpp:29] Unknown bottom blob 'q' (layer 'a', bottom index 0)"],
            "Unknown bottom blob 'q' (layer 'a', bottom index 0) (insert_splits.cpp:29)",
            "check the names of the bottoms",
        ),
        (
            [F + "db_lmdb.hpp:15] Check failed: mdb_status == 0 (2 vs. 0) No such file or directory"],
            "a data layer's LMDB cannot be read: No such file or directory (db_lmdb.hpp:15)",
            "is an LMDB",
        ),
        (
            [
                F + "loss_layer.cpp:20] Check failed: bottom[0]->shape(0) == bottom[1]->shape(0) (2 vs. 3) "
                "The data and label should have the same first dimension."
            ],
            "bottom[0]->shape(0) == bottom[1]->shape(0) (2 vs. 3) "
            "The data and label should have the same first dimension. (loss_layer.cpp:20)",
            "against its inputs",
        ),
        (
            [F + "base_conv_layer.cpp:120] Check failed: num_output_ > 0 (0 vs. 0) "],
            "num_output_ > 0 (0 vs. 0) (base_conv_layer.cpp:120)",
            "correct the net",
        ),
        (
            [
                "F1123 12:00:00.1 123 sgd_solvers.hpp:75] Check failed: 0 == this->param_.momentum() (0 vs. 0.9) "
                "Momentum cannot be used with AdaGrad."
            ],
            "Momentum cannot be used with AdaGrad. (sgd_solvers.hpp:75)",
            "momentum: 0",
        ),
        (
            [F + "net.cpp:5] Check failed: layer "],
            "layer (net.cpp:5)",
            "correct the net",
        ),
    ],
)
def test_an_abort_becomes_one_line_with_a_remedy(lines: list[str], cause: str, remedy: str) -> None:
    found, what_to_do = abort_cause([*NOISE, *lines, *STACK])
    assert found == f"Caffe refused the model: {cause}"
    assert remedy in what_to_do
    assert "\n" not in found


def test_where_caffe_says_which_layer_it_is_at_the_line_names_it() -> None:
    at_conv = [
        "I20261123 08:10:16.2 25333 layer_factory.hpp:77] Creating layer data",
        "I20261123 08:10:16.2 25333 net.cpp:86] Creating Layer conv 1",
    ]
    refusal = F + "blob.cpp:32] Check failed: shape[i] >= 0 (-2 vs. 0) "
    assert abort_cause([*at_conv, refusal, *STACK]) == (
        "Caffe refused layer 'conv 1': shape[i] >= 0 (-2 vs. 0) (blob.cpp:32)",
        "check the layer's sizes against its inputs",
    )
    built = "I20261123 08:10:16.2 25333 net.cpp:257] Network initialization done."
    assert abort_cause([*at_conv, built, refusal])[0].startswith("Caffe refused the model: ")


def test_without_an_abort_the_last_exception_is_the_cause() -> None:
    lines = [
        "Traceback (most recent call last):",
        '  File "x.py"',
        "caffe.io.SomeError: no such thing",
        "bye",
    ]
    assert abort_cause(lines) == ("caffe.io.SomeError: no such thing", "")
    assert abort_cause(["KeyError: 'x'", "RuntimeError"]) == ("RuntimeError", "")


def test_lines_without_a_reason_give_none() -> None:
    assert abort_cause([]) == ("", "")
    assert abort_cause([*NOISE, "Errors are fine", *STACK]) == ("", "")
