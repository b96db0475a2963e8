"""No control character of others reaches a terminal or a log, whichever record, error or name it comes with."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
import os
import pty
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import IO, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gossip_caffe
from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.cli import main as main_module
from gossip_caffe.cli.commands import cluster as cluster_commands
from gossip_caffe.cli.commands import job as job_commands
from gossip_caffe.cli.commands import verify as verify_commands
from gossip_caffe.cli.options import etcd as etcd_options
from gossip_caffe.cli.options.etcd import EtcdPlace
from gossip_caffe.cli.terminal import streams
from gossip_caffe.cli.terminal.output import above, print_json, print_table, rich_table, terminal
from gossip_caffe.cli.terminal.streams import OutputStream, drawing, say
from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import ExitCode, GossipCaffeError
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Put
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.status import PeerStatus
from gossip_caffe.printable import PrintableFormatter, json_text, printable, printable_line
from tests.bare_job import bare_job

HOSTILE = (
    "\x1b]0;PWNED-TITLE\x07",
    "\x1b[2J\x1b[1;1H",
    "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "\x9b31m",
    "\x90q\x9c",
    "a\rb\bc\x00d\x7fe\tf\vg\fh",
    "one\ngossip-caffe: two\r\nthree\x85four\u2028five",
    "\u202egpj.exe\u202c",
    "\u2066x\u2069\u200e\u200f\u061c",
    "\ufeff\u200b\u00ad\U000e0041",
    "[red]x[/red][/bold][link=http://evil]y:smile:",
    "".join(map(chr, range(0x20))) + "".join(map(chr, range(0x7F, 0xA0))),
)
ORDINARY = (
    "p0: training (synced: from checkpoint 00000000000000-p1)",
    "Größe ≥ 3 · ‖δ‖",
    "训练 обучение تدريب",
    "👩\u200d👩\u200d👧 می\u200cخواهم",
)


def steers(text: str) -> list[str]:
    """What in a text must not be there: anything but its letters and the ends of its lines."""
    return [
        character
        for character in text
        if character not in "\n\u200c\u200d"
        and unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    ]


@given(st.text())
def test_nothing_that_steers_is_left_of_any_text(text: str) -> None:
    shown = printable(text)
    assert steers(shown) == []
    assert printable(shown) == shown
    assert shown.count("\n") == text.count("\n")
    assert steers(printable_line(text)) == []
    assert "\n" not in printable_line(text)
    assert json.loads(json_text({text: [text]})) == {text: [text]}
    assert not set(json_text({text: [text]})) - set(map(chr, range(0x20, 0x7F)))


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == printable_line(text) == text


def test_what_steers_is_still_to_be_seen() -> None:
    assert printable_line("a\x1b]0;t\x07\x9b\u202eb\n") == r"a\x1b]0;t\x07\x9b\u202eb\n"


# ── what a command prints ─────────────────────────────────────────────────────────────────────────────────────────────


class Printed:
    """Both streams as a command has them, in a file; called, it gives what was printed since the last time."""

    def __init__(self, file: IO[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        self._fd = file.fileno()
        self._monkeypatch = monkeypatch

    def begin(self) -> None:
        """To be called in the test itself: before it, pytest puts streams of its own there."""
        for name in ("stdout", "stderr"):
            self._monkeypatch.setattr(sys, name, OutputStream(self._fd, "utf-8"))

    def __call__(self) -> str:
        found = os.pread(self._fd, 1 << 24, 0).decode()
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        assert found, "nothing was printed at all"
        return found


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Printed]:
    with tempfile.TemporaryFile() as file:
        yield Printed(file, monkeypatch)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_each_way_of_printing_is_without_them(hostile: str, printed: Printed) -> None:
    printed.begin()
    say(hostile)
    assert printed().count("\n") == 1
    say(hostile, err=True)
    print(hostile)
    print(hostile, file=sys.stderr)
    print_table(("A", hostile), [(hostile, "x")], hostile)
    print_json({hostile: hostile})
    logging.getLogger("hostile").error(hostile)
    assert steers(printed()) == []
    print_table(("A", "B"), [(hostile, "x"), ("y", hostile)], hostile)
    assert printed().count("\n") == 4


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_terminal_that_is_drawn_on_gets_no_more_than_what_draws(hostile: str) -> None:
    ours, theirs = pty.openpty()
    try:
        stream = cast(Any, OutputStream(theirs, "utf-8"))
        console = terminal(stream)
        assert console.is_terminal
        with io.StringIO() as drawn:
            console.file = cast(Any, drawn)
            console.print(rich_table(("A", "B"), [(hostile, "x")], hostile))
            above(console, hostile)
            written = drawn.getvalue()
        for code in ("\x1b[1m", "\x1b[0m", "\x1b[3m", "\x1b[1;39m", "\x1b[39m"):
            written = written.replace(code, "")
        assert steers(written) == []
        assert "[red]x[/red]" in written or "[red]" not in hostile  # and no other language either
        drawing(stream).write("\x1b[1m")
        stream.write("\x1b[1m")
        got = b""
        while len(got) < 11:
            got += os.read(ours, 100)
        assert got == b"\x1b[1m\\x1b[1m"
    finally:
        os.close(ours)
        os.close(theirs)


def test_nobody_prints_by_another_way() -> None:
    """In the whole package: no ``print``, no stream, and click's ``echo`` in two files."""
    root = Path(gossip_caffe.__file__).parent
    by_itself = {
        "cli/terminal/streams.py",
        "cli/terminal/output.py",
        "cli/completion.py",
        "demo/plain_caffe.py",
    }
    found = []
    for path in root.rglob("*.py"):
        name = str(path.relative_to(root))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and name not in by_itself:
                called = ast.unparse(node.func)
                by_name = called in {"print", "click.echo", "click.secho", "rich.print", "Console"}
                if by_name or called.endswith(("stdout.write", "stderr.write")):
                    found.append(f"{name}:{node.lineno} {called}")
    assert found == []


