"""A client's watches of etcd, against streams that do what a test says: nothing ends them without a word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from gossip_caffe.background import checked_by_owner, owned
from gossip_caffe.errors import StoreError, StoreRefused
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.membership.etcd.etcd_channel import EtcdConnection
from gossip_caffe.membership.etcd.etcd_watch import ASK_AFTER_S, DEAD_AFTER_S, WatchHub
from gossip_caffe.membership.etcd.store import Changed, Reset
from gossip_caffe.sim.virtual_time import run
from gossip_caffe.wire import etcd_pb2 as pb
from tests.scripted_etcd import Call, ScriptedEtcd

SOON_S = 5.0
REFUSED = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"


class Consumer:
    """One that watches a prefix. ``ended``: by what, once it has."""

    def __init__(self, hub: WatchHub, prefix: str = "/a/") -> None:
        self.seen: list[str] = []
        self.resets = 0
        self.ended = False
        self.error: BaseException | None = None
        self._items = hub.watch(prefix)
        self.task = owned(self._follow(), f"consumer of {prefix}", checked_by_owner)

    async def _follow(self) -> None:
        try:
            async for item in self._items:
                if isinstance(item, Reset):
                    self.resets += 1
                    self.seen += [f"={entry.key}" for entry in item.listing.items]
                else:
                    assert isinstance(item, Changed)
                    self.seen.append(f"{'+' if item.value is not None else '-'}{item.key}")
            self.ended = True
        except Exception as error:  # the test looks at it
            self.ended, self.error = True, error


def on_virtual_time(
    scene: Callable[[ScriptedEtcd, WatchHub], Coroutine[Any, Any, None]], *endpoints: str
) -> ScriptedEtcd:
    async def played() -> ScriptedEtcd:
        etcd = ScriptedEtcd(*endpoints)
        hub = WatchHub(cast(EtcdConnection, etcd), etcd.list)
        await scene(etcd, hub)
        await hub.close()
        return etcd

    return run(played())


def test_a_watch_gives_what_is_there_and_every_change_in_order() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        etcd.put("/a/1")
        etcd.put("/b/1")
        consumer, other = Consumer(hub), Consumer(hub, "/b/")
        await asyncio.sleep(0.1)
        etcd.put("/a/2")
        etcd.put("/b/1", None)
        etcd.put("/a/1", None)
        await asyncio.sleep(0.1)
        assert consumer.seen == ["=/a/1", "+/a/2", "-/a/1"]
        assert other.seen == ["=/b/1", "-/b/1"]
        assert len(etcd.calls) == 1

    on_virtual_time(scene)


def test_a_revision_that_is_parted_between_two_fragments_is_given_whole() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        consumer = Consumer(hub)
        await asyncio.sleep(0.1)
        call = etcd.calls[0]
        assert call.creates()[0].fragment
        (number,) = call.watches

        def reply(*events: tuple[str, int], more: bool = False) -> pb.WatchResponse:
            return pb.WatchResponse(
                watch_id=number,
                fragment=more,
                events=[
                    pb.Event(kv=pb.KeyValue(key=key.encode(), mod_revision=revision))
                    for key, revision in events
                ],
            )

        call.send(reply(("/a/1", 8), ("/a/2", 9), more=True))
        call.send(reply(("/a/3", 9), more=True))
        call.send(reply(("/a/4", 9)))
        call.send(reply(("/a/1", 8)))
        await asyncio.sleep(0.1)
        assert consumer.seen == ["+/a/1", "+/a/2", "+/a/3", "+/a/4"]

    on_virtual_time(scene)


@pytest.mark.parametrize("told", [True, False])
def test_a_write_to_a_call_that_has_ended_costs_a_pause_and_nothing_else(told: bool) -> None:
    """The writer meets the end (``asyncio.InvalidStateError``) before, or after, the reader does."""

    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        consumer = Consumer(hub)
        await asyncio.sleep(0.1)
        etcd.calls[0].end(told=told)
        late = Consumer(hub, "/b/")  # is to be opened on the call that is over
        await asyncio.sleep(SOON_S)
        etcd.put("/a/1")
        etcd.put("/b/1")
        await asyncio.sleep(0.1)
        assert consumer.seen == ["+/a/1"]
        assert late.seen == ["+/b/1"]
        assert etcd.calls[0].cancelled

    on_virtual_time(scene)


@pytest.mark.parametrize(
    "end",
    [
        lambda call: call.send(grpc.aio.EOF),
        lambda call: call.end(grpc.StatusCode.UNAVAILABLE),
        lambda call: call.end(grpc.StatusCode.INTERNAL),
        lambda call: call.end(grpc.StatusCode.UNKNOWN),
        lambda call: call.end(grpc.StatusCode.RESOURCE_EXHAUSTED),
        lambda call: call.send(asyncio.CancelledError()),  # gRPC, when the channel of the call is closed
    ],
)
def test_a_stream_that_ends_is_opened_again_and_resumed(end: Callable[[Call], None]) -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        consumer = Consumer(hub)
        await asyncio.sleep(0.1)
        etcd.put("/a/1")
        await asyncio.sleep(0.1)
        end(etcd.calls[-1])
        etcd.put("/a/2")
        await asyncio.sleep(SOON_S)
        assert consumer.seen == ["+/a/1", "+/a/2"]
        assert consumer.resets == 1

    on_virtual_time(scene)


def test_a_history_that_is_another_one_is_listed_anew_for_the_consumer() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        consumer = Consumer(hub)
        await asyncio.sleep(0.1)
        etcd.put("/a/1")
        await asyncio.sleep(0.1)
        etcd._history[-1] = (etcd.revision, "/a/other", b"y")
        etcd.calls[-1].end()
        await asyncio.sleep(SOON_S)
        assert consumer.resets == 2
        assert consumer.seen[-1] == "=/a/other"

    on_virtual_time(scene)


def test_a_watch_behind_the_compaction_is_listed_anew() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        etcd.put("/a/1")
        consumer = Consumer(hub)
        await asyncio.sleep(0.1)
        number = next(iter(etcd.calls[-1].watches))
        etcd.calls[-1].send(pb.WatchResponse(watch_id=number, canceled=True, compact_revision=9))
        await asyncio.sleep(SOON_S)
        etcd.put("/a/2")
        await asyncio.sleep(0.1)
        assert consumer.resets == 2
        assert consumer.seen[-1] == "+/a/2"

    on_virtual_time(scene)


def test_a_place_that_is_compacted_when_the_stream_is_opened_again_is_listed_anew() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        consumer = Consumer(hub)
        await asyncio.sleep(0.1)
        etcd.put("/a/1")
        await asyncio.sleep(0.1)
        etcd.compacted = etcd.revision + 1
        etcd.calls[-1].end()
        await asyncio.sleep(SOON_S)
        assert consumer.resets == 2

    on_virtual_time(scene)


def test_silence_ends_a_stream_and_leaves_the_member_that_is_silent() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        consumer = Consumer(hub)
        await asyncio.sleep(60.0)
        assert len(etcd.calls) == 1  # quiet, and alive: it answers when it is asked
        etcd.mute = True
        silent = etcd.endpoint
        await asyncio.sleep(DEAD_AFTER_S + 2 * ASK_AFTER_S)
        etcd.mute = False
        assert etcd.left == [silent]
        etcd.put("/a/1")
        await asyncio.sleep(SOON_S)
        assert consumer.seen == ["+/a/1"]

    on_virtual_time(scene, "one:1", "two:2")


@pytest.mark.parametrize("end", ["silence", "error"])
def test_the_member_that_failed_is_left_and_not_the_one_that_the_client_has_moved_to(end: str) -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        Consumer(hub)
        await asyncio.sleep(0.1)
        etcd.leave("one:1")  # as a call of the client's does, when that member does not answer
        etcd.mute = end == "silence"
        if end == "error":
            etcd.calls[0].end()
        await asyncio.sleep(DEAD_AFTER_S + 2 * ASK_AFTER_S)
        assert etcd.left == ["one:1", "one:1"]
        assert etcd.calls[0].endpoint == "one:1"
        assert etcd.calls[1].endpoint == etcd.endpoint == "two:2"

    on_virtual_time(scene, "one:1", "two:2", "three:3")


def test_pauses_grow_while_no_stream_brings_anything_and_begin_anew_after_one_that_did() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        Consumer(hub)
        await asyncio.sleep(0.1)

        def hang_up(call: Call, request: pb.WatchRequest) -> None:
            call.end()

        etcd.on_request = hang_up
        etcd.calls[-1].end()
        await asyncio.sleep(20.0)
        assert etcd.pauses[:4] == [0, 1, 2, 3]
        assert etcd.pauses[-1] == 8
        etcd.on_request = etcd.answer
        await asyncio.sleep(SOON_S)
        etcd.put("/a/1")
        await asyncio.sleep(0.1)
        etcd.calls[-1].end()
        await asyncio.sleep(SOON_S)
        assert etcd.pauses[-1] == 0

    on_virtual_time(scene)


def test_a_watch_that_etcd_cancels_again_and_again_is_tried_more_and_more_seldom() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        def cancels(call: Call, request: pb.WatchRequest) -> None:
            if request.HasField("create_request"):
                call.send(pb.WatchResponse(created=True, watch_id=7))
                call.send(pb.WatchResponse(canceled=True, watch_id=7, cancel_reason="etcdserver: no space"))

        etcd.on_request = cancels
        consumer = Consumer(hub)
        await asyncio.sleep(20.0)
        assert etcd.pauses[:4] == [0, 1, 2, 3]
        assert len(etcd.calls) < 40
        assert not consumer.ended

    on_virtual_time(scene)


@pytest.mark.parametrize(
    "answer",
    [
        lambda call: call.end(grpc.StatusCode.PERMISSION_DENIED, "etcdserver: permission denied"),
        lambda call: call.end(grpc.StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token"),
        lambda call: call.end(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty"),
        lambda call: call.send(
            pb.WatchResponse(created=True, canceled=True, watch_id=-1, cancel_reason=REFUSED)
        ),
        lambda call: call.send(pb.WatchResponse(created=True, canceled=True, cancel_reason=REFUSED)),
        lambda call: call.send(
            pb.WatchResponse(created=True, canceled=True, cancel_reason="etcdserver: invalid auth token")
        ),
    ],
)
def test_a_watch_that_etcd_does_not_allow_says_so_at_once(answer: Callable[[Call], None]) -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        def refuses(call: Call, request: pb.WatchRequest) -> None:
            if request.HasField("create_request"):
                answer(call)

        etcd.on_request = refuses
        consumer = Consumer(hub)
        await asyncio.sleep(SOON_S)
        assert isinstance(consumer.error, StoreRefused)
        assert "one:1" in consumer.error.message
        assert consumer.error.remedy

    on_virtual_time(scene)


def test_a_watch_on_a_forgotten_token_is_made_again_with_a_new_one_and_others_go_on() -> None:
    """etcd 3.5 says "permission denied" of the watch, although its keys could be listed."""

    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        def knows_its_newest_token(call: Call, request: pb.WatchRequest) -> None:
            if request.HasField("create_request") and call.token != etcd.token:
                call.send(pb.WatchResponse(created=True, canceled=True, watch_id=-1, cancel_reason=REFUSED))
            else:
                etcd.answer(call, request)

        etcd.token, etcd.on_request = "first", knows_its_newest_token
        one = Consumer(hub, "/a/")
        await asyncio.sleep(SOON_S)
        etcd.token = "second"
        etcd.put("/a/1")
        two = Consumer(hub, "/b/")
        await asyncio.sleep(SOON_S)
        etcd.put("/a/2")
        etcd.put("/b/1")
        await asyncio.sleep(SOON_S)
        assert (one.seen, one.resets) == (["+/a/1", "+/a/2"], 1)
        assert two.seen == ["+/b/1"]
        assert not one.ended
        assert not two.ended
        assert etcd.forgotten == ["first"]

    on_virtual_time(scene)


def test_a_stream_that_is_refused_for_its_token_is_opened_with_a_new_one() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        etcd.token = "first"
        consumer = Consumer(hub)
        await asyncio.sleep(SOON_S)
        etcd.calls[0].end(grpc.StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token")
        etcd.put("/a/1")
        await asyncio.sleep(SOON_S)
        assert (consumer.seen, consumer.resets, consumer.ended) == (["+/a/1"], 1, False)
        assert [call.token for call in etcd.calls] == ["first", "token1"]

    on_virtual_time(scene)


def test_a_stream_moves_to_the_channel_of_a_new_certificate() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        consumer = Consumer(hub)
        await asyncio.sleep(SOON_S)
        assert len(etcd.calls) == 1
        etcd.newest = object()
        await asyncio.sleep(ASK_AFTER_S)
        etcd.newest = None
        etcd.put("/a/1")
        await asyncio.sleep(SOON_S)
        assert (consumer.seen, consumer.resets, len(etcd.calls)) == (["+/a/1"], 1, 2)
        assert etcd.left == []

    on_virtual_time(scene)


def test_a_refusal_that_the_writer_meets_first_is_told_all_the_same() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        consumer = Consumer(hub)
        await asyncio.sleep(0.1)
        etcd.calls[0].end(grpc.StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token", told=False)
        await asyncio.sleep(SOON_S)
        assert isinstance(consumer.error, StoreRefused)

    on_virtual_time(scene)


def test_what_etcd_refuses_of_one_watch_costs_no_other() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        def refuses_b(call: Call, request: pb.WatchRequest) -> None:
            if request.HasField("create_request") and request.create_request.key == b"/b/":
                call.send(pb.WatchResponse(created=True, canceled=True, watch_id=-1, cancel_reason=REFUSED))
            else:
                etcd.answer(call, request)

        async def refused_listing(prefix: str) -> None:
            if prefix == "/c/":
                raise StoreRefused("no", remedy="yes")

        etcd.on_request, etcd.on_list = refuses_b, refused_listing
        consumer, refused, unlisted = Consumer(hub), Consumer(hub, "/b/"), Consumer(hub, "/c/")
        await asyncio.sleep(SOON_S)
        etcd.put("/a/1")
        await asyncio.sleep(0.1)
        assert isinstance(refused.error, StoreRefused)
        assert isinstance(unlisted.error, StoreRefused)
        assert consumer.seen == ["+/a/1"]
        assert len(etcd.calls) == 1

    on_virtual_time(scene)


@pytest.mark.parametrize(
    "error", [RuntimeError("r"), OSError("o"), ValueError("v"), asyncio.InvalidStateError("i")]
)
@pytest.mark.parametrize("where", ["stream", "listing", "event"])
def test_whatever_nobody_foresaw_comes_out_of_every_watch(error: Exception, where: str) -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        async def fails(prefix: str) -> None:
            raise error

        consumers = [Consumer(hub), Consumer(hub, "/b/")]
        if where == "listing":
            etcd.on_list = fails
        await asyncio.sleep(0.1)
        if where == "stream":
            etcd.calls[-1].send(error)
        elif where == "event":
            etcd.calls[-1].send(object())
        await asyncio.sleep(0.1)
        for consumer in consumers:
            assert consumer.ended
            assert type(consumer.error) is (AttributeError if where == "event" else type(error))
        etcd.on_list = None
        after = Consumer(hub)  # the hub itself can be used again
        await asyncio.sleep(0.1)
        etcd.put("/a/1")
        await asyncio.sleep(0.1)
        assert after.seen == ["+/a/1"]

    on_virtual_time(scene)


def test_a_hub_that_is_closed_ends_who_waits_and_who_comes_later() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        consumer = Consumer(hub)
        await asyncio.sleep(0.1)
        await hub.close()
        late = Consumer(hub)
        await asyncio.sleep(0.1)
        assert (consumer.ended, consumer.error) == (late.ended, late.error) == (True, None)
        assert etcd.calls[0].cancelled

    on_virtual_time(scene)


def test_a_hub_whose_task_somebody_else_cancels_ends_its_consumers_by_an_error() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        consumer = Consumer(hub)
        await asyncio.sleep(0.1)
        assert hub._task is not None
        hub._task.cancel()
        await asyncio.sleep(0.1)
        assert isinstance(consumer.error, StoreError)

    on_virtual_time(scene)


def test_a_watch_that_is_given_up_is_cancelled_at_the_server() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        consumer, other = Consumer(hub), Consumer(hub, "/b/")
        await asyncio.sleep(0.1)
        consumer.task.cancel()
        await asyncio.sleep(0.1)
        assert list(etcd.calls[0].watches.values()) == ["/b/"]
        assert len(etcd.calls[0].cancels()) == 1
        etcd.put("/b/1")
        await asyncio.sleep(SOON_S)
        assert other.seen == ["+/b/1"]
        assert len(etcd.calls) == 1

    on_virtual_time(scene)


def test_a_watch_that_is_given_up_while_it_is_created_is_cancelled_too() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        consumer = Consumer(hub)
        held: list[tuple[Call, pb.WatchRequest]] = []
        etcd.on_request = lambda call, request: held.append((call, request))
        await asyncio.sleep(0.1)
        consumer.task.cancel()
        await asyncio.sleep(0.1)
        etcd.on_request = etcd.answer
        etcd.answer(*held[0])
        await asyncio.sleep(0.1)
        assert not etcd.calls[0].watches

    on_virtual_time(scene)


def test_the_number_of_a_watch_is_the_servers_and_events_before_it_is_known_are_kept() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        def hasty(call: Call, request: pb.WatchRequest) -> None:
            if request.HasField("create_request"):
                assert request.create_request.watch_id == 0
                etcd._history.append((etcd.revision + 1, "/a/early", b"x"))
                call.watches[55] = "/a/"
                call.send(etcd.events(54, "/a/", 0))  # somebody else's
                call.send(etcd.events(55, "/a/", request.create_request.start_revision))
                call.send(pb.WatchResponse(created=True, watch_id=55))

        etcd.on_request = hasty
        consumer = Consumer(hub)
        await asyncio.sleep(0.1)
        etcd.put("/a/late")
        await asyncio.sleep(0.1)
        assert consumer.seen == ["+/a/early", "+/a/late"]

    on_virtual_time(scene)


def test_a_watch_that_the_server_never_begins_is_tried_on_another_stream() -> None:
    """As behind a proxy that loses a reply: signs of life alone keep no stream."""

    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        def forgets(call: Call, request: pb.WatchRequest) -> None:
            if not request.HasField("create_request") or len(etcd.calls) > 1:
                etcd.answer(call, request)

        etcd.on_request = forgets
        consumer = Consumer(hub)
        await asyncio.sleep(DEAD_AFTER_S + 1.0)
        etcd.put("/a/1")
        await asyncio.sleep(0.1)
        assert consumer.seen == ["+/a/1"]

    on_virtual_time(scene)


def test_a_reply_to_a_creation_that_nobody_asked_for_ends_the_stream() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        consumer = Consumer(hub)
        await asyncio.sleep(0.1)
        etcd.calls[0].send(pb.WatchResponse(created=True, watch_id=999))
        await asyncio.sleep(SOON_S)
        etcd.put("/a/1")
        await asyncio.sleep(0.1)
        assert len(etcd.calls) == 2
        assert consumer.seen == ["+/a/1"]

    on_virtual_time(scene)


def test_a_store_that_is_away_while_a_watch_is_listed_is_waited_for() -> None:
    async def scene(etcd: ScriptedEtcd, hub: WatchHub) -> None:
        etcd.away = True
        consumer = Consumer(hub)
        await asyncio.sleep(30.0)
        etcd.away = False
        etcd.put("/a/1")
        await asyncio.sleep(SOON_S)
        assert consumer.seen == ["=/a/1"]

    on_virtual_time(scene)
