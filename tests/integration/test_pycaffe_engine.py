"""The engine against a bare Caffe solver on the same data: not a bit of difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import caffe
import numpy as np
import pytest
from caffe import _gossip

from gossip_caffe.checkpoint.formats.caffemodel import write_caffemodel
from gossip_caffe.errors import EnvironmentProblem, ModelError
from gossip_caffe.job.spec.gradient_clip import fitted
from gossip_caffe.job.spec.learning_rate import rate
from gossip_caffe.job.spec.spec import TopSpec
from gossip_caffe.peer.work.clipping import first_batches
from gossip_caffe.solver.board import Flat
from gossip_caffe.solver.engines import pycaffe_engine, source_layer
from gossip_caffe.solver.engines.engine import EngineSpec
from gossip_caffe.solver.engines.layout import view
from gossip_caffe.solver.engines.pycaffe_engine import PycaffeEngine, with_fixed_rate
from gossip_caffe.solver.probing.gradient_lengths import gradient_lengths
from gossip_caffe.solver.probing.probe import ProbeProcess
from tests.caffe_jobs import HIDDEN, MOMENTUM, Job, write_job
from tests.descriptors import open_descriptors

pytestmark = pytest.mark.integration

ITERATIONS = 50
INV = f'base_lr: 0.05 {MOMENTUM} lr_policy: "inv" gamma: 0.01 power: 0.75'
STEP = f'base_lr: 0.05 {MOMENTUM} lr_policy: "step" gamma: 0.5 stepsize: 15'


@pytest.fixture(autouse=True)
def quiet() -> None:
    caffe.set_mode_cpu()
    _gossip.set_log_level(2)


def weights_of(engine: PycaffeEngine) -> Flat:
    out = np.empty(engine.layout.size, dtype=np.float32)
    engine.read_weights(out)
    return out


def bare_solver(job: Job, weights: Flat, engine: PycaffeEngine) -> Any:
    """Plain Caffe with its own data layer, from the same weights."""
    solver = caffe.get_solver(str(job.bare))
    for blob, part in zip(engine.layout.blobs, engine.layout.split(weights), strict=True):
        solver.net.params[blob.layer][blob.index].data[...] = part
    return solver


def bare_weights(solver: Any, engine: PycaffeEngine) -> Flat:
    return np.concatenate(
        [solver.net.params[blob.layer][blob.index].data.reshape(-1) for blob in engine.layout.blobs]
    )


@pytest.mark.parametrize(
    "settings",
    [
        INV,
        STEP,
        f"{INV} iter_size: 3",
        f"{STEP} clip_gradients: 0.5",
        f'{STEP} type: "Nesterov"',
        'type: "Adam" base_lr: 0.01 momentum: 0.9 momentum2: 0.999 lr_policy: "fixed"',
        'type: "RMSProp" base_lr: 0.01 rms_decay: 0.9 lr_policy: "exp" gamma: 0.99',
        'type: "AdaGrad" base_lr: 0.05 lr_policy: "poly" power: 2',
    ],
)
def test_after_50_iterations_the_weights_are_those_of_a_bare_caffe_solver_bit_for_bit(
    tmp_path: Path, settings: str
) -> None:
    job = write_job(tmp_path, settings)
    ring = job.ring()
    engine = PycaffeEngine(job.engine_spec(), ring)
    start = weights_of(engine)
    bare = bare_solver(job, start, engine)
    for iteration in range(ITERATIONS):
        job.feed(ring, job.spec.iter_size)
        engine.step(ring, job.spec.iter_size, rate(job.spec.schedule, iteration))
    bare.step(ITERATIONS)
    assert np.array_equal(weights_of(engine), bare_weights(bare, engine))
    assert np.abs(weights_of(engine) - start).max() > 0.01
    assert ring.tail == ITERATIONS * job.spec.iter_size


@pytest.mark.parametrize(
    ("bare_limit", "own_limit", "limit", "iter_size"),
    [(0.5, -1.0, 0.5, 1), (1.5, -1.0, 1.5, 3), (0.5, 2.0, 0.5, 1), (0.4, 0.4, 1.0, 1)],
    ids=["limit alone", "passes summed", "above the solver's own", "below the solver's own"],
)
def test_a_limit_clips_as_caffes_clip_gradients_does_and_the_smaller_one_counts(
    tmp_path: Path, bare_limit: float, own_limit: float, limit: float, iter_size: int
) -> None:
    (tmp_path / "bare").mkdir()
    settings = f"{STEP} iter_size: {iter_size}"
    bare_job = write_job(tmp_path / "bare", f"{settings} clip_gradients: {bare_limit}")
    job = write_job(tmp_path, f"{settings} clip_gradients: {own_limit}")
    ring = job.ring()
    engine = PycaffeEngine(job.engine_spec(), ring)
    bare = bare_solver(bare_job, weights_of(engine), engine)
    engine.clip_gradients(limit)
    lengths = []
    for iteration in range(ITERATIONS):
        job.feed(ring, iter_size)
        engine.step(ring, iter_size, rate(job.spec.schedule, iteration))
        lengths.append(engine.gradient_length)
    bare.step(ITERATIONS)
    assert sum(length > limit for length in lengths) > 5, "otherwise nothing was clipped"
    assert np.allclose(weights_of(engine), bare_weights(bare, engine), rtol=1e-4, atol=1e-6)


def test_without_a_limit_again_the_gradient_is_whole(tmp_path: Path) -> None:
    job = write_job(tmp_path, STEP)
    found = []
    for limits in ((1e-6, 0.0), ()):
        ring = job.ring()
        engine = PycaffeEngine(job.engine_spec(), ring)
        for limit in limits:
            engine.clip_gradients(limit)
        job.feed(ring, 1)
        engine.step(ring, 1, 0.05)
        found.append(weights_of(engine))
    assert np.array_equal(found[0], found[1])


async def test_the_first_gradients_are_measured_alike_by_every_process_and_leave_no_trace(
    tmp_path: Path,
) -> None:
    job = write_job(tmp_path, f"{STEP} iter_size: 2")
    probe = ProbeProcess(job.engine_spec(), job.spec)
    batches = first_batches(job.spec)
    lengths = await probe.lengths(batches)
    assert lengths == await probe.lengths(batches)
    assert len(lengths) == len(batches) // 2
    assert fitted(lengths).limit > 0
    in_this_process = gradient_lengths(
        PycaffeEngine, job.engine_spec(), job.spec.data, job.spec.schedule, batches
    )
    assert np.allclose(lengths, in_this_process, rtol=1e-4)


async def test_a_net_that_caffe_refuses_is_an_error_with_its_reason(tmp_path: Path) -> None:
    job = write_job(tmp_path, STEP)
    broken = replace(
        job.engine_spec(), solver_text=job.engine_spec().solver_text.replace('"xavier"', '"none"')
    )
    with pytest.raises(ModelError, match="none"):
        await ProbeProcess(broken, job.spec).lengths(first_batches(job.spec))


@pytest.mark.parametrize(
    "policy",
    [
        'lr_policy: "fixed"',
        'lr_policy: "step" gamma: 0.97 stepsize: 700',
        'lr_policy: "exp" gamma: 0.9999',
        'lr_policy: "inv" gamma: 0.0001 power: 0.75',
        'lr_policy: "multistep" gamma: 0.3 stepvalue: 999 stepvalue: 40000 stepvalue: 170001',
        'lr_policy: "poly" power: 0.5',
        'lr_policy: "poly" power: 1.7',
        'lr_policy: "sigmoid" gamma: -0.0003 stepsize: 90000',
    ],
)
def test_the_rates_of_a_long_job_are_caffes_own_to_the_last_bit(tmp_path: Path, policy: str) -> None:
    job = write_job(tmp_path, f"base_lr: 0.013 {policy}", max_iter=200_000)
    solver = caffe.get_solver(str(job.bare))
    differing = []
    for iteration in range(0, 200_000, 11):
        _gossip.set_iteration(solver, iteration)
        if np.float32(rate(job.spec.schedule, iteration)) != np.float32(_gossip.learning_rate(solver)):
            differing.append(iteration)
    assert differing == []


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_a_short_iteration_is_one_of_a_solver_with_a_smaller_iter_size(tmp_path: Path, kind: str) -> None:
    common = f'type: "{kind}" base_lr: 0.01 momentum: 0.9 weight_decay: 0.01 lr_policy: "fixed"'
    (tmp_path / "long").mkdir()
    (tmp_path / "short").mkdir()
    job = write_job(tmp_path / "long", f"{common} iter_size: 4")
    ring = job.ring()
    engine = PycaffeEngine(job.engine_spec(), ring)
    bare = bare_solver(write_job(tmp_path / "short", f"{common} iter_size: 2"), weights_of(engine), engine)
    for _ in range(10):
        job.feed(ring, 2)
        engine.step(ring, 2, 0.01)
    bare.step(10)
    assert np.array_equal(weights_of(engine), bare_weights(bare, engine))


def test_a_batch_that_is_cut_short_trains_only_on_its_records(tmp_path: Path) -> None:
    for folder in ("whole", "short"):
        (tmp_path / folder).mkdir()
    job = write_job(tmp_path / "whole", INV)
    ring = job.ring()
    engine = PycaffeEngine(job.engine_spec(), ring)
    start = weights_of(engine)
    short = write_job(tmp_path / "short", INV, batch=3)
    bare = bare_solver(short, start, engine)
    job.feed(ring, 1, records=3)
    loss = engine.step(ring, 1, 0.05)
    bare.step(1)
    assert np.array_equal(weights_of(engine), bare_weights(bare, engine))
    assert loss == float(bare.net.blobs["loss"].data)
    job.feed(ring, 2)
    for _ in range(2):
        assert np.isfinite(engine.step(ring, 1, 0.05))  # whole batches again


def test_a_net_that_cannot_be_reshaped_gets_a_short_batch_filled_up_with_its_own_records(
    tmp_path: Path,
) -> None:
    fixed = HIDDEN.replace(
        'layer { name: "loss"',
        'layer { name: "again" type: "Reshape" bottom: "ip" top: "again" reshape_param { shape { dim: 8 dim: 10 } } }\n'
        'layer { name: "loss"',
    ).replace('bottom: "ip" bottom: "label"', 'bottom: "again" bottom: "label"')
    job = write_job(tmp_path, INV, net=fixed)
    ring = job.ring()
    engine = PycaffeEngine(job.engine_spec(), ring)
    job.feed(ring, 1, records=3)
    assert np.isfinite(engine.step(ring, 1, 0.05))
    seen = engine._solver.net.blobs["data"].data
    assert np.array_equal(seen, job.data[[0, 1, 2, 0, 1, 2, 0, 1]])
    job.feed(ring, 1)
    assert np.isfinite(engine.step(ring, 1, 0.05))


def test_weights_go_in_and_out_and_corrections_on_top(tmp_path: Path) -> None:
    job = write_job(tmp_path, INV)
    ring = job.ring()
    engine = PycaffeEngine(job.engine_spec(), ring)
    assert [(blob.layer, blob.index, blob.shape) for blob in engine.layout.blobs] == [
        ("conv", 0, (4, 1, 3, 3)),
        ("conv", 1, (4,)),
        ("ip", 0, (10, 64)),
        ("ip", 1, (10,)),
    ]
    values = np.arange(engine.layout.size, dtype=np.float32)
    engine.write_weights(values)
    engine.add_to_weights(values)
    assert np.array_equal(weights_of(engine), 2 * values)


def test_the_same_seed_gives_the_same_fresh_weights(tmp_path: Path) -> None:
    job = write_job(tmp_path, INV)
    ring = job.ring()
    one, other = (weights_of(PycaffeEngine(job.engine_spec(), ring)) for _ in range(2))
    assert np.array_equal(one, other)
    spec = job.engine_spec()
    different = EngineSpec(spec.engine, spec.solver_text, spec.iter_size, spec.batch_records, seed=8)
    assert not np.array_equal(one, weights_of(PycaffeEngine(different, ring)))


def test_parameters_that_share_a_name_are_one_blob_of_the_layout(tmp_path: Path) -> None:
    shared = """
        layer { name: "one" type: "InnerProduct" bottom: "data" top: "one" param { name: "w" } param { name: "b" }
                inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
        layer { name: "two" type: "InnerProduct" bottom: "data" top: "two" param { name: "w" } param { name: "c" }
                inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
        layer { name: "loss" type: "EuclideanLoss" bottom: "one" bottom: "two" top: "loss" }
        layer { name: "mute" type: "Silence" bottom: "label" }
    """
    job = write_job(tmp_path, INV, net=shared)
    ring = job.ring()
    engine = PycaffeEngine(job.engine_spec(), ring)
    assert [(blob.layer, blob.index) for blob in engine.layout.blobs] == [("one", 0), ("one", 1), ("two", 1)]
    before = weights_of(engine)
    engine.add_to_weights(np.ones_like(before))
    assert np.array_equal(weights_of(engine), before + 1)


def test_frozen_parameters_come_last_and_only_the_others_are_exchanged(tmp_path: Path) -> None:
    net = """
        layer { name: "one" type: "InnerProduct" bottom: "data" top: "one"
                param { name: "w" lr_mult: 0 } param { lr_mult: 0 }
                inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
        layer { name: "two" type: "InnerProduct" bottom: "data" top: "two" param { name: "w" }
                inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
        layer { name: "norm" type: "BatchNorm" bottom: "two" top: "two"
                param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 } }
        layer { name: "loss" type: "EuclideanLoss" bottom: "one" bottom: "two" top: "loss" }
        layer { name: "mute" type: "Silence" bottom: "label" }
    """
    job = write_job(tmp_path, INV, net=net)
    ring = job.ring()
    engine = PycaffeEngine(job.engine_spec(), ring)
    blobs = [(blob.layer, blob.index) for blob in engine.layout.blobs]
    assert blobs == [("two", 1), ("norm", 0), ("norm", 1), ("norm", 2), ("one", 0), ("one", 1)]
    assert [(blob.layer, blob.index) for blob in engine.layout.aliases] == [("two", 0)]
    assert (engine.layout.size, engine.layout.exchanged) == (5 + 11 + 180 + 5, 16)
    before = weights_of(engine)
    job.feed(ring, 3)
    for _ in range(3):
        engine.step(ring, 1, 0.05)
    stepped = weights_of(engine)
    assert np.array_equal(stepped[16:], before[16:])
    assert all(
        not np.array_equal(new, old)
        for new, old in zip(engine.layout.split(stepped)[:4], engine.layout.split(before)[:4], strict=True)
    )
    engine.add_to_weights(np.ones(16, dtype=np.float32))
    assert np.array_equal(weights_of(engine)[:16], stepped[:16] + 1)
    assert np.array_equal(weights_of(engine)[16:], stepped[16:])


def test_a_checkpoint_of_a_net_with_shared_and_frozen_parameters_is_one_that_plain_caffe_loads(
    tmp_path: Path,
) -> None:
    net = """
        layer { name: "one" type: "InnerProduct" bottom: "data" top: "one" param { name: "w" lr_mult: 0 }
                inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
        layer { name: "two" type: "InnerProduct" bottom: "data" top: "two" param { name: "w" }
                inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
        layer { name: "loss" type: "EuclideanLoss" bottom: "one" bottom: "two" top: "loss" }
        layer { name: "mute" type: "Silence" bottom: "label" }
    """
    job = write_job(tmp_path, INV, net=net)
    engine = PycaffeEngine(job.engine_spec(), job.ring())
    weights = np.arange(engine.layout.size, dtype=np.float32)
    with (tmp_path / "all.caffemodel").open("wb") as file:
        write_caffemodel(file, engine.layout, weights)
    plain = caffe.Net(str(tmp_path / "net.prototxt"), str(tmp_path / "all.caffemodel"), caffe.TRAIN)
    for blob in (*engine.layout.blobs, *engine.layout.aliases):
        assert np.array_equal(plain.params[blob.layer][blob.index].data, view(weights, blob))


def test_the_loss_is_the_sum_of_all_losses_by_their_weights(tmp_path: Path) -> None:
    net = HIDDEN.replace('top: "loss" }', 'top: "loss" loss_weight: 0.5 }') + (
        'layer { name: "more" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "more" loss_weight: 2 }\n'
    )
    job = write_job(tmp_path, INV, net=net)
    ring = job.ring()
    engine = PycaffeEngine(job.engine_spec(), ring)
    job.feed(ring, 1)
    loss = engine.step(ring, 1, 0.05)
    blobs = engine._solver.net.blobs
    assert loss == pytest.approx(0.5 * float(blobs["loss"].data) + 2 * float(blobs["more"].data))


def test_the_loss_of_an_iteration_of_several_passes_is_their_mean(tmp_path: Path) -> None:
    losses = []
    for iter_size in (1, 3):
        folder = tmp_path / str(iter_size)
        folder.mkdir()
        job = write_job(folder, f'base_lr: 1e-30 lr_policy: "fixed" iter_size: {iter_size}')
        ring = job.ring()
        engine = PycaffeEngine(job.engine_spec(), ring)
        job.feed(ring, 6)
        losses.append([engine.step(ring, iter_size, 1e-30) for _ in range(6 // iter_size)])
    assert losses[1] == pytest.approx([np.mean(losses[0][:3]), np.mean(losses[0][3:])])


def test_building_leaves_no_file_and_no_descriptor_behind(tmp_path: Path) -> None:
    job = write_job(tmp_path, INV)
    ring = job.ring()
    PycaffeEngine(job.engine_spec(), ring)
    files, descriptors = sorted(tmp_path.rglob("*")), open_descriptors()
    PycaffeEngine(job.engine_spec(), ring)
    assert sorted(tmp_path.rglob("*")) == files
    assert open_descriptors() <= descriptors


def test_a_ring_of_other_tops_is_refused(tmp_path: Path) -> None:
    job = write_job(tmp_path, INV)
    ring = type(job.ring()).create((TopSpec("data", (1, 6, 6)),), 8, 2)
    with pytest.raises(ModelError, match="data layer has 2 tops, and the ring of batches has 1"):
        PycaffeEngine(job.engine_spec(), ring)


def test_a_pycaffe_that_cannot_set_the_rate_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path, INV)
    monkeypatch.setattr(pycaffe_engine, "_gossip", None)
    monkeypatch.delattr(caffe._caffe.Solver, "param", raising=False)  # BVLC 1.0's other way
    with pytest.raises(EnvironmentProblem, match="cannot set the learning rate"):
        PycaffeEngine(job.engine_spec(), job.ring())


def test_where_only_base_lr_can_be_set_the_policy_is_made_fixed(tmp_path: Path) -> None:
    job = write_job(tmp_path, INV)
    text = with_fixed_rate(job.spec.solver_for_peer)
    assert text.count("lr_policy") == 1
    ring = job.ring()
    source_layer.feed_from(ring)
    solver = pycaffe_engine.solver_of(text)
    assert _gossip.learning_rate(solver) == pytest.approx(0.05)
    _gossip.set_iteration(solver, 10_000)
    assert _gossip.learning_rate(solver) == pytest.approx(0.05)


def test_a_gpu_is_refused_by_a_pycaffe_that_was_built_for_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gossip, "built_for_cuda", False, raising=False)
    job = write_job(tmp_path, INV)
    spec = job.engine_spec()
    wanted = EngineSpec(spec.engine, spec.solver_text, 1, 8, seed=1, device="gpu:0")
    with pytest.raises(EnvironmentProblem, match="built for the CPU only"):
        PycaffeEngine(wanted, job.ring())
