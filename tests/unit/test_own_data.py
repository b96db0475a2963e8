"""Nets whose own Python layers make the data: what these are told, and what a user is told of them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gossip_caffe.errors import ModelError, UsageError
from gossip_caffe.job.notices import notices
from gossip_caffe.job.prototxts.own_data import COUNT, RANK, SEED, passes_before, ranks_of, reads_rank
from gossip_caffe.job.prototxts.sources import DataSet
from gossip_caffe.job.reading import Model, job_of, read_model
from gossip_caffe.job.spec.spec import JobSettings, JobSpec, SourceSpec
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.jobs import create_job
from gossip_caffe.solver.engines.place import ALONE, LayerRank
from gossip_caffe.solver.engines.user_layers import skip_passes, tell_place
from tests.fake_clock import FakeClock

NET = """
layer { name: "mine" type: "Python" top: "x" top: "y" %s python_param { module: "%s" layer: "Mine" } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "own" type: "Python" bottom: "ip" bottom: "y" top: "loss" loss_weight: 1
  python_param { module: "loss" layer: "Loss" } }
"""


def no_data(source: SourceSpec) -> DataSet:
    raise AssertionError("there is none to measure")


def model_of(folder: Path, module: str = "mine", include: str = "", iter_size: int = 1) -> Model:
    (folder / "net.prototxt").write_text(NET % (include, module))
    solver = folder / "solver.prototxt"
    solver.write_text(
        f'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 100 iter_size: {iter_size}'
    )
    return read_model(solver, folder)


def job_from(model: Model, settings: JobSettings = JobSettings(), peers: int = 4) -> JobSpec:  # noqa: B008
    spec = job_of("job", model, settings, no_data)
    return dataclasses.replace(spec, ranks=ranks_of(model.train.sources, settings, peers))


def test_ranks_are_those_of_the_setting_else_of_the_commands_peers_and_only_for_layers_that_make_data(
    tmp_path: Path,
) -> None:
    sources = model_of(tmp_path).train.sources
    assert ranks_of(sources, JobSettings(), 4) == 4
    assert ranks_of(sources, JobSettings(), 0) == 1
    assert ranks_of(sources, JobSettings(layer_ranks=6), 4) == 6
    dummy = [dataclasses.replace(layer, fields=layer.fields) for layer in sources if layer.type != "Python"]
    assert ranks_of(dummy, JobSettings(layer_ranks=6), 4) == 0


def test_each_rank_has_made_its_share_of_the_jobs_passes(tmp_path: Path) -> None:
    spec = job_from(model_of(tmp_path, iter_size=2))
    assert spec.ranks == 4
    assert passes_before(spec, 0) == 0
    assert passes_before(spec, 41) == 10
    snapshot = dataclasses.replace(spec.schedule, first_iteration=30)
    assert passes_before(dataclasses.replace(spec, schedule=snapshot), 40) == (60 + 40) // 4
    assert passes_before(dataclasses.replace(spec, ranks=0), 40) == 0


@pytest.mark.parametrize("ranks", [-1, 10_001])
def test_a_jobs_record_with_no_such_number_of_ranks_is_refused(tmp_path: Path, ranks: int) -> None:
    spec = dataclasses.replace(job_from(model_of(tmp_path)), ranks=ranks)
    with pytest.raises(UsageError, match=r"job\.ranks"):
        JobSpec.from_json(spec.to_json())


async def test_a_job_goes_on_with_another_number_of_peers(tmp_path: Path) -> None:
    store, model = MemoryStore(MemoryEtcd(FakeClock())), model_of(tmp_path)
    assert await create_job(store, job_from(model, peers=4))
    assert not await create_job(store, job_from(model, peers=3))


@pytest.mark.parametrize(
    ("files", "module", "reads"),
    [
        ({"mine.py": "rank = caffe.solver_rank()"}, "mine", True),
        ({"mine.py": 'rank = os.environ["GOSSIP_CAFFE_RANK"]'}, "mine", True),
        ({"mine.py": 'random.seed(os.environ["GOSSIP_CAFFE_SEED"])'}, "mine", True),
        ({"mine.py": "random.seed(1337)"}, "mine", False),
        ({"layers/__init__.py": "", "layers/mine.py": "solver_rank"}, "layers.mine", True),
        ({"mine/__init__.py": "solver_rank"}, "mine", True),
        ({"first/mine.py": "random", "mine.py": "solver_rank"}, "mine", False),
        ({}, "mine", False),
        ({}, "", False),
        ({}, "a\0b", False),
    ],
)
def test_a_module_is_read_where_it_would_be_imported_from(
    tmp_path: Path, files: dict[str, str], module: str, reads: bool
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert reads_rank(module, [str(tmp_path / "first"), str(tmp_path)]) is reads


@pytest.mark.parametrize(
    ("text", "peers", "layer_ranks", "said"),
    [
        ("random.seed(1337)", 4, 0, "the 4 peers may train the same records in the same order"),
        ("random.seed(1337)", 0, 0, "all peers of the job may train the same records"),
        ("random.seed(1337)", 1, 0, ""),
        ("caffe.solver_rank()", 4, 0, ""),
        ("caffe.solver_rank()", 0, 0, "is told rank 0 of 1 in each peer: say for how many peers"),
        ("caffe.solver_rank()", 0, 4, ""),
        ("random.seed(1337)", 0, 4, "all peers of the job may train the same records"),
    ],
)
def test_a_user_is_told_when_peers_would_train_one_sequence(
    tmp_path: Path, text: str, peers: int, layer_ranks: int, said: str
) -> None:
    (tmp_path / "mine.py").write_text(text)
    model, settings = model_of(tmp_path), JobSettings(layer_ranks=layer_ranks)
    spec = job_from(model, settings, peers)
    lines = [line for line in notices(model, spec, peers=peers, modules=[str(tmp_path)]) if "WARNING" in line]
    if not said:
        assert not lines
        return
    (line,) = lines
    assert line.startswith("net.prototxt:2: WARNING: ")
    assert said in line
    assert "layer 'mine' (mine.Mine)" in line
    assert "own" not in line.partition("layer 'mine'")[0], "a layer with bottoms makes no data"


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment as it was, afterwards."""
    for name in (RANK, COUNT, SEED):
        monkeypatch.setenv(name, "what the user's shell had")


