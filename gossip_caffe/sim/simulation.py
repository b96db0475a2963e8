"""One simulated run from its plan to its verdict. The same plan always gives the same history."""

from __future__ import annotations

import gc
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gossip_caffe.background import DetachedTasks
from gossip_caffe.checkpoint.formats.caffemodel import read_caffemodel
from gossip_caffe.checkpoint.manifest import MODEL
from gossip_caffe.gossip.averaging.average import Mean
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.checker.verdict import Verdict, verdict
from gossip_caffe.observe.history.run import OBSERVER, Run
from gossip_caffe.observe.report.page import page
from gossip_caffe.sim.cluster import SimulatedCluster
from gossip_caffe.sim.faults.faults import Fault, Kind, scheduled
from gossip_caffe.sim.faults.outside import plant_victims, touched_since
from gossip_caffe.sim.injecting import Injector
from gossip_caffe.sim.logs import Lines, digest, write
from gossip_caffe.sim.toy_problem import BATCH, Points, problem_job
from gossip_caffe.sim.virtual_time import run

CHUNK = 16
EPOCHS = 5.3
SHARE_OF_STEPS = 0.7
LONG_SHARE_OF_STEPS = 0.92
"""A run's budget is the training of all its peers, without faults, in SHARE_OF_STEPS of its time.

In a run of more than FAST_S the share is this one: the beginning and the end, when not all peers train, are a smaller
part of it.
"""
PATIENCE = 4.0
PATIENCE_S = 300.0
"""A run hangs if it is not finished after its length times a factor plus these seconds."""
SAMPLES = 120
"""The number of measurements of the consensus distance."""
SCRATCH = "/dev/shm"
COLLECT_AFTER = (50_000, 20, 1000)
"""The argument of gc.set_threshold."""
FAST_S = 360.0
"""Up to this length (s), steps last STEP_S. In a longer run they are longer in proportion."""
MANY = 200
"""Among more peers than this, steps are longer in proportion to their number."""
VERY_MANY = 500
"""Among more peers than this, steps are longer in proportion once more."""
STEP_S = 0.25
GRAIN_S = 0.1
LEASE_S = 3.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run. ``for_s``: its approximate length without faults, in virtual seconds.

    ``step_s``, ``grain_s`` and ``thin_s``: see SimulatedCluster.
    """

    peers: int
    seed: int
    for_s: float
    schedule: tuple[Fault, ...] = ()
    step_s: float = 0.25
    grain_s: float = 0.1
    thin_s: float = 0.0
    share_of_steps: float = SHARE_OF_STEPS
    chunk_records: int = CHUNK
    settings: JobSettings = field(default_factory=JobSettings)


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """The result of a run. ``digest``: of the whole history; ``accuracy``: of the last checkpoint, 0 to 1.

    ``distances``: (second, consensus distance of the training peers, their number). ``waiting``: the peers that had
    not ended when the job was finished and PATIENCE_S was over.
    """

    plan: Plan
    verdict: Verdict
    digest: str
    finished: bool
    lasted_s: float
    accuracy: float
    distances: tuple[tuple[float, float, int], ...]
    logs: Mapping[str, Lines]
    observed: Lines
    waiting: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[str, ...]:
        """The failures of the run; empty for a good run."""
        broken = tuple(f"{finding.invariant}: {finding.reason}" for finding in self.verdict.broken)
        forgot = self.verdict.counters.store_forgot and not any(
            fault.kind is Kind.ETCD_BACK for fault in self.plan.schedule
        )
        alarm = ("a peer says that etcd forgot writes, and it did not",) if forgot else ()
        hangs = () if self.finished else (f"the job was not finished after {self.lasted_s:.0f} s",)
        waiting = self.waiting if self.finished else ()
        waits = (f"{', '.join(waiting)} had not ended after {self.lasted_s:.0f} s",) if waiting else ()
        return (*broken, *alarm, *hangs, *waits)

    def write(self, folder: Path) -> None:
        """Write the history as the files of a run folder, and a report."""
        write(folder, self.logs, self.observed, OBSERVER)
        run_seen = Run.of_logs(self.logs, seen=self.observed)
        title = f"Simulated: {self.plan.peers:,} peers, seed {self.plan.seed}"
        (folder / "report.html").write_text(page(run_seen, self.verdict, title))
        (folder / "schedule.json").write_text(
            json.dumps([fault.to_record() for fault in self.plan.schedule], indent=1)
        )


def planned(kinds: Sequence[Kind], *, peers: int, seed: int, for_s: float = 24.0, every: float = 0.5) -> Plan:
    """A plan with faults of some kinds.

    In a longer run, and with many peers, steps, leases and faults all last longer.
    """
    crowd = max(1.0, peers / MANY)
    scale = max(1.0, for_s / FAST_S) * crowd * max(1.0, peers / VERY_MANY)
    return Plan(
        peers=peers,
        seed=seed,
        for_s=for_s,
        schedule=scheduled(kinds, seed=seed, for_s=for_s, every=every, scale=scale),
        step_s=STEP_S * scale,
        grain_s=GRAIN_S * scale * min(2.0, crowd),
        thin_s=scale,
        share_of_steps=SHARE_OF_STEPS if for_s <= FAST_S else LONG_SHARE_OF_STEPS,
        chunk_records=round(CHUNK * min(2.0, crowd)),
        settings=JobSettings(lease_ttl_s=LEASE_S * scale),
    )


def simulate(plan: Plan) -> SimulationResult:
    """Simulate a plan, as fast as the CPU permits."""
    scratch = SCRATCH if Path(SCRATCH).is_dir() else None
    quiet = logging.getLogger("gossip_caffe")
    level = quiet.level
    if _is_wired(plan):
        quiet.setLevel(logging.CRITICAL)  # its messages are about injected errors, which the verdict judges
    thresholds = gc.get_threshold()
    # The logs grow to millions of events that live until the end, so scanning them for garbage would be a waste.
    gc.set_threshold(*COLLECT_AFTER)
    try:
        with tempfile.TemporaryDirectory(prefix="gossip-caffe-sim-", dir=scratch) as folder:
            return run(_simulated(plan, Path(folder)))
    finally:
        gc.set_threshold(*thresholds)
        quiet.setLevel(level)


def _is_wired(plan: Plan) -> bool:
    """True if the plan has faults that need tripwires."""
    return any(fault.kind is Kind.EXCEPTION for fault in plan.schedule)


async def _simulated(plan: Plan, folder: Path) -> SimulationResult:
    iterations = max(1, round(plan.share_of_steps * plan.peers * plan.for_s / plan.step_s))
    records = max(plan.chunk_records, round(iterations * BATCH / EPOCHS))
    points = Points(records, plan.seed)
    spec = problem_job(
        records=records,
        chunk_records=plan.chunk_records,
        iterations=iterations,
        seed=plan.seed,
        settings=plan.settings,
    )
    cluster = SimulatedCluster(
        spec,
        points,
        folder,
        seed=plan.seed,
        step_s=plan.step_s,
        grain_s=plan.grain_s,
        thin_s=plan.thin_s,
        wired=_is_wired(plan),
    )
    began = cluster.clock.monotonic()
    distances: list[tuple[float, float, int]] = []
    try:
        await cluster.create_job()
        before = plant_victims(folder)
        beside = DetachedTasks(lambda _, error: cluster.broke.append(error))
        beside.begin(cluster.etcd.expire(), "leases")
        beside.begin(Injector(cluster, plan.schedule).run(), "faults")
        beside.begin(_measured(cluster, plan, distances), "distances")
        for _ in range(plan.peers):
            cluster.start()
        limit_s = PATIENCE * plan.for_s + PATIENCE_S
        while cluster.running or not cluster.finished:
            if cluster.clock.monotonic() - began > limit_s:
                break
            if cluster.broke:
                raise cluster.broke[0]  # the simulator itself is broken, so no further result is meaningful
            await cluster.clock.sleep(plan.step_s)
        finished, lasted_s = cluster.finished, cluster.clock.monotonic() - began
        await cluster.clock.sleep(3 * plan.settings.lease_ttl_s)
        if cluster.etcd.unavailable:
            cluster.etcd.unavailable = False
        await cluster.clock.sleep(plan.settings.lease_ttl_s)
        cluster.etcd.tick()
        left = [] if cluster.running else _left_behind(cluster)
        cluster.note("disk", touched=touched_since(folder, before))
        cluster.note("aftermath", processes=[], shared_memory=[], leases=left)
        accuracy = _accuracy(cluster, points) if finished else 0.0
        waiting = tuple(cluster.running)
        for name in waiting:
            cluster.kill(name)
        beside.cancel()
        await beside.ended()
    finally:
        cluster.close()
    return SimulationResult(
        plan=plan,
        verdict=verdict(cluster.logs, spec, cluster.observed),
        digest=digest(cluster.logs, cluster.observed),
        finished=finished,
        lasted_s=lasted_s,
        accuracy=accuracy,
        distances=tuple(distances),
        logs=cluster.logs,
        observed=cluster.observed,
        waiting=waiting,
    )


def _left_behind(cluster: SimulatedCluster) -> list[str]:
    """The peers' keys that are still in the store after all peers have ended, without a foreign writer's."""
    keys = JobKeys(cluster.spec.name)
    mine = (keys.peers, keys.statuses, keys.fence(""), f"{keys.ledger}claims/")
    return [
        key
        for key, item in cluster.etcd.keys.items()
        if (item.lease or key.startswith(mine)) and item.mod_revision not in cluster.stranger.revisions
    ]


def _accuracy(cluster: SimulatedCluster, points: Points) -> float:
    """The accuracy of the job's last checkpoint, read from any disk that has it."""
    value: dict[str, Any] = json.loads(cluster.etcd.keys[JobKeys(cluster.spec.name).finished].value)
    for folder in cluster.network.folders.values():
        if value["checkpoint"] in folder.ids():
            layout = folder.manifest(value["checkpoint"]).weight_layout()
            return points.accuracy(
                read_caffemodel(folder.path(value["checkpoint"], MODEL).read_bytes(), layout)
            )
    return 0.0


