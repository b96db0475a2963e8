"""Nets that make their own data, with real Caffe: peers draw unlike records, and one peer those of plain Caffe."""

from __future__ import annotations

import json
import random
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossip_caffe.data.sources.source import measure
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings, JobSpec
from gossip_caffe.solver.engines.place import ALONE, LayerRank
from tests.cluster_run import DEADLINE_S, ClusterRun, cluster_run, wait_for
from tests.doc_blocks import blocks_of
from tests.one_peer import OnePeer, bare

pytestmark = [pytest.mark.integration, pytest.mark.needs("caffe", "etcd")]

NETS = Path(__file__).parents[1] / "nets"
FILES = ("ranked.prototxt", "ranked_solver.prototxt", "ranked_layer.py")
BATCH, RECORDS = 4, 4000
"""As in tests/nets/ranked_layer.py, which imports Caffe."""


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the layers write down what they drew."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    monkeypatch.setenv("DRAWN", str(folder))
    return folder


def job_of(folder: Path, layer: str = "Ranked") -> JobSpec:
    """The job of a layer in ranked_layer.py, which here takes no time."""
    for name in FILES:
        shutil.copy(NETS / name, folder)
    net = folder / "ranked.prototxt"
    net.write_text(net.read_text().replace('"Ranked" param_str: "0.02"', f'"{layer}" param_str: "0"'))
    return read_job("test", folder / "ranked_solver.prototxt", JobSettings(), measure)


def said_by_all(drawn: Path) -> dict[int, dict[str, Any]]:
    """What the layers of each process wrote: pid → {"rank", "count", "drew": all records, …}."""
    found = {}
    for path in drawn.iterdir():
        said: dict[str, Any] = {"drew": []}
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            said["drew"] += entry.pop("drew", [])
            said |= entry
        found[int(path.name)] = said
    return found


def said_in(drawn: Path) -> dict[int, dict[str, Any]]:
    """The same of those that trained, and not only built the net."""
    return {pid: said for pid, said in said_by_all(drawn).items() if said["drew"]}


async def draws(
    folder: Path, drawn: Path, job: JobSpec, *, place: LayerRank = ALONE, noise_seed: int = 0, joins: bool
) -> dict[str, Any]:
    """What one peer's layer draws in 20 passes; with ``joins`` its weights are those of others."""
    before = said_in(drawn).keys()
    peer = OnePeer(job, modules=folder, noise_seed=noise_seed, place=place)
    try:
        await peer.start(np.zeros(22, np.float32) if joins else None)
        await peer.train(20)
        await peer.stop()
    finally:
        await peer.stop()
        peer.ring.close()
    (said,) = (what for pid, what in said_in(drawn).items() if pid not in before)
    return said


async def test_a_layer_that_reads_its_rank_draws_its_share(tmp_path: Path, drawn: Path) -> None:
    job = job_of(tmp_path)
    order = np.random.RandomState(1337).permutation(RECORDS)
    for rank in (0, 2):
        said = await draws(tmp_path, drawn, job, place=LayerRank(rank, 3, 9 + rank), joins=True)
        assert (said["rank"], said["count"], said["seed"]) == (rank, 3, 9 + rank)
        assert said["drew"] == order[rank::3][: 20 * BATCH].tolist()


