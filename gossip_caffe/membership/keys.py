"""Where everything of a job stands in the store."""

from __future__ import annotations

import functools
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gossip_caffe.errors import UsageError

JOBS = "/gossip-caffe/jobs/"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_DIGITS = 8
"""Of a chunk's number and of an epoch's, so that keys are sorted as these are."""
_LAST = "\U0010ffff"
"""No key has a character after this one."""
_LEDGER_KEY = re.compile(rf"(claims|done)/([0-9]{{{_DIGITS}}})/([0-9]{{{_DIGITS}}})")


def checked_name(name: str, what: str) -> str:
    """``name`` when it can be part of a key; raises UsageError otherwise. ``what`` is said in the error."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a {what}",
            remedy="use up to 63 lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit",
        )
    return name


@functools.lru_cache(maxsize=64)
def keys_of(job: str) -> JobKeys:
    """The keys of a job; its name is checked once."""
    return JobKeys(job)


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
        return f"{self.ledger}claims/{epoch:0{_DIGITS}d}/{chunk:0{_DIGITS}d}"

    def done(self, epoch: int) -> str:
        """Prefix of the done chunks of an open epoch."""
        return f"{self.done_marks}{epoch:0{_DIGITS}d}/"

    def done_mark(self, epoch: int, chunk: int) -> str:
        """One done chunk."""
        return f"{self.done(epoch)}{chunk:0{_DIGITS}d}"

    def read_ledger(self, key: str) -> tuple[bool, int, int] | None:
        """A key of the ledger taken apart: whether the chunk is done (else owned), its epoch, its number.

        None when no peer writes such a key.
        """
        found = _LEDGER_KEY.fullmatch(key.removeprefix(self.ledger))
        return (found[1] == "done", int(found[2]), int(found[3])) if found is not None else None

    def read_chunks(self, keys: Iterable[str]) -> tuple[dict[int, set[int]], dict[int, set[int]]]:
        """The owned and the done chunks of each epoch, of as many as ten thousand keys of the ledger.

        What these have in common is read once.
        """
        owned: dict[int, set[int]] = {}
        done: dict[int, set[int]] = {}
        ordered, first = sorted(keys), 0
        while first < len(ordered):
            key = ordered[first]
            if (found := self.read_ledger(key)) is None:
                first += 1
                continue
            folder = key[:-_DIGITS]
            behind = bisect_left(ordered, folder + _LAST, first)
            chunks = (done if found[0] else owned).setdefault(found[1], set())
            chunks |= self._numbers(ordered[first:behind], len(key))
            first = behind
        return owned, done

    def _numbers(self, keys: Sequence[str], length: int) -> set[int]:
        """The numbers of the chunks of one folder, whose keys are of this length."""
        numbers = [key[-_DIGITS:] for key in keys]
        if sum(map(len, keys)) == length * len(keys) and "".join(numbers).isdecimal():
            return set(map(int, numbers))
        return {found[2] for key in keys if (found := self.read_ledger(key)) is not None}

    @property
    def founder(self) -> str:
        """Who makes the job's first weights."""
        return f"{self.root}founder"

    @property
    def times_back(self) -> str:
        """How often the job was taken back to a checkpoint, and to which."""
        return f"{self.root}times-back"

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
