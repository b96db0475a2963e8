"""The unit template of a peer: systemd finds nothing wrong with it, and its command and its rules fit the program."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import ExitCode
from tests.cluster_run import ClusterRun, wait_for
from tests.known_words import unknown
from tests.tiny_job import write_job

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "gossip-caffe-peer@.service"
INSTALLED = "/opt/gossip-caffe/bin/gossip-caffe"
MOST_EXPOSED = 2.0


def values(name: str) -> list[str]:
    """All values of a setting in the unit; a line that ends with a backslash goes on in the next."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text().replace("\\\n", ""), re.M)


def codes(name: str) -> set[int]:
    """The exit codes that a setting lists."""
    return {int(code) for value in values(name) for code in value.split()}


def environment_of(file: Path) -> dict[str, str]:
    """An environment file as systemd reads it: no shell."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def command(variables: Mapping[str, str], instance: str, state: Path) -> list[str]:
    """The words of ExecStart as systemd makes them: ${X} is one word, $X as many as it has (systemd.service(5))."""
    words = []
    for word in shlex.split(values("ExecStart")[0]):
        whole = word.replace("%i", instance).replace("%S", str(state))
        if found := re.fullmatch(r"\$(\w+)", whole):
            words += variables.get(found[1], "").split()
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda match: variables.get(match[1], ""), whole))
    return words


def verified(folder: Path, unit: str) -> str:
    """What systemd says of a unit, with its drop-ins: "" for nothing. It exits with 0 for a misspelt setting, too."""
    path = folder / UNIT.name
    path.write_text(unit.replace(INSTALLED, sys.executable))
    drop_ins = folder / f"{UNIT.name}.d"
    drop_ins.mkdir(exist_ok=True)
    for drop_in in ("gpu.conf", "tls.conf"):
        shutil.copy(FOLDER / drop_in, drop_ins)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", folder / UNIT.name.replace("@", "@0")],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:", "SYSTEMD_LOG_LEVEL": "info"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or done.stderr, "it fails without a word"
    return done.stderr


@pytest.mark.needs("systemd-analyze")
def test_systemd_has_nothing_to_say_of_the_unit_and_its_drop_ins(tmp_path: Path) -> None:
    assert verified(tmp_path, UNIT.read_text()) == ""


@pytest.mark.needs("systemd-analyze")
def test_a_misspelt_setting_would_be_seen(tmp_path: Path) -> None:
    assert "RestartSecs" in verified(tmp_path, UNIT.read_text().replace("RestartSec=", "RestartSecs="))


@pytest.mark.needs("systemd-analyze")
def test_the_unit_is_hardly_exposed() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", UNIT],
        capture_output=True,
        text=True,
        check=False,
    )
    level = re.search(r"Overall exposure level for .*: ([\d.]+)", done.stdout)
    assert level is not None, done.stderr
    assert float(level[1]) < MOST_EXPOSED


@pytest.mark.parametrize("gpu", ["", "--gpu=0"])
def test_the_command_of_the_unit_has_only_options_of_the_program(gpu: str, tmp_path: Path) -> None:
    variables = {**environment_of(FOLDER / "peer.env"), "PEER_GPU": gpu}
    program, *words = command(variables, "0", tmp_path)
    assert program == INSTALLED
    assert not unknown(words)
    assert words[words.index("--name") + 1] == "machine1-0"


def test_the_rules_of_the_unit_fit_the_exit_codes() -> None:
    assert codes("SuccessExitStatus") == codes("RestartForceExitStatus") == {ExitCode.LEFT}
    assert codes("RestartPreventExitStatus") == {ExitCode.USAGE, ExitCode.CONFLICT, ExitCode.MODEL}
    assert values("Restart") == ["on-failure"]
    grace = re.search(r"--grace (\d+)", values("ExecStart")[0])
    assert grace is not None
    assert int(values("TimeoutStopSec")[0]) >= int(grace[1]) + 5


@pytest.mark.needs("caffe", "etcd")
def test_a_peer_of_the_units_command_leaves_with_75_and_finishes_with_0(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=1500, pace_ms=20)
    etcd, run = EtcdServer(tmp_path / "etcd"), ClusterRun(tmp_path / "state")
    variables = {**environment_of(FOLDER / "peer.env"), "PEER_OPTIONS": "--job tiny --allow-code"}
    variables |= {"GOSSIP_CAFFE_ETCD": etcd.endpoint}
    _, *words = command(variables, "0", tmp_path / "var")
    log = tmp_path / "peer.log"
    etcd.start()
    try:
        variables["GOSSIP_CAFFE_ETCD"] = etcd.endpoint
        made = run.run("job", "create", "tiny", "--solver", str(job.solver), "--etcd", etcd.endpoint)
        assert made.returncode == 0, made.stderr
        for expected in (ExitCode.LEFT, ExitCode.OK):
            with log.open("w") as output:
                peer = subprocess.Popen(
                    run.command(*words), env=run.environment | variables, stdout=output, stderr=output
                )
            try:
                wait_for("the peer trains", lambda: "training" in log.read_text())
                if expected == ExitCode.LEFT:
                    peer.send_signal(signal.SIGTERM)
                else:
                    job.hurry()
                assert peer.wait(120) == expected, log.read_text()
            finally:
                peer.kill()
        assert (tmp_path / "var" / "gossip-caffe" / "events" / "machine1-0.jsonl").exists()
    finally:
        etcd.stop()


@pytest.mark.long
@pytest.mark.needs("systemd-analyze", "strace", "caffe", "etcd")
def test_no_system_call_of_a_job_is_outside_of_the_units_filter(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", records=200, iterations=60)
    etcd, run, trace = EtcdServer(tmp_path / "etcd"), ClusterRun(tmp_path / "state"), tmp_path / "trace"
    etcd.start()
    try:
        made = run.run("job", "create", "tiny", "--solver", str(job.solver), "--etcd", etcd.endpoint)
        assert made.returncode == 0, made.stderr
        peer = run.command("peer", "start", "--etcd", etcd.endpoint, "--run-dir", str(tmp_path / "run"))
        done = subprocess.run(
            ["strace", "-f", "-qq", "-o", trace, *peer],
            env=run.environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        etcd.stop()
    assert done.returncode == 0, done.stderr
    called = set(
        re.findall(r"^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed)", trace.read_text(errors="replace"), re.M)
    )
    assert len(called) > 40
    assert values("SystemCallFilter") == ["@system-service", "~@privileged"]
    assert called <= calls("@system-service") - calls("@privileged")


def calls(group: str) -> set[str]:
    """The system calls of a group of systemd's, and of the groups in it."""
    done = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True
    )
    words = [line.split()[0] for line in done.stdout.splitlines()[1:] if line.strip()]
    nested = [calls(word) for word in words if word.startswith("@")]
    return {word for word in words if word[0] not in "#@"}.union(*nested)