async def test_one_peer_draws_and_learns_what_plain_caffe_does(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for layer in ("Ranked", "SelfSeeded"):
        job = job_of(tmp_path, layer)
        peer = OnePeer(job, modules=tmp_path)
        try:
            await peer.start()
            start = peer.weights()
            await peer.train(50)
            await peer.stop()
            weights = peer.weights()
        finally:
            await peer.stop()
            peer.ring.close()
        if layer == "Ranked":  # plain Caffe of ours has no ranks to be read
            expected = np.random.RandomState(1337).permutation(RECORDS)[: 50 * BATCH].tolist()
            (said,) = said_in(drawn).values()
            assert said["drew"] == expected
            continue
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
        caffes = bare(tmp_path / "ranked_solver.prototxt", 50, peer.layout, tmp_path, start)
        assert np.array_equal(weights, caffes.weights)


async def test_a_layer_that_seeds_the_shared_generators_draws_other_records_in_each_peer(
    tmp_path: Path, drawn: Path
) -> None:
    job = job_of(tmp_path, "SelfSeeded")
    founder = await draws(tmp_path, drawn, job, joins=False)
    generators = random.Random(1337), np.random.RandomState(1337)
    for at in range(0, 20 * BATCH, BATCH):
        expected = [generators[0].randrange(RECORDS) for _ in range(2)] + generators[1].randint(
            RECORDS, size=2
        ).tolist()
        assert founder["drew"][at : at + BATCH] == expected, "as plain Caffe"
    joiners = [await draws(tmp_path, drawn, job, noise_seed=seed, joins=True) for seed in (1, 2)]
    for one, other in combinations([founder, *joiners], 2):
        assert one["drew"][:2] != other["drew"][:2]
        assert len(set(one["drew"]) & set(other["drew"])) < 10, "of 80 out of 4,000, by chance"


async def test_the_example_of_the_docs_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = NETS.parents[1] / "docs" / "data.md"
    (example,) = (block.text for block in blocks_of(page) if block.text.startswith("# mine.py"))
    (tmp_path / "mine.py").write_text(example)
    points = np.random.RandomState(1).normal(size=(400, 10))
    np.save(tmp_path / "x.npy", points)
    np.save(tmp_path / "y.npy", points[:, 0] > 0)
    job_of(tmp_path)
    net = tmp_path / "ranked.prototxt"
    net.write_text(net.read_text().replace("ranked_layer", "mine").replace('"Ranked" param', '"Mine" param'))
    job = read_job("test", tmp_path / "ranked_solver.prototxt", JobSettings(), measure)
    monkeypatch.chdir(tmp_path)
    peer = OnePeer(job, modules=tmp_path, place=LayerRank(1, 2))
    try:
        await peer.start()
        assert await peer.train(1) > 2 * await peer.train(300)
    finally:
        await peer.stop()
        peer.ring.close()


def test_a_job_that_goes_on_from_a_snapshot_draws_on_behind_its_records(tmp_path: Path, drawn: Path) -> None:
    job_of(tmp_path)
    solver = tmp_path / "ranked_solver.prototxt"
    text, order = solver.read_text(), np.random.RandomState(1337).permutation(RECORDS)
    before: set[int] = set()
    with cluster_run(tmp_path / "state") as run:
        for first, last, options in (
            (0, 30, []),
            (30, 50, ["--snapshot", "ranked_solver_iter_30.solverstate"]),
        ):
            solver.write_text(text.replace("max_iter: 60000", f"max_iter: {last}"))
            done = run.run("train", solver.name, *options, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            assert "WARNING" not in done.stderr
            (pid,) = said_in(drawn).keys() - before
            assert said_in(drawn)[pid]["drew"] == order[first * BATCH : last * BATCH].tolist()
            before.add(pid)


def test_peers_draw_disjoint_records_and_a_killed_ones_rank_is_the_next_joiners(
    tmp_path: Path, drawn: Path
) -> None:
    for name in FILES:
        shutil.copy(NETS / name, tmp_path)
    solver = str(tmp_path / "ranked_solver.prototxt")
    with cluster_run(tmp_path / "state") as run:
        up = run.start(
            "cluster", "up", "--peers", "4", "--solver", solver, "--set", "lease_ttl_s=2", cwd=tmp_path
        )
        first = ranks_of(run, drawn, 4)
        killed = run.peers()["p2"]["solver_pid"]
        wait_for(
            "some is done", lambda: all(peer["progress_samples"] > 0 for peer in run.training().values())
        )
        assert run.run("cluster", "kill", "p2").returncode == 0
        wait_for("p2 is gone", lambda: "p2" not in run.peers())
        assert run.run("cluster", "scale", "4").returncode == 0
        second = ranks_of(run, drawn, 4)
        assert run.run("cluster", "down").returncode == 0
        up.wait(DEADLINE_S)
        output = (run.folder / "up.log").read_text()
    assert sorted(first.values()) == sorted(second.values()) == [0, 1, 2, 3]
    assert "WARNING" not in output, "the layer reads its rank"
    (joiner,) = second.keys() - first.keys()
    assert second[joiner] == first[killed]
    tried = [entry for entry in said_by_all(drawn).values() if not entry["drew"]]
    assert [(entry["rank"], entry["count"]) for entry in tried] == [(0, 1)], "the trial is no peer"
    said = said_in(drawn)
    assert {entry["count"] for entry in said.values()} == {4}
    assert len({entry["seed"] for entry in said.values()}) == 5
    assert said[joiner]["skipped"] > 0, "it goes on about where its rank is"
    for one, other in combinations(said.values(), 2):
        if one["rank"] != other["rank"]:
            assert not set(one["drew"]) & set(other["drew"])


def ranks_of(run: ClusterRun, drawn: Path, peers: int) -> dict[int, int]:
    """The ranks of so many peers that train, by their solvers' pids, once each has drawn something."""

    def look() -> dict[int, int]:
        said = said_in(drawn)
        living = [peer["solver_pid"] for peer in run.training().values()]
        found = {pid: said[pid]["rank"] for pid in living if pid in said}
        return found if len(found) == peers else {}

    found: dict[int, int] = wait_for(f"{peers} peers train", look)
    return found
