"""Who cannot be reached is named once, with address, cause and the option to check; not while it may be dying."""

from __future__ import annotations

import pytest

from gossip_caffe.gossip.policy.contact import cause_of
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.peer.core.unreached import BEYOND_LEASE_S, SAY_AFTER_AT_MOST_S, SAY_AGAIN_S, Unreached
from tests.fake_clock import FakeClock

REFUSED = (
    "127.0.0.9:7777: unavailable failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.9:7777: "
    "Failed to connect to remote host: connect: Connection refused (111)"
)
LINE = (
    "b: cannot reach a at 127.0.0.9:7777 (connection refused); check --advertise of a, the firewall, and the second "
    "port (bulk)"
)


class Peer:
    """A peer ``b`` that knows a member ``a``."""

    def __init__(self, lease_ttl_s: float = 5.0) -> None:
        self.clock = FakeClock(automatic=True)
        self.lines: list[str] = []
        self.members = {"a": PeerRecord("a", "1", "127.0.0.9:7777", "host", 1, "training")}
        self.unreached = Unreached("b", self.clock, self.lines.append, lambda: self.members, lease_ttl_s)

    async def fail_for(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.2)):
            self.unreached.trying("a")
            self.unreached.failed("a", "127.0.0.9:7777", REFUSED)
            self.unreached.look()
            await self.clock.sleep(0.2)
        self.unreached.look()


@pytest.mark.parametrize("lease_ttl_s", [2.0, 5.0, 600.0])
async def test_it_is_said_once_within_ten_seconds_and_not_while_a_lease_may_still_end(
    lease_ttl_s: float,
) -> None:
    peer = Peer(lease_ttl_s)
    await peer.fail_for(min(lease_ttl_s + BEYOND_LEASE_S, SAY_AFTER_AT_MOST_S) - 0.4)
    assert not peer.lines
    assert not peer.unreached.lines
    assert not peer.unreached.is_unreached("a")
    await peer.fail_for(10.0)
    assert peer.lines == [LINE]
    assert peer.unreached.lines == (LINE.removeprefix("b: "),)
    assert peer.unreached.is_unreached("a")


async def test_it_is_said_again_seldom_and_ever_more_so() -> None:
    peer = Peer()
    await peer.fail_for(10.0 + 10 * SAY_AGAIN_S)
    assert peer.lines == [LINE] * 4, "after 1, 3 and 7 minutes"


async def test_an_answer_of_any_kind_ends_it() -> None:
    peer = Peer()
    await peer.fail_for(10.0)
    peer.unreached.failed("a", "127.0.0.9:7777", "a does not hold model.caffemodel of c1")
    assert not peer.unreached.lines
    await peer.fail_for(2.0)
    peer.unreached.answered("a")
    await peer.fail_for(3.0)
    assert len(peer.lines) == 1, "each time it has to last"


async def test_a_call_without_an_answer_counts_while_it_lasts() -> None:
    peer = Peer()
    peer.unreached.trying("a")
    await peer.clock.sleep(9.0)
    peer.unreached.look()
    assert peer.lines == [LINE.replace("connection refused", "no answer")]


async def test_nothing_is_said_of_a_peer_without_a_record() -> None:
    peer = Peer()
    await peer.fail_for(3.0)
    del peer.members["a"]
    await peer.fail_for(30.0)
    assert not peer.lines
    assert not peer.unreached.lines


@pytest.mark.parametrize(
    ("why", "cause"),
    [
        (REFUSED, "connection refused"),
        ("h:1: deadline_exceeded Deadline Exceeded", "no answer"),
        ("h:1 sent nothing for 20 s", "no answer"),
        ("h:1: shows nothing for 5 s", "no answer"),
        ("gpu3:1: unavailable DNS resolution failed for gpu3:1", "its name cannot be resolved"),
        ("h:1 failed: UNAVAILABLE ... connect: No route to host (113)", "no route to host"),
        ("h:1 failed: UNAVAILABLE something new", "no connection"),
        ("h:1: not_found does not hold it", ""),
        ("its manifest is not the one that was announced", ""),
    ],
)
def test_the_cause_is_a_few_words_and_none_where_it_was_reached(why: str, cause: str) -> None:
    assert cause_of(why) == cause


async def test_a_table_shows_it_while_it_is_so_and_no_longer() -> None:
    peer = Peer()
    assert peer.unreached.trouble("b: the disk is full") == "b: the disk is full"
    await peer.fail_for(10.0)
    assert peer.unreached.trouble("b: the disk is full") == LINE
    peer.unreached.answered("a")
    assert peer.unreached.trouble(LINE) == ""
    assert peer.unreached.trouble("b: the disk is full") == "b: the disk is full"
