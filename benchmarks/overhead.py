"""What being a peer costs: a peer in a cluster of one, against a bare Caffe solver on the same net and data.

    python benchmarks/overhead.py [--repeats 3] [--nets lenet,cifar10_quick] [--seconds 12]

By turns, nothing else running. Rates and CPU time are taken between a tenth and nine tenths of each run, so
that start-up and end are left out. CPU time of the peer is that of agent, solver and loader; etcd's is given
apart. docs/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from _models import MODELS, Model, write_solver

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd_server import EtcdServer
from gossip_caffe.data import source
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec import JobSettings
from gossip_caffe.membership.etcd_store import EtcdStore
from gossip_caffe.membership.jobs import create_job
from gossip_caffe.observe.events import Event, JsonLinesLog, read_events

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
FROM, TO = 0.1, 0.9
"""The part of each run that is measured, as shares of its iterations."""

HEAD = {"t", "m", "peer", "event"}
"""What the event log itself gives each line."""

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "GLOG_minloglevel": "2"}


@dataclass(frozen=True, slots=True)
class Measured:
    """Samples, seconds and CPU seconds of the measured part of one run.

    ``event_log_share``: of the time of the whole run, what writing its event log took.
    """

    samples: int
    seconds: float
    cpu_s: float
    etcd_cpu_s: float = 0.0
    event_log_share: float = 0.0

    @property
    def samples_per_s(self) -> float:
        return self.samples / self.seconds

    @property
    def cpu_s_per_ksample(self) -> float:
        return 1000 * self.cpu_s / self.samples


# ── the bare solver ───────────────────────────────────────────────────────────────────────────────


def bare_child(solver_file: str, iterations: int, batch: int) -> None:
    """Train with nothing but pycaffe, in a process of its own."""
    import caffe  # noqa: PLC0415 - only this child may load Caffe

    caffe.set_mode_cpu()
    solver = caffe.get_solver(solver_file)
    solver.step(int(FROM * iterations))
    measured = int(TO * iterations) - int(FROM * iterations)
    wall, cpu = time.monotonic(), time.process_time()
    solver.step(measured)
    figures = {
        "samples": measured * batch,
        "seconds": time.monotonic() - wall,
        "cpu_s": time.process_time() - cpu,
    }
    print(json.dumps(figures), flush=True)


def run_bare(solver_file: Path, iterations: int, batch: int) -> Measured:
    command = [sys.executable, __file__, "--bare", str(solver_file), str(iterations), str(batch)]
    done = subprocess.run(
        command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, timeout=600, check=True
    )
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


# ── the peer ──────────────────────────────────────────────────────────────────────────────────────


def process_tree(pid: int) -> set[int]:
    """A process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, left = set(), [pid]
    while left:
        found.add(left[-1])
        left += parents.get(left.pop(), [])
    return found


def cpu_s(pids: set[int]) -> float:
    """User and system time of these processes, all threads."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


class TrainedSoFar:
    """Follows a peer's event log: records trained."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.samples = 0

    def look(self) -> int:
        if self._path.exists():
            with self._path.open("rb") as log:
                log.seek(self._offset)
                for line in log:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    if b'"event":"trained"' in line:
                        self.samples += sum(stop - start for _, start, stop in json.loads(line)["parts"])
        return self.samples


def share_of_event_log(path: Path) -> float:
    """What it takes to write all of a finished log once more, over the time from its first to its last line."""
    lines = list(read_events(path))
    events = [(Event(str(line["event"])), {k: v for k, v in line.items() if k not in HEAD}) for line in lines]
    again = JsonLinesLog(path.with_suffix(".again"), str(lines[0]["peer"]), SystemClock())
    began = time.perf_counter()
    for event, fields in events:
        again.emit(event, **fields)
    return (time.perf_counter() - began) / (float(str(lines[-1]["m"])) - float(str(lines[0]["m"])))


async def make_job(endpoint: str, name: str, solver_file: Path) -> int:
    """Create the job; returns its budget in samples."""
    store = EtcdStore([endpoint], SystemClock(), random.Random(1))
    try:
        spec = read_job(name, solver_file, JobSettings(), source.measure)
        await create_job(store, spec)
        return spec.budget_samples
    finally:
        await store.close()