def test_what_libraries_log_is_without_them() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "%s", (HOSTILE[0],), None)
    try:
        raise ValueError(HOSTILE[1])
    except ValueError:
        record.exc_info = sys.exc_info()
    assert steers(PrintableFormatter().format(record)) == []
    streams.open_streams()
    assert logging.lastResort is not None
    assert isinstance(logging.lastResort.formatter, PrintableFormatter)


# ── whoever wrote it ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def etcd(monkeypatch: pytest.MonkeyPatch) -> MemoryEtcd:
    """An etcd in memory, on which commands work."""
    server = MemoryEtcd(SystemClock())

    def with_store(_: EtcdPlace, work: Callable[[MemoryStore], Coroutine[Any, Any, Any]]) -> Any:
        return asyncio.run(work(MemoryStore(server)))

    for module in (job_commands, etcd_options):
        monkeypatch.setattr(module, "with_store", with_store)
    return server


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gossip-caffe", *words])
    return main_module._outcome()


COMMANDS = (
    ("peer", "list"),
    ("peer", "list", "--json"),
    ("peer", "stop", "p9"),
    ("job", "list"),
    ("job", "show", "job"),
    ("job", "show", "job", "--json"),
    ("shards", "show", "--job", "job"),
    ("checkpoint", "list", "--job", "job"),
)


def strings_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value a string stands."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings_of(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from strings_of(inner, (*path, index))


def with_string(value: Any, path: tuple[Any, ...], text: str) -> Any:
    """The same with another string there."""
    if not path:
        return text
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = with_string(copied[path[0]], path[1:], text)
    return copied


def records(etcd: MemoryEtcd) -> dict[str, tuple[Any, int]]:
    """Everything of a job that commands read: key → JSON value and lease."""
    keys = JobKeys("job")
    lease = etcd.grant(60.0).id
    peer = PeerRecord("p0", f"{lease:x}", "h:1", "box", 4242, "training", "gpu:0", "f", 1.0, "1", "z", "gpu")
    announcement = Announcement("0001-p0", "0" * 64, 100, 1.0, {"p0": "h:1"})
    status = replace(PeerStatus("p0", "training"), reason="r", checkpoint="c", device_name="d")
    written = {
        keys.spec: (bare_job(solver_text="s", train_net_text="t", solver_for_peer="p").to_json(), 0),
        keys.peer("p0"): (peer.to_json(), lease),
        keys.status("p0"): (status.to_json(), lease),
        keys.checkpoint("0001-p0"): (announcement.to_json(), 0),
        keys.done_mark(0, 0): (b'{"peer": "p1", "via": "x"}', 0),
    }
    return {key: (json.loads(value), lease) for key, (value, lease) in written.items()}


