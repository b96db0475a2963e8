"""A trial's record in the store, and the results of its tests."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gossip_caffe.json_records import read_object
from gossip_caffe.plain import is_plain
from gossip_caffe.tune.study.parameters import Value
from gossip_caffe.tune.study.spec import StudySpec

MOST_CAUSE = 300
MOST_RESULTS = 100_000


class TrialState(StrEnum):
    """The state of a trial. Every state but RUNNING is an end, and no trial leaves an end."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"

    @property
    def is_end(self) -> bool:
        """True if the trial has ended."""
        return self is not TrialState.RUNNING


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial. It is written when the trial begins, when it starts over (``attempt``), and at its end.

    ``values``: the searched parameters' values. ``job``: the name of its job. ``value``: the objective at the end;
    None for a trial that ended before its first test. ``cause``: why it was pruned, or failed. ``checkpoint``: its
    last one, whose manifest has the ``digest``, in the store's folder ``folder``. ``began_at``, ``ended_at``: wall
    time, s, for people.
    """

    number: int
    values: dict[str, Value]
    job: str
    attempt: int = 0
    state: TrialState = TrialState.RUNNING
    value: float | None = None
    samples: int = 0
    cause: str = ""
    checkpoint: str = ""
    digest: str = ""
    folder: str = ""
    began_at: float = 0.0
    ended_at: float = 0.0

    def to_json(self) -> bytes:
        """The record as it is stored."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, content: bytes, number: int, study: StudySpec) -> TrialRecord:
        """Parse a record, and check each field. Raises ValueError for a value that no worker has written."""
        return cls.from_record(read_object(content), number, study)

    @classmethod
    def from_record(cls, record: Mapping[str, Any], number: int, study: StudySpec) -> TrialRecord:
        """As ``from_json``, from a JSON object."""
        try:
            made = cls(**{name: record[name] for name in _FIELDS if name in record})
            made = dataclasses.replace(made, state=TrialState(made.state))
        except TypeError as error:
            raise ValueError(f"no trial: {error}") from None
        if why := _objection(made, number, study):
            raise ValueError(f"no trial: {why}")
        return made


_FIELDS = tuple(field.name for field in dataclasses.fields(TrialRecord))


def _objection(record: TrialRecord, number: int, study: StudySpec) -> str:
    """The reason why no worker can have written this record; "" when every field is valid."""
    names = (record.checkpoint, record.digest, record.folder)
    numbers = (record.began_at, record.ended_at, 0.0 if record.value is None else record.value)
    faults = (
        (record.number != number, "its number is another"),
        (
            not isinstance(record.values, dict) or study.checked_values(record.values) is None,
            "its values are not of this study's space",
        ),
        (
            not _is_count(record.attempt) or record.job != study.job_name(number, record.attempt),
            "its job is not this trial's",
        ),
        (not _is_count(record.samples) or not all(map(_is_number, numbers)), "a number of it is wrong"),
        (not isinstance(record.cause, str) or len(record.cause) > MOST_CAUSE, "its cause is no text"),
        (
            not all(isinstance(name, str) and (not name or is_plain(name)) for name in names),
            "its checkpoint is none",
        ),
    )
    return next((why for wrong, why in faults if wrong), "")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class TestResult:
    """One test of a trial: its number ``mark`` from 1, the samples trained by then, and the objective's value.

    ``value`` is None when the output was not finite.
    """

    __test__ = False  # its name is no test's

    mark: int
    samples: int
    value: float | None


@dataclass(frozen=True, slots=True)
class Results:
    """The results of a trial's tests, in order, of one ``attempt``."""

    attempt: int = 0
    tests: tuple[TestResult, ...] = ()

    @property
    def last_mark(self) -> int:
        """The number of the last test; 0: none."""
        return self.tests[-1].mark if self.tests else 0

    @property
    def newest(self) -> float | None:
        """The value of the last test that has one."""
        return next((test.value for test in reversed(self.tests) if test.value is not None), None)

    def with_test(self, test: TestResult) -> Results:
        """These results and one more."""
        return dataclasses.replace(self, tests=(*self.tests, test))

    def to_json(self) -> bytes:
        """The results as they are stored."""
        tests = [[test.mark, test.samples, test.value] for test in self.tests]
        return json.dumps({"attempt": self.attempt, "tests": tests}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Results:
        """Parse results. Raises ValueError for a value that no worker has written."""
        record = read_object(content)
        tests, attempt = record.get("tests"), record.get("attempt")
        if not isinstance(tests, list) or len(tests) > MOST_RESULTS or not _is_count(attempt):
            raise ValueError("no results")
        found: list[TestResult] = []
        for entry in tests:
            if not (
                isinstance(entry, list) and len(entry) == 3 and _is_count(entry[0]) and _is_count(entry[1])
            ):
                raise ValueError("no results")
            if entry[2] is not None and not _is_number(entry[2]):
                raise ValueError("no results")
            if found and entry[0] <= found[-1].mark:
                raise ValueError("results that are not in order")
            found.append(TestResult(*entry))
        return cls(int(record["attempt"]), tuple(found))
