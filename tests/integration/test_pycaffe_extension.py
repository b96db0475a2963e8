"""caffe._gossip on a real solver: rate, momentum, the lock, exceptions."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import caffe
import numpy as np
import pytest
from caffe import _gossip

pytestmark = pytest.mark.integration

NET = """
layer {{ name: "data" type: "DummyData" top: "data" top: "target"
  dummy_data_param {{ shape {{ dim: {batch} dim: {width} }} shape {{ dim: {batch} dim: {width} }}
    data_filler {{ type: "constant" value: 0.5 }} data_filler {{ type: "constant" value: 1 }} }} }}
{between}
layer {{ name: "ip" type: "InnerProduct" bottom: "{bottom}" top: "ip"
  inner_product_param {{ num_output: {width} weight_filler {{ type: "constant" value: 0.01 }} }} }}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "target" top: "loss" }}
"""
PYTHON_LAYER = (
    'layer {{ name: "python" type: "Python" bottom: "data" top: "python"'
    ' python_param {{ module: "{module}" layer: "{layer}" }} }}'
)
MADE: list[weakref.ref[Any]] = []


class PassThrough(caffe.Layer):  # type: ignore[misc]
    """A Python layer that copies its input."""

    def __init__(self, parameters: object) -> None:
        super().__init__(parameters)
        MADE.append(weakref.ref(self))

    def setup(self, bottom: Any, top: Any) -> None:
        """Nothing to set up."""

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = bottom[0].data

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """The data needs no gradient."""


class Failing(PassThrough):
    """A Python layer that raises while ``broken``."""

    broken = True

    def forward(self, bottom: Any, top: Any) -> None:
        if type(self).broken:
            raise KeyError("record 17 is missing")
        super().forward(bottom, top)


Maker = Callable[..., Any]


@pytest.fixture
def make_solver(tmp_path: Path) -> Maker:
    """A function that makes a solver of one inner product, with a Python layer before it if asked."""
    caffe.set_mode_cpu()
    _gossip.set_log_level(2)

    def make(settings: str, *, kind: str = "SGD", layer: str = "", batch: int = 2, width: int = 3) -> Any:
        between = PYTHON_LAYER.format(module=__name__, layer=layer) if layer else ""
        net = NET.format(batch=batch, width=width, between=between, bottom="python" if layer else "data")
        (tmp_path / "net.prototxt").write_text(net)
        solver = tmp_path / "solver.prototxt"
        header = f'net: "{tmp_path}/net.prototxt" type: "{kind}" snapshot_after_train: false'
        solver.write_text(f"{header} {settings}")
        return caffe.get_solver(str(solver))

    return make


def weights(solver: Any) -> np.ndarray:
    return np.array(solver.net.params["ip"][0].data)


def test_the_rate_that_is_set_is_the_rate_of_the_next_step(make_solver: Maker) -> None:
    changes = []
    for rate in (0.01, 0.04):
        solver = make_solver('base_lr: 5 lr_policy: "step" gamma: 0.1 stepsize: 1 momentum: 0')
        before = weights(solver)
        _gossip.set_learning_rate(solver, rate)
        _gossip.step(solver, 1)
        changes.append(weights(solver) - before)
        assert _gossip.learning_rate(solver) == pytest.approx(rate)
    assert np.abs(changes[0]).min() > 0
    np.testing.assert_allclose(changes[1], 4 * changes[0], rtol=1e-5)


def test_the_rate_of_a_policy_is_told_for_the_next_iteration(make_solver: Maker) -> None:
    solver = make_solver('base_lr: 0.1 lr_policy: "inv" gamma: 0.5 power: 2')
    _gossip.set_iteration(solver, 6)
    assert solver.iter == 6
    assert _gossip.learning_rate(solver) == pytest.approx(0.1 * (1 + 0.5 * 6) ** -2)


@pytest.mark.parametrize("policy", ['lr_policy: "cosine"', 'lr_policy: "step"', ""])
def test_a_policy_that_caffe_would_abort_on_raises(make_solver: Maker, policy: str) -> None:
    with pytest.raises(ValueError, match="lr_policy"):
        _gossip.learning_rate(make_solver(f"base_lr: 0.1 {policy}"))


def test_history_is_a_view_of_the_momentum_that_a_step_changes(make_solver: Maker) -> None:
    solver = make_solver('base_lr: 0.01 lr_policy: "fixed" momentum: 0.9')
    history = _gossip.history(solver)
    assert [view.shape for view in history] == [(3, 3), (3,)]
    assert {view.dtype for view in history} == {np.dtype(np.float32)}
    assert not any(view.any() for view in history)
    before = weights(solver)
    _gossip.step(solver, 1)
    np.testing.assert_allclose(history[0], before - weights(solver), rtol=1e-4)


def test_what_is_written_into_history_drives_the_next_step(make_solver: Maker) -> None:
    solver = make_solver('base_lr: 0 lr_policy: "fixed" momentum: 0.5')
    before = weights(solver)
    _gossip.history(solver)[0][...] = 0.25
    _gossip.step(solver, 1)
    np.testing.assert_allclose(weights(solver), before - 0.125, rtol=1e-6)


def test_adam_keeps_two_rounds_of_history(make_solver: Maker) -> None:
    solver = make_solver('base_lr: 0.01 lr_policy: "fixed" momentum: 0.9', kind="Adam")
    assert [view.shape for view in _gossip.history(solver)] == [(3, 3), (3,), (3, 3), (3,)]


def test_a_view_of_history_keeps_its_solver_alive(make_solver: Maker) -> None:
    solver = make_solver('base_lr: 0.01 lr_policy: "fixed" momentum: 0.9')
    alive = weakref.ref(solver)
    view = _gossip.history(solver)[0]
    del solver
    gc.collect()
    assert alive() is view.base
    del view
    gc.collect()
    assert alive() is None


def test_what_is_no_solver_has_no_history() -> None:
    with pytest.raises(TypeError):
        _gossip.history(object())


def test_an_update_by_hand_applies_the_gradients_as_they_stand(make_solver: Maker) -> None:
    solver = make_solver('base_lr: 0.1 lr_policy: "fixed" momentum: 0')
    before = weights(solver)
    solver.net.params["ip"][0].diff[...] = 2
    solver.apply_update()
    np.testing.assert_allclose(weights(solver), before - 0.2, rtol=1e-5)


@pytest.mark.parametrize("layer", ["", "PassThrough"], ids=["no Python layer", "a Python layer"])
def test_a_python_thread_runs_while_a_step_does(make_solver: Maker, layer: str) -> None:
    solver = make_solver('base_lr: 1e-9 lr_policy: "fixed"', layer=layer, batch=400, width=1200)
    stepping, stop, ticks = threading.Event(), threading.Event(), []

    def tick() -> None:
        while not stop.wait(0.001):
            if stepping.is_set():
                ticks.append(1)

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        stepping.set()
        _gossip.step(solver, 10)
        stepping.clear()
    finally:
        stop.set()
        ticker.join()
    assert len(ticks) > 5


@pytest.mark.parametrize("released", [True, False], ids=["released lock", "held lock"])
def test_what_a_python_layer_raises_comes_out_and_the_solver_lives_on(
    make_solver: Maker, released: bool
) -> None:
    Failing.broken = False
    solver = make_solver('base_lr: 0.01 lr_policy: "fixed"', layer="Failing")

    def step() -> None:
        if released:
            _gossip.step(solver, 1)
        else:
            solver.step(1)

    Failing.broken = True
    for _ in range(3):
        with pytest.raises(KeyError, match="record 17 is missing"):
            step()
    Failing.broken = False
    step()
    assert solver.iter == 1


def test_an_exception_of_a_callback_comes_out_of_a_step(make_solver: Maker) -> None:
    solver = make_solver('base_lr: 0.01 lr_policy: "fixed"')

    def refuse() -> None:
        raise PermissionError("not now")

    solver.add_callback(lambda: None, refuse)
    with pytest.raises(PermissionError, match="not now"):
        _gossip.step(solver, 1)


def test_a_python_layer_is_freed_with_its_net(make_solver: Maker) -> None:
    MADE.clear()
    solver = make_solver('base_lr: 0.01 lr_policy: "fixed"', layer="PassThrough")
    _gossip.step(solver, 1)
    assert [layer() is not None for layer in MADE] == [True]
    del solver
    gc.collect()
    assert [layer() for layer in MADE] == [None]


@pytest.mark.skipif(_gossip.built_for_cuda, reason="the pycaffe here was built with CUDA")
def test_a_build_for_the_cpu_says_so_of_gpus_and_device_memory(make_solver: Maker) -> None:
    blob = make_solver('base_lr: 0.01 lr_policy: "fixed"').net.blobs["ip"]
    for pointer in (_gossip.gpu_data_ptr, _gossip.gpu_diff_ptr):
        with pytest.raises(RuntimeError, match="CPU only"):
            pointer(blob)
    for question in (_gossip.device_count, lambda: _gossip.device(0), _gossip.missing_libraries):
        with pytest.raises(RuntimeError, match="CPU only"):
            question()


def test_the_log_level_silences_caffe(make_solver: Maker, capfd: pytest.CaptureFixture[str]) -> None:
    said = []
    for level in (0, 2):
        _gossip.set_log_level(level)
        make_solver('base_lr: 0.01 lr_policy: "fixed"')
        said.append(capfd.readouterr().err)
    assert "Solver scaffolding done" in said[0]
    assert said[1] == ""
