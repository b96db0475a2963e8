"""What every store must do; run over both twins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gossip_caffe.errors import StoreError
from gossip_caffe.membership.etcd.store import (
    Absent,
    Changed,
    CreatedAt,
    Delete,
    DeletePrefix,
    Exists,
    Guard,
    ModifiedAt,
    Operation,
    Put,
    Reset,
    Store,
    WatchItem,
)


async def items(watch: AsyncIterator[WatchItem], count: int) -> list[WatchItem]:
    """The next items of a watch; fails when they do not come."""
    found: list[WatchItem] = []
    async with asyncio.timeout(60.0):
        while len(found) < count:
            found.append(await anext(watch))
    return found


class StoreContract:
    """Mixed into a test class that has a ``store`` fixture and a ``prefix`` that nobody else uses."""

    async def test_what_was_put_is_read_with_its_revisions(self, store: Store, prefix: str) -> None:
        assert await store.get(f"{prefix}a") is None
        first = await store.transact([], [Put(f"{prefix}a", b"1")])
        second = await store.transact([], [Put(f"{prefix}a", b"2")])
        found = await store.get(f"{prefix}a")
        assert found is not None
        assert (found.value, found.create_revision, found.mod_revision) == (
            b"2",
            first.revision,
            second.revision,
        )

    async def test_a_transaction_is_applied_whole_or_not_at_all(self, store: Store, prefix: str) -> None:
        await store.transact([], [Put(f"{prefix}there", b"1")])
        puts: list[Operation] = [Put(f"{prefix}x", b"x"), Put(f"{prefix}y", b"y"), Delete(f"{prefix}there")]
        refused = await store.transact([Absent(f"{prefix}there")], puts)
        assert not refused.succeeded
        assert [(item.key, item.value) for item in refused.found] == [(f"{prefix}there", b"1")]
        assert [item.key for item in (await store.list(prefix)).items] == [f"{prefix}there"]
        assert (await store.transact([Exists(f"{prefix}there")], puts)).succeeded
        assert [item.key for item in (await store.list(prefix)).items] == [f"{prefix}x", f"{prefix}y"]

    async def test_each_kind_of_guard_holds_when_it_should_and_only_then(
        self, store: Store, prefix: str
    ) -> None:
        key = f"{prefix}k"
        made = (await store.transact([], [Put(key, b"1")])).revision
        changed = (await store.transact([], [Put(key, b"2")])).revision
        good: list[Guard] = [
            Exists(key),
            CreatedAt(key, made),
            ModifiedAt(key, changed),
            Absent(f"{prefix}no"),
        ]
        bad: list[Guard] = [
            Absent(key),
            CreatedAt(key, changed),
            ModifiedAt(key, made),
            Exists(f"{prefix}no"),
        ]
        for guard in good:
            assert (await store.transact([guard], [])).succeeded, guard
        for guard in bad:
            assert not (await store.transact([guard], [])).succeeded, guard
        await store.transact([], [Delete(key)])
        await store.transact([], [Put(key, b"3")])
        assert not (await store.transact([CreatedAt(key, made)], [])).succeeded

    async def test_history_is_forgotten_once_and_what_stands_is_not(self, store: Store, prefix: str) -> None:
        key = f"{prefix}k"
        watch = store.watch(prefix)
        assert isinstance((await items(watch, 1))[0], Reset)
        revisions = [(await store.transact([], [Put(key, b"%d" % n)])).revision for n in range(3)]
        changes = await items(watch, 3)
        assert [change.revision for change in changes if isinstance(change, Changed)] == revisions
        newest = (await store.transact([], [Put(key, b"3")])).revision
        await store.compact(newest)  # just written: nobody can have forgotten it
        for refused in (revisions[0], newest + 1_000_000):
            with pytest.raises(StoreError):
                await store.compact(refused)
        found = await store.get(key)
        assert found is not None
        assert (found.value, found.create_revision, found.mod_revision) == (b"3", revisions[0], newest)
        assert (await store.transact([CreatedAt(key, revisions[0])], [Put(key, b"4")])).succeeded
        third, fourth = await items(watch, 2)
        for change, value in ((third, b"3"), (fourth, b"4")):
            assert isinstance(change, Changed)
            assert change.value is not None
            assert change.value.value == value

    async def test_listing_and_counting_see_a_prefix_and_nothing_else(
        self, store: Store, prefix: str
    ) -> None:
        for first in range(0, 2500, 100):
            await store.transact(
                [], [Put(f"{prefix}many/{n:05d}", b"value") for n in range(first, first + 100)]
            )
        await store.transact([], [Put(f"{prefix}other", b"")])
        listing = await store.list(f"{prefix}many/")
        assert [item.key for item in listing.items] == [f"{prefix}many/{n:05d}" for n in range(2500)]
        assert {item.value for item in listing.items} == {b"value"}
        assert await store.keys(f"{prefix}many/") == tuple(item.key for item in listing.items)
        assert len((await store.list(f"{prefix}many/", limit=7)).items) == 7
        assert await store.count(f"{prefix}many/") == 2500
        await store.transact([], [DeletePrefix(f"{prefix}many/")])
        assert await store.count(prefix) == 1

    async def test_values_that_are_too_much_for_one_reply_are_read_all_the_same(
        self, store: Store, prefix: str
    ) -> None:
        keys = [f"{prefix}large/{n:02d}" for n in range(14)]
        for key in keys:
            await store.transact([], [Put(key, b"x" * 1_400_000)])
        await store.transact([], [Put(f"{prefix}large/small", b"")])
        listing = await store.list(f"{prefix}large/")
        assert [len(item.value) for item in listing.items] == [1_400_000] * 14 + [0]
        result = await store.transact([Absent(key) for key in keys], [Put(f"{prefix}no", b"")])
        assert not result.succeeded
        assert sorted(item.key for item in result.found) == keys

    async def test_a_key_that_is_no_text_is_read_watched_guarded_and_removed_as_it_is(
        self, store: Store, prefix: str
    ) -> None:
        one, two = f"{prefix}\udcff", f"{prefix}\udcfe"  # the bytes 0xff and 0xfe
        await store.transact([], [Put(one, b"1")])
        watching = store.watch(prefix)
        first = await anext(watching)
        assert isinstance(first, Reset)
        assert [item.key for item in first.listing.items] == [one]
        await store.transact([], [Put(two, b"2")])
        change = await anext(watching)
        assert not isinstance(change, Reset)
        assert change.key == two
        assert set(await store.keys(prefix)) == {one, two}
        (item,) = [entry for entry in (await store.list(prefix)).items if entry.key == one]
        assert (await store.transact([ModifiedAt(one, item.mod_revision)], [Delete(one)])).succeeded
        assert await store.keys(prefix) == (two,)
        assert await store.get(one) is None

    async def test_a_transaction_that_etcd_would_refuse_for_its_size_is_refused_here(
        self, store: Store, prefix: str
    ) -> None:
        with pytest.raises(StoreError, match="129"):
            await store.transact([], [Put(f"{prefix}{n}", b"") for n in range(129)])

    async def test_a_revoked_lease_takes_its_keys_along(self, store: Store, prefix: str) -> None:
        lease = await store.grant(60)
        await store.transact([], [Put(f"{prefix}mine", b"", lease.id), Put(f"{prefix}free", b"")])
        found = await store.get(f"{prefix}mine")
        assert found is not None
        assert found.lease == lease.id
        assert await store.renew(lease.id) > 0
        await store.revoke(lease.id)
        await store.revoke(lease.id)
        assert [item.key for item in (await store.list(prefix)).items] == [f"{prefix}free"]
        assert await store.renew(lease.id) == 0.0

    async def test_a_key_goes_with_the_lease_on_which_it_was_put_last(
        self, store: Store, prefix: str
    ) -> None:
        first, second = await store.grant(60), await store.grant(60)
        await store.transact([], [Put(f"{prefix}{name}", b"", first.id) for name in "abc"])
        await store.transact([], [Put(f"{prefix}a", b"", second.id), Put(f"{prefix}b", b"")])
        await store.revoke(first.id)
        assert await store.keys(prefix) == (f"{prefix}a", f"{prefix}b")
        await store.revoke(second.id)
        assert await store.keys(prefix) == (f"{prefix}b",)
        assert await store.count(prefix) == 1

    async def test_nothing_is_put_on_a_lease_that_is_gone(self, store: Store, prefix: str) -> None:
        lease = await store.grant(60)
        await store.revoke(lease.id)
        assert not (await store.transact([], [Put(f"{prefix}mine", b"", lease.id)])).succeeded
        assert await store.get(f"{prefix}mine") is None

    async def test_a_lease_that_is_not_renewed_ends_and_watchers_see_it(
        self, store: Store, prefix: str
    ) -> None:
        lease = await store.grant(5)
        await store.transact([], [Put(f"{prefix}mine", b"", lease.id)])
        watch = store.watch(prefix)
        reset = (await items(watch, 1))[0]
        assert isinstance(reset, Reset)
        assert [item.key for item in reset.listing.items] == [f"{prefix}mine"]
        gone = (await items(watch, 1))[0]
        assert isinstance(gone, Changed)
        assert (gone.key, gone.value) == (f"{prefix}mine", None)

    async def test_a_watch_gives_what_is_there_and_then_every_change_once_in_order(
        self, store: Store, prefix: str
    ) -> None:
        await store.transact([], [Put(f"{prefix}before", b"")])
        watch = store.watch(prefix)
        assert isinstance((await items(watch, 1))[0], Reset)
        for number in range(300):
            await store.transact([], [Put(f"{prefix}counter", b"%d" % number)])
        await store.transact([], [Delete(f"{prefix}counter")])
        changes = await items(watch, 301)
        values = [item.value.value if isinstance(item, Changed) and item.value else None for item in changes]
        assert values == [b"%d" % number for number in range(300)] + [None]
        revisions = [item.revision for item in changes if isinstance(item, Changed)]
        assert revisions == sorted(set(revisions))

    async def test_watches_of_one_client_do_not_see_each_others_keys(self, store: Store, prefix: str) -> None:
        one, two = store.watch(f"{prefix}one/"), store.watch(f"{prefix}two/")
        assert isinstance((await items(one, 1))[0], Reset)
        assert isinstance((await items(two, 1))[0], Reset)
        await store.transact([], [Put(f"{prefix}two/k", b"2")])
        await store.transact([], [Put(f"{prefix}one/k", b"1")])
        for watch, key in ((one, f"{prefix}one/k"), (two, f"{prefix}two/k")):
            (change,) = await items(watch, 1)
            assert isinstance(change, Changed)
            assert change.key == key
