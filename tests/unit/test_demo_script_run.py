"""The run of the demonstration's script on a cluster."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext

from gossip_caffe.demo.script_run import Lines, ScriptRun, View, progress_line, run_script
from gossip_caffe.observe.log.status import PeerStatus

BUDGET = 1000


class VirtualClock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        return nullcontext()


class FakeCluster:
    """A cluster whose peers train ten samples a look each, once ``slow_start`` looks have passed."""

    def __init__(self, peers: int, slow_start: int = 3) -> None:
        self.clock = VirtualClock()
        self.peers = [f"p{index}" for index in range(peers)]
        self.dead: list[str] = []
        self.samples = 0
        self.looks = 0
        self.slow_start = slow_start
        self.at: dict[str, int] = {}
        self.stuck = False

    async def look(self) -> View:
        await self.clock.sleep(0.5)
        self.looks += 1
        living = [peer for peer in self.peers if peer not in self.dead]
        training = living if self.looks > self.slow_start else living[:1]
        if not self.stuck:
            self.samples = min(BUDGET, self.samples + 10 * len(training))
        return View(
            progress_samples=self.samples,
            budget_samples=BUDGET,
            statuses=tuple(
                PeerStatus(peer, "training" if peer in training else "joining", loss=0.5, samples_per_s=20)
                for peer in living
            ),
            checkpoint="c-9" if self.samples >= BUDGET else None,
        )

    async def add_peer(self) -> str:
        self.at["join"] = self.samples
        self.peers.append(f"p{len(self.peers)}")
        return self.peers[-1]

    async def kill(self, peer: str) -> None:
        self.at["kill"] = self.samples
        self.dead.append(peer)


async def script_run_of(cluster: FakeCluster, said: list[str], deadline_s: float = 100.0) -> ScriptRun:
    return await run_script(
        cluster, Lines(said.append, cluster.clock), cluster.clock, peers=4, deadline_s=deadline_s
    )


async def test_one_joins_one_is_killed_and_the_last_checkpoint_is_returned() -> None:
    cluster, said = FakeCluster(4), list[str]()
    outcome = await script_run_of(cluster, said)
    assert (outcome.checkpoint, outcome.joined, len(outcome.killed)) == ("c-9", ("p4",), 1)
    assert outcome.killed[0] in {"p1", "p2"}
    assert BUDGET / 3 <= cluster.at["join"] < BUDGET / 2 <= cluster.at["kill"] < BUDGET * 2 / 3
    assert any(line.endswith("one more peer joins") for line in said)
    assert any(line.endswith(f"kill -9 {outcome.killed[0]}") for line in said)


async def test_nobody_joins_before_the_first_peers_all_train() -> None:
    cluster = FakeCluster(4, slow_start=60)
    await script_run_of(cluster, [])
    assert cluster.at["join"] >= 600


async def test_a_line_is_said_at_least_every_five_seconds() -> None:
    cluster, said = FakeCluster(4), list[str]()
    cluster.stuck = True
    await script_run_of(cluster, said, deadline_s=20.0)
    assert sum("samples/s" in line for line in said) >= 4


async def test_a_job_that_does_not_end_is_given_up_at_the_deadline() -> None:
    cluster = FakeCluster(4)
    cluster.stuck = True
    assert (await script_run_of(cluster, [], deadline_s=10.0)).checkpoint == ""


def test_the_progress_line_names_rate_loss_and_the_state_of_each_peer() -> None:
    statuses = (
        PeerStatus("p0", "training", loss=0.5, samples_per_s=100.0),
        PeerStatus("p1", "joining"),
    )
    line = progress_line(View(250, BUDGET, statuses, seconds=12.0))
    assert line == "   12 s   25% of 1,000 samples, 100 samples/s, loss 0.5000  [p0:training p1:joining]"
