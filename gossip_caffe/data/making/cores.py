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
from gossip_caffe.errors import EnvironmentProblem

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

    ``work`` must be a function of a module. Its errors are raised here. No process outlives this one, or the loop.
    """
    if processes == 1:
        yield from map(work, tasks)
        return
    waiting: deque[Future[Result]] = deque()
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_begin, initargs=(os.getpid(),)
    )
    try:
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) >= AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise EnvironmentProblem(
            "a process that reads pictures was killed",
            remedy="the machine may be short of memory: give --jobs 1",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def batches(items: Iterable[Task], size: int) -> Iterator[tuple[Task, ...]]:
    """Yield the items in tuples of ``size``; the last may be shorter."""
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch


def _begin(parent: int) -> None:
    """Die with the command, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)
