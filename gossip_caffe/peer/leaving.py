"""The end of a peer's process: the requests to leave, the grace for it, and the exit code."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from gossip_caffe.background import within
from gossip_caffe.errors import ExitCode
from gossip_caffe.peer.core.lifecycle import Cause
from gossip_caffe.system.signals import Action, ending_signals, on_signal

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PeerEnd:
    """The exit code of a peer, and the reason for it."""

    code: ExitCode
    reason: str


def end_of(job: str, cause: Cause, *, finished: bool) -> PeerEnd:
    """Decide on the exit code of a peer. ``finished``: the job was finished while the peer left."""
    if cause is Cause.JOB_FINISHED or finished:
        return PeerEnd(ExitCode.OK, f"job {job} is finished")
    code = ExitCode.LEFT
    return PeerEnd(code, f"job {job} is not finished: exit code {code:d}; the same command goes on")


class Leaving:
    """The requests to a peer's process to leave.

    ``name``: the peer's. ``grace_s``: seconds from the first request to the end of the process; None: no limit.
    ``then`` is called with the reason of the first request. While it is None, there is no peer yet, and the work is
    cancelled.
    """

    def __init__(self, name: str, grace_s: float | None, say: Say) -> None:
        self.then: Callable[[str], None] | None = None
        self._name = name
        self._grace_s = grace_s
        self._say = say
        self._asked = ""
        self._work: asyncio.Task[ExitCode] | None = None

    async def carry_out(self, work: Coroutine[Any, Any, ExitCode]) -> ExitCode:
        """Run ``work``, the whole life of the peer, and return its exit code; LEFT if it had to be cancelled."""
        async with within(work) as (running,):
            self._work = running
            self._hear_signals()
            await asyncio.wait({running})
            if running.cancelled() and self._asked:
                return ExitCode.LEFT
            return running.result()

    def end(self, job: str, cause: Cause, *, finished: bool) -> ExitCode:
        """Return the exit code, and say why it is not 0. ``finished``: the job was finished while the peer left."""
        end = end_of(job, cause, finished=finished)
        if end.code:
            self._say(f"{self._name}: {end.reason}")
        return end.code

    def ask(self, reason: str) -> None:
        """Ask the peer to leave. A second request changes nothing."""
        if self._asked or self._work is None:
            return
        self._asked = reason
        if self.then is None:
            self._say(f"{self._name}: left before it had joined ({reason})")
            self._work.cancel()
            return
        if self._grace_s is not None:
            asyncio.get_running_loop().call_later(self._grace_s, self._over)
        self.then(reason)

    def _over(self) -> None:
        if self._work is not None and not self._work.done():
            self._say(
                f"{self._name}: the {self._grace_s:g} s of --grace are over: it ends now, and other peers train again "
                "the chunks that it has not settled"
            )
            self._work.cancel("its grace is over")

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def heard(number: signal.Signals) -> None:
            decision = on_signal(number, leaving=bool(self._asked))
            if decision.action is Action.LEAVE:
                # The next Ctrl-C ends the process at once, also while the event loop is busy.
                loop.remove_signal_handler(signal.SIGINT)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                self.ask(decision.reason)

        for number in ending_signals():
            loop.add_signal_handler(number, heard, number)
