"""The tree of errors that a user can meet, and the exit code of each branch.

Every error has a ``message`` (what failed, and where) and a ``remedy`` (what to do). The command line prints both on
one line; a traceback is for our own defects only.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of ``gossip-caffe``; ``MEANINGS`` has the meaning of each, docs/exit-codes.md the uses."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    CONFLICT = 5
    ENVIRONMENT = 6
    MODEL = 7
    LEFT = 75  # EX_TEMPFAIL of sysexits.h: Slurm scripts, systemd and others know it as "try again"
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done: the job is finished, or nothing was left to do",
    ExitCode.FAILED: "it was tried and did not succeed",
    ExitCode.USAGE: "the words of the command, or the files that they name, cannot work; nothing was started",
    ExitCode.NOT_FOUND: "there is no job, peer or cluster of that name",
    ExitCode.UNREACHABLE: "etcd does not answer, or refuses",
    ExitCode.CONFLICT: "another process, peer or job has it",
    ExitCode.ENVIRONMENT: "this machine lacks something",
    ExitCode.MODEL: "the model or its data cannot be trained or tested",
    ExitCode.LEFT: "it was asked to end before the job was finished; the same command goes on",
    ExitCode.INTERRUPTED: "Ctrl-C, of a command that people watch",
}
"""The meaning of each exit code, in one phrase. A test compares docs/exit-codes.md with it."""


class GossipCaffeError(Exception):
    """Base of all expected errors."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        """The line that a user reads: the message, then the remedy."""
        line = f"{self.message}; {self.remedy}" if self.remedy else self.message
        return " ".join(line.split())


class UsageError(GossipCaffeError):
    """A command was called with invalid values."""

    exit_code = ExitCode.USAGE


class Left(GossipCaffeError):
    """The command was asked to end before the job was finished."""

    exit_code = ExitCode.LEFT


class NotFound(GossipCaffeError):
    """The named job, peer, cluster or checkpoint does not exist."""

    exit_code = ExitCode.NOT_FOUND


class Conflict(GossipCaffeError):
    """Another process has what was asked for: a name, a port, a running cluster."""

    exit_code = ExitCode.CONFLICT


class EnvironmentProblem(GossipCaffeError):
    """This machine lacks something: pycaffe, an etcd binary, shared memory."""

    exit_code = ExitCode.ENVIRONMENT


class NotInstalled(EnvironmentProblem):
    """An optional package or program is not installed. ``name``: the imported module, or the program."""

    def __init__(self, message: str, *, name: str, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.name = name


class ModelError(GossipCaffeError):
    """A prototxt or weight file is invalid for Caffe, or not supported here."""

    exit_code = ExitCode.MODEL


class DataError(ModelError):
    """A data set is missing, unreadable, or does not fit its net."""


class CorruptRecord(DataError):
    """One record is unreadable, or does not fit the others. The message begins with its source and key."""


class SolverDied(ModelError):
    """The solver process ended unexpectedly. The message has the cause that Caffe printed."""


class StoreError(GossipCaffeError):
    """The coordination store (etcd) refused or failed a request."""

    exit_code = ExitCode.UNREACHABLE


class StoreUnavailable(StoreError):
    """No endpoint answered within the deadline. The request was certainly not applied, or it changes nothing."""


class Ambiguous(StoreError):
    """A write was sent and its reply was lost: it may have been applied, or may be applied later."""


class StoreRefused(StoreError):
    """The store does not permit a request to this client, until its permissions are changed."""


class WritesRefused(StoreError):
    """The store takes no writes for now: it is full, overloaded or corrupt.

    If a ``FencedWriter`` raises it, the write was certainly not applied; for a plain transaction that is unknown.
    """


class ReplyTooLarge(StoreError):
    """The store's reply exceeds this client's limit: read it in smaller parts."""


class LeaseLost(StoreError):
    """This peer's lease ended, and with it the ownership of all its keys."""


class ExchangeFailed(GossipCaffeError):
    """An exchange ended without a valid answer. This peer's weights did not change."""


class CheckpointRefused(GossipCaffeError):
    """A checkpoint is torn, altered or of another model. No part of it was loaded."""
