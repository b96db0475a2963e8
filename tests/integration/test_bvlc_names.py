"""The names of BVLC 1.0's pycaffe in ours: counts and ranks, a solver's parameters, calls around layers, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import caffe
import numpy as np
import pytest

from tests.added_layers import added_layers

pytestmark = [pytest.mark.integration, added_layers()]

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "target"
  dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "constant" value: 0.5 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "target" top: "loss" }
"""


def solver_of(folder: Path, more: str = "") -> Any:
    caffe.set_mode_cpu()
    (folder / "net.prototxt").write_text(NET)
    path = folder / "solver.prototxt"
    path.write_text(
        f'net: "{folder}/net.prototxt" base_lr: 0.25 lr_policy: "fixed" max_iter: 7 display: 3 test_iter: 1 '
        f"test_interval: 100 test_initialization: false snapshot_after_train: false {more}"
    )
    return caffe.get_solver(str(path))


def test_a_solver_shows_its_parameters_and_its_rate(tmp_path: Path) -> None:
    solver = solver_of(tmp_path, "layer_wise_reduce: false")
    assert (solver.param.max_iter, solver.param.display, solver.param.layer_wise_reduce) == (7, 3, False)
    assert solver.param.base_lr == solver.lr == 0.25
    solver.param.base_lr = 0.5
    assert solver.lr == 0.5


def test_numbers_of_solvers_are_kept_for_python_layers() -> None:
    kept = caffe.solver_count(), caffe.solver_rank()
    try:
        caffe.set_multiprocess(True)
        caffe.set_solver_count(4)
        caffe.set_solver_rank(3)
        assert (caffe.solver_count(), caffe.solver_rank()) == (4, 3)
    finally:
        caffe.set_solver_count(kept[0])
        caffe.set_solver_rank(kept[1])
    assert caffe.has_nccl() is False


def test_python_is_called_around_each_layers_pass(tmp_path: Path) -> None:
    solver = solver_of(tmp_path)
    calls: list[tuple[str, int]] = []
    moments = ("before_forward", "after_forward", "before_backward", "after_backward")
    for moment in moments:
        getattr(solver.net, moment)(lambda layer, moment=moment: calls.append((moment, layer)))
    solver.step(1)
    assert calls == [
        *((moment, layer) for layer in range(3) for moment in moments[:2]),
        *((moment, layer) for layer in (2, 1, 0) for moment in moments[2:]),
    ]


def test_nets_begin_with_the_weights_that_the_solver_names_the_last_file_last(tmp_path: Path) -> None:
    first = solver_of(tmp_path)
    files = []
    for value in (1.0, 2.0):
        first.net.params["ip"][0].data[...] = value
        files.append(tmp_path / f"{value:g}.caffemodel")
        first.net.save(str(files[-1]))
    for more in (f'weights: "{files[0]}" weights: "{files[1]}"', f'weights: " {files[0]}, {files[1]} "'):
        solver = solver_of(tmp_path, more)
        assert (solver.net.params["ip"][0].data == 2).all()
        assert (solver.test_nets[0].params["ip"][0].data == 2).all()


def test_a_net_shares_the_weights_of_a_solver(tmp_path: Path) -> None:
    solver = solver_of(tmp_path)
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    solver.share_weights(net)
    solver.step(1)
    assert np.array_equal(net.params["ip"][0].data, solver.net.params["ip"][0].data)


def test_time_passes_between_a_timers_start_and_its_stop() -> None:
    timer = caffe.Timer()
    timer.start()
    timer.stop()
    assert timer.ms >= 0


def test_a_line_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    caffe.init_log(0, True)
    caffe.log("a line of ours")
    assert "a line of ours" in capfd.readouterr().err
