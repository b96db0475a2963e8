"""Who gets a place, and who gives way: the slow never keep the fast out, and who is at its pace is never sent away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.gossip.codecs.message import FramesCorrupt, Message, Refusal
from gossip_caffe.gossip.policy import deadline
from gossip_caffe.gossip.policy.deadline import LONGEST_S, first_deadline_s, whole_deadline_s
from gossip_caffe.gossip.protocol.admission import (
    BRIEF_S,
    GRACE_S,
    OFFERS,
    STILL_S,
    Admission,
    Caller,
    HeldPlace,
    admission,
)
from gossip_caffe.gossip.protocol.answering import MOST_IN_FLIGHT
from gossip_caffe.gossip.protocol.places import FEW, LOOK_S, Places, connection
from gossip_caffe.gossip.transport.file_serving import PATIENCE
from gossip_caffe.sim.virtual_time import VirtualClock, run
from tests.exchange_net import Net, offered_by_p0

SIZE = 738_344


NEW = Caller("new", "ipv4:new")


def held(
    partner: str = "p", age_s: float = 0.0, moved: int | None = None, still_s: float = 0.0, source: str = ""
) -> HeldPlace:
    return HeldPlace(Caller(partner, source), age_s, SIZE, moved, still_s)


def test_one_that_is_behind_gives_way_and_one_at_its_pace_never_does() -> None:
    slow, fast = held("slow", 2.0, 1), held("fast", 2.0, SIZE // 2)
    found = admission(NEW, [fast, slow, fast, fast], 4)
    assert (found.is_admitted, found.instead_of) == (True, 1)
    assert not admission(NEW, [replace(fast, caller=Caller(f"p{n}")) for n in range(4)], 4).is_admitted


def test_what_nobody_can_measure_is_left_in_peace() -> None:
    assert not admission(NEW, [held(f"p{n}", 1e6) for n in range(4)], 4).is_admitted


def test_one_of_which_nothing_moves_any_more_is_behind_however_far_it_is() -> None:
    assert held(age_s=3.0, moved=SIZE - 1, still_s=STILL_S + 0.1).behind_s > 0
    assert held(age_s=3.0, moved=SIZE - 1, still_s=STILL_S - 0.1).behind_s < 0


def test_a_joiner_on_a_slow_line_keeps_its_place_and_one_that_reads_nothing_does_not() -> None:
    """Two hundred that pull at once share one line, and one disk."""
    size = 100_000_000
    slow = replace(held("slow", 60.0, size // 2), size_bytes=size, patience=PATIENCE)
    assert slow.behind_s < 0
    assert replace(slow, patience=OFFERS).behind_s > 0
    assert replace(slow, still_s=6.0).behind_s > 0
    assert replace(slow, moved_bytes=size // 100).behind_s > 0


def test_one_partner_does_not_keep_all_places_from_the_others() -> None:
    greedy = [held("greedy", float(age), SIZE // 2) for age in range(4)]
    found = admission(NEW, greedy, 4)
    assert (found.is_admitted, found.instead_of) == (True, 3)
    assert not admission(Caller("greedy"), greedy, 4).is_admitted


def test_nor_does_one_connection_whatever_names_come_by_it() -> None:
    crowd = [held(f"slow{n}", float(n), SIZE // 2, source="ipv4:crowd") for n in range(3)]
    alone = held("alone", 3.4, SIZE // 2, source="ipv4:alone")
    found = admission(NEW, [alone, *crowd], 4)
    assert (found.is_admitted, found.instead_of) == (True, 3)
    assert not admission(Caller("slow9", "ipv4:crowd"), [alone, *crowd], 4).is_admitted


def test_callers_on_unix_sockets_share_one_connection_and_are_no_crowd() -> None:
    near = [held(f"p{n}", 0.1, SIZE // 2, source=connection("unix:")) for n in range(4)]
    assert not admission(Caller("new", connection("unix:@abstract")), near, 4).is_admitted


def test_a_proven_caller_on_a_unix_socket_takes_the_place_of_a_slow_one() -> None:
    slow = [held(f"slow{n}", BRIEF_S + 0.1 + n / 10, 1, source=connection("unix:")) for n in range(4)]
    near = Caller("near", connection("unix:"))
    assert not admission(near, slow, 4).is_admitted
    assert admission(near, slow, 4, is_proven=True).instead_of == 3


def test_one_that_is_proven_takes_the_place_of_one_that_is_not_and_dawdles() -> None:
    """A crowd that opens its slow offers again and again has none that is older than its grace."""
    places = [held(f"slow{n}", BRIEF_S + 0.1 + n / 10, 1, source=f"ipv4:{n}") for n in range(4)]
    assert all(place.behind_s <= 0 for place in places)
    assert not admission(NEW, places, 4).is_admitted
    found = admission(NEW, places, 4, is_proven=True)
    assert (found.is_admitted, found.instead_of) == (True, 3)
    at_pace = [replace(place, moved_bytes=SIZE // 2) for place in places]
    for steady in (at_pace, [replace(place, is_proven=True) for place in places]):
        assert not admission(NEW, steady, 4, is_proven=True).is_admitted


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.floats(0, 100),
            st.none() | st.integers(0, SIZE),
            st.floats(0, 10),
            st.sampled_from(["", "ipv4:x", "ipv4:y"]),
        ),
        max_size=6,
    ),
    st.builds(Caller, st.sampled_from("abcd"), st.sampled_from(["", "ipv4:x", "ipv4:z"])),
    st.booleans(),
)
def test_a_place_is_taken_only_where_none_is_free_and_only_from_one_that_is_slow_or_has_more(
    places: list[tuple[str, float, int | None, float, str]], newcomer: Caller, is_proven: bool
) -> None:
    taken = [held(*place) for place in places]
    found = admission(newcomer, taken, 4, is_proven)
    assert found.reason
    if len(taken) < 4:
        assert (found.is_admitted, found.instead_of) == (True, None)
    elif found.instead_of is not None:
        loser = taken[found.instead_of]
        has, mine = (
            sum(place.caller.partner == one.partner for place in taken) for one in (loser.caller, newcomer)
        )
        by_its, by_mine = (
            sum(place.caller.source == one.source for place in taken) for one in (loser.caller, newcomer)
        )
        crowds = "" not in {loser.caller.source, newcomer.source} and by_its > by_mine + 1
        assert loser.behind_s > 0 or has > mine + 1 or crowds or (is_proven and loser.is_late)
    else:
        assert not found.is_admitted
        assert all(place.behind_s <= 0 for place in taken)


def test_a_transfer_has_a_deadline_for_the_whole_from_its_size() -> None:
    assert whole_deadline_s(2 * SIZE) == first_deadline_s(2 * SIZE)
    assert whole_deadline_s(2 * SIZE, 0.1) == first_deadline_s(2 * SIZE)
    assert whole_deadline_s(2 * SIZE, 20.0) == 20.0  # its sender waits as long
    assert whole_deadline_s(2 * SIZE, 1e9) == LONGEST_S + 2 * SIZE / deadline.SLOWEST_BYTES_PER_S


@dataclass
class Slow:
    """An offer of which a byte comes every 8 s."""

    clock: VirtualClock
    moved_bytes: int = 0
    allowed_s: float = 0.0
    source: str = ""

    async def __call__(self) -> Message:
        while True:
            await self.clock.sleep(8.0)
            self.moved_bytes += 1


@dataclass
class Quick:
    """An offer that comes at once."""

    clock: VirtualClock
    offer: Message
    moved_bytes: int = 0
    allowed_s: float = 0.0
    source: str = "ipv4:honest"

    async def __call__(self) -> Message:
        await self.clock.sleep(0.05)
        self.moved_bytes = len(self.offer.payload)
        return self.offer


def on_virtual_time(course: Callable[[Net, VirtualClock], Awaitable[None]]) -> None:
    async def whole() -> None:
        clock = VirtualClock()
        net = Net(2)
        for peer in net.peers.values():
            peer.local.clock = peer.answering._receiving._clock = clock
        await course(net, clock)

    run(whole())


def test_a_slow_receipt_ends_by_its_deadline_and_says_so() -> None:
    async def course(net: Net, clock: VirtualClock) -> None:
        offer = await offered_by_p0(net)
        began_at = clock.monotonic()
        answer = await net.peers["p1"].answering.receive(offer, len(offer.payload), Slow(clock))
        assert answer.refusal is Refusal.CORRUPT_FRAME
        assert "came within 5" in answer.reason
        assert clock.monotonic() - began_at == pytest.approx(first_deadline_s(2 * len(offer.payload)))

    on_virtual_time(course)


@pytest.mark.parametrize("connections", [1, 12])
def test_slow_offers_for_a_minute_cost_others_at_most_a_fifth_of_their_exchanges(connections: int) -> None:
    """Twelve of them to one peer, each opened again as soon as it has ended, by one connection or by twelve."""

    async def course(net: Net, clock: VirtualClock) -> None:
        offer = await offered_by_p0(net)
        ended_at, opened = clock.monotonic() + 60.0, 0

        async def hostile(number: int) -> Message:
            nonlocal opened
            while True:
                opened += 1
                header = replace(offer, peer=f"slow{number}", exchange_id=f"slow-{opened}")
                slow = Slow(clock, source=f"ipv4:{number % connections}")
                answer = await net.peers["p1"].answering.receive(header, len(offer.payload), slow)
                if answer.refusal is Refusal.OVERLOADED:
                    await clock.sleep(0.2)

        async with asyncio.TaskGroup() as group:
            slow = [group.create_task(hostile(number)) for number in range(3 * MOST_IN_FLIGHT)]
            asked = applied = 0
            while clock.monotonic() < ended_at:
                header = replace(offer, exchange_id=f"honest-{asked}")
                answer = await net.peers["p1"].answering.receive(
                    header, len(offer.payload), Quick(clock, header)
                )
                asked += 1
                applied += answer.refusal is Refusal.NONE
                await clock.sleep(0.3)
            for task in slow:
                task.cancel()
        assert opened > 300
        assert applied >= 0.8 * asked

    on_virtual_time(course)


def test_who_was_proven_and_breaks_off_has_to_come_whole_again() -> None:
    async def course(net: Net, clock: VirtualClock) -> None:
        del net
        places, caller = Places(1, clock), Caller("a", "ipv4:a")

        async def come(is_whole: bool) -> None:
            async with places.taken(caller, SIZE) as place:
                await place.transfer(clock.sleep(0.1) if is_whole else failed())

        async def failed() -> None:
            raise FramesCorrupt("half of it")

        async with places.taken(Caller("slow", "ipv4:slow"), SIZE) as dawdling:
            dawdling.measure(slow := Slow(clock))
            transfer = asyncio.ensure_future(dawdling.transfer(slow()))
            await clock.sleep(2 * BRIEF_S)
            assert not places.admission(caller).is_admitted
            transfer.cancel()
        await come(is_whole=True)
        async with places.taken(Caller("slow", "ipv4:slow"), SIZE) as dawdling:
            dawdling.measure(slow := Slow(clock))
            transfer = asyncio.ensure_future(dawdling.transfer(slow()))
            await clock.sleep(2 * BRIEF_S)
            assert places.admission(caller).is_admitted
            assert not places.admission(replace(caller, source="ipv4:other")).is_admitted
            transfer.cancel()
        with pytest.raises(FramesCorrupt):
            await come(is_whole=False)
        assert caller not in places._proven

    on_virtual_time(course)


def test_a_place_that_was_lost_is_given_back_once() -> None:
    async def course(net: Net, clock: VirtualClock) -> None:
        del net
        places = Places(1, clock)

        async def hold(partner: str) -> str:
            async with places.taken(Caller(partner), SIZE) as place:
                slow = Slow(clock)
                place.measure(slow)
                try:
                    await place.transfer(slow())
                except Exception as error:
                    return type(error).__name__
            return ""

        async with asyncio.TaskGroup() as group:
            first = group.create_task(hold("a"))
            await clock.sleep(GRACE_S + 0.1)
            assert await places.wait_for(Caller("b"), 1.0)
            second = group.create_task(hold("b"))
            await clock.sleep(0.1)
            assert first.result() == "PlaceLost"
            assert not await places.wait_for(Caller("c"), 0.5)
        assert second.result() == "TooSlow"
        assert places.admission(Caller("d")).is_admitted

    on_virtual_time(course)


async def test_an_offer_that_breaks_off_still_says_how() -> None:
    net = Net(2)
    offer = await offered_by_p0(net)

    async def read() -> Message:
        raise FramesCorrupt("half of it")

    answer = await net.peers["p1"].answering.receive(offer, len(offer.payload), read)
    assert (answer.refusal, answer.reason) == (Refusal.CORRUPT_FRAME, "half of it")


def test_two_hundred_who_wait_look_seldom_and_are_served_one_after_the_other() -> None:
    """A crowd that looks all the time leaves nobody any time to serve it."""

    async def course(net: Net, clock: VirtualClock) -> None:
        del net
        places, looks, served, began_at = Places(1, clock), 0, 0, clock.monotonic()
        admission_now = places.admission

        def counted(newcomer: Caller) -> Admission:
            nonlocal looks
            looks += 1
            return admission_now(newcomer)

        places.admission = counted  # type: ignore[method-assign]

        async def come(number: int) -> None:
            nonlocal served
            caller = Caller(f"p{number}")
            assert await places.wait_for(caller, 60.0)
            async with places.taken(caller, SIZE) as place:
                await place.transfer(clock.sleep(0.2))
                served += 1

        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(come(number))
        assert served == 200
        assert clock.monotonic() - began_at < 200 * 0.2 + 1.0, "no place stays free for long"
        assert looks < 40 * FEW / LOOK_S + 3 * 200

    on_virtual_time(course)
