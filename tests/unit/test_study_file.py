"""The study file: 20 and more mistakes, each of which gets one line with file and line, and what a good one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossip_caffe.data.sources.source import measure
from gossip_caffe.errors import UsageError
from gossip_caffe.tune.study.spec import StudySpec
from gossip_caffe.tune.study.study_file import StudyFile, read_study
from gossip_caffe.tune.study.toml_lines import lines_of_keys
from tests.tiny_job import TinyJob, write_job

GOOD = """name = "tiny"
solver = "solver.prototxt"
trials = 8
samples = 3200
tests = 4
objective = { output = "accuracy", goal = "max" }

[sampler]
kind = "tpe"

[pruner]
kind = "asha"
min_tests = 1

[space]
"solver.base_lr" = { float = [1e-3, 1e-1], log = true }
net.ip1.inner_product_param.num_output = { int = [8, 64] }
net.data.batch_size = { choices = [8, 16] }
settings.lr_scaling = { choices = ["sqrt", "none"] }
solver.weight_decay = 0.001
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    return write_job(tmp_path_factory.mktemp("job"), iterations=200)


def read(job: TinyJob, text: str, tmp_path: Path) -> StudyFile:
    path = job.folder / "study.toml"
    path.write_text(text)
    return read_study(path, measure, default_store=lambda name: f"file:///{name}", working=job.folder)


BAD = [
    ("trials = 8", "trials = 0", "study.toml:3: trials is 0"),
    ("trials = 8", "trials = true", "study.toml:3: trials is True"),
    ("trials = 8\n", "", "study.toml:1: trials is missing"),
    ("trials = 8", "trails = 8", "study.toml:3: 'trails' is unknown"),
    ("trials = 8", "trials = = 8", "study.toml:3: no TOML"),
    ('name = "tiny"', 'name = "Tiny Job"', "study.toml:1: 'Tiny Job' cannot be the name of a study"),
    ('"solver.prototxt"', '"nowhere.prototxt"', "study.toml:2: there is no solver at"),
    ('solver = "solver.prototxt"', "", "study.toml:1: solver is missing"),
    ("samples = 3200", "samples = 10", "study.toml:4: 10 samples are too few"),
    ("tests = 4", "tests = 0", "study.toml:5: tests is 0"),
    ('"accuracy"', '"acuracy"', "study.toml:6: no test net has an output 'acuracy'"),
    ('"max"', '"most"', "study.toml:6: goal is 'most'"),
    ('kind = "tpe"', 'kind = "tpee"', "study.toml:9: there is no sampler 'tpee'"),
    ('kind = "asha"', 'kind = "ashes"', "study.toml:12: there is no pruner 'ashes'"),
    ("min_tests = 1", "min_tests = 0", "study.toml:13: min_tests is too small"),
    ("min_tests = 1", "mintests = 1", "study.toml:13: 'mintests' is unknown in [pruner]"),
    ("[1e-3, 1e-1]", "[1e-1, 1e-3]", "study.toml:16: solver.base_lr: the range 0.1 to 0.001 is empty"),
    ("[1e-3, 1e-1]", "[0.0, 1e-1]", "study.toml:16: solver.base_lr: a logarithmic range from 0.0"),
    ("float = [1e-3, 1e-1]", "flaot = [1e-3, 1e-1]", "study.toml:16: solver.base_lr says no kind of values"),
    (
        "int = [8, 64]",
        "int = [8, 64.5]",
        "study.toml:17: net.ip1.inner_product_param.num_output: int is no range",
    ),
    (
        "net.ip1.",
        "net.ip9.",
        "study.toml:17: net.ip9.inner_product_param.num_output: no net has such a layer",
    ),
    (
        "net.data.batch_size",
        "net.data.batchsize",
        "study.toml:18: net.data.batchsize: layer 'data' has no field",
    ),
    ("choices = [8, 16]", "choices = []", "study.toml:18: net.data.batch_size: choices is no list of values"),
    ('"none"]', '"non"]', "study.toml:19: settings.lr_scaling: lr_scaling=non: unknown"),
    ("settings.lr_scaling", "settings.lr", "study.toml:19: settings.lr: there is no setting 'lr'"),
    (
        "solver.weight_decay",
        "solver.max_iter",
        "study.toml:20: solver.max_iter follows from samples and tests",
    ),
    ("solver.weight_decay", "weights.decay", "study.toml:20: 'weights.decay' is no path of a field"),
    (
        "solver.weight_decay",
        "solver.net.x",
        "study.toml:20: solver.net.x: field 'net' has no fields of its own",
    ),
    ("choices = [8, 16]", "choices = [8, 0]", "study.toml:"),
]


@pytest.mark.parametrize(("old", "new", "said"), BAD, ids=[new or old for old, new, _ in BAD])
def test_a_mistake_is_one_line_with_file_line_and_remedy(
    job: TinyJob, tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in GOOD
    with pytest.raises(UsageError) as caught:
        read(job, GOOD.replace(old, new, 1), tmp_path)
    assert str(caught.value).startswith(said)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_a_good_file_is_a_study_that_survives_the_store(job: TinyJob, tmp_path: Path) -> None:
    study = read(job, GOOD, tmp_path)
    assert StudySpec.from_json(study.spec.to_json()) == study.spec
    assert study.spec.store == "file:///tiny"
    assert [parameter.path for parameter in study.spec.searched] == [
        "solver.base_lr",
        "net.ip1.inner_product_param.num_output",
        "net.data.batch_size",
        "settings.lr_scaling",
    ]
    assert study.spec.fixed == {"solver.weight_decay": 0.001}
    assert {probe.spec.budget_samples for probe in study.probes} == {3200}
    assert {probe.spec.data.batch_records for probe in study.probes} == {8, 16}


def test_without_samples_and_tests_a_trial_is_as_long_as_the_users_own_training(
    job: TinyJob, tmp_path: Path
) -> None:
    text = GOOD.replace("samples = 3200\n", "").replace("tests = 4\n", "")
    study = read(job, text, tmp_path).spec
    assert (study.samples, study.tests) == (200 * 16, 10)


def test_a_study_that_tests_nothing_is_refused(tmp_path: Path) -> None:
    job = write_job(tmp_path / "untested")
    job.solver.write_text(
        job.solver.read_text().replace("test_iter: 4\n", "").replace("test_interval: 1000000\n", "")
    )
    with pytest.raises(UsageError, match=r"study.toml:2: the solver tests nothing"):
        read(job, GOOD, tmp_path)


def test_lines_of_keys_know_tables_quotes_and_dots() -> None:
    text = 'a = 1\n[t]\n"b.c" = 2 # x\nd . e = 3\n[t.u]\nf = "[no]"\n'
    assert lines_of_keys(text) == {"a": 1, "t": 2, "t.b.c": 3, "t.d.e": 4, "t.u": 5, "t.u.f": 6}
