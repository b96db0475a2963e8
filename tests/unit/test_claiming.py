"""When a peer claims, and how much: few chunks are trained unclaimed while the store is away, also after a death."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from gossip_caffe.errors import StoreUnavailable
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.peer.work.claim_states import ClaimEvent
from gossip_caffe.peer.work.claiming import Claiming
from gossip_caffe.peer.work.claims import Attempt
from gossip_caffe.shards.choice import PlanAge
from tests.fake_clock import FakeClock

CHUNK = 256
SPEC = SimpleNamespace(
    data=SimpleNamespace(batch_records=64, chunk_records=CHUNK), settings=JobSettings(), iter_size=1
)
WRITES = cast("Any", SimpleNamespace(writing=SimpleNamespace(stuck=False)))
USUAL = JobSettings().prefetch_batches * 64
"""Records that a slow peer has queued just after it has claimed."""


class Unclaimed:
    """Claims of a peer without a store; each chunk is queued at once and never trained."""

    def __init__(self, trainer: Any) -> None:
        self.owned: dict[int, int] = {}
        self._trainer = trainer

    def train_unclaimed(self, want: int) -> int:
        for _ in range(want):
            self.owned[len(self.owned)] = 0
        self._trainer.stream.waiting_records += want * CHUNK
        return want


class Left:
    """A chooser that has to plan for every death, and then knows the chunks that are left behind here."""

    def __init__(self, left: int) -> None:
        self._left = left
        self._plan = PlanAge.CURRENT

    def members_changed(self, now_s: float) -> None:
        self._plan = PlanAge.DUE

    def plan_age(self, now_s: float) -> PlanAge:
        return self._plan

    def behind(self) -> int:
        return self._left

    def claimed(self, wanted: int) -> None:
        if self._plan is PlanAge.DUE:
            self._plan = PlanAge.CURRENT
        else:
            self._left -= min(wanted, self._left)


async def test_a_peer_that_died_while_the_store_is_away_does_not_make_the_others_train_unclaimed_without_end() -> (
    None
):
    clock = FakeClock(automatic=True)
    trainer = SimpleNamespace(stream=SimpleNamespace(waiting_records=0, untrained=True), queued_batches=0)
    claims = Unclaimed(trainer)
    claiming = Claiming(
        cast("Any", SimpleNamespace(clock=clock, spec=SPEC)),
        cast("Any", trainer),
        cast("Any", claims),
        cast("Any", Left(2)),
        lambda: cast(
            "Any", SimpleNamespace(overdue=lambda: True, owns=lambda: True, began_at=-60.0, ttl_s=5.0)
        ),
        lambda: WRITES,
    )
    claiming.member_changed(PeerRecord("p1", "1", "here:1", "here", 1, "training"), None)
    training = asyncio.create_task(claiming.train_unclaimed())
    for _ in range(200):
        await asyncio.sleep(0)
    training.cancel()
    ahead = JobSettings().prefetch_batches * 64
    assert 0 < len(claims.owned) <= -(-ahead // CHUNK)


@pytest.mark.parametrize(
    ("registered_s_ago", "again", "owns", "claims_more"),
    [
        (60.0, True, True, True),
        (1.0, True, True, False),
        (60.0, True, False, False),
        (1.0, False, True, True),
    ],
)
async def test_who_has_just_registered_again_or_has_yet_to_takes_nobody_for_dead_but_a_newcomer_does(
    registered_s_ago: float, again: bool, owns: bool, claims_more: bool
) -> None:
    clock = FakeClock(automatic=True)
    trainer = SimpleNamespace(stream=SimpleNamespace(waiting_records=USUAL), queued_batches=0)
    session = SimpleNamespace(began_at=clock.monotonic() - registered_s_ago, ttl_s=5.0, owns=lambda: owns)
    sessions = [SimpleNamespace() if again else session]
    claiming = Claiming(
        cast("Any", SimpleNamespace(clock=clock, spec=SPEC)),
        cast("Any", trainer),
        cast("Any", SimpleNamespace(owned={})),
        cast("Any", Left(2)),
        lambda: cast("Any", sessions[-1]),
        lambda: WRITES,
    )
    sessions.append(session)
    claiming.member_changed(PeerRecord("p1", "1", "here:1", "here", 1, "training"), None)
    assert (claiming._decide() > 0) == claims_more


async def test_just_what_a_dead_peer_left_is_claimed_beside_what_is_queued_and_only_once() -> None:
    clock = FakeClock(automatic=True)
    trainer = SimpleNamespace(stream=SimpleNamespace(waiting_records=10**6), queued_batches=0)
    chooser = Left(3)
    claiming = Claiming(
        cast("Any", SimpleNamespace(clock=clock, spec=SPEC)),
        cast("Any", trainer),
        cast("Any", SimpleNamespace(owned={})),
        cast("Any", chooser),
        lambda: cast("Any", SimpleNamespace(began_at=-60.0, ttl_s=5.0, owns=lambda: True)),
        lambda: WRITES,
    )
    assert claiming._decide() == 0, "nobody has died"
    claiming.member_changed(PeerRecord("p1", "1", "here:1", "here", 1, "training"), None)
    wanted = []
    while left := claiming._decide():
        wanted.append(left)
        chooser.claimed(left)
    assert wanted == [1, 3], "the plan is made by a claim; then it is known what was left"
    assert claiming._lacking() == 0, "enough is queued"
    claiming.member_changed(PeerRecord("p2", "1", "here:1", "here", 1, "training"), None)
    assert claiming._decide() == 1
    chooser.claimed(1)
    assert claiming._decide() == 0, "the second one left nothing that is planned here"


async def test_a_short_batch_is_cut_when_nothing_is_left_although_the_peer_looks_seldomer_than_it_asks() -> (
    None
):
    clock = FakeClock(automatic=True)
    looks = SimpleNamespace(monotonic=clock.monotonic, sleep=lambda s: clock.sleep(max(s, 1.0)))
    cuts: list[bool] = []
    trainer = SimpleNamespace(
        stream=SimpleNamespace(waiting_records=6, untrained=True),
        queued_batches=0,
        note_trained=lambda: None,
        cut=lambda *, flush: cuts.append(flush),
        board=SimpleNamespace(set_flush=lambda flush: None),
    )

    class AllTaken:
        unsettled_shared = 0
        owned: ClassVar[dict[int, int]] = {0: 1}

        async def claim(self, want: int) -> Attempt:
            return Attempt(ClaimEvent.NONE_FREE, "every chunk is owned", rest_s=0.25)

    claiming = Claiming(
        cast("Any", SimpleNamespace(clock=looks, spec=SPEC)),
        cast("Any", trainer),
        cast("Any", AllTaken()),
        cast("Any", SimpleNamespace()),
        lambda: cast("Any", SimpleNamespace()),
        lambda: WRITES,
    )
    tasks = [asyncio.ensure_future(claiming.feed()), asyncio.ensure_future(claiming.claim_and_settle())]
    began = clock.monotonic()
    while clock.monotonic() < began + 5.0:
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert any(cuts)


async def test_batches_are_cut_although_the_store_does_not_answer() -> None:
    clock = FakeClock(automatic=True)
    cuts: list[float] = []
    trainer = SimpleNamespace(
        stream=SimpleNamespace(waiting_records=0, untrained=True),
        queued_batches=0,
        note_trained=lambda: None,
        cut=lambda *, flush: cuts.append(clock.monotonic()),
        board=SimpleNamespace(set_flush=lambda flush: None),
    )

    class Unanswered:
        unsettled_shared = 1
        owned: ClassVar[dict[int, int]] = {}

        async def settle(self) -> None:
            await clock.sleep(8.0)
            raise StoreUnavailable("nobody answers")

    claiming = Claiming(
        cast("Any", SimpleNamespace(clock=clock, spec=SPEC)),
        cast("Any", trainer),
        cast("Any", Unanswered()),
        cast("Any", SimpleNamespace()),
        lambda: cast("Any", SimpleNamespace()),
        lambda: WRITES,
    )
    tasks = [asyncio.ensure_future(claiming.claim_and_settle()), asyncio.ensure_future(claiming.feed())]
    began = clock.monotonic()
    while clock.monotonic() < began + 20.0:
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    assert max(later - before for before, later in itertools.pairwise([began, *cuts])) <= 0.1
