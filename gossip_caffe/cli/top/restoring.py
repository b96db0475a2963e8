"""Signals that end a view: the terminal is restored first, and then the process ends by the signal."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from gossip_caffe.background import within

ENDING = (signal.SIGTERM, signal.SIGHUP)


async def restored(work: Coroutine[Any, Any, None], stop: Callable[[], None] | None = None) -> None:
    """Run ``work``, which restores the terminal at its end, however it ends. A signal of ENDING ends it first.

    ``stop``: makes ``work`` end; without it ``work`` is cancelled. A signal that is ignored at the start stays ignored.
    """
    loop = asyncio.get_running_loop()
    heard: list[signal.Signals] = []
    async with within(work) as (running,):

        def end(number: signal.Signals) -> None:
            heard.append(number)
            (stop or running.cancel)()

        numbers = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
        for number in numbers:
            loop.add_signal_handler(number, end, number)
        try:
            await asyncio.wait({running})
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
        if not running.cancelled():
            running.result()
    if heard:
        signal.signal(heard[0], signal.SIG_DFL)
        os.kill(os.getpid(), heard[0])
