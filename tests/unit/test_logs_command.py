"""``gossip-caffe logs``: of which peer, of which job, in which form, and for how long."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gossip_caffe.cli.commands.views import logs as command
from gossip_caffe.cli.main import cli
from gossip_caffe.errors import NotFound, UsageError
from gossip_caffe.observe.log.compressing import compress
from gossip_caffe.observe.log.events import Event
from tests.unit.test_caffe_lines import displayed, event, of_test, started

STATE = "GOSSIP_CAFFE_STATE"


def write(folder: Path, peer: str, events: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{peer}.jsonl"
    with path.open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in events)
    return path


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a local cluster with the output of three processes, and the events of two peers."""
    monkeypatch.setenv(STATE, str(tmp_path))
    folder = tmp_path / "clusters" / "local"
    (folder / "logs").mkdir(parents=True)
    for process, text in (("p0", "one\ntwo\nhalf a li"), ("p1", "of p1\n"), ("etcd", "of etcd\n")):
        (folder / "logs" / f"{process}.log").write_text(text)
    events = folder / "run" / "events"
    write(events, "p0", [started(), displayed(1, 0), of_test(2, 1, 0), displayed(3, 1)])
    write(events, "p1", [started("p1", 4712), displayed(2.5, 1, "p1"), displayed(4, 2, "p1")])
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["logs", *arguments], catch_exceptions=True)


def iterations(found: Result) -> list[int]:
    return [int(number) for number in re.findall(r"Iteration (\d+).*, loss =", found.output)]


def test_the_output_of_a_process_is_printed_line_by_line(cluster: Path) -> None:
    assert run("p0").output == "one\ntwo\n"
    assert run("etcd").output == "of etcd\n"


@pytest.mark.parametrize(("arguments", "kind", "words"), [
    ((), UsageError, "the output of which peer?; name one: etcd, p0, p1"),
    (("p7",), NotFound, "no log of p7"),
    (("p7", "--format", "caffe"), NotFound, "no event log of p7"),
    (("--name", "other"), NotFound, "cluster up"),
    (("--name", "other", "--format", "json"), NotFound, "no event log in"),
    (("p0", "--run-dir", "."), UsageError, "give --format caffe"),
])  # fmt: skip
def test_a_mistake_is_one_line_with_a_remedy(
    cluster: Path, arguments: tuple[str, ...], kind: type[Exception], words: str
) -> None:
    found = run(*arguments)
    assert isinstance(found.exception, kind)
    assert words in str(found.exception)


def test_all_peers_make_one_log_of_caffe_and_one_peer_its_own(cluster: Path) -> None:
    assert iterations(run("--format", "caffe")) == [0, 100, 200]
    assert iterations(run("p1", "--format", "caffe")) == [100, 200]
    assert run("--format", "caffe").output.splitlines()[0].endswith("Solving lenet")


def test_events_are_printed_in_the_order_of_their_time_through_all_parts(cluster: Path) -> None:
    path = cluster / "run" / "events" / "p0.jsonl"
    closed = path.rename(path.with_name("p0+000001.jsonl"))
    compress(closed)
    head = {"event": "log-part", "number": 2, "t": 0, "peer": "p0"}
    write(path.parent, "p0", [head, event(9, Event.LEFT, reason="done", error="")])
    lines = [json.loads(line) for line in run("--format", "json").output.splitlines()]
    assert [line["t"] for line in lines] == sorted(line["t"] for line in lines)
    assert len(lines) == 8
    assert {line["peer"] for line in lines} == {"p0", "p1"}
    assert len(run("p0", "--run-dir", str(cluster / "run"), "--format", "json").output.splitlines()) == 5


def test_of_several_jobs_in_one_log_the_newest_counts_or_the_one_that_is_named(cluster: Path) -> None:
    later = {**started(), "t": started()["t"] + 100, "job": "alexnet"}
    write(cluster / "run" / "events", "p0", [later, {**displayed(110, 5), "peer": "p0"}])
    assert iterations(run("--format", "caffe")) == [500]
    assert iterations(run("--format", "caffe", "--job", "lenet")) == [0, 100, 200]


def follow(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object], up: bool = True) -> None:
    """Let each look after the first be preceded by one of these steps, and the reader go away after the last."""
    left = [lambda: None, *steps]

    def gone() -> bool:
        if not left:
            return True
        left.pop(0)()
        return False

    monkeypatch.setattr(command, "reader_is_gone", gone)
    monkeypatch.setattr(command, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(command, "ASK_EVERY_S", -1.0 if not up else 1e9)


def test_a_log_is_followed_until_its_reader_goes(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = cluster / "logs" / "p0.log"
    follow(monkeypatch, lambda: log.write_text(log.read_text() + "ne\nthree\n"), lambda: None)
    assert run("p0", "-f").output == "one\ntwo\nhalf a line\nthree\n"
    events = cluster / "run" / "events"
    follow(
        monkeypatch,
        lambda: write(events, "p0", [displayed(8, 3)]),
        lambda: write(events, "p1", [displayed(9, 3, "p1"), displayed(10, 4, "p1")]),
    )
    assert iterations(run("--follow", "--format", "caffe")) == [0, 100, 200, 300, 400]


def test_following_ends_with_the_cluster_and_misses_no_last_line(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def is_up(state: object) -> bool:
        if len(asked) == 2:
            with (cluster / "logs" / "p1.log").open("a") as file:
                file.write("the last line\n")
        asked.append(True)
        return len(asked) < 3

    follow(monkeypatch, *[lambda: None] * 50, up=False)
    monkeypatch.setattr(command, "_is_up", is_up)
    assert run("p1", "-f").output == "of p1\nthe last line\n"
    assert len(asked) == 3


def test_control_characters_in_a_log_reach_no_terminal(cluster: Path) -> None:
    (cluster / "logs" / "p0.log").write_bytes(b"a\x1b[31mb \xff\n")
    assert run("p0").output == "a\\x1b[31mb \ufffd\n"
