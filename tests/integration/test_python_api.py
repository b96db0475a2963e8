"""``import gossip_caffe`` on a real job: watched, disturbed, read, loaded; and read by a plain client of etcd."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gossip_caffe as gc
from gossip_caffe import aio
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import Conflict, NotFound
from gossip_caffe.membership.keys import JobKeys
from tests.cluster_run import DEADLINE_S, ROOT, wait_for
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.needs("caffe", "etcd")


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # models are written there
    monkeypatch.setenv("GOSSIP_CAFFE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture
def job(tmp_path: Path) -> TinyJob:
    return write_job(tmp_path / "job", iterations=100_000, pace_ms=10)


@pytest.fixture
def run(job: TinyJob, etcd: EtcdServer) -> Iterator[gc.Run]:
    """Two peers that train, in an etcd that other programs reach."""
    name = f"api-{random.randbytes(3).hex()}"
    run = gc.start(job.solver, 2, etcd=etcd.endpoint, job=name, allow_code=True)
    try:
        for status in run.watch():
            if len(status.training) == 2 and status.done_samples:
                break
        yield run
    finally:
        if not run.done:
            run.down()
            run.wait()


def test_a_machine_an_etcd_and_a_job_are_checked(run: gc.Run, etcd: EtcdServer) -> None:
    found = gc.check(etcd.endpoint, job=run.job, allow_code=True)
    states = {entry.what: entry.good for entry in found}
    assert found.can_train
    assert states["pycaffe"]
    assert states["etcd: writes"]
    assert states["job: data of layer data"]
    assert "<table>" in found._repr_html_()
    assert "FAULT" in gc.check(etcd.endpoint, job="none")._repr_html_()


def test_a_training_is_watched_disturbed_and_read_while_it_runs(
    run: gc.Run, job: TinyJob, tmp_path: Path
) -> None:
    import caffe  # noqa: PLC0415

    with run.connect() as connected:
        other = f"{run.job}-other"
        assert connected.create_job(other, job.solver, unchecked=True)
        assert not connected.create_job(other, job.solver, unchecked=True), "it is there already"
        assert {run.job, other} <= {found.name for found in connected.jobs()}
        assert {peer.job for peer in connected.peers(of_all_jobs=True)} >= {run.job}
        first = connected.peers().names[0]
        run.kill(first)
        seen = []
        for event in connected.events(timeout_s=DEADLINE_S):
            seen.append((event.kind, event.new))
            if seen[-1] == ("peer", ""):  # the death
                break
        assert ("peer", "training") in seen
        assert seen[-1] == ("peer", "")
        wait_for("a checkpoint", lambda: len(connected.checkpoints()))
        latest = connected.checkpoints().latest()
        net = caffe.Net(str(job.net), caffe.TEST)
        assert latest.load_into(net) == ("ip1", "ip2")
        assert net.params["ip1"][0].data.any()
        assert latest.name in str(latest.pull(tmp_path / "pulled"))
        model = latest.export(tmp_path / "exported")[0]
        assert (
            gc.evaluate(job.solver, model)["accuracy"]
            == connected.evaluate(latest.name, allow_code=True)["accuracy"]
        )
        assert connected.evaluate(live=True, allow_code=True)["accuracy"] > 0.2
        why_not: list[str] = []
        assert not connected.targets(why_not.append)
        assert all("serves no metrics" in line for line in why_not), "a training's peers serve none"
        assert connected.shards().open
        assert connected.status().done_samples > 0
        with pytest.raises(NotFound, match="no checkpoint"):
            connected.checkpoints().named("x")
        assert "<table>" in connected.peers()._repr_html_()
        assert "<table>" in connected.shards()._repr_html_()
    run.down()
    result = run.wait()
    assert not result.finished
    assert result.load_into(net) == ("ip1", "ip2")
    with pytest.raises(Conflict, match="has ended"):
        run.connect()


def test_a_training_calls_on_status_and_returns_its_result(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=300)
    seen: list[gc.Status] = []
    result = gc.train(job.solver, 2, on_status=seen.append, settings={"lr_scaling": "none"})
    assert result.finished
    assert result.model is not None
    assert result.model.is_file()
    assert seen
    assert seen[-1].finished


def test_the_error_of_a_callback_takes_everything_down_first(job: TinyJob) -> None:
    def fails(status: gc.Status) -> None:
        raise ZeroDivisionError(status.job)

    with pytest.raises(ZeroDivisionError):
        gc.train(job.solver, 1, on_status=fails)


async def test_a_cancelled_training_of_the_twin_has_ended_when_it_raises(job: TinyJob) -> None:
    began = asyncio.Event()
    training = asyncio.ensure_future(aio.train(job.solver, 1, on_status=lambda _: began.set()))
    async with asyncio.timeout(DEADLINE_S):
        await began.wait()
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training


@pytest.mark.needs("etcd3")
def test_a_plain_client_of_etcd_reads_members_progress_and_checkpoints(run: gc.Run, etcd: EtcdServer) -> None:
    """With the keys and fields of docs/etcd-keys.md alone, as another program would."""
    import etcd3  # noqa: PLC0415

    host, port = etcd.endpoint.rsplit(":", 1)
    root = f"/gossip-caffe/jobs/{run.job}/"
    assert root == JobKeys(run.job).root
    with etcd3.client(host=host, port=int(port)) as client:

        def under(name: str) -> dict[str, Any]:
            found = client.get_prefix(root + name)
            return {about.key.decode().removeprefix(root + name): json.loads(value) for value, about in found}

        members = under("peers/")
        assert len(members) == 2
        assert all(member["peer"] == name and member["address"] for name, member in members.items())
        leased = {about.key: about.lease_id for _, about in client.get_prefix(root + "peers/")}
        assert all(leased.values()), "a member's key vanishes with its lease"
        progress = wait_for(
            "progress",
            lambda: max((status["progress_samples"] for status in under("status/").values()), default=0),
        )
        spec = under("spec")[""]
        assert 0 < progress <= spec["budget_samples"]
        checkpoints = wait_for("a checkpoint", lambda: under("checkpoints/"))
        for name, checkpoint in checkpoints.items():
            assert checkpoint["checkpoint"] == name
            assert set(checkpoint["holders"]) <= {*members}
        value, _ = client.get(root + "finished")
        assert value is None
