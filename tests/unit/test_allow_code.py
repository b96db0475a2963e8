"""Code that a job names runs only where the machine's own user allows it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner

from gossip_caffe.api import places
from gossip_caffe.cli.main import cli
from gossip_caffe.cli.options.allow_code import is_allowed
from gossip_caffe.cli.options.etcd import EtcdPlace, is_local
from gossip_caffe.errors import ExitCode, ModelError, UsageError
from gossip_caffe.job.code import ENVIRONMENT, check_code, code_of
from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.spec.spec import FedLayer, JobSpec, NetTest, SourceSpec
from gossip_caffe.membership import jobs
from tests.bare_job import bare_job

RING = (
    'layer { name: "data" type: "Python" top: "data" include { phase: TRAIN } python_param { '
    'module: "gossip_caffe.solver.engines.source_layer" layer: "BatchSource" param_str: "0:1" } }'
)
PLAIN = "base_lr: 0.1 test_initialization: false snapshot_after_train: false train_net_param {{ {} }}"
DATASET = SourceSpec("data", "dataset", "planted:train", (), folder="/tmp/planted")


def job(layer: str = "", *, solver: str = "", text: str = "", test: str = "") -> JobSpec:
    return bare_job(
        solver_for_peer=solver or PLAIN.format(f"{RING} {layer}"),
        train_net_text=text,
        tests=(NetTest(test, 1),) if test else (),
    )


NAMES_CODE: dict[str, JobSpec] = {
    "a data set": dataclasses.replace(job(), data=dataclasses.replace(job().data, sources=(DATASET,))),
    "a tested data set": bare_job(tests=(NetTest("", 1, fed=(FedLayer(DATASET, 1),)),)),
    "a Python layer": job('layer { type: "Python" python_param { module: "planted" layer: "L" } }'),
    "one in the net that is tested": job(test='layer { python_param { module: "planted" } type: "Python" }'),
    "one in the text of the net": job(text='layer { python_param { module: "planted" } }'),
    "one whose type is escaped": job('layer { type: "\\x50ython" python_param { module: "planted" } }'),
    "one whose type our reader takes for another": job(
        'layer { type: "P\\u0079thon" python_param { module: "planted" layer: "L" } }'
    ),
    "one in two strings": job('layer { type: "Pyt" "hon" python_param { module: "planted" } }'),
    "one in a list": job('layer: [ { type: "Python" python_param: { module: "planted" } } ]'),
    "one between angles": job("layer < type: 'Python' python_param < module: 'planted' > >"),
    "one of an older net": job('layers { python_param { module: "planted" } }'),
    "one that looks like ours": job(
        'layer { type: "Python" python_param { module: "gossip_caffe.solver.engines.source_layer" '
        'module: "planted" layer: "BatchSource" } }'
    ),
    "another layer of our module": job(
        'layer { type: "Python" python_param { module: "gossip_caffe.solver.engines.source_layer" layer: "sys" } }'
    ),
    "ours with a second parameter": job(
        f'layer {{ {RING.removeprefix("layer {").removesuffix("}")} python_param {{ module: "planted" }} }}'
    ),
    "a layer that writes": job('layer { type: "HDF5Output" hdf5_output_param { file_name: "/root/.x" } }'),
    "an older layer that writes": job('layers { type: HDF5_OUTPUT hdf5_output_param { file_name: "/x" } }'),
    "one by number": job("layers { type: 15 }"),
    "a layer that writes, in a test": job(test='layer { type: "HDF5Output" }'),
    "snapshots": job(solver=PLAIN.format(RING) + ' snapshot: 1 snapshot_prefix: "/root/.ssh/x"'),
    "a snapshot at the end": job(solver=PLAIN.format(RING) + " snapshot_after_train: true"),
    "a net in a file": job(solver='train_net: "/tmp/planted.prototxt"'),
    "a test net in a file": job(solver=PLAIN.format(RING) + ' test_net: "/tmp/planted.prototxt"'),
}


@pytest.mark.parametrize("what", NAMES_CODE)
def test_a_job_that_names_code_or_files_to_write_is_refused_where_that_is_not_allowed(what: str) -> None:
    spec = NAMES_CODE[what]
    assert code_of(spec)
    with pytest.raises(UsageError, match="--allow-code") as error:
        check_code(spec, allowed=False)
    assert "\n" not in str(error.value)
    assert str(error.value).isprintable()
    check_code(spec, allowed=True)


@pytest.mark.parametrize(
    "spec",
    [
        job(),
        job('layer { name: "ip" type: "InnerProduct" inner_product_param { num_output: 10 } }'),
        job('layer { name: "Python" type: "ReLU" bottom: "HDF5Output" }'),
        job(solver=PLAIN.format(RING) + " snapshot: 0"),
        job(test='layer { type: "Data" data_param { source: "/data/python_param" } }'),
    ],
)
def test_a_job_without_code_needs_no_leave(spec: JobSpec) -> None:
    assert code_of(spec) == ()
    check_code(spec, allowed=False)


def test_a_text_that_cannot_be_read_is_refused_in_one_line() -> None:
    for text in ("layer {", "[a.b/c] { }", "a{" * 5000):
        with pytest.raises(UsageError, match="cannot be read"):
            check_code(job(text=text), allowed=False)


def test_messages_too_deep_in_each_other_are_an_error_with_its_place() -> None:
    with pytest.raises(ModelError, match="deep"):
        Document("a{" * 100_000, "net")
    Document("a{" * 20 + "}" * 20, "net")


@pytest.mark.parametrize(
    ("given", "environment", "ours", "allowed"),
    [
        (None, "", False, None),
        (None, "", True, True),
        (None, "1", False, True),
        (None, "yes", False, True),
        (None, "0", True, False),
        (True, "0", False, True),
        (False, "1", True, False),
    ],
)
def test_the_option_counts_then_the_environment_then_whose_etcd_it_is(
    monkeypatch: pytest.MonkeyPatch, given: bool | None, environment: str, ours: bool, allowed: bool | None
) -> None:
    monkeypatch.setenv(ENVIRONMENT, environment)
    assert is_allowed(given, ours=ours) is allowed


def test_an_environment_that_says_neither_yes_nor_no_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "perhaps")
    with pytest.raises(UsageError, match="neither yes nor no"):
        is_allowed(None, ours=True)


@pytest.mark.parametrize("command", [["peer", "start"], ["evaluate"]])
def test_a_command_that_would_run_the_jobs_code_ends_before_anybody_hears_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
) -> None:
    async def planted(store: object, name: str) -> JobSpec:
        return NAMES_CODE["a data set"]

    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(jobs, "load_job", planted)
    run_dir = ["--run-dir", f"{tmp_path}/run"] if command[0] == "peer" else []
    words = [*command, "--etcd", "127.0.0.1:1", "--job", "job", *run_dir]
    done = CliRunner().invoke(cli, words)
    assert isinstance(done.exception, UsageError)
    assert done.exception.exit_code is ExitCode.USAGE
    assert "planted:train" in str(done.exception)
    assert not list((tmp_path / "run").glob("*/*.jsonl"))


@pytest.mark.parametrize("place", [EtcdPlace(), EtcdPlace(cluster="local")])
def test_a_local_cluster_whose_etcd_others_can_reach_is_not_ours_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: EtcdPlace
) -> None:
    monkeypatch.delenv("GOSSIP_CAFFE_ETCD", raising=False)
    monkeypatch.setenv("GOSSIP_CAFFE_STATE", str(tmp_path))
    assert place.is_local  # no cluster is up
    mine = tmp_path / "etcd"
    mine.touch()
    for where, ours in ((f"unix:{mine}", True), ("10.0.0.5:2379", False), ("127.0.0.1:2379", False)):
        monkeypatch.setattr(places, "ask", lambda *_, where=where: {"etcd": where})
        assert place.is_local == ours
    monkeypatch.setenv("GOSSIP_CAFFE_ETCD", f"unix:{mine}")
    assert place.is_local == (not place.cluster)


def test_only_a_socket_of_this_user_is_a_local_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GOSSIP_CAFFE_ETCD", raising=False)
    mine = tmp_path / "etcd"
    mine.touch()
    assert is_local(None)
    assert is_local("")
    assert is_local(f"unix:{mine}")
    assert is_local(f"unix://{mine}")
    for other in ("127.0.0.1:2379", f"{mine}", f"unix:{mine}x", f"unix:{mine},127.0.0.1:2379", "unix:\0"):
        assert not is_local(other)
    monkeypatch.setattr("os.getuid", lambda: mine.stat().st_uid + 1)
    assert not is_local(f"unix:{mine}")
