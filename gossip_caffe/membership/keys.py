"""Where everything of a job stands in the store."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gossip_caffe.errors import UsageError

JOBS = "/gossip-caffe/jobs/"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def checked_name(name: str, what: str) -> str:
    """``name`` when it can be part of a key; raises UsageError otherwise. ``what`` is said in the error."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a {what}",
            remedy="use up to 63 lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit",
        )
    return name


@dataclass(frozen=True, slots=True)
class JobKeys:
    """The keys of one job; docs/architecture.md lists what each holds."""

    job: str

    def __post_init__(self) -> None:
        checked_name(self.job, "job")

    @property
    def root(self) -> str:
        """Prefix of all keys of the job."""
        return f"{JOBS}{self.job}/"

    @property
    def spec(self) -> str:
        """The job itself."""
        return f"{self.root}spec"

    @property
    def peers(self) -> str:
        """Prefix of the records that every peer watches."""
        return f"{self.root}peers/"

    def peer(self, peer: str) -> str:
        """One peer's record."""
        return f"{self.peers}{peer}"

    @property
    def statuses(self) -> str:
        """Prefix of the live figures, which nobody watches."""
        return f"{self.root}status/"

    def status(self, peer: str) -> str:
        """One peer's live figures."""
        return f"{self.statuses}{peer}"

    def fence(self, peer: str) -> str:
        """The key that every transaction of a peer rewrites."""
        return f"{self.root}fence/{peer}"

    def leave(self, peer: str) -> str:
        """Where a peer is asked to leave."""
        return f"{self.root}leave/{peer}"

    @property
    def folded(self) -> str:
        """How many epochs are finished."""
        return f"{self.root}folded"

    @property
    def ledger(self) -> str:
        """Prefix of everything that is known of the chunks of the open epochs."""
        return f"{self.root}ledger/"

    @property
    def done_marks(self) -> str:
        """Prefix of the done chunks of all open epochs."""
        return f"{self.ledger}done/"

    def claim(self, epoch: int, chunk: int) -> str:
        """One owned chunk."""
        return f"{self.ledger}claims/{epoch:08d}/{chunk:08d}"

    def done(self, epoch: int) -> str:
        """Prefix of the done chunks of an open epoch."""
        return f"{self.done_marks}{epoch:08d}/"

    def done_mark(self, epoch: int, chunk: int) -> str:
        """One done chunk."""
        return f"{self.done(epoch)}{chunk:08d}"

    def read_ledger(self, key: str) -> tuple[bool, int, int]:
        """A key of the ledger taken apart: whether the chunk is done (else owned), its epoch, its number."""
        kind, epoch, chunk = key.removeprefix(self.ledger).split("/")
        return kind == "done", int(epoch), int(chunk)

    @property
    def founder(self) -> str:
        """Who makes the job's first weights."""
        return f"{self.root}founder"

    def duty(self, name: str) -> str:
        """Who holds a duty, on its lease."""
        return f"{self.root}duty/{name}"

    @property
    def checkpoints(self) -> str:
        """Prefix of the announced checkpoints."""
        return f"{self.root}checkpoints/"

    def checkpoint(self, checkpoint: str) -> str:
        """One announced checkpoint."""
        return f"{self.checkpoints}{checkpoint}"

    @property
    def tested(self) -> str:
        """The newest test of the consensus."""
        return f"{self.root}tested"

    @property
    def finished(self) -> str:
        """The job's end."""
        return f"{self.root}finished"
