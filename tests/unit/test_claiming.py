"""When a peer claims, and how much: what it borrows while the store is away stays a little, whoever has died."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from gossip_caffe.errors import StoreUnavailable
from gossip_caffe.job.spec import JobSettings
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.peer.claiming import Claiming
from tests.fake_clock import FakeClock

CHUNK = 256
USUAL = JobSettings().prefetch_batches * 64
"""Records that a slow peer has queued just after it has claimed."""


class Borrowing:
    """Claims that can only be borrowed; each is queued at once and never trained."""

    def __init__(self, trainer: Any) -> None:
        self.owned: dict[int, int] = {}
        self._trainer = trainer

    def borrow(self, want: int) -> int:
        for _ in range(want):
            self.owned[len(self.owned)] = 0
        self._trainer.stream.waiting_records += want * CHUNK
        return want


async def test_a_peer_that_died_while_the_store_is_away_does_not_make_the_others_borrow_without_end() -> None:
    clock = FakeClock(automatic=True)
    spec = SimpleNamespace(
        data=SimpleNamespace(batch_records=64, chunk_records=CHUNK), settings=JobSettings(), iter_size=1
    )
    trainer = SimpleNamespace(stream=SimpleNamespace(waiting_records=0, untrained=True), queued_batches=0)
    claims = Borrowing(trainer)
    claiming = Claiming(
        cast("Any", SimpleNamespace(clock=clock, spec=spec)),
        cast("Any", trainer),
        cast("Any", claims),
        cast("Any", SimpleNamespace(members_changed=lambda now_s: None)),
        lambda: cast(
            "Any", SimpleNamespace(overdue=lambda: True, owns=lambda: True, began_at=-60.0, ttl_s=5.0)
        ),
        lambda: 1,
    )
    claiming.member_changed(PeerRecord("p1", "1", "here:1", "here", 1, "training"), None)
    borrowing = asyncio.create_task(claiming.train_on_credit())
    for _ in range(200):
        await asyncio.sleep(0)
    borrowing.cancel()
    ahead = JobSettings().prefetch_batches * 64
    assert 0 < len(claims.owned) <= -(-ahead // CHUNK)


@pytest.mark.parametrize(
    ("registered_s_ago", "owns", "claims_more"),
    [(60.0, True, True), (1.0, True, False), (60.0, False, False)],
)
async def test_who_has_just_registered_again_or_has_yet_to_takes_nobody_for_dead(
    registered_s_ago: float, owns: bool, claims_more: bool
) -> None:
    clock = FakeClock(automatic=True)
    spec = SimpleNamespace(
        data=SimpleNamespace(batch_records=64, chunk_records=CHUNK), settings=JobSettings(), iter_size=1
    )
    trainer = SimpleNamespace(stream=SimpleNamespace(waiting_records=USUAL), queued_batches=0)
    session = SimpleNamespace(began_at=clock.monotonic() - registered_s_ago, ttl_s=5.0, owns=lambda: owns)
    claiming = Claiming(
        cast("Any", SimpleNamespace(clock=clock, spec=spec)),
        cast("Any", trainer),
        cast("Any", SimpleNamespace(owned={})),
        cast("Any", SimpleNamespace(members_changed=lambda now_s: None)),
        lambda: cast("Any", session),
        lambda: 1,
    )
    claiming.member_changed(PeerRecord("p1", "1", "here:1", "here", 1, "training"), None)
    assert (claiming._wanted(orphans=claiming._orphans) > 0) == claims_more


async def test_peers_that_die_fast_do_not_make_the_others_claim_without_end() -> None:
    clock = FakeClock(automatic=True)
    spec = SimpleNamespace(
        data=SimpleNamespace(batch_records=64, chunk_records=CHUNK), settings=JobSettings(), iter_size=1
    )
    trainer = SimpleNamespace(stream=SimpleNamespace(waiting_records=USUAL), queued_batches=0)
    claiming = Claiming(
        cast("Any", SimpleNamespace(clock=clock, spec=spec)),
        cast("Any", trainer),
        cast("Any", SimpleNamespace(owned=dict.fromkeys(range(3), 1))),
        cast("Any", SimpleNamespace(members_changed=lambda now_s: None)),
        lambda: cast("Any", SimpleNamespace(began_at=-60.0, ttl_s=5.0, owns=lambda: True)),
        lambda: 100,
    )
    helpings = []
    for number in range(20):
        claiming.member_changed(PeerRecord(f"p{number}", "1", "here:1", "here", 1, "training"), None)
        helpings.append(claiming._wanted(orphans=claiming._orphans))
        trainer.stream.waiting_records += CHUNK * helpings[-1]
    assert helpings[0] > 0, "of what the first one left it takes its part at once"
    assert sum(helpings) == helpings[0], "and of the others' once that is trained"
    trainer.stream.waiting_records = USUAL
    assert claiming._wanted(orphans=claiming._orphans) > 0


async def test_a_short_batch_is_cut_when_nothing_is_left_although_the_peer_looks_seldomer_than_it_asks() -> (
    None
):
    clock = FakeClock(automatic=True)
    looks = SimpleNamespace(monotonic=clock.monotonic, sleep=lambda s: clock.sleep(max(s, 1.0)))
    spec = SimpleNamespace(
        data=SimpleNamespace(batch_records=64, chunk_records=CHUNK), settings=JobSettings(), iter_size=1
    )
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

        async def claim(self, want: int) -> float:
            return 0.25

    claiming = Claiming(
        cast("Any", SimpleNamespace(clock=looks, spec=spec)),
        cast("Any", trainer),
        cast("Any", AllTaken()),
        cast("Any", SimpleNamespace()),
        lambda: cast("Any", SimpleNamespace()),
        lambda: 1,
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
    spec = SimpleNamespace(
        data=SimpleNamespace(batch_records=64, chunk_records=CHUNK), settings=JobSettings(), iter_size=1
    )
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
        cast("Any", SimpleNamespace(clock=clock, spec=spec)),
        cast("Any", trainer),
        cast("Any", Unanswered()),
        cast("Any", SimpleNamespace()),
        lambda: cast("Any", SimpleNamespace()),
        lambda: 1,
    )
    tasks = [asyncio.ensure_future(claiming.claim_and_settle()), asyncio.ensure_future(claiming.feed())]
    began = clock.monotonic()
    while clock.monotonic() < began + 20.0:
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    assert max(later - before for before, later in itertools.pairwise([began, *cuts])) <= 0.1
