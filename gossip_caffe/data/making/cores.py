"""Work on several cores whose results come in the order of the tasks."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

from gossip_caffe.begin import die_with_parent
from gossip_caffe.errors import EnvironmentProblem, GossipCaffeError

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 4
"""Tasks in flight for each process: a process that is done finds another one, on a busy machine too."""
MOST_PROCESSES = 16


def cores() -> int:
    """Return the number of cores that this process may use, at most MOST_PROCESSES."""
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def in_order(work: Callable[[Task], Result], tasks: Iterable[Task], processes: int) -> Generator[Result]:
    """Yield the results of the tasks in their order. ``processes``: 1 works in this process.

    This process is one of them: it works too, so that each core has one process, and fewer results are sent.
    ``work`` must be a function of a module. Its errors are raised here. No process outlives this one, or the loop.
    """
    if processes == 1:
        yield from map(work, tasks)
        return
    pool = ProcessPoolExecutor(
        processes - 1, mp_context=get_context("spawn"), initializer=_begin, initargs=(os.getpid(),)
    )
    try:
        starting = [pool.submit(_started, work) for _ in range(processes - 1)]
        yield from _shared_out(pool, work, iter(tasks), starting)
    except BrokenProcessPool:
        raise EnvironmentProblem(
            "a process that reads pictures was killed",
            remedy="the machine may be short of memory: give --jobs 1",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _shared_out(
    pool: ProcessPoolExecutor,
    work: Callable[[Task], Result],
    tasks: Iterator[Task],
    starting: list[Future[None]],
) -> Generator[Result]:
    """Work on the tasks here and in the processes of the pool, but for those that are still starting."""
    waiting: deque[Future[Result]] = deque()
    while True:
        started = [future.result() for future in starting if future.done()]
        in_flight = sum(not future.done() for future in waiting)
        waiting.extend(pool.submit(work, task) for task in islice(tasks, AHEAD * len(started) - in_flight))
        while waiting and waiting[0].done():
            yield waiting.popleft().result()
        own = list(islice(tasks, 1)) if len(waiting) < 2 * AHEAD * len(starting) else []
        if own:
            waiting.append(_done(work, own[0]))
        elif waiting:
            yield waiting.popleft().result()
        else:
            return


def _done(work: Callable[[Task], Result], task: Task) -> Future[Result]:
    """Work here. An error waits for its turn, as a result does: the tasks before it come first."""
    future: Future[Result] = Future()
    try:
        future.set_result(work(task))
    except GossipCaffeError as error:
        future.set_exception(error)
    return future


def batches(items: Iterable[Task], size: int) -> Iterator[tuple[Task, ...]]:
    """Yield the items in tuples of ``size``; the last may be shorter."""
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch


def _started(_work: object) -> None:
    """Say that a process has begun: the modules of its work are imported."""


def _begin(parent: int) -> None:
    """Die with the command, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)
