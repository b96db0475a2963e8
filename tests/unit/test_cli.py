"""The command line: help that teaches, errors of one line, exit codes, and output for people and programs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import gossip_caffe
from gossip_caffe import __version__
from gossip_caffe.api import checking, connection
from gossip_caffe.cli import main
from gossip_caffe.cli.main import cli
from gossip_caffe.cli.options import etcd as etcd_options
from gossip_caffe.cli.options.etcd import EtcdPlace
from gossip_caffe.cli.options.new_job import named_after
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.cluster.supervision import control
from gossip_caffe.doctor.check_result import CheckResult
from gossip_caffe.errors import ExitCode, GossipCaffeError, ModelError
from gossip_caffe.job.spec.spec import DataSpec
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Put
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord
from tests.bare_job import bare_job

SPEC = bare_job(name="mnist", data=DataSpec(sources=(), records=100, chunk_records=20, batch_records=10))
DOCS = Path(gossip_caffe.__file__).parent.parent / "docs"


def commands(command: click.Command = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*words, name))


ALL = list(commands())


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command as the shell does; returns its exit code, stdout and stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gossip-caffe", *words])
        with pytest.raises(SystemExit) as end:
            main.main()
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out, err

    return call


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GOSSIP_CAFFE_ETCD", raising=False)
    monkeypatch.setenv("GOSSIP_CAFFE_STATE", str(tmp_path / "state"))


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_explains_itself_in_whole_sentences(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*words, "--help"], prog_name="gossip-caffe")
    assert result.exit_code == 0
    text = result.output.split("\n\n")[1].strip()
    assert text[0].isupper()
    assert re.search(r"[.:]", text)


@pytest.mark.parametrize("words", [words for words in ALL if words not in {("version",)}], ids=" ".join)
def test_every_help_shows_an_example(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*words, "--help"], prog_name="gossip-caffe")
    body = result.output.partition("\n")[2]
    assert f"gossip-caffe {' '.join(words)}".strip() in body


@pytest.mark.parametrize("words", [(), ("cluster",), ("job",), ("peer",), ("shards",)], ids=" ".join)
def test_a_group_alone_shows_its_help(
    run: Callable[..., tuple[int, str, str]], words: tuple[str, ...]
) -> None:
    code, out, err = run(*words)
    assert code == ExitCode.USAGE
    assert "Commands:" in out + err


def test_the_list_of_commands_has_them_all_and_a_line_for_each() -> None:
    output = CliRunner().invoke(cli, ["--help"]).output
    for name in cli.list_commands(click.Context(cli)):
        assert re.search(rf"^  {name} +[A-Z].*\.$", output, re.MULTILINE), name


@pytest.mark.parametrize(
    "words",
    ["--help", "version", "cluster up --help", "job create --help", "peer start --help", "doctor --help"],
)
def test_help_is_quick_because_nothing_heavy_is_imported(words: str) -> None:
    script = (
        "import sys\nfrom gossip_caffe.cli.main import main\nsys.argv[1:] = sys.argv[1].split()\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {name.split('.')[0] for name in sys.modules} & {'grpc', 'numpy', 'lmdb', 'google', 'rich', 'caffe'}\n"
        "print('heavy:', sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, words], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.endswith("heavy: []\n")


def test_version_is_the_packages(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("version") == (0, f"gossip-caffe {__version__}\n", "")
    assert run("--version")[0] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("frobnicate", "No such command 'frobnicate'; see 'gossip-caffe --help'"),
        ("cluster up --peers none --job x", "'none' is not a valid integer"),
        ("cluster up --peers 0 --job x", "0 is not in the range"),
        ("cluster kill", "Missing argument 'PEER'; see 'gossip-caffe cluster kill --help'"),
        ("cluster kill p0 --what heart", "'heart' is not one of"),
        ("cluster kill p0 --signal HUP", "'HUP' is not one of"),
        ("cluster up", "there is nothing to train; give --solver FILE, or --job NAME"),
        ("cluster up --job x --set seed=1", "--set belongs to a new job"),
        ("cluster up --job x --etcd nowhere", "'nowhere' is no HOST:PORT"),
        ("cluster up --job Xx --solver a", "'Xx' cannot be the name of a job"),
        ("cluster status --name ../x", "'../x' cannot be the name of a cluster"),
        ("job list", "no etcd is given and no local cluster is up; give --etcd HOST:PORT"),
        ("job list --etcd 1.2.3.4", "'1.2.3.4' is no HOST:PORT"),
        ("job list --etcd h:0", "'h:0' is no HOST:PORT"),
        ("job list --etcd ,", "is no HOST:PORT; give for example 127.0.0.1:2379"),
        ("job create Bad_Name --solver s --etcd h:1", "'Bad_Name' cannot be the name of a job"),
        ("job create a --solver s --set seed --etcd h:1", "--set seed: no value; write --set NAME=VALUE"),
        ("job create a --solver s --set sed=1 --etcd h:1", "there is no setting 'sed'; known settings: "),
        ("job create a --solver s --set seed=x --etcd h:1", "--set seed=x: not a int"),
        (
            "job create a --solver s --set codec=zip --etcd h:1",
            "choose one of float32, float16, bfloat16, int8, int4",
        ),
        ("job create a --solver s --set warmup=2 --etcd h:1", "give a value from 0.0 to 1.0"),
        ("completion tcsh", "'tcsh' is not one of"),
        ("train", "no solver file is named; give --solver FILE"),
        ("train --solver a b", "two solver files are named: a and b; give one, with --solver FILE"),
        ("job validate", "no solver file is named; give --solver FILE"),
        ("test --model net.prototxt", "Missing option '--weights'; see 'gossip-caffe test --help'"),
        ("time --gpu 0", "Missing option '--model'; see 'gossip-caffe time --help'"),
        ("test -solver s.prototxt", "test takes the net itself, not a solver file; give --model NET"),
        ("train -solver s -gpu one", "--gpu one: 'one' is not the number of a GPU; give one number"),
        ("train_net.bin s.prototxt", "train_net.bin is a tool of Caffe; 'gossip-caffe train SOLVER' trains"),
    ],
)
def test_a_wrong_word_gets_one_line_that_says_what_and_what_to_do(
    run: Callable[..., tuple[int, str, str]], words: str, says: str
) -> None:
    code, out, err = run(*words.split())
    assert (code, out) == (ExitCode.USAGE, "")
    assert says in err
    assert err.startswith("gossip-caffe: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", ["status", "scale 3", "kill p0"])
def test_no_cluster_is_not_found(run: Callable[..., tuple[int, str, str]], words: str) -> None:
    code, _, err = run("cluster", *words.split())
    assert code == ExitCode.NOT_FOUND
    assert err == (
        "gossip-caffe: no cluster 'local' is up; start one with 'gossip-caffe cluster up', or give its --name\n"
    )


def test_down_is_content_when_nothing_is_up(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("cluster", "down") == (0, "no cluster 'local' is up; nothing to do\n", "")


class _Raises(click.Group):
    error: BaseException

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ModelError("a.prototxt:3: no layer", remedy="add one"), 7, "a.prototxt:3: no layer; add one"),
        (GossipCaffeError("two\nlines", remedy=""), 1, "two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_never_a_traceback(
    run: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    broken = _Raises("gossip-caffe")
    broken.error = error
    monkeypatch.setattr(main, "cli", broken)
    got, out, err = run("anything")
    assert (got, out) == (code, "")
    assert err.lstrip("\n") == f"gossip-caffe: {line}\n"  # after ^C on a terminal, on a line of its own


def test_a_defect_of_ours_has_its_traceback_and_asks_to_be_reported(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = _Raises("gossip-caffe")
    broken.error = ZeroDivisionError("oops")
    monkeypatch.setattr(main, "cli", broken)
    code, _, err = run("anything")
    assert code == ExitCode.FAILED
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("gossip-caffe: this is a defect of gossip-caffe; please report")


def test_a_reader_that_goes_away_gets_no_traceback() -> None:
    script = (
        "from gossip_caffe.cli.main import main; import sys; sys.argv[1:] = ['completion', 'bash']; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", f"import time; time.sleep(0.3); {script}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == ExitCode.FAILED
    assert err == b""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(run: Callable[..., tuple[int, str, str]], shell: str) -> None:
    code, out, _ = run("completion", shell)
    assert code == 0
    assert f"_GOSSIP_CAFFE_COMPLETE={shell}_complete" in out


def test_a_shell_completes_commands_and_options() -> None:
    def completed(*words: str) -> str:
        environment = {
            **os.environ,
            "_GOSSIP_CAFFE_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["gossip-caffe", *words]),
            "COMP_CWORD": str(len(words)),
        }
        command = [sys.executable, "-m", "gossip_caffe"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    assert completed("cl") == "plain,cluster\n"
    assert completed("cluster", "sc") == "plain,scale\n"
    assert completed("to") == "plain,top\n"
    assert completed("status", "--w") == "plain,--watch\n"
    assert completed("cluster", "up", "--det") == "plain,--detach\n"


FOUND = [
    CheckResult("Python", True, True, "3.11.7"),
    CheckResult("etcd", False, False, "there is no etcd on this machine", "pip install 'gossip-caffe[etcd]'"),
]
NO_CAFFE = CheckResult(
    "pycaffe", False, True, "import caffe fails: ModuleNotFoundError", "run 'make pycaffe'"
)


def test_the_doctor_says_what_to_do_and_is_content_when_only_a_choice_is_absent(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "machine_checks", lambda: [*FOUND])
    code, out, _ = run("doctor")
    assert code == 0
    assert re.search(
        r"^etcd +note +there is no etcd.* pip install 'gossip-caffe\[etcd\]'$", out, re.MULTILINE
    )


def test_the_doctor_ends_with_the_environments_code_when_something_is_missing(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "machine_checks", lambda: [*FOUND, NO_CAFFE])
    code, out, _ = run("doctor")
    assert code == ExitCode.ENVIRONMENT
    assert re.search(r"^pycaffe +FAULT .*run 'make pycaffe'$", out, re.MULTILINE)
    code, out, _ = run("doctor", "--json")
    assert code == ExitCode.ENVIRONMENT
    assert [entry["what"] for entry in json.loads(out)] == ["Python", "etcd", "pycaffe"]


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def etcd(monkeypatch: pytest.MonkeyPatch) -> MemoryEtcd:
    """An etcd in memory, on which commands work."""
    server = MemoryEtcd(SystemClock())

    def with_store(_: EtcdPlace, work: Callable[[MemoryStore], Coroutine[Any, Any, Any]]) -> Any:
        return asyncio.run(work(MemoryStore(server)))

    monkeypatch.setattr(etcd_options, "with_store", with_store)
    return server


def stands(etcd: MemoryEtcd, job: str, **changes: Any) -> int:
    """Let a peer, and its job, stand in etcd; returns its lease."""
    lease = etcd.grant(60.0).id
    fields: dict[str, Any] = {"peer": "p0", "address": "h:1", "host": "box", "pid": 4242, "state": "training"}
    record = PeerRecord(**{**fields, "incarnation": f"{lease:x}", **changes})
    etcd.transact([], [Put(JobKeys(job).peer(record.peer), record.to_json(), lease)])
    etcd.transact([], [Put(JobKeys(job).spec, replace(SPEC, name=job).to_json())])
    return lease


def test_a_peer_is_asked_to_leave_and_asking_again_is_the_same(run: Run, etcd: MemoryEtcd) -> None:
    lease = stands(etcd, "a")
    stands(etcd, "a", peer="p1")
    for _ in range(2):
        code, out, _ = run("peer", "stop", "p0", "--no-wait")
        assert code == 0
        assert "p0 of job a (pid 4242 on box) is asked to leave" in out
    assert etcd.keys[JobKeys("a").leave("p0")].lease == lease
    assert JobKeys("a").leave("p1") not in etcd.keys


def test_a_peer_that_has_left_is_nothing_to_do(run: Run, etcd: MemoryEtcd) -> None:
    stands(etcd, "a", peer="p1")
    code, out, _ = run("peer", "stop", "p0")
    assert (code, out) == (0, "no peer 'p0' is alive; nothing to do (alive: p1)\n")


def test_a_peer_of_two_jobs_is_asked_for_by_its_job(run: Run, etcd: MemoryEtcd) -> None:
    stands(etcd, "a")
    stands(etcd, "b")
    code, _, err = run("peer", "stop", "p0")
    assert code == ExitCode.USAGE
    assert "several jobs have a peer 'p0' (a, b); give --job" in err
    assert run("peer", "stop", "p0", "--job", "b", "--no-wait")[0] == 0
    assert JobKeys("a").leave("p0") not in etcd.keys
    assert JobKeys("b").leave("p0") in etcd.keys


def test_a_peer_that_does_not_leave_is_said_to(
    run: Run, etcd: MemoryEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands(etcd, "a")
    monkeypatch.setattr(connection, "LEAVE_DEADLINE_S", 0.1)
    code, _, err = run("peer", "stop", "p0")
    assert code == ExitCode.FAILED
    assert "was asked to leave, and has not left within" in err


def test_peers_are_listed_for_people_and_for_programs(run: Run, etcd: MemoryEtcd) -> None:
    stands(etcd, "mnist")
    assert run("peer", "list")[1].splitlines() == [
        "JOB    PEER  STATE     DEVICE  ADDRESS  HOST  PID",
        "mnist  p0    training  cpu     h:1      box   4242",
    ]
    assert json.loads(run("peer", "list", "--json")[1])[0]["peer"] == "p0"


def test_shards_are_shown_for_people_and_for_programs(run: Run, etcd: MemoryEtcd) -> None:
    lease = stands(etcd, "mnist")
    keys = JobKeys("mnist")
    assert "job mnist: 0 of 2 epochs are finished" in run("shards", "show", "--job", "mnist")[1]
    done = json.dumps({"peer": "p1", "via": "x"}).encode()
    etcd.transact([], [Put(keys.folded, b'{"epochs": 1}')])
    etcd.transact([], [Put(keys.done_mark(0, 0), done), Put(keys.done_mark(1, 2), done)])
    etcd.transact([], [Put(keys.claim(1, chunk), b"p0", lease) for chunk in (0, 1)])
    assert run("shards", "show", "--job", "mnist")[1].splitlines() == [
        "job mnist: 1 of 2 epochs are finished",
        "EPOCH  PEER          OWNED  DONE  LEFT  OWNS CHUNKS",
        "1      all 5 chunks  2      1     2",
        "1      p0            2      0           0 1",
        "1      p1            0      1",
    ]
    shown = json.loads(run("shards", "show", "--job", "mnist", "--json")[1])
    assert (shown["epochs"], shown["epochs_finished"], shown["finished"]) == (2, 1, False)
    (epoch,) = shown["open"]
    assert (epoch["epoch"], epoch["owned"], epoch["done"], epoch["left"]) == (1, 2, 1, 2)
    assert epoch["peers"] == {"p0": {"owned": [0, 1], "done": []}, "p1": {"owned": [], "done": [2]}}
    etcd.transact([], [Put(keys.folded, b'{"epochs": 2}')])
    assert "all 2 epochs are finished; no chunk is left" in run("shards", "show", "--job", "mnist")[1]


def test_a_command_finds_the_only_job_and_names_several(run: Run, etcd: MemoryEtcd) -> None:
    code, _, err = run("shards", "show")
    assert code == ExitCode.NOT_FOUND
    assert "there is no job in etcd; make one with 'gossip-caffe job create" in err
    stands(etcd, "mnist")
    assert "job mnist: 0 of 2" in run("shards", "show")[1]
    assert json.loads(run("shards", "show", "--json")[1])["job"] == "mnist"
    stands(etcd, "cifar")
    code, _, err = run("shards", "show")
    assert code == ExitCode.USAGE
    assert "there are several jobs in etcd (cifar, mnist); give --job NAME" in err


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_etcd_and_the_job_are_named_alike_by_every_command(words: tuple[str, ...]) -> None:
    context = click.Context(cli)
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(context, word)
        assert found is not None
        command = found
    options = {name: option for option in command.params for name in option.opts}
    if "--job" in options:
        assert not options["--job"].required
    if "--etcd" in options and words not in {("train",), ("cluster", "up")}:  # these may start an etcd
        assert ("--cluster" if words == ("peer", "start") else "--name") in options
        assert "cluster" in {option.name for option in command.params}


def test_the_clusters_that_are_up_are_listed_when_none_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOSSIP_CAFFE_STATE", str(tmp_path / "s"))
    listening = []
    for name in ("one", "two", "killed"):
        state = ClusterState(name)
        state.check()
        supervisor = socket.socket(socket.AF_UNIX)
        with control._address(state.socket) as address:
            supervisor.bind(address)
        if name != "killed":
            supervisor.listen()
        listening.append(supervisor)
    code, _, err = run("shards", "show")
    for supervisor in listening:
        supervisor.close()
    assert code == ExitCode.USAGE
    assert "no cluster 'local' is up (up: one, two); give --name of one of those, or --etcd HOST:PORT" in err
    assert run("shards", "show", "--name", "three")[0] == ExitCode.NOT_FOUND
    code, _, err = run("shards", "show", "--name", "three", "--etcd", "h:1")
    assert code == ExitCode.USAGE
    assert "--name and --etcd name two places of etcd; give one of them" in err


def test_shards_of_a_job_that_does_not_exist(run: Run, etcd: MemoryEtcd) -> None:
    code, _, err = run("shards", "show", "--job", "unreal")
    assert code == ExitCode.NOT_FOUND
    assert "no job 'unreal'" in err


@pytest.mark.parametrize(
    ("file", "name"),
    [("lenet_solver.prototxt", "lenet_solver"), ("/a/My Net(2).prototxt", "my-net-2"), ("§.prototxt", "job")],
)
def test_a_cluster_names_its_job_after_the_solvers_file(file: str, name: str) -> None:
    assert named_after(file) == name


def test_the_page_on_the_command_line_names_every_command() -> None:
    page = (DOCS / "cli.md").read_text()
    for words in ALL:
        assert f"gossip-caffe {' '.join(words)}".strip() in page
