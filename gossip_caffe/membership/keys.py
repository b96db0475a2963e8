"""The names of all keys of a job in the store."""

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
"""Digits of an epoch's or a chunk's number in a key: with leading zeros, keys sort in numerical order."""
_LAST = "\U0010ffff"
"""A character that sorts after all characters of keys."""
_LEDGER_KEY = re.compile(rf"(claims|done)/([0-9]{{{_DIGITS}}})/([0-9]{{{_DIGITS}}})")


def is_name(name: str) -> bool:
    """True if the text is a valid name of a job or a peer, and so a valid part of a key."""
    return _NAME.fullmatch(name) is not None


def checked_name(name: str, what: str) -> str:
    """``name`` when it is a valid part of a key; raises UsageError otherwise.

    ``what`` ("job" or "peer") is for the message.
    """
    if not is_name(name):
        raise UsageError(
            f"{name!r} cannot be the name of a {what}",
            remedy="use up to 63 lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit",
        )
    return name


@functools.lru_cache(maxsize=64)
def keys_of(job: str) -> JobKeys:
    """The keys of a job. The job's name is checked here, once."""
    return JobKeys(job)


@dataclass(frozen=True, slots=True)
class JobKeys:
    """The keys of one job; docs/internals/architecture.md lists what each holds."""

    job: str

    def __post_init__(self) -> None:
        checked_name(self.job, "job")

    @property
    def root(self) -> str:
        """Prefix of all keys of the job."""
        return f"{JOBS}{self.job}/"

    @property
    def spec(self) -> str:
        """The key of the job's spec."""
        return f"{self.root}spec"

    @property
    def peers(self) -> str:
        """Prefix of the peers' records. Every peer watches it."""
        return f"{self.root}peers/"

    def peer(self, peer: str) -> str:
        """The key of one peer's record."""
        return f"{self.peers}{peer}"

    @property
    def statuses(self) -> str:
        """Prefix of the peers' live figures. They change often, so no peer watches them."""
        return f"{self.root}status/"

    def status(self, peer: str) -> str:
        """The key of one peer's live figures."""
        return f"{self.statuses}{peer}"

    @property
    def fences(self) -> str:
        """Prefix of the peers' fences."""
        return f"{self.root}fence/"

    def fence(self, peer: str) -> str:
        """The fence of one peer: the key that every transaction of this peer rewrites."""
        return f"{self.fences}{peer}"

    @property
    def ranks(self) -> str:
        """Prefix of the living peers' numbers, which exist only where the net makes its own data."""
        return f"{self.root}ranks/"

    def rank(self, number: int) -> str:
        """The key of one number; its value names the peer that has it."""
        return f"{self.ranks}{number:0{_DIGITS}d}"

    def rank_of(self, key: str) -> int | None:
        """The number in a key under ``ranks``; None for a key that no peer writes."""
        number = key.removeprefix(self.ranks)
        return int(number) if len(number) == _DIGITS and number.isascii() and number.isdigit() else None

    def leave(self, peer: str) -> str:
        """The key that asks one peer to leave."""
        return f"{self.root}leave/{peer}"

    @property
    def folded(self) -> str:
        """The key of the number of folded epochs (defined in ``shards.folded``), and the prefix of ``folded_copy``."""
        return f"{self.root}folded"

    @property
    def folded_copy(self) -> str:
        """The key of a copy of the record under ``folded``."""
        return f"{self.folded}-copy"

    @property
    def ledger(self) -> str:
        """Prefix of all claims and done marks of the open epochs."""
        return f"{self.root}ledger/"

    @property
    def done_marks(self) -> str:
        """Prefix of the done marks (settled chunks) of all open epochs."""
        return f"{self.ledger}done/"

    def claims(self, epoch: int) -> str:
        """Prefix of the claims of one epoch."""
        return f"{self.ledger}claims/{epoch:0{_DIGITS}d}/"

    def claim(self, epoch: int, chunk: int) -> str:
        """The key of one chunk's claim."""
        return f"{self.claims(epoch)}{chunk:0{_DIGITS}d}"

    def done(self, epoch: int) -> str:
        """Prefix of the done marks (settled chunks) of one open epoch."""
        return f"{self.done_marks}{epoch:0{_DIGITS}d}/"

    def done_mark(self, epoch: int, chunk: int) -> str:
        """The key of one chunk's done mark."""
        return f"{self.done(epoch)}{chunk:0{_DIGITS}d}"

    def read_ledger(self, key: str) -> tuple[bool, int, int] | None:
        """Parse a key of the ledger: (True if the chunk is settled, False if it is claimed; its epoch; its number).

        Returns None for a key that no peer writes.
        """
        found = _LEDGER_KEY.fullmatch(key.removeprefix(self.ledger))
        return (found[1] == "done", int(found[2]), int(found[3])) if found is not None else None

    def read_chunks(self, keys: Iterable[str]) -> tuple[dict[int, set[int]], dict[int, set[int]]]:
        """Parse many keys of the ledger: (epoch → claimed chunks, epoch → settled chunks).

        A listing may have ten thousand keys, so the prefix that consecutive keys share is parsed only once.
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
        """The chunk numbers at the end of the keys, each of which has ``length`` characters."""
        numbers = [key[-_DIGITS:] for key in keys]
        if sum(map(len, keys)) == length * len(keys) and "".join(numbers).isdecimal():
            return set(map(int, numbers))
        return {found[2] for key in keys if (found := self.read_ledger(key)) is not None}

    @property
    def founder(self) -> str:
        """The key of the peer that makes the job's first weights."""
        return f"{self.root}founder"

    @property
    def rollbacks(self) -> str:
        """The key of the job's rollbacks: how many there were, and the checkpoint of the last."""
        return f"{self.root}rollbacks"

    def duty(self, name: str) -> str:
        """The key of a duty: its value names the peer that has it, and it is attached to that peer's lease."""
        return f"{self.root}duty/{name}"

    @property
    def checkpoints(self) -> str:
        """Prefix of the announced checkpoints."""
        return f"{self.root}checkpoints/"

    def checkpoint(self, checkpoint: str) -> str:
        """The key of one announced checkpoint."""
        return f"{self.checkpoints}{checkpoint}"

    @property
    def withdrawn(self) -> str:
        """The key of the announcements that peers withdrew, and of the peers that withdrew them."""
        return f"{self.root}withdrawn"

    @property
    def tested(self) -> str:
        """The key of the newest test of the consensus."""
        return f"{self.root}tested"

    @property
    def clip(self) -> str:
        """The key of the measured limit of gradients."""
        return f"{self.root}clip"

    @property
    def finished(self) -> str:
        """The key that exists once the job is finished."""
        return f"{self.root}finished"

    @property
    def stopped(self) -> str:
        """The key that exists once the job was stopped before its end, as a pruned trial of a study is."""
        return f"{self.root}stopped"
