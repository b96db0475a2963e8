"""A Slurm of four nodes on this machine: munged, slurmctld and four slurmd, ended by their process ids."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster_run import ROOT, wait_for

NODES = 4
GRACE_S = 15
PROGRAMS = ("root", "munged", "slurmctld", "slurmd", "sbatch")
CONF = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/linear
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=20
JobRequeue=1
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=1 State=UNKNOWN
PartitionName=spot Nodes=n[1-{nodes}] Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace} MaxTime=60
PartitionName=prod Nodes=n[1-{nodes}] PriorityTier=10 PreemptMode=OFF MaxTime=60
"""


@dataclass
class Slurm:
    """The cluster. ``folder``: its files; ``shared``: the folder that jobs see as their own."""

    folder: Path
    shared: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        bare = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "PYTEST"))}
        return bare | {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHONPATH": str(ROOT),
            "OPENBLAS_NUM_THREADS": "1",
            **self.variables,
        }

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands, or the program."""
        done = subprocess.run(
            command, cwd=self.shared, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *arguments: str) -> str:
        """Submit a script; returns the number of the job."""
        return self.run("sbatch", "--parsable", *arguments).strip()

    def states(self, job: str) -> dict[str, str]:
        """The task of an array → its state, or "0" → that of a job without an array."""
        said = self.run("scontrol", "show", "job", "--oneliner", job)
        found = {}
        for line in said.splitlines():
            state, task = re.search(r"JobState=(\S+)", line), re.search(r"ArrayTaskId=(\d+) ", line)
            assert state is not None
            found[task[1] if task else "0"] = state[1]
        return found

    def restarts(self, job: str, task: str) -> int:
        """How often a task was requeued."""
        said = self.run("scontrol", "show", "job", "--oneliner", f"{job}_{task}")
        found = re.search(r"Restarts=(\d+)", said)
        assert found is not None
        return int(found[1])

    def ended(self, job: str) -> bool:
        """Whether no task of a job waits or runs."""
        return self.run(
            "squeue", "--noheader", "--job", job, "--states=all", "-o", "%T"
        ).split() == [] or all(
            state not in {"PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING"}
            for state in self.states(job).values()
        )

    def logs(self) -> str:
        """What all jobs have printed, and the last words of the controller: for a test that has failed."""
        files = [*sorted(self.shared.glob("*.log")), self.folder / "slurmctld.log"]
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)


def free_ports(number: int) -> list[int]:
    """Ports in a row that nothing listens on."""
    for first in range(20000 + os.getpid() % 8000, 32000, number):
        with suppress(OSError):
            held = [socket.socket() for _ in range(number)]
            try:
                for port, each in enumerate(held, first):
                    each.bind(("127.0.0.1", port))
            finally:
                for each in held:
                    each.close()
            return list(range(first, first + number))
    raise AssertionError("no ports are free")


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """A cluster that is up in the block; all processes that it has started are ended in the end, also those of jobs."""
    shared = folder / "shared"
    for name in ("state", "bin", "shared"):
        (folder / name).mkdir(parents=True)
    host, ports = socket.gethostname().split(".")[0], free_ports(NODES + 1)
    (folder / "slurm.conf").write_text(
        CONF.format(
            host=host,
            folder=folder,
            controller=ports[0],
            first=ports[1],
            last=ports[-1],
            nodes=NODES,
            grace=GRACE_S,
        )
    )
    program = folder / "bin" / "gossip-caffe"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m gossip_caffe "$@"\n')
    program.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    cluster = Slurm(folder, shared, {"GOSSIP_CAFFE_TEST_RUN": secrets.token_hex(8)})
    daemons: list[subprocess.Popen[bytes]] = []

    def daemon(*command: str) -> None:
        with (folder / "daemons.log").open("ab") as log:
            daemons.append(subprocess.Popen(command, env=cluster.environment, stdout=log, stderr=log))

    def find(name: str) -> str:
        path = shutil.which(name, path=cluster.environment["PATH"])
        assert path is not None, name
        return path

    try:
        files = {name: str(folder / f"munge.{name}") for name in ("key", "socket", "pid", "seed", "log")}
        munge = ["--foreground", "--force", "--key-file", files["key"], "--socket", files["socket"]]
        munge += ["--pid-file", files["pid"], "--seed-file", files["seed"], "--log-file", files["log"]]
        daemon(find("munged"), *munge)
        wait_for("munged listens", (folder / "munge.socket").exists)
        daemon(find("slurmctld"), "-D", "-c")
        for number in range(1, NODES + 1):
            daemon(find("slurmd"), "-D", "-N", f"n{number}")
        wait_for("four nodes are idle", lambda: _idle(cluster) == NODES)
        yield cluster
    except BaseException:
        print(cluster.logs())
        raise
    finally:
        for process in reversed(daemons):
            process.terminate()
        for process in daemons:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
        for pid in _of(cluster.variables["GOSSIP_CAFFE_TEST_RUN"]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _idle(cluster: Slurm) -> int:
    done = subprocess.run(
        ["sinfo", "--noheader", "--partition=spot", "--states=idle", "-o", "%D"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return sum(int(word) for word in done.stdout.split())


def _of(marker: str) -> list[int]:
    """The processes that have the marker of a cluster in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if marker.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found