def pycaffe(**functions: Any) -> Any:
    caffe, inner = ModuleType("caffe"), ModuleType("caffe._caffe")
    vars(caffe).update(functions, _caffe=inner)
    return caffe


@pytest.mark.usefixtures("surroundings")
def test_layers_know_their_rank_whatever_pycaffe_is_at_hand() -> None:
    caffe = pycaffe()
    tell_place(caffe, LayerRank(5, 4, 77))
    for module in (caffe, caffe._caffe):
        assert (module.solver_rank(), module.solver_count()) == (1, 4)
    assert (os.environ[RANK], os.environ[COUNT], os.environ[SEED]) == ("1", "4", "77")
    caffe.set_multiprocess(True)
    caffe.set_solver_rank(3)
    caffe.set_solver_count(8)
    assert (caffe._caffe.solver_rank(), caffe._caffe.solver_count()) == (3, 8)
    tell_place(caffe, ALONE)
    assert (caffe.solver_rank(), caffe.solver_count(), os.environ[RANK], os.environ[COUNT]) == (
        0,
        1,
        "0",
        "1",
    )


@pytest.mark.usefixtures("surroundings")
def test_a_pycaffe_that_has_ranks_of_its_own_is_told_and_kept() -> None:
    called: list[tuple[str, object]] = []

    def noted(name: str) -> Any:
        return lambda *given: called.append((name, *given))

    own = {
        name: noted(name) for name in ("solver_rank", "solver_count", "set_solver_count", "set_solver_rank")
    }
    caffe = pycaffe(**own, set_multiprocess=noted("set_multiprocess"))
    tell_place(caffe, LayerRank(2, 4))
    assert called == [("set_multiprocess", True), ("set_solver_count", 4), ("set_solver_rank", 2)]
    assert caffe.solver_rank is own["solver_rank"]
    called.clear()
    tell_place(caffe, ALONE)
    assert called == [("set_multiprocess", False), ("set_solver_count", 1), ("set_solver_rank", 0)]


@pytest.mark.usefixtures("surroundings")
def test_a_pycaffe_with_half_of_them_is_not_told_for_it_would_refuse_python_layers() -> None:
    def never(*_: object) -> None:
        raise AssertionError("without set_multiprocess it ends the process")

    caffe = pycaffe(set_solver_count=never, set_solver_rank=never)
    tell_place(caffe, LayerRank(2, 4))
    assert (caffe.solver_rank(), caffe.solver_count()) == (2, 4)


class Skipping:
    def __init__(self, error: BaseException | None = None) -> None:
        self.skipped: list[int] = []
        self._error = error

    def skip_passes(self, passes: int) -> None:
        if self._error is not None:
            raise self._error
        self.skipped.append(passes)


def net_of(*layers: Any) -> Any:
    return SimpleNamespace(_layer_names=[f"l{index}" for index in range(len(layers))], layers=layers)


def test_layers_that_can_pass_over_what_was_trained_before() -> None:
    layer = Skipping()
    net = net_of(SimpleNamespace(), SimpleNamespace(skip_passes=3), layer)
    skip_passes(net, 0)
    assert layer.skipped == []
    skip_passes(net, 12)
    assert layer.skipped == [12]


@pytest.mark.parametrize("error", [ValueError("no\nsuch"), SystemExit(3)])
def test_whatever_a_layers_code_raises_is_one_line_that_names_it(error: BaseException) -> None:
    with pytest.raises(
        ModelError, match=r"layer 'l1': skip_passes\(12\): (ValueError: no such|SystemExit: 3)"
    ):
        skip_passes(net_of(Skipping(), Skipping(error)), 12)
