"""The one tree of errors that a user can meet, and the exit code of each branch.

Every error says what went wrong and where (``message``) and what to do about it (``remedy``). The command line
prints both on one line; a traceback is for our own defects only.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of ``gossip-caffe``; documented in docs/errors.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    CONFLICT = 5
    ENVIRONMENT = 6
    MODEL = 7
    INTERRUPTED = 130


class GossipCaffeError(Exception):
    """Base of all foreseeable failures."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        """The one line that a user reads: what and where, then what to do."""
        line = f"{self.message}; {self.remedy}" if self.remedy else self.message
        return " ".join(line.split())


class UsageError(GossipCaffeError):
    """A command was called with values that cannot work."""

    exit_code = ExitCode.USAGE


class NotFound(GossipCaffeError):
    """A job, peer, cluster or checkpoint of that name does not exist."""

    exit_code = ExitCode.NOT_FOUND


class Conflict(GossipCaffeError):
    """Something else holds what was asked for: a name, a port, a running cluster."""

    exit_code = ExitCode.CONFLICT


class EnvironmentProblem(GossipCaffeError):
    """This machine lacks something: pycaffe, an etcd binary, shared memory."""

    exit_code = ExitCode.ENVIRONMENT


class ModelError(GossipCaffeError):
    """A prototxt or weight file that Caffe, or we, cannot take."""

    exit_code = ExitCode.MODEL


class DataError(ModelError):
    """A data set that is missing, unreadable or does not fit its net."""


class CorruptRecord(DataError):
    """One record that cannot be read, or does not fit the others; the message begins with its source and key."""


class SolverDied(ModelError):
    """The solver process ended without being asked to; the message carries the cause that Caffe printed."""


class StoreError(GossipCaffeError):
    """The coordination store (etcd) refused or failed a request."""

    exit_code = ExitCode.UNREACHABLE


class StoreUnavailable(StoreError):
    """No endpoint answered within the deadline; the request surely was not applied, or it changes nothing."""


class Ambiguous(StoreError):
    """A write was sent and its reply was lost: it may have been applied, or may be later."""


class LeaseLost(StoreError):
    """Our lease ended, and with it everything that we owned."""


class ExchangeFailed(GossipCaffeError):
    """An exchange ended without an answer that may be applied; nothing was changed on our side."""


class CheckpointRefused(GossipCaffeError):
    """A checkpoint is torn, altered or of another model; nothing of it was loaded."""
