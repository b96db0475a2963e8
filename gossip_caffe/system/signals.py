"""The signals that ask a process to end, and the decision about each of them.

People press Ctrl-C, and press it again when they do not want to wait. Machines send SIGTERM, some of them twice:
Slurm at the beginning and at the end of its grace time, a launcher once for its group and once for its child.
Therefore only a second Ctrl-C ends a process at once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from types import FrameType

from gossip_caffe.errors import Left


class Action(Enum):
    """The answer of a process to a signal."""

    LEAVE = auto()  # it ends in good order
    END_AT_ONCE = auto()
    SNAPSHOT = auto()  # it writes a snapshot, and goes on
    NOTHING = auto()


class Effect(StrEnum):
    """The effect of a signal on ``train``, as in the flags ``--sigint_effect`` and ``--sighup_effect`` of Caffe."""

    STOP = "stop"
    SNAPSHOT = "snapshot"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Decision:
    """An action, and the reason for it."""

    action: Action
    reason: str


def on_signal(number: signal.Signals, *, leaving: bool, effect: Effect = Effect.STOP) -> Decision:
    """Decide about a signal of ``ending_signals``. ``leaving``: the process was asked to end before."""
    if effect is Effect.NONE:
        return Decision(Action.NOTHING, f"{number.name} has no effect here")
    if effect is Effect.SNAPSHOT:
        return Decision(Action.NOTHING if leaving else Action.SNAPSHOT, number.name)
    if not leaving:
        return Decision(Action.LEAVE, number.name)
    if number is signal.SIGINT:
        return Decision(Action.END_AT_ONCE, "Ctrl-C again")
    return Decision(Action.NOTHING, f"{number.name} again: it is leaving already")


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask a command to end in good order.

    They are Ctrl-C, SIGTERM, SIGHUP from a terminal that closes, and SIGUSR1, by which Slurm and other schedulers
    announce an end. SIGHUP and SIGUSR1 stay ignored if they are ignored at the start, as SIGHUP is under ``nohup``.
    """
    announced = (signal.SIGHUP, signal.SIGUSR1)
    heard = tuple(number for number in announced if signal.getsignal(number) is not signal.SIG_IGN)
    return (signal.SIGINT, signal.SIGTERM, *heard)


class _Asked(BaseException):
    """A signal that came before the event loop heard signals. ``except Exception`` must not catch it."""


@contextmanager
def left_on_signals() -> Iterator[None]:
    """Raise ``Left`` at a signal that comes within the block, until an event loop takes the signals over."""

    def asked(number: int, frame: FrameType | None) -> None:
        del frame
        raise _Asked(signal.Signals(number).name)

    before = {number: signal.signal(number, asked) for number in ending_signals()}
    try:
        yield
    except _Asked as error:
        raise Left(f"{error} came before there was anything to leave", remedy="start it again") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
