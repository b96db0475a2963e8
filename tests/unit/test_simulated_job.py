"""Whole jobs on virtual time: the agents themselves, a small trainer in NumPy, a network and a store in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.data.sources import source
from gossip_caffe.gossip.transport.memory_transport import MemoryNetwork
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings, JobSpec
from gossip_caffe.observe.history.account import Account, account
from gossip_caffe.shards.ledger import Ledger
from gossip_caffe.sim.job import SimulatedJob
from gossip_caffe.sim.peer import Pace
from gossip_caffe.sim.virtual_time import run
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.engines.numpy_engine import NumpyEngine
from tests.tiny_job import write_job

BATCH = 16
STEP_S = 0.02


@dataclass(frozen=True)
class Course:
    logs: dict[str, list[dict[str, Any]]]
    account: Account
    model: bytes
    iterations: dict[str, int]
    passed_s: float


def spec_in(folder: Path, iterations: int) -> JobSpec:
    job = write_job(folder / "job", records=400, batch=BATCH, iterations=iterations)
    return read_job("tiny", job.solver, JobSettings(), source.measure)


def trained(spec: JobSpec, folder: Path, *, seed: int = 1, churn: bool = False) -> Course:
    async def course() -> Course:
        job = SimulatedJob(spec, folder, NumpyEngine, seed=seed)
        try:
            for index in range(3):
                await job.start(f"p{index}", Pace(STEP_S))
            if churn:
                await job.clock.sleep(2.0)
                job.kill("p0")
                await job.clock.sleep(1.0)
                await job.start("p3", Pace(STEP_S))
            model = await job.finished()
            logs = {name: log.events for name, log in job.logs.items()}
            steps = {name: len(peer.stepped_at) for name, peer in job.peers.items()}
            return Course(logs, account(logs, spec), model.read_bytes(), steps, job.passed_s)
        finally:
            job.close()

    return run(course())


def test_peers_on_virtual_time_train_every_record_once_and_finish_their_job(tmp_path: Path) -> None:
    found = trained(spec_in(tmp_path, 600), tmp_path / "run")
    assert found.account.records_trained == 600 * BATCH
    assert found.account.records_lost == found.account.records_twice == 0
    assert sum(found.iterations.values()) >= 600
    assert found.passed_s > 200 * STEP_S
    for log in found.logs.values():
        assert any(event["event"] == "exchanged" and event["outcome"] == "applied" for event in log)


def test_a_budget_of_bytes_holds_in_a_whole_job(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", records=400, batch=BATCH, iterations=1500)
    settings = JobSettings(bytes_budget="1/30", codec="float32")
    spec = read_job("tiny", job.solver, settings, source.measure)

    async def course() -> float:
        simulated = SimulatedJob(spec, tmp_path / "run", NumpyEngine, seed=1)
        try:
            for index in range(3):
                await simulated.start(f"p{index}", Pace(STEP_S))
            await simulated.finished()
            peers = simulated.peers.values()
            vector = 4 * next(iter(peers)).trainer.layout.exchanged
            iterations = sum(len(peer.stepped_at) for peer in peers)
            return simulated.carried.payload_bytes / (2 * 2 / 3 * vector * iterations)
        finally:
            simulated.close()

    # Joiners exchange before they claim, and peers whose data are used up share their last batches: both on top.
    assert 0.5 / 30 < run(course()) < 1.35 / 30


def test_one_seed_has_one_course_and_another_seed_another(tmp_path: Path) -> None:
    spec = spec_in(tmp_path, 300)
    first, again, other = (
        trained(spec, tmp_path / str(number), seed=seed) for number, seed in enumerate((1, 1, 2))
    )
    assert first.model == again.model
    assert first.iterations == again.iterations
    assert first.model != other.model


def test_when_one_dies_and_another_comes_nothing_is_lost(tmp_path: Path) -> None:
    found = trained(spec_in(tmp_path, 1200), tmp_path / "run", churn=True)
    assert found.account.records_trained == 1200 * BATCH
    assert found.account.records_lost == 0
    assert found.iterations["p3"] > 10
    assert any(event["event"] == "joined" for event in found.logs["p3"])
    assert not any(event["event"] == "finished" for event in found.logs["p0"])
    # The others write down when they see it gone, and the new one train: from this a death's detection is known.
    for name in ("p1", "p2"):
        seen = [event for event in found.logs[name] if event["event"] == "member"]
        assert ("p0", "training", "") in {(event["member"], event["old"], event["new"]) for event in seen}
        assert any(event["member"] == "p3" and event["new"] == "training" for event in seen)
        # p0 alone was lost: the others vanish because the job is finished.
        assert [event["member"] for event in seen if event.get("lost")] == ["p0"]


def test_a_transport_is_told_who_is_left_once_a_peer_has_departed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[set[str]] = []

    async def forget(_: MemoryNetwork, living: set[str]) -> None:
        told.append(living)

    monkeypatch.setattr(MemoryNetwork, "forget", forget)
    trained(spec_in(tmp_path, 1200), tmp_path / "run", churn=True)
    assert {"p1:1", "p2:1"} in told, "p0 was killed"


def test_a_peer_that_was_always_alone_takes_nothing_that_the_store_counts_for_the_work_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, said = spec_in(tmp_path, 300), []
    paced, settled = WeightBoard.set_pace, Ledger.settle

    def set_pace(self: WeightBoard, others_samples: int, factor: float) -> None:
        said.append(others_samples)
        paced(self, others_samples, factor)

    async def course() -> int:
        job = SimulatedJob(spec, tmp_path / "run", NumpyEngine, seed=1)

        async def told_late(self: Ledger, *given: Any, **named: Any) -> Any:
            result = await settled(self, *given, **named)
            await job.clock.sleep(0.3)  # the store has it, and the reply is on its way
            return result

        monkeypatch.setattr(Ledger, "settle", told_late)
        try:
            peer = await job.start("p0", Pace(STEP_S))
            ahead = 0
            for _ in range(40):
                await job.clock.sleep(0.1)
                training = peer._agent._training
                if training is not None:
                    await training.read_progress()
                    ahead += training.progress.samples > training.claims.done_samples
            return ahead
        finally:
            job.close()

    monkeypatch.setattr(WeightBoard, "set_pace", set_pace)
    assert run(course()) > 5  # so often the store was ahead of what the peer knew
    assert len(said) > 30
    assert not any(said)
