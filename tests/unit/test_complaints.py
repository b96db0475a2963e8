"""A partner that is wrong is named in the log: soon, and not at each exchange."""

from __future__ import annotations

from gossip_caffe.peer.core.complaints import LONGEST_NAME, MOST_NAMED, QUIET_S, Complaints
from tests.fake_clock import FakeClock


async def test_a_partner_is_named_once_a_minute() -> None:
    clock, said = FakeClock(), list[str]()
    complaints = Complaints(said.append, clock)
    assert complaints.about("p1", "p0: NAME is wrong")
    assert not complaints.about("p1", "p0: NAME is wrong")
    assert complaints.about("p2", "p0: NAME is wrong")
    await clock.advance(QUIET_S)
    assert complaints.about("p1", "p0: NAME is wrong")
    assert said == ["p0: p1 is wrong", "p0: p2 is wrong", "p0: p1 is wrong"]


def test_a_partner_with_a_new_name_in_each_call_fills_no_log_and_steers_no_terminal() -> None:
    said: list[str] = []
    complaints = Complaints(said.append, FakeClock())
    for number in range(100):
        complaints.about(f"\x1b]0;OWNED\x07\n{number}" + 1000 * "x", "NAME is wrong")
    assert len(said) == MOST_NAMED
    assert all(line.isprintable() and len(line) < 2 * LONGEST_NAME for line in said)
