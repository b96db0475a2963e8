"""The roles of a job, or of a study, in etcd: their names, and the ranges of keys that each may read and write.

A peer writes all keys of its job but ``spec``, which names code and data, and ``stopped``, which ends the job: those
are its owner's. A viewer reads. The rights of a study extend to its trials, which are jobs that its workers create.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from gossip_caffe.security.identity import Role

OURS = "/gossip-caffe/"
"""The prefix of all keys of this program."""
PROBE = f"{OURS}doctor/"
"""The prefix of the keys that ``doctor`` writes and removes again. No peer reads it."""
_KEY = re.compile(rf"{OURS}(?P<kind>jobs|studies)/(?P<name>[a-z0-9][a-z0-9._-]*)/.*", re.DOTALL)


class Kind(Enum):
    """The things that have roles. The value is the folder of their keys."""

    JOB = "jobs"
    STUDY = "studies"


_OWNERS_ALONE = {Kind.JOB: ("spec", "stopped"), Kind.STUDY: ("spec",)}
"""The keys that no peer writes, in order."""


@dataclass(frozen=True, slots=True)
class KeyRange:
    """All keys from ``start`` on, before ``end``."""

    start: str
    end: str
    writes: bool = False

    @property
    def kind(self) -> str:
        """The kind of the permission, as etcdctl names it."""
        return "readwrite" if self.writes else "read"


@dataclass(frozen=True, slots=True)
class Scope:
    """The keys of one job or one study."""

    kind: Kind
    name: str

    @property
    def root(self) -> str:
        """The prefix of its keys."""
        return f"{OURS}{self.kind.value}/{self.name}/"

    @property
    def owners_alone(self) -> tuple[str, ...]:
        """The keys that no peer writes."""
        return tuple(self.root + name for name in _OWNERS_ALONE[self.kind])

    def role(self, role: Role) -> str:
        """The name of a role in etcd."""
        study = "study-" if self.kind is Kind.STUDY else ""
        return f"gossip-caffe-{study}{self.name}-{role.value}"

    def ranges(self, role: Role) -> tuple[KeyRange, ...]:
        """The ranges of keys of a role."""
        all_of_it = KeyRange(self.root, _behind(self.root))
        trials = self._trials(writes=role is not Role.VIEWER)
        if role is Role.VIEWER:
            return (all_of_it, *trials)
        probe = KeyRange(PROBE, _behind(PROBE), writes=True)
        if role is Role.OWNER:
            return (KeyRange(all_of_it.start, all_of_it.end, writes=True), *trials, probe)
        return (all_of_it, *self._around(self.owners_alone), *trials, probe)

    def needed(self, key: str, *, writes: bool) -> Role:
        """The role with the fewest rights that may read or write a key of this scope."""
        if not writes:
            return Role.VIEWER
        return Role.OWNER if key in self.owners_alone or key == self.root else Role.PEER

    def _around(self, keys: tuple[str, ...]) -> tuple[KeyRange, ...]:
        """All keys but ``keys``, and but keys under them."""
        starts = (self.root, *map(_beside, keys))
        ends = (*keys, _behind(self.root))
        return tuple(KeyRange(start, end, writes=True) for start, end in zip(starts, ends, strict=True))

    def _trials(self, *, writes: bool) -> tuple[KeyRange, ...]:
        """The jobs of a study's trials: the study's name, "-t", and a number."""
        if self.kind is Kind.JOB:
            return ()
        first = f"{OURS}{Kind.JOB.value}/{self.name}-t"
        return (KeyRange(f"{first}0", f"{first}:", writes),)


def scope_of(key: str) -> Scope | None:
    """The job or study that has a key; None for another key."""
    found = _KEY.fullmatch(key)
    return Scope(Kind(found["kind"]), found["name"]) if found is not None else None


def _behind(prefix: str) -> str:
    """The first key behind all keys with a prefix that ends with "/"."""
    return prefix[:-1] + "0"


def _beside(key: str) -> str:
    """The first key behind ``key`` and all keys under it, "key/…"."""
    return key + "0"
