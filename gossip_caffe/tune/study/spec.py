"""A study as it is stored in etcd, once: all that a worker needs to make the job of any trial, except the data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from gossip_caffe.errors import UsageError
from gossip_caffe.job.spec.fields import read_stored
from gossip_caffe.job.spec.store_url import checked_store_url
from gossip_caffe.json_records import read_json
from gossip_caffe.membership.keys import is_name
from gossip_caffe.tune.study.parameters import Parameter, Value

FORMAT = 1
MOST_TRIALS = 100_000
LOSS = "loss"
"""The objective's output that stands for the first loss of the test net."""
SAMPLERS = ("tpe", "cmaes", "random", "grid")
PRUNERS = ("asha", "hyperband", "median", "none")
GOALS = ("max", "min")
MOST_PEERS = 4
"""The most peers of one trial, by default."""


@dataclass(frozen=True, slots=True)
class Objective:
    """The aim of a study: ``output`` of the solver's tests, or "loss"; ``goal``: "max" or "min"."""

    output: str
    goal: str = "max"

    def is_better(self, one: float, other: float) -> bool:
        """True if ``one`` is the better value of the two."""
        return one > other if self.goal == "max" else one < other


@dataclass(frozen=True, slots=True)
class Sampler:
    """The choice of the next trial's values. ``startup``: trials with random values first; ``points``: of a grid."""

    kind: str = "tpe"
    startup: int = 10
    points: int = 5


@dataclass(frozen=True, slots=True)
class Pruner:
    """The choice of the trials that end early.

    ``min_tests``: the tests that each trial makes at the least. ``reduction``: of asha and hyperband: one in so many
    goes on at each step. ``startup``: of the median: trials that are finished before the first is pruned.
    """

    kind: str = "asha"
    min_tests: int = 1
    reduction: int = 3
    startup: int = 5


@dataclass(frozen=True, slots=True)
class NetFile:
    """A net that the solver names: its absolute path, and its text."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class StudySpec:
    """One study.

    ``solver``: the solver file; ``working``: the folder at which relative paths begin. Both, and ``nets``, need not be
    on a worker's disk. ``samples``: the budget of one trial, as exact as whole iterations allow; ``tests``: the tests
    of one trial, after equal numbers of samples. ``storage``: the URL of Optuna's storage, "" for the journal in etcd.
    ``store``: the URL of the trials' checkpoints, which all workers reach. ``creation``: random text of the command
    that created the study. ``peers``: the most peers of one trial.
    """

    name: str
    solver: NetFile
    working: str
    nets: tuple[NetFile, ...]
    space: tuple[Parameter, ...]
    objective: Objective
    samples: int
    tests: int
    trials: int
    sampler: Sampler
    pruner: Pruner
    seed: int
    store: str
    storage: str = ""
    weights: str = ""
    creation: str = ""
    peers: int = MOST_PEERS
    file_text: str = ""

    @property
    def searched(self) -> tuple[Parameter, ...]:
        """The parameters that are not fixed."""
        return tuple(parameter for parameter in self.space if parameter.is_searched)

    @property
    def fixed(self) -> dict[str, Value]:
        """The fixed values, by path."""
        return {parameter.path: parameter.values[0] for parameter in self.space if not parameter.is_searched}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that defines the study, whoever created it."""
        content = dataclasses.asdict(self)
        for name in ("creation", "file_text", "name", "store"):
            del content[name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def job_name(self, number: int, attempt: int = 0) -> str:
        """The name of a trial's job; a trial that starts over gets another job."""
        return f"{self.name}-t{number:04d}" + (f"-r{attempt}" if attempt else "")

    def checked_values(self, values: Mapping[str, object]) -> dict[str, Value] | None:
        """The values of all searched parameters, if each is valid; None otherwise."""
        found: dict[str, Value] = {}
        for parameter in self.searched:
            value = values.get(parameter.path)
            if not isinstance(value, str | int | float | bool) or not parameter.accepts(value):
                return None
            found[parameter.path] = value
        return found if len(values) == len(found) else None

    def to_json(self) -> bytes:
        """The study as it is stored."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, value: bytes) -> StudySpec:
        """Parse a stored study. Raises UsageError with the name of the field that is missing or wrong."""
        return _checked(read_stored(cls, value, FORMAT, "study"))


def _checked(spec: StudySpec) -> StudySpec:
    """The parsed study, when each value in it is one that creating a study could give. Raises UsageError otherwise."""
    if not is_name(spec.name) or len(spec.name) > MOST_NAME:
        raise _wrong("name")
    if not (1 <= spec.trials <= MOST_TRIALS and 1 <= spec.tests <= 2**31 and 1 <= spec.samples <= 2**62):
        raise _wrong("trials, tests or samples")
    if not 1 <= spec.peers <= 1000 or spec.seed < 0:
        raise _wrong("peers or seed")
    if (
        spec.sampler.kind not in SAMPLERS
        or spec.pruner.kind not in PRUNERS
        or spec.objective.goal not in GOALS
    ):
        raise _wrong("sampler, pruner or objective")
    if spec.pruner.min_tests < 1 or spec.pruner.reduction < 2:
        raise _wrong("pruner")
    for parameter in spec.space:
        is_range = (
            parameter.kind in {"float", "int"}
            and parameter.low < parameter.high
            and not (parameter.log and parameter.low <= 0)
            and math.isfinite(parameter.step)
            and parameter.step >= 0
        )
        if not (all(map(_is_value, parameter.choices)) if parameter.choices else is_range):
            raise _wrong(f"space {parameter.path!r:.80}")
    checked_store_url(spec.store)
    return spec


def _is_value(choice: str) -> bool:
    """True for the JSON of a value."""
    try:
        return isinstance(read_json(choice.encode()), str | int | float | bool)
    except ValueError:
        return False


MOST_NAME = 40
"""Limit of a study's name, in characters: the names of its jobs are longer."""


def _wrong(what: str) -> UsageError:
    return UsageError(f"the study's {what} cannot be used", remedy="create the study again")