def run_peer(endpoint: str, etcd_pid: int, name: str, solver_file: Path, folder: Path) -> Measured:
    budget = asyncio.run(make_job(endpoint, name, solver_file))
    command = [sys.executable, "-m", "gossip_caffe", "peer", "start", "--etcd", endpoint, "--job", name]
    command += ["--name", "p0", "--run-dir", str(folder)]
    log = (folder.parent / f"{name}.log").open("wb")
    trained = TrainedSoFar(folder / "events" / "p0.jsonl")
    with log, subprocess.Popen(command, env={**os.environ, **ONE_THREAD}, stdout=log, stderr=log) as peer:
        try:
            marks = []
            deadline = time.monotonic() + 600
            for share in (FROM, TO):
                while (samples := trained.look()) < share * budget:
                    if peer.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(f"the peer did not get to {share:.0%} of its job; see {log.name}")
                    time.sleep(0.02)
                marks.append((samples, time.monotonic(), cpu_s(process_tree(peer.pid)), cpu_s({etcd_pid})))
            if peer.wait(timeout=60) != 0:
                raise SystemExit(f"the peer ended with code {peer.returncode}; see {log.name}")
        finally:
            if peer.poll() is None:
                peer.terminate()
    (samples0, wall0, cpu0, etcd0), (samples1, wall1, cpu1, etcd1) = marks
    share = share_of_event_log(folder / "events" / "p0.jsonl")
    return Measured(samples1 - samples0, wall1 - wall0, cpu1 - cpu0, etcd1 - etcd0, share)


# ── both, by turns ────────────────────────────────────────────────────────────────────────────────


HEADINGS = (
    "net",
    "iterations",
    "repeat",
    "bare smp/s",
    "peer smp/s",
    "ratio",
    "bare CPU",
    "peer CPU",
    "ratio",
)


def row(model: Model, iterations: int, repeat: int, bare: Measured, peer: Measured) -> str:
    """One line of the table; CPU in seconds per 1,000 samples."""
    return (
        f"{model.name:<14} {iterations:>10} {repeat:>10} {bare.samples_per_s:>10.0f} {peer.samples_per_s:>10.0f}"
        f" {peer.samples_per_s / bare.samples_per_s:>10.3f} {bare.cpu_s_per_ksample:>10.3f}"
        f" {peer.cpu_s_per_ksample:>10.3f} {peer.cpu_s_per_ksample / bare.cpu_s_per_ksample:>10.3f}"
    )


def measure(model: Model, repeats: int, seconds: float, folder: Path, server: EtcdServer) -> dict[str, float]:
    trial = 40
    rate = run_bare(write_solver(model, folder, max_iter=trial), trial, model.batch).samples_per_s
    iterations = max(trial, int(seconds * rate / model.batch))
    solver_file = write_solver(model, folder, max_iter=iterations)
    bares, peers = [], []
    for repeat in range(repeats):
        name = f"overhead-{model.name.replace('_', '-')}-{repeat}"
        bares.append(run_bare(solver_file, iterations, model.batch))
        peers.append(run_peer(server.endpoint, server.pid, name, solver_file, folder / name))
        print(row(model, iterations, repeat, bares[-1], peers[-1]), flush=True)

    def of(pairs: Callable[[Measured, Measured], float]) -> float:
        return round(median(pairs(peer, bare) for peer, bare in zip(peers, bares, strict=True)), 4)

    return {
        f"ratio_{model.name}": of(lambda peer, bare: peer.samples_per_s / bare.samples_per_s),
        f"peer_samples_per_s_{model.name}": of(lambda peer, _: peer.samples_per_s),
        f"bare_samples_per_s_{model.name}": of(lambda _, bare: bare.samples_per_s),
        f"cpu_ratio_{model.name}": of(lambda peer, bare: peer.cpu_s_per_ksample / bare.cpu_s_per_ksample),
        f"peer_cpu_s_per_ksample_{model.name}": of(lambda peer, _: peer.cpu_s_per_ksample),
        f"bare_cpu_s_per_ksample_{model.name}": of(lambda _, bare: bare.cpu_s_per_ksample),
        f"etcd_cpu_s_per_ksample_{model.name}": of(lambda peer, _: 1000 * peer.etcd_cpu_s / peer.samples),
        f"event_log_share_{model.name}": of(lambda peer, _: peer.event_log_share),
    }


def main() -> int:
    if sys.argv[1:2] == ["--bare"]:
        bare_child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--nets", default=",".join(MODELS), help="nets, separated by commas")
    parser.add_argument(
        "--seconds", type=float, default=12.0, help="about how long each run of the bare solver takes"
    )
    options = parser.parse_args()
    figures: dict[str, float] = {}
    print(f"{HEADINGS[0]:<14}", *(f"{heading:>10}" for heading in HEADINGS[1:]))
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-overhead-") as folder:
        server = EtcdServer(Path(folder) / "etcd")
        server.start()
        try:
            for name in options.nets.split(","):
                figures |= measure(MODELS[name], options.repeats, options.seconds, Path(folder), server)
        finally:
            server.stop()
    print(f"RESULT {json.dumps(figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
