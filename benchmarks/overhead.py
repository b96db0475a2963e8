"""What being a peer costs: a peer in a cluster of one, against a bare Caffe solver on the same net and data.

The peer runs without metrics, and once more with metrics that are scraped every 5 s. A script that joins with a solver
of its own, which reads its own data as the bare one does, is the last of each turn.

    python benchmarks/overhead.py [--repeats 3] [--nets lenet,cifar10_quick] [--seconds 12]

By turns, nothing else running. Rates and CPU time are taken between a tenth and nine tenths of each run, so
that start-up and end are left out. CPU time of the peer is that of agent, solver and loader; etcd's is given
apart. docs/internals/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from _joined import JOINED, joined_child
from _models import MODELS, Model, write_solver
from _scraped import BURST, EVERY_S, HEAD, Scraper, free_port, share_of_counting

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.data.sources import source
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.jobs import create_job
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.following import LogTail
from gossip_caffe.observe.log.reading import read_history
from gossip_caffe.observe.log.runs import LogInRuns, batches_of, one_by_one, records_in
from gossip_caffe.observe.log.writing import JsonLinesLog

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
FROM, TO = 0.1, 0.9
"""The part of each run that is measured, as shares of its iterations."""

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "GLOG_minloglevel": "2"}


@dataclass(frozen=True, slots=True)
class LogCost:
    """The cost of an event log. ``share``: the time to write all of it once more, over the time that it covers.

    ``bytes_per_ksample``: its size when all of it is compressed, for 1,000 samples trained. ``mb_per_day``: that size
    at the peer's rate.
    """

    share: float = 0.0
    bytes_per_ksample: float = 0.0
    mb_per_day: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Samples, seconds and CPU seconds of the measured part of one run.

    ``event_log``: the cost of its event log over the whole run. ``metrics_share``: of the CPU time of a peer whose
    metrics are scraped, what the scrapes and the counts of events took.
    """

    samples: int
    seconds: float
    cpu_s: float
    etcd_cpu_s: float = 0.0
    event_log: LogCost = LogCost()
    metrics_share: float = 0.0

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
    """Follows a peer's event log. ``samples``: the records trained; ``at``: when the last of them was noted."""

    def __init__(self, events: Path) -> None:
        self._tail = LogTail(events, "p0")
        self.samples, self.at = 0, 0.0

    def look(self) -> int:
        for event in self._tail.new():
            if event["event"] == Event.TRAINED:
                self.samples += sum(stop - start for _, start, stop in records_in(event))
                self.at = list(batches_of(event))[-1]["m"]
        return self.samples


def cost_of_event_log(events: Path) -> LogCost:
    """Write a finished log once more, batch by batch as its peer did, and compress it."""
    lines = sorted(one_by_one(read_history(events, "p0").events), key=lambda line: float(line["m"]))
    written = [(Event(line["event"]), {k: v for k, v in line.items() if k not in HEAD}) for line in lines]
    again, clock = events.parent / "again", ManualClock()
    file = JsonLinesLog(again, "p0", clock, part_bytes=1 << 40)
    log = LogInRuns(file, clock)
    spent_s = 0.0
    for line, (event, fields) in zip(lines, written, strict=True):
        clock.shown = line
        began = time.perf_counter()
        log.emit(event, **fields)
        spent_s += time.perf_counter() - began
    log.end_run()
    file.close()
    compressed = len(gzip.compress((again / "p0.jsonl").read_bytes(), 6))
    samples = sum(
        stop - start for line in lines if line["event"] == Event.TRAINED for _, start, stop in line["parts"]
    )
    covered_s = lines[-1]["m"] - lines[0]["m"]
    return LogCost(spent_s / covered_s, 1000 * compressed / samples, compressed / covered_s * 86_400 / 1e6)


class ManualClock(SystemClock):
    """A clock that shows the times of the log that is written once more."""

    shown: Mapping[str, Any]

    def monotonic(self) -> float:
        return float(self.shown["m"])

    def wall(self) -> float:
        return float(self.shown["t"])


