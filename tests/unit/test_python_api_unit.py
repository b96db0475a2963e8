"""The functions of ``import gossip_caffe``: they load late, have twins, and show themselves safely in a notebook."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gossip_caffe
from gossip_caffe import aio
from gossip_caffe.api import sync, sync_training
from gossip_caffe.api.own_loop import LOOP
from gossip_caffe.api.starting.job_options import NewJob
from gossip_caffe.api.train_options import JobOptions, new_job
from gossip_caffe.api.values.chart import LiveChart, chart, page
from gossip_caffe.api.values.html import table
from gossip_caffe.api.values.net_weights import load_blobs, load_file
from gossip_caffe.api.values.result import Result
from gossip_caffe.api.values.views import Peer, Peers, record_from_outside, status_of
from gossip_caffe.errors import ModelError, NotFound, UsageError
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.observe.log.status import PeerStatus
from tests.bare_job import bare_job

HOSTILE = '<script>alert("x")</script>\x1b[2J'


def test_the_package_loads_nothing_before_a_name_of_it_is_used() -> None:
    code = "import sys, gossip_caffe; assert 'numpy' not in sys.modules; print(gossip_caffe.connect.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "connect"


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(getattr(gossip_caffe, name) is not None for name in gossip_caffe.__all__)
    assert set(gossip_caffe.__all__) <= set(dir(gossip_caffe))
    with pytest.raises(AttributeError, match="nothing"):
        _ = gossip_caffe.nothing


def test_each_option_of_a_new_job_is_a_keyword_argument_in_python() -> None:
    options = JobOptions(
        settings={"lr_scaling": "none"},
        weights=Path("a.caffemodel"),
        snapshot="b.solverstate",
        dataset="mine:Records",
        level=0,
        stage=("deploy", "val"),
        unchecked=True,
    )
    assert set(options) == set(JobOptions.__annotations__)
    assert new_job(options) == NewJob(
        ("lr_scaling=none",), "a.caffemodel", "b.solverstate", "mine:Records", True, 0, "deploy,val"
    )
    assert new_job({}) == NewJob()
    assert new_job({"stage": "deploy,val"}).stage == "deploy,val"


@pytest.mark.parametrize(
    ("waiting", "twin"),
    [
        (sync.Connection, aio.Connection),
        (sync.Checkpoint, aio.Checkpoint),
        (sync.Checkpoints, aio.Checkpoints),
        (sync_training.Run, aio.Run),
    ],
)
def test_each_method_has_an_asynchronous_twin_with_the_same_parameters(waiting: type, twin: type) -> None:
    beyond = {"timeout_s", "unreadable", "on_pass", "on_status", "reason"}
    for name, method in vars(waiting).items():
        if name.startswith("_") or not callable(method):
            continue
        ours = [p for p in inspect.signature(method).parameters if p not in beyond]
        theirs = [p for p in inspect.signature(getattr(twin, name)).parameters if p not in beyond]
        assert ours == theirs, name


async def test_the_synchronous_functions_wait_in_a_thread_of_their_own_although_a_loop_runs_here() -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    assert LOOP.call(work()) == "gossip_caffe"


def test_a_call_from_the_loop_itself_is_refused_where_it_would_wait_for_itself() -> None:
    async def inner() -> None:
        pass

    async def outer() -> None:
        LOOP.call(inner())

    with pytest.raises(UsageError, match="aio"):
        LOOP.call(outer())


def test_an_iterator_ends_with_its_items_or_when_none_comes_in_time_and_is_closed() -> None:
    closed = []

    async def items(*, wait: bool) -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
            if wait:
                await asyncio.Event().wait()
        finally:
            closed.append(wait)

    assert list(LOOP.iterate(items(wait=False))) == [1, 2]
    assert list(LOOP.iterate(items(wait=True), timeout_s=0.01)) == [1, 2]
    for number in LOOP.iterate(items(wait=True)):
        assert number == 1
        break
    assert closed[:2] == [False, True]


def test_the_error_of_a_coroutine_comes_out_of_the_call() -> None:
    async def fails() -> None:
        raise NotFound("nothing here", remedy="look elsewhere")

    with pytest.raises(NotFound, match="look elsewhere"):
        LOOP.call(fails())


def record_of(peer: str, state: str = "training") -> PeerRecord:
    return PeerRecord(peer, "1f", "10.0.0.1:7100", HOSTILE, 7, state)


def a_status(loss: float | None = 0.5, trouble: str = "") -> Any:
    figures = PeerStatus(
        "p0",
        "training",
        iteration=5,
        samples=80,
        samples_per_s=100.0,
        loss=loss,
        trouble=trouble,
        reason=HOSTILE,
    )
    record = record_from_outside("tiny", "", {"p0": figures}, finished=None, tested=None, away="", refuses="")
    return status_of(record, bare_job())


def test_text_of_other_machines_is_escaped_in_every_table() -> None:
    peers = Peers([Peer(HOSTILE, "tiny", record_of("p0"))])
    for shown in (
        table([HOSTILE], [[HOSTILE]], HOSTILE),
        peers._repr_html_(),
        a_status(trouble=HOSTILE)._repr_html_(),
    ):
        assert "<script" not in shown
        assert "\x1b" not in shown
        assert "&lt;script" in shown


def test_a_status_has_the_figures_of_the_peers_that_train() -> None:
    status = a_status()
    assert status.training == ("p0",)
    assert status.loss == 0.5
    assert status.samples_per_s == 100.0
    assert status.done_samples == 80
    assert not status.finished
    assert status.words().startswith("job tiny: ") or "samples" in status.words()


def test_a_peer_is_found_by_its_name_or_the_error_names_those_that_live() -> None:
    peers = Peers([Peer("p0", "tiny", record_of("p0"))])
    assert peers.named("p0").state == "training"
    with pytest.raises(NotFound, match="p0"):
        peers.named("p9")


def test_the_chart_is_drawn_from_the_second_status_on_and_prints_lines_outside_of_notebooks() -> None:
    said: list[str] = []
    live = LiveChart(said.append)
    live(a_status(0.5))
    live(a_status(0.4))
    assert len(said) == 1  # not more than one line in five seconds
    assert "<svg" in live._repr_html_()
    assert chart([]) == ""
    assert "start" in page([])


class Net:
    """Two layers as caffe.Net has them."""

    def __init__(self) -> None:
        self.params = {
            "ip1": [
                SimpleNamespace(data=np.zeros((2, 3), np.float32)),
                SimpleNamespace(data=np.zeros(2, np.float32)),
            ],
            "ip2": [SimpleNamespace(data=np.zeros((1, 2), np.float32))],
        }


def test_weights_are_copied_by_layer_name_and_other_layers_stay() -> None:
    net = Net()
    loaded = load_blobs(
        {("ip1", 0): np.arange(6, dtype=np.float32), ("gone", 0): np.ones(1, np.float32)}, net
    )
    assert loaded == ("ip1",)
    assert net.params["ip1"][0].data.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not net.params["ip2"][0].data.any()


def test_a_blob_of_another_size_is_refused_before_anything_is_copied() -> None:
    net = Net()
    blobs = {("ip1", 0): np.ones(6, np.float32), ("ip2", 0): np.ones(5, np.float32)}
    with pytest.raises(ModelError, match="blob 0 of layer 'ip2' has 2 values in this net, and 5"):
        load_blobs(blobs, net)
    assert not net.params["ip1"][0].data.any()
    with pytest.raises(ModelError, match="no layer"):
        load_blobs({("other", 0): np.ones(6, np.float32)}, net)


def test_a_result_without_a_model_says_so_when_it_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no model"):
        Result(False, 0, 1.0, None, None, (), None).load_into(Net())
    (tmp_path / "x.caffemodel.h5").write_bytes(b"")
    with pytest.raises(ModelError, match="copy_from"):
        load_file(tmp_path / "x.caffemodel.h5", Net())


def test_a_result_is_a_table_and_a_record() -> None:
    result = Result(True, 100, 2.5, Path("/x/<b>.caffemodel"), None, (), None)
    assert "&lt;b&gt;" in result._repr_html_()
    assert result.to_record()["iterations"] == 100
    assert asdict(result)["finished"]
