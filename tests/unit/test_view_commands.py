"""``status``, ``events`` and the choice of ``top``'s view, as commands."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gossip_caffe.cli.commands.views import logs as logs_command
from gossip_caffe.cli.commands.views import status as status_command
from gossip_caffe.cli.commands.views.events import Since
from gossip_caffe.cli.main import cli
from gossip_caffe.cli.options.etcd import EtcdPlace
from gossip_caffe.cli.top import lines
from gossip_caffe.cli.top.chosen_view import View, chosen_view
from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import NotFound, UsageError
from gossip_caffe.job.spec.spec import DataSpec
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Put
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.observe.log.status import PeerStatus
from tests.bare_job import bare_job

SPEC = bare_job(name="mnist", data=DataSpec(sources=(), records=100, chunk_records=20, batch_records=10))
KEYS = JobKeys("mnist")


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GOSSIP_CAFFE_ETCD", raising=False)
    monkeypatch.setenv("GOSSIP_CAFFE_STATE", str(tmp_path / "state"))


# ── status ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def etcd(monkeypatch: pytest.MonkeyPatch) -> MemoryEtcd:
    """An etcd in memory, with a job of two peers: p10 has no figures yet."""
    server = MemoryEtcd(SystemClock())

    def with_store(_: EtcdPlace, work: Callable[[MemoryStore], Coroutine[Any, Any, Any]]) -> Any:
        return asyncio.run(work(MemoryStore(server)))

    monkeypatch.setattr(status_command, "with_store", with_store)
    server.transact([], [Put(KEYS.spec, replace(SPEC, name="mnist").to_json())])
    stands(server, "p10", "joining")
    lease = stands(server, "p2", "training")
    status = PeerStatus(
        *("p2", "training"),
        iteration=40,
        loss=0.25,
        samples_per_s=80.0,
        budget_samples=200,
        progress_samples=50,
        agent_pid=1,
        exchanged_with="p3",
        exchanged_s_ago=1.5,
        trouble="p2: the disk is full; free some space",
    )
    server.transact([], [Put(KEYS.status("p2"), status.to_json(), lease)])
    return server


def stands(etcd: MemoryEtcd, peer: str, state: str) -> int:
    lease = etcd.grant(60.0).id
    record = PeerRecord(peer, f"{lease:x}", "h:1", "box", 1, state, weight=30.0)
    etcd.transact([], [Put(KEYS.peer(peer), record.to_json(), lease)])
    return lease


def test_a_job_is_shown_wherever_its_peers_are(etcd: MemoryEtcd) -> None:
    shown = run("status").output.splitlines()
    assert shown[0].startswith("job mnist: ")
    assert "1 of 2 peers train, 80 samples/s, loss 0.2500" in shown[0]
    assert shown[1].split() == [
        "PEER",
        "STATE",
        "DEV",
        "ITER",
        "SMP/S",
        "LOSS",
        "SHARE",
        "CHUNKS",
        "EXCHANGE",
        "DIST",
    ]
    assert shown[2].split() == ["p2", "training", "cpu", "40", "80", "0.2500", "100%", "0/0", "1s", "p3"]
    assert shown[3].split() == ["p10", "joining", "cpu"]
    assert shown[4] == "p2: the disk is full; free some space"


def test_the_record_of_a_job_has_all_of_it(etcd: MemoryEtcd) -> None:
    record = json.loads(run("status", "--json").output)
    assert (record["job"], record["samples_per_s"], record["seconds_left"]) == ("mnist", 80.0, None)
    assert [peer["peer"] for peer in record["peers"]] == ["p2", "p10"]
    assert record["peers"][0]["status"]["exchanged_with"] == "p3"
    assert record["peers"][1]["status"] is None


def test_a_job_without_a_peer_and_an_etcd_without_a_job_are_said_with_the_remedy(etcd: MemoryEtcd) -> None:
    for lease in {value.lease for value in etcd.keys.values() if value.lease}:
        etcd.revoke(lease)
    assert run("status").output == (
        "job mnist: no peer is alive; 'gossip-caffe peer start --job mnist' starts one\n"
    )
    assert isinstance(run("status", "--job", "unreal").exception, NotFound)
    etcd.transact([], [Put(JobKeys("other").spec, replace(SPEC, name="other").to_json())])
    assert isinstance(found := run("status").exception, UsageError)
    assert "there are several jobs in etcd (mnist, other); give --job NAME" in str(found)


def test_a_record_that_is_not_believed_is_said_and_not_shown(etcd: MemoryEtcd) -> None:
    etcd.transact([], [Put(KEYS.peer("p7"), b"{}")])
    shown = run("status")
    assert "peers/p7' (revision" in shown.stderr
    assert "p7" not in shown.stdout


def looks(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> None:
    """Let each look after the first be preceded by one of these steps, and the reader go away after the last."""
    left = [lambda: None, *steps]

    def gone() -> bool:
        if not left:
            return True
        left.pop(0)()
        return False

    async def at_once(self: SystemClock, seconds: float) -> None:
        del self, seconds
        await asyncio.sleep(0)

    monkeypatch.setattr(lines, "reader_is_gone", gone)
    monkeypatch.setattr(SystemClock, "sleep", at_once)


def test_a_watched_job_prints_what_changes(etcd: MemoryEtcd, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = etcd.keys[KEYS.peer("p2")].lease
    looks(monkeypatch, lambda: None, lambda: etcd.revoke(lease), lambda: None)
    shown = run("status", "--watch").output.splitlines()
    assert shown[0].startswith("job mnist: ")
    assert shown[1].endswith(" p2 is gone; other peers train its data")
    assert len(shown) == 2


def test_a_watched_job_is_an_object_a_line_for_programs(
    etcd: MemoryEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks(monkeypatch, lambda: stands(etcd, "p3", "joining"), lambda: None)
    records = [json.loads(line) for line in run("status", "--watch", "--json").output.splitlines()]
    assert [len(record["peers"]) for record in records] == [2, 2, 3]
    assert {record["etcd_away"] for record in records} == {""}


# ── events ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def event(t: float, kind: str, peer: str = "p0", **fields: object) -> str:
    return json.dumps({"t": t, "m": t, "peer": peer, "event": kind, **fields}) + "\n"


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """The folder of event logs: p0 has an old closed part, p1 does not."""
    folder = tmp_path / "state" / "clusters" / "local" / "run" / "events"
    folder.mkdir(parents=True)
    old = folder / "p0+000001.jsonl.gz"
    with gzip.open(old, "wt") as file:
        file.write(event(1000, "started", job="lenet") + event(1001, "founded", checkpoint="c0"))
    os.utime(old, (1001, 1001))
    now = time.time()
    (folder / "p0.jsonl").write_text(
        event(now - 7200, "log-part", number=2)
        + event(now - 7200, "solver-died", cause="Check failed")
        + event(now - 60, "trained", sequence=3)
        + event(now - 50, "checkpointed", checkpoint="c1")
    )
    (folder / "p1.jsonl").write_text(
        event(now - 3000, "started", "p1", job="lenet") + event(now - 55, "joined", "p1", checkpoint="c0")
    )
    return folder


def kinds(*words: str) -> list[str]:
    found = run("events", "--json", *words)
    assert found.exit_code == 0, found.output
    return [json.loads(line)["event"] for line in found.output.splitlines()]


def test_notable_events_are_printed_in_order_and_all_kinds_on_request(events: Path) -> None:
    assert kinds() == ["started", "founded", "solver-died", "started", "joined", "checkpointed"]
    assert kinds("--kind", "all")[-3:] == ["trained", "joined", "checkpointed"]
    assert kinds("--kind", "trained", "--kind", "joined") == ["trained", "joined"]
    assert kinds("p1") == ["started", "joined"]
    assert kinds("--run-dir", str(events.parent), "--job", "lenet", "p1") == ["started", "joined"]
    line = run("events", "--kind", "solver-died").output
    assert line.endswith(" p0 solver-died cause=Check failed\n")


def test_events_since_a_time_are_read_without_the_parts_before_it(
    events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = gzip.open

    def open_and_note(path: Path, *rest: Any) -> Any:
        opened.append(path.name)
        return real(path, *rest)

    monkeypatch.setattr(gzip, "open", open_and_note)
    assert kinds("--since", "10m") == ["joined", "checkpointed"]
    assert kinds("--since", "1h") == ["started", "joined", "checkpointed"]
    assert opened == []
    assert kinds("--since", "1970-01-01")[:2] == ["started", "founded"]
    assert opened != []


def test_events_are_followed_through_a_part_that_is_closed(
    events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def close() -> None:
        with (events / "p0.jsonl").open("a") as file:
            file.write(event(time.time(), "left", reason="done", error=""))
        (events / "p0.jsonl").rename(events / "p0+000002.jsonl")
        (events / "p0.jsonl").write_text(
            event(time.time(), "log-part", number=3) + event(time.time(), "started", job="lenet")
        )

    left: list[Callable[[], None]] = [lambda: None, close, lambda: None]

    def gone() -> bool:
        if not left:
            return True
        left.pop(0)()
        return False

    monkeypatch.setattr(logs_command, "reader_is_gone", gone)
    monkeypatch.setattr(logs_command, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(logs_command, "ASK_EVERY_S", 1e9)
    assert kinds("p0", "--follow", "--since", "10m") == ["checkpointed", "left", "started"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--since", "soon"), "'soon' is no time: write 10m, 2h, 15:30 or 2026-11-30T15:30"),
        (("--kind", "exploded"), "there is no event 'exploded'; there are started, "),
    ],
)
def test_a_wrong_word_is_said_with_the_right_ones(events: Path, words: tuple[str, ...], says: str) -> None:
    found = run("events", *words)
    assert found.exit_code == 2
    assert says in found.output


def test_events_that_are_not_here_are_not_found(events: Path) -> None:
    for words in (("p9",), ("--name", "other"), ("--run-dir", str(events))):
        assert isinstance(run("events", *words).exception, NotFound)


def test_a_time_of_today_is_one_of_this_machines_day() -> None:
    at = Since().convert("00:00", None, None)
    assert 0 <= time.time() - at < 86_400 + 7_200  # a day may have 25 hours
    assert Since().convert("1.5h", None, None) == pytest.approx(time.time() - 5400, abs=60)


# ── the view of top ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wanted", "on_terminal", "term", "has_textual", "view", "reason"),
    [
        ("", True, "xterm", True, View.TEXTUAL, "textual is installed"),
        ("", True, "xterm", False, View.RICH, "textual is not installed"),
        ("rich", True, "xterm", True, View.RICH, "it was asked for"),
        ("", False, "xterm", True, View.LINES, "there is no terminal"),
        ("textual", False, "xterm", True, View.LINES, "there is no terminal"),
        ("", True, "dumb", True, View.LINES, "the terminal cannot move its cursor (TERM=dumb)"),
        ("lines", True, "xterm", True, View.LINES, "it was asked for"),
    ],
)
def test_the_best_view_that_the_terminal_can_show_is_chosen(
    wanted: str, on_terminal: bool, term: str, has_textual: bool, view: View, reason: str
) -> None:
    choice = chosen_view(wanted, on_terminal=on_terminal, term=term, has_textual=has_textual)
    assert (choice.view, choice.reason) == (view, reason)
