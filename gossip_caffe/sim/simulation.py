"""One simulated run from its plan to its verdict. One plan has one history, the same every time."""

from __future__ import annotations

import asyncio
import gc
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gossip_caffe.checkpoint.caffemodel import read_caffemodel
from gossip_caffe.checkpoint.manifest import MODEL
from gossip_caffe.gossip.average import Mean
from gossip_caffe.job.spec import JobSettings
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.checker.run import OBSERVER, Run
from gossip_caffe.observe.report import page
from gossip_caffe.observe.verdict import Verdict, verdict
from gossip_caffe.sim.cluster import SimulatedCluster
from gossip_caffe.sim.faults import Fault, Kind, scheduled
from gossip_caffe.sim.injecting import Injector
from gossip_caffe.sim.logs import Lines, digest, write
from gossip_caffe.sim.problem import BATCH, Points, problem_job
from gossip_caffe.sim.virtual_time import run

CHUNK = 16
EPOCHS = 5.3
SHARE_OF_STEPS = 0.7
LONG_SHARE_OF_STEPS = 0.92
"""A run's budget: what its peers would train in this share of its time, were there no faults.

The beginning and the end, in which not all train, are a smaller part of a run of more than FAST_S.
"""
PATIENCE = 4.0
PATIENCE_S = 300.0
"""A run that is not finished after so many times its length, and so many seconds more, hangs."""
SAMPLES = 120
"""How often the consensus distance is measured."""
SCRATCH = "/dev/shm"
COLLECT_AFTER = (50_000, 20, 1000)
"""See gc.set_threshold."""
FAST_S = 360.0
"""Up to this length a run's steps take STEP_S; in one ten times as long ten times as much …"""
MANY = 200
"""… and among five times as many peers as these five times as much …"""
VERY_MANY = 500
"""… and among twice as many as these twice that."""
STEP_S = 0.25
GRAIN_S = 0.1
LEASE_S = 3.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated: ``for_s`` is about how long it takes without faults, in virtual seconds.

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
class Simulated:
    """What came of it. ``digest``: of the whole history; ``accuracy``: of the last checkpoint, 0 to 1.

    ``distances``: (second, consensus distance of those who train, how many they are).
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

    @property
    def failures(self) -> tuple[str, ...]:
        """What is wrong with it; nothing, when all is well."""
        broken = tuple(f"{finding.invariant}: {finding.reason}" for finding in self.verdict.broken)
        forgot = self.verdict.counters.store_forgot and not any(
            fault.kind is Kind.ETCD_BACK for fault in self.plan.schedule
        )
        alarm = ("a peer says that etcd forgot writes, and it did not",) if forgot else ()
        hangs = () if self.finished else (f"the job was not finished after {self.lasted_s:.0f} s",)
        return (*broken, *alarm, *hangs)

    def write(self, folder: Path) -> None:
        """Write the history, as the files of a run folder, and the report on it."""
        write(folder, self.logs, self.observed, OBSERVER)
        run_seen = Run.of_logs(self.logs, seen=self.observed)
        title = f"Simulated: {self.plan.peers:,} peers, seed {self.plan.seed}"
        (folder / "report.html").write_text(page(run_seen, self.verdict, title))
        (folder / "schedule.json").write_text(
            json.dumps([fault.to_record() for fault in self.plan.schedule], indent=1)
        )


def planned(kinds: Sequence[Kind], *, peers: int, seed: int, for_s: float = 24.0, every: float = 0.5) -> Plan:
    """A plan with faults of some kinds.

    In a longer run, and among many peers, everything takes its time: steps, leases, and faults.
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


def simulate(plan: Plan) -> Simulated:
    """Run it, as fast as it goes."""
    scratch = SCRATCH if Path(SCRATCH).is_dir() else None
    thresholds = gc.get_threshold()
    # What is written down is kept to the end, millions of lines: to look for garbage among them is in vain.
    gc.set_threshold(*COLLECT_AFTER)
    try:
        with tempfile.TemporaryDirectory(prefix="gossip-caffe-sim-", dir=scratch) as folder:
            return run(_simulated(plan, Path(folder)))
    finally:
        gc.set_threshold(*thresholds)


async def _simulated(plan: Plan, folder: Path) -> Simulated:
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
        spec, points, folder, seed=plan.seed, step_s=plan.step_s, grain_s=plan.grain_s, thin_s=plan.thin_s
    )
    began = cluster.clock.monotonic()
    distances: list[tuple[float, float, int]] = []
    try:
        await cluster.create_job()
        beside = [
            asyncio.ensure_future(cluster.etcd.expire()),
            asyncio.ensure_future(Injector(cluster, plan.schedule).run()),
            asyncio.ensure_future(_measured(cluster, plan, distances)),
        ]
        for _ in range(plan.peers):
            cluster.start()
        limit_s = PATIENCE * plan.for_s + PATIENCE_S
        while cluster.running or not cluster.finished:
            if cluster.clock.monotonic() - began > limit_s:
                break
            await cluster.clock.sleep(plan.step_s)
        finished, lasted_s = cluster.finished, cluster.clock.monotonic() - began
        await cluster.clock.sleep(3 * plan.settings.lease_ttl_s)
        if cluster.etcd.unavailable:
            cluster.etcd.unavailable = False
        await cluster.clock.sleep(plan.settings.lease_ttl_s)
        cluster.etcd.tick()
        left = [] if cluster.running else _left_behind(cluster)
        cluster.note("aftermath", processes=[], shared_memory=[], leases=left)
        accuracy = _accuracy(cluster, points) if finished else 0.0
        for name in list(cluster.running):
            cluster.kill(name)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    finally:
        cluster.close()
    return Simulated(
        plan=plan,
        verdict=verdict(cluster.logs, spec, cluster.observed),
        digest=digest(cluster.logs, cluster.observed),
        finished=finished,
        lasted_s=lasted_s,
        accuracy=accuracy,
        distances=tuple(distances),
        logs=cluster.logs,
        observed=cluster.observed,
    )


def _left_behind(cluster: SimulatedCluster) -> list[str]:
    """The keys of peers that are still in the store, when there is no peer any more."""
    keys = JobKeys(cluster.spec.name)
    mine = (keys.peers, keys.statuses, keys.fence(""), f"{keys.ledger}claims/")
    return [key for key, item in cluster.etcd.keys.items() if item.lease or key.startswith(mine)]


def _accuracy(cluster: SimulatedCluster, points: Points) -> float:
    """Of the job's last checkpoint, from whichever disk has it."""
    value: dict[str, Any] = json.loads(cluster.etcd.keys[JobKeys(cluster.spec.name).finished].value)
    for folder in cluster.network.folders.values():
        if value["checkpoint"] in folder.ids():
            layout = folder.manifest(value["checkpoint"]).weight_layout()
            return points.accuracy(
                read_caffemodel(folder.path(value["checkpoint"], MODEL).read_bytes(), layout)
            )
    return 0.0


async def _measured(cluster: SimulatedCluster, plan: Plan, distances: list[tuple[float, float, int]]) -> None:
    """Measure the consensus distance of those who train, now and then, for ever."""
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