async def make_job(endpoint: str, name: str, solver_file: Path) -> int:
    """Create the job; returns its budget in samples."""
    store = EtcdStore([endpoint], SystemClock(), random.Random(1))
    try:
        spec = read_job(name, solver_file, JobSettings(), source.measure)
        await create_job(store, spec)
        return spec.budget_samples
    finally:
        await store.close()


def cpu_s_per_scrape(scraper: Scraper, agent: int, idle_share: float) -> float:
    """CPU time of the agent for one scrape. ``idle_share``: the CPU seconds that it takes in a second without."""
    wall, cpu = time.monotonic(), cpu_s({agent})
    for _ in range(BURST):
        scraper.scrape()
    return (cpu_s({agent}) - cpu - idle_share * (time.monotonic() - wall)) / BURST


def run_peer(
    endpoint: str, etcd_pid: int, name: str, solver_file: Path, folder: Path, *, scraped: bool = False
) -> Measured:
    budget = asyncio.run(make_job(endpoint, name, solver_file))
    port = free_port()
    command = [sys.executable, "-m", "gossip_caffe", "peer", "start", "--etcd", endpoint, "--job", name]
    command += ["--name", "p0", "--run-dir", str(folder)]
    command += ["--metrics-listen", f"127.0.0.1:{port}" if scraped else "none"]
    scraper, per_scrape_s = Scraper(port), 0.0
    log = (folder.parent / f"{name}.log").open("wb")
    trained = TrainedSoFar(folder / "events")
    with log, subprocess.Popen(command, env={**os.environ, **ONE_THREAD}, stdout=log, stderr=log) as peer:
        try:
            marks, agent_s = [], []
            deadline = time.monotonic() + 600
            for share in (FROM, TO):
                while (samples := trained.look()) < share * budget:
                    if peer.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(f"the peer did not get to {share:.0%} of its job; see {log.name}")
                    if scraped:
                        scraper.look()
                    time.sleep(0.02)
                marks.append((samples, trained.at, cpu_s(process_tree(peer.pid)), cpu_s({etcd_pid})))
                agent_s.append(cpu_s({peer.pid}))
            if scraped:
                idle_share = (agent_s[1] - agent_s[0]) / (marks[1][1] - marks[0][1])
                per_scrape_s = cpu_s_per_scrape(scraper, peer.pid, idle_share)
            if peer.wait(timeout=60) != 0:
                raise SystemExit(f"the peer ended with code {peer.returncode}; see {log.name}")
        finally:
            if peer.poll() is None:
                peer.terminate()
    (samples0, wall0, cpu0, etcd0), (samples1, wall1, cpu1, etcd1) = marks
    cost = cost_of_event_log(folder / "events")
    counting = share_of_counting(folder / "events", "p0") if scraped else 0.0
    metrics_share = (per_scrape_s / EVERY_S + counting) / ((cpu1 - cpu0) / (wall1 - wall0))
    return Measured(samples1 - samples0, wall1 - wall0, cpu1 - cpu0, etcd1 - etcd0, cost, metrics_share)


def run_joined(
    endpoint: str, name: str, solver_file: Path, folder: Path, iterations: int, batch: int
) -> Measured:
    """The same measured part as ``run_bare`` has, of a script that steps its own solver as a peer."""
    asyncio.run(make_job(endpoint, name, solver_file))
    skipped = int(FROM * iterations)
    steps = [str(skipped), str(int(TO * iterations) - skipped)]
    command = [sys.executable, __file__, JOINED, endpoint, name, str(solver_file), str(folder), *steps]
    done = subprocess.run(
        command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, timeout=600, check=True
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    return Measured(batch * figures["samples"], figures["seconds"], figures["cpu_s"])


# ── all, by turns ─────────────────────────────────────────────────────────────────────────────────


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
    "scraped",
    "ratio",
    "joined",
    "ratio",
)


