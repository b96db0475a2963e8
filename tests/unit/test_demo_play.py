"""How the demonstration plays its script on a cluster."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext

from gossip_caffe.demo.play import Lines, Played, View, play, progress_line
from gossip_caffe.observe.status import PeerStatus

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


class FakeStage:
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


async def played(stage: FakeStage, said: list[str], deadline_s: float = 100.0) -> Played:
    return await play(stage, Lines(said.append, stage.clock), stage.clock, peers=4, deadline_s=deadline_s)


async def test_one_joins_one_is_killed_and_the_last_checkpoint_is_returned() -> None:
    stage, said = FakeStage(4), list[str]()
    outcome = await played(stage, said)
    assert (outcome.checkpoint, outcome.joined, len(outcome.killed)) == ("c-9", ("p4",), 1)
    assert outcome.killed[0] in {"p1", "p2"}
    assert BUDGET / 3 <= stage.at["join"] < BUDGET / 2 <= stage.at["kill"] < BUDGET * 2 / 3
    assert any(line.endswith("one more peer joins") for line in said)
    assert any(line.endswith(f"kill -9 {outcome.killed[0]}") for line in said)


async def test_nobody_joins_before_the_first_peers_all_train() -> None:
    stage = FakeStage(4, slow_start=60)
    await played(stage, [])
    assert stage.at["join"] >= 600


async def test_a_line_is_said_at_least_every_five_seconds() -> None:
    stage, said = FakeStage(4), list[str]()
    stage.stuck = True
    await played(stage, said, deadline_s=20.0)
    assert sum("samples/s" in line for line in said) >= 4


async def test_a_job_that_does_not_end_is_given_up_at_the_deadline() -> None:
    stage = FakeStage(4)
    stage.stuck = True
    assert (await played(stage, [], deadline_s=10.0)).checkpoint == ""


def test_the_progress_line_names_rate_loss_and_the_state_of_each_peer() -> None:
    statuses = (
        PeerStatus("p0", "training", loss=0.5, samples_per_s=100.0),
        PeerStatus("p1", "joining"),
    )
    line = progress_line(View(250, BUDGET, statuses, seconds=12.0))
    assert line == "   12 s   25% of 1,000 samples, 100 samples/s, loss 0.5000  [p0:training p1:joining]"