@pytest.mark.parametrize("hostile", HOSTILE[:1] + HOSTILE[3:4] + HOSTILE[6:8] + HOSTILE[-1:])
def test_no_string_of_any_record_in_etcd_is_printed_raw(
    hostile: str, etcd: MemoryEtcd, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed.begin()
    whole, tried = records(etcd), 0
    for key, (value, lease) in whole.items():
        for path in strings_of(value):
            for other, (kept, its_lease) in whole.items():
                etcd.transact([], [Put(other, json.dumps(kept).encode(), its_lease)])
            changed = json.dumps(with_string(value, path, f"a{hostile}b")).encode()
            etcd.transact([], [Put(key, changed, lease)])
            for words in COMMANDS:
                run(monkeypatch, *words)
                assert steers(printed()) == [], (key, path, words)
            tried += 1
    assert tried > 20
    names = [
        f"{JobKeys('job').peers}{hostile}",
        f"{JobKeys('job').checkpoints}{hostile}",
        f"/gossip-caffe/jobs/{hostile}/spec",
    ]
    etcd.transact([], [Put(name, b"{}") for name in names])
    for words in COMMANDS:
        run(monkeypatch, *words)
        assert steers(printed()) == [], words


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_word_of_a_supervisor_or_of_its_peers_is_printed_raw(
    hostile: str, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed.begin()
    figures = {field.name: hostile for field in fields(PeerStatus) if field.type == "str"}
    status = json.loads(replace(PeerStatus("p0", "training"), **cast(Any, figures)).to_json())
    peers = [
        {"peer": hostile, "running": True, "pid": 1, "status": {**status, "device": hostile}},
        {"peer": hostile, "running": False, "end": hostile, "cause": hostile},
    ]
    answer = {
        **dict.fromkeys(("cluster", "job", "etcd", "etcd_away", "run_dir", "reason", "signal"), hostile),
        "started": [hostile],
        "stopped": [hostile],
        "finished": {"checkpoint": hostile},
        "tested": None,
        "peers": peers,
        "pids": [1],
        "leave_s": 1.0,
    }
    monkeypatch.setattr(cluster_commands, "_ask", lambda *_: answer)
    for words in (("status",), ("status", "--json"), ("scale", "2"), ("kill", "p0")):
        assert run(monkeypatch, "cluster", *words) == ExitCode.OK
        assert steers(printed()) == [], words


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_error_is_printed_raw(hostile: str, printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    printed.begin()
    for error in (GossipCaffeError(hostile, remedy=hostile), RuntimeError(hostile), SystemExit(hostile)):

        def fails(*_: Any, raised: BaseException = error, **__: Any) -> None:
            raise raised

        monkeypatch.setattr(etcd_options, "with_store", fails)
        assert run(monkeypatch, "job", "list") == ExitCode.FAILED
        assert steers(printed()) == []
    run(monkeypatch, "job", "show", hostile)
    run(monkeypatch, hostile)
    run(monkeypatch, "peer", "start", "--job", "x", "--etcd", hostile)
    assert steers(printed()) == []


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_event_is_printed_raw(
    hostile: str, tmp_path: Path, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed.begin()
    started: dict[str, Any] = {
        "event": Event.STARTED,
        "pid": 1,
        "schema": 2,
        "job": hostile,
        "budget_samples": 100,
    }
    lines: list[dict[str, Any]] = [
        {**started, "records": 100, "chunk_records": 10},
        {"event": Event.STATE, "old": hostile, "new": hostile, "reason": hostile},
        {"event": Event.CLAIMED, "epoch": 0, "chunks": [0], "revisions": [1], "lease": hostile},
        {"event": Event.DONE, "epoch": 0, "chunks": [0], "revisions": [9], "via": hostile},
        {"event": Event.LEFT, "reason": hostile, "error": hostile},
    ]
    (tmp_path / "events").mkdir()
    text = "".join(json.dumps({"t": 1.0, "m": 1.0, "peer": hostile, **line}) + "\n" for line in lines)
    (tmp_path / "events" / "p0.jsonl").write_text(text)
    assert verify_commands is not None
    for words in (("verify", str(tmp_path)), ("verify", str(tmp_path), "--json")):
        run(monkeypatch, *words)
        assert steers(printed()) == []


def test_the_job_of_these_tests_is_one() -> None:
    assert isinstance(bare_job(), JobSpec)
