"""Solver and loader of one peer, either of which may die: against children that a test controls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from gossip_caffe.clock import SystemClock
from gossip_caffe.data.loader_port import PlannedBatch, ProcessEnd
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import DataError, SolverDied
from gossip_caffe.job.spec.spec import TopSpec
from gossip_caffe.observe.log.events import Event, MemoryLog
from gossip_caffe.peer.work.suspects import SuspectBatches
from gossip_caffe.peer.work.trainer import MAX_DEATHS_WITHOUT_PROGRESS, Trainer
from gossip_caffe.shards.epochs import ChunkId
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.engines.layout import WeightLayout
from gossip_caffe.solver.engines.place import LayerRank
from gossip_caffe.solver.history import SolverHistory

LAYOUT = WeightLayout.of([("ip", 0, (3,))])
BATCH = 4


KILLED_AT: list[str] = []
"""When the next children die while they start: "opening" the data, "building" the net or "starting" to train."""
KILLED_AT_CODE = {"opening": -9, "building": -9, "starting": -15, "building (aborted)": -6}


class FakeChild:
    def __init__(self) -> None:
        self.pid = 1
        self.ended: asyncio.Future[ProcessEnd] = asyncio.get_running_loop().create_future()

    async def wait(self) -> ProcessEnd:
        return await asyncio.shield(self.ended)

    async def stop(self) -> None:
        self.die("stopped")

    def die(self, cause: str, *, final: bool = False, code: int = 1) -> None:
        if not self.ended.done():
            self.ended.set_result(ProcessEnd(code, cause, "do this", final=final))


class FakeLoader(FakeChild):
    def __init__(self) -> None:
        super().__init__()
        self.planned: list[int] = []
        self.parts: dict[int, tuple[tuple[int, int, int], ...]] = {}

    async def start(self) -> None:
        if KILLED_AT and KILLED_AT[0] == "opening":
            self.die("the loader was killed", code=KILLED_AT_CODE[KILLED_AT.pop(0)])
            raise DataError("the loader was killed")

    def plan(self, batches: Sequence[PlannedBatch]) -> None:
        self.planned += [batch.sequence for batch in batches]
        self.parts |= {batch.sequence: batch.parts for batch in batches}


class FakeSolver(FakeChild):
    def __init__(self, board: WeightBoard | None) -> None:
        super().__init__()
        self.board = board or WeightBoard.create(LAYOUT.size)
        self.began_at = self.passes = -1

    def _perhaps_killed(self, when: str) -> None:
        if KILLED_AT and KILLED_AT[0].partition(" ")[0] == when:
            self.die("the solver was killed", code=KILLED_AT_CODE[KILLED_AT.pop(0)])
            raise SolverDied("the solver was killed")

    async def build(self) -> WeightLayout:
        self._perhaps_killed("building")
        return LAYOUT

    async def history(self) -> SolverHistory:
        raise SolverDied("it has none")

    async def start(self, weights: NDArray[np.float32] | None, history: str = "", passes: int = 0) -> None:
        self._perhaps_killed("starting")
        self.passes = passes
        if weights is not None:
            self.board.install(weights)
        out = np.empty(LAYOUT.size, np.float32)
        self.began_at = self.board.restore(out).batches

    def train(self, batches: int, *, publish: bool) -> None:
        self.board.note_step(batches, batches, batches * BATCH, 0.5, 0.1, 0.01)
        if publish:
            out = np.zeros(LAYOUT.size, np.float32)
            self.board.publish(out, iteration=batches, batches=batches, samples=batches * BATCH)


@dataclass
class Stage:
    trainer: Trainer
    log: MemoryLog
    ring: BatchRing
    solvers: list[FakeSolver] = field(default_factory=list)
    loaders: list[FakeLoader] = field(default_factory=list)


async def stage(suspects: SuspectBatches | None = None) -> Stage:
    ring = BatchRing.create((TopSpec("data", (2,)),), BATCH, 4)
    log = MemoryLog()
    solvers: list[FakeSolver] = []
    loaders: list[FakeLoader] = []

    def make_solver(board: WeightBoard | None) -> FakeSolver:
        solvers.append(FakeSolver(board))
        return solvers[-1]

    def make_loader() -> FakeLoader:
        loaders.append(FakeLoader())
        return loaders[-1]

    trainer = Trainer(
        batch_records=BATCH,
        ring=ring,
        make_solver=make_solver,
        make_loader=make_loader,
        clock=SystemClock(),
        log=log,
        suspects=suspects,
    )
    await trainer.build()
    await trainer.start(np.zeros(LAYOUT.size, np.float32))
    trainer.feed(ChunkId(0, 0), 0, 10 * BATCH)
    trainer.cut()
    return Stage(trainer, log, ring, solvers, loaders)


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_children_are_renewed_only_when_the_solver_has_weights() -> None:
    on = await stage()
    await on.trainer.renew()
    assert (len(on.solvers), len(on.loaders)) == (2, 2)
    assert on.solvers[0].ended.done()
    assert on.loaders[0].ended.done()
    await on.trainer.renew()
    assert (len(on.solvers), len(on.loaders)) == (2, 2), "these have not begun yet"
    await on.trainer.start(np.ones(LAYOUT.size, np.float32))
    assert on.trainer.board is on.solvers[1].board


async def test_a_solver_whose_layers_were_told_another_place_is_renewed_before_it_begins() -> None:
    on = await stage()
    await on.trainer.renew()
    on.trainer.place = LayerRank(2, 4)
    await on.trainer.renew()
    assert len(on.solvers) == 3
    await on.trainer.renew()
    assert len(on.solvers) == 3, "it was told"


async def test_a_running_solver_whose_layers_were_told_another_place_gives_way_to_one_that_goes_on() -> None:
    on = await stage()
    on.trainer.passes = 30
    supervising = asyncio.ensure_future(on.trainer.supervise())
    on.solvers[0].train(4, publish=True)
    await on.trainer.restart_for_rank()
    await settle()
    assert len(on.solvers) == 1, "it was told what still holds"
    on.trainer.place = LayerRank(2, 4)
    await on.trainer.restart_for_rank()
    await settle()
    assert len(on.solvers) == 2
    assert (on.solvers[1].began_at, on.solvers[1].passes) == (4, 30)
    await on.trainer.restart_for_rank()
    await settle()
    assert len(on.solvers) == 2
    supervising.cancel()


async def first_solver_dies(on: Stage) -> None:
    """It has published four batches, and trained three more."""
    on.solvers[0].train(4, publish=True)
    on.solvers[0].train(7, publish=False)
    await settle()
    on.solvers[0].die("killed by SIGKILL")
    await settle()


async def test_every_batch_is_planned_once_and_written_down_when_it_is_trained() -> None:
    on = await stage()
    assert on.loaders[0].planned == list(range(10))
    on.solvers[0].train(3, publish=True)
    assert on.trainer.note_trained() == 3 * BATCH
    assert on.trainer.note_trained() == 0
    assert [event["sequence"] for event in on.log.events if event["event"] == "trained"] == [0, 1, 2]


async def test_a_dead_solver_goes_on_from_its_last_snapshot_and_what_came_after_is_fed_again() -> None:
    on = await stage()
    supervising = asyncio.create_task(on.trainer.supervise())
    await first_solver_dies(on)
    assert len(on.solvers) == 2
    assert on.solvers[1].began_at == 4
    assert on.solvers[1].board is on.solvers[0].board
    assert on.loaders[1].planned == list(range(4, 10))
    assert (on.ring.head, on.ring.tail) == (4, 4)
    assert on.trainer.solver_restarts == 1
    on.solvers[1].train(7, publish=True)
    on.trainer.note_trained()
    trained = [event["sequence"] for event in on.log.events if event["event"] == "trained"]
    assert trained == [0, 1, 2, 3, 4, 5, 6, 4, 5, 6]
    supervising.cancel()


async def test_what_a_healing_peer_trains_again_is_written_down_only_once_it_is() -> None:
    on = await stage()
    while_healing: list[int] = []

    async def heal(wrong: str, replace: Callable[[NDArray[np.float32]], None]) -> None:
        while_healing.append(on.trainer.note_trained())
        replace(np.ones(LAYOUT.size, np.float32))

    on.trainer.heal = heal
    supervising = asyncio.create_task(on.trainer.supervise())
    on.solvers[0].train(6, publish=True)
    on.trainer.note_trained()
    on.trainer.stream.durable(2)
    await on.trainer.end_solver("its weights hold NaN")
    await settle()
    assert (while_healing, on.solvers[1].began_at) == ([0], 2)
    on.solvers[1].train(5, publish=True)
    on.trainer.note_trained()
    kinds = [event.get("sequence", event["event"]) for event in on.log.events]
    assert kinds == [0, 1, 2, 3, 4, 5, "solver-died", 2, 2, 3, 4]  # the second 2 is that of solver-back
    supervising.cancel()


async def test_what_a_dead_solver_had_not_published_counts_as_trained_again_only_once_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on = await stage()
    built = asyncio.Event()

    async def slow_build(_: FakeSolver) -> WeightLayout:
        await built.wait()
        return LAYOUT

    monkeypatch.setattr(FakeSolver, "build", slow_build)
    supervising = asyncio.create_task(on.trainer.supervise())
    await first_solver_dies(on)
    assert on.trainer.note_trained() == 0
    assert on.trainer.queued_batches == 6
    built.set()
    await settle()
    assert on.log.events[-1] == {"event": "solver-back", "sequence": 4}
    on.solvers[1].train(5, publish=False)
    assert on.trainer.note_trained() == BATCH
    supervising.cancel()


async def test_batches_cut_after_a_restart_reach_the_new_loader_once() -> None:
    on = await stage()
    supervising = asyncio.create_task(on.trainer.supervise())
    await settle()
    on.loaders[0].die("killed by SIGKILL")
    await settle()
    on.trainer.feed(ChunkId(0, 1), 100, 100 + 2 * BATCH)
    on.trainer.cut()
    assert on.loaders[1].planned == list(range(12))
    assert len(on.solvers) == 1
    supervising.cancel()


async def test_a_child_that_keeps_dying_without_progress_ends_the_peer_with_its_cause() -> None:
    on = await stage()
    supervising = asyncio.create_task(on.trainer.supervise())
    for death in range(MAX_DEATHS_WITHOUT_PROGRESS):
        await settle()
        on.solvers[death].die("Caffe refused the model")
    with pytest.raises(SolverDied, match="Caffe refused the model"):
        await supervising


async def test_a_child_that_trains_between_its_deaths_is_restarted_for_ever() -> None:
    on = await stage()
    supervising = asyncio.create_task(on.trainer.supervise())
    for death in range(2 * MAX_DEATHS_WITHOUT_PROGRESS):
        await settle()
        on.solvers[death].train(death + 1, publish=True)
        on.solvers[death].die("killed by SIGKILL")
    await settle()
    assert not supervising.done()
    supervising.cancel()


async def test_a_final_failure_ends_the_peer_at_once_with_what_to_do() -> None:
    on = await stage()
    supervising = asyncio.create_task(on.trainer.supervise())
    await settle()
    on.loaders[0].die("key '00000007': not a Datum", final=True)
    with pytest.raises(DataError, match="not a Datum") as caught:
        await supervising
    assert caught.value.remedy == "do this"


@pytest.mark.parametrize("when", ["opening", "building", "starting"])
async def test_a_child_that_is_killed_while_it_starts_for_the_first_time_is_started_again(when: str) -> None:
    KILLED_AT[:] = [when]
    on = await stage()
    assert not KILLED_AT
    assert len(on.solvers) + len(on.loaders) == 3
    assert on.loaders[-1].planned == list(range(10))
    assert on.trainer.board is on.solvers[-1].board
    assert [event["event"] for event in on.log.events] == [
        "loader-died" if when == "opening" else "solver-died"
    ]


@pytest.mark.parametrize("when", ["opening", "building", "starting"])
@pytest.mark.parametrize("who", ["solver", "loader"])
async def test_a_child_that_is_killed_while_it_is_started_again_is_started_once_more(
    who: str, when: str
) -> None:
    on = await stage()
    supervising = asyncio.create_task(on.trainer.supervise())
    on.solvers[0].train(4, publish=True)
    on.ring.rewind(4)
    await settle()
    KILLED_AT[:] = [when]
    (on.solvers if who == "solver" else on.loaders)[0].die("killed by SIGKILL")
    await settle()
    assert not supervising.done()
    if who == "solver" or when == "opening":
        assert not KILLED_AT
    assert on.loaders[-1].planned == list(range(4, 10))
    assert on.trainer.solver_restarts == (who == "solver")
    KILLED_AT.clear()
    supervising.cancel()


async def test_one_that_is_killed_at_every_start_ends_the_peer_with_its_cause() -> None:
    KILLED_AT[:] = ["building"] * MAX_DEATHS_WITHOUT_PROGRESS
    with pytest.raises(SolverDied, match="was killed"):
        await stage()
    assert not KILLED_AT


async def test_one_that_fails_by_itself_while_it_starts_is_not_tried_again() -> None:
    KILLED_AT[:] = ["building (aborted)"] * 2
    with pytest.raises(SolverDied, match="was killed"):
        await stage()
    assert len(KILLED_AT) == 1
    KILLED_AT.clear()


async def test_a_solver_that_keeps_dying_at_a_batch_ends_the_peer_with_the_records_of_it() -> None:
    on = await stage()
    supervising = asyncio.create_task(on.trainer.supervise())
    for death in range(MAX_DEATHS_WITHOUT_PROGRESS):
        await settle()
        on.solvers[death].train(2, publish=False)
        on.solvers[death].die("killed by SIGSEGV", code=-11)
    with pytest.raises(SolverDied, match="killed by SIGSEGV, again at the same batch: records 8 to 11"):
        await supervising


async def test_a_batch_at_which_the_solver_dies_is_left_out_where_corrupt_records_are() -> None:
    on = await stage(SuspectBatches(1, leave_out=True))
    supervising = asyncio.create_task(on.trainer.supervise())
    for death in range(2):
        await settle()
        on.solvers[death].train(2, publish=False)
        on.solvers[death].die("killed by SIGSEGV", code=-11)
    await settle()
    assert on.loaders[2].parts[2] == (), "the batch is there, and empty"
    assert on.loaders[2].parts[3] == ((0, 12, 16),)
    skipped = [event["record"] for event in on.log.events if event["event"] == Event.SKIPPED]
    assert skipped == [8, 9, 10, 11]
    for death in range(2, 2 + MAX_DEATHS_WITHOUT_PROGRESS):
        assert not supervising.done()
        on.solvers[death].train(7, publish=False)
        on.solvers[death].die("killed by SIGKILL", code=-9)
        await settle()
    with pytest.raises(SolverDied, match="killed by SIGKILL; do this"):
        await supervising