async def _measured(cluster: SimulatedCluster, plan: Plan, distances: list[tuple[float, float, int]]) -> None:
    """Measure the consensus distance of the training peers at intervals; never returns."""
    began = cluster.clock.monotonic()
    while True:
        await cluster.clock.sleep(plan.for_s / SAMPLES)
        snapshots = [_weights(peer.trainer.board) for peer in cluster.training]
        if len(snapshots) > 1:
            distance = consensus_distance(snapshots)
            distances.append((round(cluster.clock.monotonic() - began, 3), distance, len(snapshots)))
            cluster.note("consensus", distance=distance, peers=len(snapshots))


def _weights(board: Any) -> Any:
    out = np.empty(board.size, dtype=np.float32)
    board.snapshot(out)
    return out


def consensus_distance(snapshots: Sequence[Any]) -> float:
    """Mean ‖xᵢ − x̄‖² / ‖x̄‖² (Kong et al. 2021)."""
    mean = Mean(snapshots[0].size)
    for snapshot in snapshots:
        mean.add(snapshot)
    centre = mean.result().astype(np.float64)
    apart = sum(float(np.sum((snapshot - centre) ** 2)) for snapshot in snapshots) / len(snapshots)
    norm = float(centre @ centre)
    return apart / norm if norm else 0.0
