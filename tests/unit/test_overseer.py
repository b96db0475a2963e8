"""What a peer tells its supervisor beside disk and etcd, and what the supervisor makes of it."""

from __future__ import annotations

import asyncio
import os
import socket
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.cluster.fleet.peer_messages import KEPT, PeerMessages, Troubles, kind_of
from gossip_caffe.cluster.supervision.standstill import (
    ETCD_GONE_S,
    TROUBLED_S,
    UNTROUBLED_S,
    Seen,
    Standstill,
)
from gossip_caffe.errors import UsageError
from gossip_caffe.peer.core.overseer import (
    MOST_BYTES,
    Overseer,
    SnapshotWanted,
    Trouble,
    WeightsAt,
    packed,
    unpacked,
)
from gossip_caffe.solver.engines.layout import WeightLayout

LAYOUT = WeightLayout.of([("a", 0, (2, 3)), ("a", 1, (2,)), ("b", 0, (2, 3), 0)], frozen=1)
FULL = "p0: cannot write checkpoint 0001-p0-9f to /x/p0 (No space left on device); free some disk space"


@given(st.text())
def test_a_trouble_arrives_as_it_was_told(line: str) -> None:
    assert unpacked(packed(Trouble(line))) == Trouble(line)


def test_a_standing_arrives_as_it_was_told() -> None:
    assert unpacked(packed(WeightsAt("10.0.0.1:7", LAYOUT))) == WeightsAt("10.0.0.1:7", LAYOUT)


async def test_a_supervisor_asks_for_snapshots_and_other_messages_change_nothing() -> None:
    messages = PeerMessages(lambda _: None)
    overseer = Overseer(os.dup(messages.peer_socket.fileno()))
    overseer.listen()
    messages.begin()
    messages.send(SnapshotWanted())
    messages._socket.send(b"of another version")
    messages.send(Trouble("one"))
    messages.send(SnapshotWanted())
    async with asyncio.timeout(10):
        while overseer.snapshots_wanted < 2:
            await asyncio.sleep(0.01)
    messages.close()
    messages.send(SnapshotWanted())  # to a peer that has ended
    await asyncio.sleep(0.01)
    assert overseer.snapshots_wanted == 2


@given(st.binary(max_size=200))
def test_whatever_else_comes_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which of its kinds is all the same
        unpacked(message)


@pytest.mark.parametrize(
    "record", [b"[]", b"{}", b'{"trouble":1}', b'{"address":"a","layout":{}}', b" " * 2 * MOST_BYTES]
)
def test_what_is_no_message_is_refused(record: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        unpacked(zlib.compress(record))


def test_without_a_supervisor_the_newest_trouble_is_kept() -> None:
    overseer = Overseer()
    overseer.send(Trouble("a"))
    overseer.send(WeightsAt("x:1", LAYOUT))
    assert overseer.newest == "a"


def test_what_is_no_socket_is_refused() -> None:
    reader, writer = os.pipe()
    with pytest.raises(UsageError, match="is no socket"):
        Overseer(reader)
    os.close(reader)
    os.close(writer)


def test_a_supervisor_that_reads_nothing_makes_no_peer_wait() -> None:
    ours, peer_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    overseer = Overseer(os.dup(peer_socket.fileno()))
    for number in range(5000):
        overseer.send(Trouble(f"{number}" * 100))
    ours.close()
    overseer.send(Trouble("last"))
    assert overseer.newest == "last"
    peer_socket.close()


async def test_a_supervisor_hears_its_peers_until_they_end() -> None:
    heard: list[str] = []
    messages = PeerMessages(heard.append)
    overseer = Overseer(os.dup(messages.peer_socket.fileno()))
    messages.begin()
    overseer.send(Trouble("one"))
    overseer.send(WeightsAt("x:1", LAYOUT))
    assert overseer._socket is not None
    overseer._socket.send(b"of another version")
    overseer.send(Trouble("two"))
    async with asyncio.timeout(10):
        while heard != ["one", "two"]:
            await asyncio.sleep(0.01)
    assert messages.weights_at == WeightsAt("x:1", LAYOUT)
    overseer.send(Trouble("three"))
    overseer._socket.close()
    messages.close()
    assert heard == ["one", "two", "three"]


def test_troubles_of_one_kind_are_told_once() -> None:
    troubles = Troubles()
    assert troubles.note(FULL, 1.0)
    assert not troubles.note(FULL.replace("p0", "p1").replace("0001", "0002"), 2.0)
    assert troubles.note("p0: another thing", 3.0)
    assert [(told.line[:2], told.count, told.last_s) for told in troubles.told] == [
        ("p1", 2, 2.0),
        ("p0", 1, 3.0),
    ]
    assert kind_of(FULL) == "cannot write checkpoint # to # (No space left on device); free some disk space"


def test_no_more_troubles_are_kept_than_can_be_read() -> None:
    troubles = Troubles()
    for number in range(3 * KEPT):
        troubles.note(f"p0: {chr(ord('a') + number)}", 0.0)
    assert len(troubles.told) == KEPT


@pytest.mark.parametrize(
    ("seen", "patience_s", "why"),
    [
        (Seen(trained=False, finished=False), None, ""),
        (Seen(trained=True, finished=True, trouble="x"), None, ""),
        (Seen(trained=False, finished=False, trouble="x"), None, ""),
        (
            Seen(trained=True, finished=False, trouble="x"),
            TROUBLED_S,
            "the last checkpoint cannot be written (x)",
        ),
        (Seen(trained=True, finished=False), UNTROUBLED_S, "the last checkpoint cannot be written"),
        (Seen(trained=False, finished=False, etcd_gone="x"), ETCD_GONE_S, "etcd cannot be started again (x)"),
        (
            Seen(trained=True, finished=False, etcd_gone="x"),
            TROUBLED_S,
            "the last checkpoint cannot be written (x)",
        ),
    ],
)
def test_a_job_is_given_up_only_after_a_while(seen: Seen, patience_s: float | None, why: str) -> None:
    standstill = Standstill()
    assert standstill.why(seen, 100.0) == ""
    if patience_s is None:
        assert standstill.why(seen, 1e9) == ""
        return
    assert standstill.why(seen, 99.0 + patience_s) == ""
    assert standstill.why(seen, 100.0 + patience_s) == why


def test_what_is_over_begins_anew() -> None:
    standstill = Standstill()
    gone, well = Seen(trained=False, finished=False, etcd_gone="x"), Seen(trained=False, finished=False)
    assert standstill.why(gone, 0.0) == ""
    assert standstill.why(well, ETCD_GONE_S - 1) == ""
    assert standstill.why(gone, ETCD_GONE_S) == ""
    assert standstill.why(gone, 2 * ETCD_GONE_S - 1) == ""
