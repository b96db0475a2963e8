"""The decision about each signal, and the exit code of a peer that was asked to leave."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Iterator

import pytest

from gossip_caffe.cluster.supervision.result import end_of_unfinished
from gossip_caffe.errors import MEANINGS, ExitCode, Left
from gossip_caffe.peer.core.lifecycle import Cause
from gossip_caffe.peer.draining import CLOSING_S, leaving_times
from gossip_caffe.peer.leaving import Leaving, end_of
from gossip_caffe.system.signals import Action, ending_signals, left_on_signals, on_signal
from tests.doc_blocks import ROOT

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handlers of this process are as before when a test has ended."""
    before = {number: signal.getsignal(number) for number in HEARD}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", HEARD)
def test_the_first_signal_asks_to_leave(number: signal.Signals) -> None:
    decision = on_signal(number, leaving=False)
    assert (decision.action, decision.reason) == (Action.LEAVE, number.name)


@pytest.mark.parametrize("number", HEARD)
def test_only_a_second_ctrl_c_ends_at_once(number: signal.Signals) -> None:
    expected = Action.END_AT_ONCE if number is signal.SIGINT else Action.NOTHING
    assert on_signal(number, leaving=True).action is expected


@pytest.mark.parametrize(
    "ignored", [(), (signal.SIGHUP,), (signal.SIGUSR1,), (signal.SIGHUP, signal.SIGUSR1)]
)
def test_a_signal_that_is_ignored_at_the_start_stays_ignored(ignored: tuple[signal.Signals, ...]) -> None:
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    assert set(ending_signals()) == set(HEARD) - set(ignored)


@pytest.mark.parametrize("number", HEARD)
def test_a_signal_before_the_event_loop_hears_any_is_an_end_of_its_own(number: signal.Signals) -> None:
    def come() -> None:
        with left_on_signals():
            os.kill(os.getpid(), number)
            signal.pause()

    with pytest.raises(Left, match=f"{number.name} came before there was anything to leave"):
        come()


@pytest.mark.parametrize(
    ("cause", "finished", "code"),
    [
        (Cause.JOB_FINISHED, True, ExitCode.OK),
        (Cause.JOB_FINISHED, False, ExitCode.OK),
        (Cause.ASKED_TO_LEAVE, True, ExitCode.OK),
        (Cause.ASKED_TO_LEAVE, False, ExitCode.LEFT),
    ],
)
def test_a_peer_ends_with_0_only_when_its_job_is_finished(
    cause: Cause, finished: bool, code: ExitCode
) -> None:
    assert end_of("job", cause, finished=finished).code is code


def test_ctrl_c_of_a_cluster_is_told_from_the_request_of_a_machine() -> None:
    codes = {
        reason: end_of_unfinished(reason)
        for reason in ("SIGINT", "SIGTERM", "SIGHUP", "asked by 'cluster down'")
    }
    assert codes.pop("SIGINT") is ExitCode.INTERRUPTED
    assert set(codes.values()) == {ExitCode.LEFT}


def test_each_exit_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(ExitCode)
    assert ExitCode.LEFT == os.EX_TEMPFAIL


@pytest.mark.parametrize(
    ("grace_s", "step_s"), list(itertools.product((0.5, 3.0, 10.0, 120.0), (0.0, 0.001, 25.0)))
)
def test_the_grace_has_room_for_the_end_of_the_process(grace_s: float, step_s: float) -> None:
    times = leaving_times(grace_s, step_s)
    assert grace_s / 2 < times.settle_s < grace_s
    assert grace_s - times.settle_s <= CLOSING_S
    assert times.halt_s >= 2 * step_s


async def carried_out(leaving: Leaving, number: signal.Signals | None, *, lives_s: float = 60.0) -> ExitCode:
    async def life() -> ExitCode:
        if number is not None:
            os.kill(os.getpid(), number)
        await asyncio.sleep(lives_s)
        return ExitCode.OK

    return await leaving.carry_out(life())


@pytest.mark.parametrize("number", HEARD)
async def test_a_request_before_there_is_a_peer_ends_the_work(number: signal.Signals) -> None:
    said: list[str] = []
    assert await carried_out(Leaving("p0", 10.0, said.append), number) is ExitCode.LEFT
    assert said == [f"p0: left before it had joined ({number.name})"]


async def test_a_peer_is_asked_once_and_its_own_code_counts() -> None:
    said: list[str] = []
    asked: list[str] = []
    leaving = Leaving("p0", None, said.append)

    async def life() -> ExitCode:
        leaving.then = asked.append
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.01)
        leaving.ask("another reason")
        return leaving.end("job", Cause.ASKED_TO_LEAVE, finished=False)

    assert await leaving.carry_out(life()) is ExitCode.LEFT
    assert asked == ["SIGUSR1"]
    assert said == ["p0: job job is not finished: exit code 75; the same command goes on"]


async def test_a_peer_that_needs_more_than_its_grace_is_ended_and_says_so() -> None:
    said: list[str] = []
    leaving = Leaving("p0", 0.05, said.append)
    leaving.then = lambda reason: None
    assert await carried_out(leaving, signal.SIGTERM) is ExitCode.LEFT
    (line,) = said
    assert line.startswith("p0: the 0.05 s of --grace are over: it ends now")


async def test_an_error_of_the_work_comes_out() -> None:
    async def life() -> ExitCode:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        await Leaving("p0", 10.0, lambda _: None).carry_out(life())


def test_the_page_of_the_exit_codes_has_each_with_its_meaning() -> None:
    rows = [line.split(" | ") for line in (ROOT / "docs" / "exit-codes.md").read_text().splitlines()]
    told = {
        row[0].lstrip("| "): (row[1].strip("`"), row[2])
        for row in rows
        if len(row) == 4 and row[1].startswith("`")
    }
    assert told == {f"{code:d}": (code.name, meaning) for code, meaning in MEANINGS.items()}