def row(
    model: Model,
    iterations: int,
    repeat: int,
    bare: Measured,
    peer: Measured,
    scraped: Measured,
    joined: Measured,
) -> str:
    """One line of the table; CPU in seconds per 1,000 samples, that of the scraped peer over the other's.

    The last two are the rate of the joined script, and that rate over the bare solver's.
    """
    return (
        f"{model.name:<14} {iterations:>10} {repeat:>10} {bare.samples_per_s:>10.0f} {peer.samples_per_s:>10.0f}"
        f" {peer.samples_per_s / bare.samples_per_s:>10.3f} {bare.cpu_s_per_ksample:>10.3f}"
        f" {peer.cpu_s_per_ksample:>10.3f} {peer.cpu_s_per_ksample / bare.cpu_s_per_ksample:>10.3f}"
        f" {scraped.cpu_s_per_ksample:>10.3f} {scraped.cpu_s_per_ksample / peer.cpu_s_per_ksample:>10.3f}"
        f" {joined.samples_per_s:>10.0f} {joined.samples_per_s / bare.samples_per_s:>10.3f}"
    )


def ratio_of_scraped(scraped: list[Measured], peers: list[Measured]) -> float:
    """The median of the ratios of each pair: CPU time per sample with metrics over that without."""
    pairs = zip(scraped, peers, strict=True)
    return round(median(one.cpu_s_per_ksample / other.cpu_s_per_ksample for one, other in pairs), 4)


def measure(model: Model, repeats: int, seconds: float, folder: Path, server: EtcdServer) -> dict[str, float]:
    trial = 40
    rate = run_bare(write_solver(model, folder, max_iter=trial), trial, model.batch).samples_per_s
    iterations = max(trial, int(seconds * rate / model.batch))
    solver_file = write_solver(model, folder, max_iter=iterations)
    bares: list[Measured] = []
    peers: list[Measured] = []
    scraped: list[Measured] = []
    joined: list[Measured] = []
    for repeat in range(repeats):
        name = f"overhead-{model.name.replace('_', '-')}-{repeat}"
        bares.append(run_bare(solver_file, iterations, model.batch))
        peers.append(run_peer(server.endpoint, server.pid, name, solver_file, folder / name))
        name += "-scraped"
        scraped.append(run_peer(server.endpoint, server.pid, name, solver_file, folder / name, scraped=True))
        name += "-joined"
        joined.append(run_joined(server.endpoint, name, solver_file, folder / name, iterations, model.batch))
        print(row(model, iterations, repeat, bares[-1], peers[-1], scraped[-1], joined[-1]), flush=True)

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
        f"metrics_cpu_ratio_{model.name}": ratio_of_scraped(scraped, peers),
        f"metrics_share_{model.name}": round(median(one.metrics_share for one in scraped), 5),
        f"joined_ratio_{model.name}": round(
            median(one.samples_per_s / bare.samples_per_s for one, bare in zip(joined, bares, strict=True)), 4
        ),
        f"joined_cpu_ratio_{model.name}": round(
            median(
                one.cpu_s_per_ksample / bare.cpu_s_per_ksample
                for one, bare in zip(joined, bares, strict=True)
            ),
            4,
        ),
        f"event_log_share_{model.name}": of(lambda peer, _: peer.event_log.share),
        f"event_log_bytes_per_ksample_{model.name}": of(lambda peer, _: peer.event_log.bytes_per_ksample),
        f"event_log_mb_per_day_{model.name}": of(lambda peer, _: peer.event_log.mb_per_day),
    }


def main() -> int:
    if sys.argv[1:2] == ["--bare"]:
        bare_child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return 0
    if sys.argv[1:2] == [JOINED]:
        endpoint, job, solver_file, folder, skipped, measured = sys.argv[2:8]
        joined_child(endpoint, job, solver_file, folder, int(skipped), int(measured))
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
