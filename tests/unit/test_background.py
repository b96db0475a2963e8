"""Nothing ends unseen: how tasks and threads are begun, and that nobody begins one by other means."""

from __future__ import annotations

import ast
import asyncio
import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import gossip_caffe
from gossip_caffe.background import (
    AGAIN_S,
    DetachedTasks,
    checked_by_owner,
    owned,
    surely_ended,
    thread,
    unending,
    within,
)
from gossip_caffe.errors import StoreError

ROOT = Path(gossip_caffe.__file__).parent
BARE = frozenset(
    {"create_task", "ensure_future", "TaskGroup", "add_done_callback", "Thread", "Timer", "start_new_thread"}
)
"""Names of the standard library that begin something, or look at its end, without a reader of every end."""

ALLOWED: dict[str, frozenset[str]] = {"gossip/transport/channels.py": frozenset({"add_done_callback"})}
"""The callback of a gRPC call, not of a task: the end of a call is read by its caller."""


def bare_beginnings(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in BARE:
                yield node.lineno, name
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in BARE)


def dropped_futures(source: str) -> Iterator[int]:
    """Work for threads whose future is dropped at once: its error has no reader."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            if isinstance(function, ast.Attribute) and function.attr in {"run_in_executor", "submit"}:
                yield node.lineno


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_task_and_thread_of_the_product_is_begun_by_the_one_mechanism(path: Path) -> None:
    if path == ROOT / "background.py":
        return
    source = path.read_text()
    elsewhere = ALLOWED.get(str(path.relative_to(ROOT)), frozenset())
    bare = [(line, name) for line, name in bare_beginnings(source) if name not in elsewhere]
    assert not bare, "begin it by gossip_caffe.background"
    assert not list(dropped_futures(source)), "await what a thread does"


def test_the_scan_finds_each_way_round_the_mechanism() -> None:
    ways = (
        "asyncio.create_task(work())",
        "loop.create_task(work())",
        "asyncio.ensure_future(work())",
        "from asyncio import ensure_future",
        "async def f():\n    async with asyncio.TaskGroup() as group:\n        group.create_task(work())",
        "threading.Thread(target=f).start()",
        "threading.Timer(1.0, f).start()",
        "task.add_done_callback(f)",
    )
    for way in ways:
        assert list(bare_beginnings(way)), way
    assert list(dropped_futures("loop.run_in_executor(None, f)"))
    assert not list(dropped_futures("sending = loop.run_in_executor(None, f)"))


async def fails(error: BaseException) -> None:
    raise error


async def lasts() -> None:
    await asyncio.Event().wait()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "error", [RuntimeError("r"), OSError("o"), StoreError("s"), asyncio.InvalidStateError("i")]
)
async def test_an_owner_is_told_once_of_every_end(error: Exception) -> None:
    told: list[BaseException | None] = []
    owned(fails(error), "fails", told.append)
    owned(settled(), "returns", told.append)
    endless = owned(lasts(), "lasts", told.append)
    unbegun = owned(lasts(), "is cancelled before it begins", told.append)
    unbegun.cancel()
    await settled()
    await settled()
    endless.cancel()
    await settled()
    assert told[0] is error or told[1] is error
    assert sorted(type(entry).__name__ for entry in told) == sorted(
        [type(error).__name__, "NoneType", "CancelledError", "CancelledError"]
    )


async def test_no_task_outlives_its_block_and_what_the_block_returns_is_kept() -> None:
    async with within(lasts(), settled()) as (endless, short):
        await asyncio.wait({endless, short}, return_when=asyncio.FIRST_COMPLETED)
        assert short.done()
    assert endless.cancelled()


async def test_an_error_that_a_block_does_not_look_at_goes_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with within(fails(RuntimeError("lost")), settled()) as (_, short):
        await short
    assert ["lost" in record.getMessage() for record in caplog.records] == [True]


async def test_an_error_that_a_block_raises_or_foresees_is_not_told_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(RuntimeError, match="raised"):
        async with within(fails(RuntimeError("raised"))) as (failing,):
            await failing
    async with within(fails(StoreError("the product's own")), settled()) as (_, short):
        await short
    async with within(fails(OSError("foreseen")), settled(), foreseen=(OSError,)) as (_, short):
        await short
    assert not caplog.records


async def test_a_block_that_is_cancelled_leaves_no_task_behind() -> None:
    begun: list[asyncio.Task[None]] = []

    async def block() -> None:
        async with within(lasts()) as tasks:
            begun.extend(tasks)
            await lasts()

    running = owned(block(), "block", checked_by_owner)
    await settled()
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    assert begun[0].cancelled()


async def test_who_is_cancelled_twice_still_waits_for_the_thread_that_uses_its_descriptor() -> None:
    untold: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: untold.append(context))
    told, over = threading.Event(), []

    def work() -> None:
        told.wait()
        over.append("thread")
        raise BrokenPipeError

    async def user() -> None:
        running = loop.run_in_executor(None, work)
        with ExitStack() as opened:
            opened.callback(over.append, "descriptor")
            try:
                await asyncio.shield(running)
            finally:
                await surely_ended(running)

    using = asyncio.ensure_future(user())
    for _ in range(3):
        await asyncio.sleep(0.01)
        using.cancel()
    assert not over
    told.set()
    with pytest.raises(asyncio.CancelledError):
        await using
    assert over == ["thread", "descriptor"]
    gc.collect()
    assert not untold


async def test_what_nobody_awaits_is_told_to_the_log_or_to_whom_it_is_given(
    caplog: pytest.LogCaptureFixture,
) -> None:
    apart, told = DetachedTasks(), DetachedTasks(lambda name, error: caught.append((name, str(error))))
    caught: list[tuple[str, str]] = []
    apart.begin(fails(RuntimeError("one")), "logged")
    apart.begin(fails(StoreError("foreseen")), "foreseen")
    told.begin(fails(StoreError("two")), "told")
    await apart.ended()
    await told.ended()
    await settled()
    assert [record.getMessage() for record in caplog.records] == ["logged failed: RuntimeError: one"]
    assert caught == [("told", "two")]
    apart.begin(lasts(), "lasts")
    assert len(apart) == 1
    apart.cancel()
    await apart.ended()
    assert len(apart) == 0


async def test_unending_work_is_begun_again_with_a_line_after_every_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends = iter([RuntimeError("first"), OSError("second"), None])
    slept: list[float] = []

    async def work() -> None:
        end = next(ends, "no more")
        if end == "no more":
            raise asyncio.CancelledError
        if end is not None:
            raise end  # type: ignore[misc]

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    with pytest.raises(asyncio.CancelledError):
        await unending(work, "the port", sleep)
    assert slept == [AGAIN_S] * 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 3
    assert "first" in caplog.records[0].getMessage()


def test_a_thread_that_fails_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise RuntimeError("in a thread")

    thread(broken, "room").join()
    assert ["in a thread" in record.getMessage() for record in caplog.records] == [True]
