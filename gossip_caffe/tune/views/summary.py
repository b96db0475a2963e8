"""A study at one moment, as people and programs look at it: from etcd, or from the file that ``tune run`` leaves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gossip_caffe.errors import EnvironmentProblem, UsageError
from gossip_caffe.json_records import read_json, read_object
from gossip_caffe.membership.etcd.store import Store
from gossip_caffe.membership.keys import is_name
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.tune.board.keys import StudyKeys
from gossip_caffe.tune.board.trial import Results, TrialRecord, TrialState
from gossip_caffe.tune.board.view import Board, read_board, read_results
from gossip_caffe.tune.study.spec import StudySpec

FILE = "study.json"


@dataclass(frozen=True, slots=True)
class Summary:
    """A study, its board, the tests of its trials, and its workers (name → host)."""

    study: StudySpec
    board: Board
    results: Mapping[int, Results] = field(default_factory=dict)
    workers: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the best value; None while there is none."""
        complete = [
            trial
            for trial in self.board.trials.values()
            if trial.state is TrialState.COMPLETE and trial.value is not None
        ]
        sign = 1.0 if self.study.objective.goal == "max" else -1.0
        return max(complete, key=lambda trial: (sign * (trial.value or 0.0), -trial.number), default=None)

    def counted(self, state: TrialState) -> int:
        """The number of trials in a state."""
        return sum(trial.state is state for trial in self.board.trials.values())

    @property
    def ended(self) -> bool:
        """True if every trial of the study has ended."""
        return len(self.board.trials) >= self.study.trials and not self.board.running

    @property
    def samples(self) -> int:
        """The samples that all trials have trained, as far as their tests tell."""
        return sum(
            max(trial.samples, self.results[number].tests[-1].samples if self.tests_of(number) else 0)
            for number, trial in self.board.trials.items()
        )

    def tests_of(self, number: int) -> Results | None:
        """The tests of a trial; None while there is none."""
        found = self.results.get(number)
        return found if found is not None and found.tests else None

    def to_record(self) -> dict[str, Any]:
        """The summary as a JSON object."""
        best = self.best
        return {
            "study": self.study.name,
            "objective": dataclasses.asdict(self.study.objective),
            "trials_wanted": self.study.trials,
            "ended": self.ended,
            "stopped": self.board.stopped or None,
            "best": best.number if best is not None else None,
            "counts": {state.value: self.counted(state) for state in TrialState},
            "samples": self.samples,
            "workers": dict(self.workers),
            "trials": [
                {
                    **dataclasses.asdict(trial),
                    "worker": self.board.claims.get(number),
                    "helpers": self.board.helpers_of(number),
                    "tests": [
                        [test.mark, test.samples, test.value]
                        for test in (self.results[number].tests if number in self.results else ())
                    ],
                }
                for number, trial in sorted(self.board.trials.items())
            ],
        }


async def summary_of(store: Store, study: StudySpec, ignored: Note = discard_note) -> Summary:
    """Read a study's summary from the store. Raises StoreError."""
    keys = StudyKeys(study.name)
    workers: dict[str, str] = {}
    for item in (await store.list(keys.workers)).items:
        name = item.key.removeprefix(keys.workers)
        try:
            host = read_object(item.value)["host"]
        except (ValueError, KeyError):
            continue
        if is_name(name) and isinstance(host, str):
            workers[name] = host
    board = await read_board(store, keys, study, ignored)
    return Summary(study, board, await read_results(store, keys, ignored), workers)


def write_summary(folder: Path, summary: Summary) -> None:
    """Write the summary beside the study's runs, whole or not at all. Raises EnvironmentProblem."""
    path = folder / FILE
    unfinished = path.with_suffix(".unfinished")
    content = {"spec": json.loads(summary.study.to_json()), **summary.to_record()}
    try:
        unfinished.write_text(json.dumps(content))
        unfinished.replace(path)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {path} ({error.strerror})", remedy="free some disk space"
        ) from None


def read_summary(path: Path) -> Summary:
    """Read the file of ``write_summary``. Raises UsageError for any other file."""
    try:
        record = read_json(path.read_bytes())
        study = StudySpec.from_json(json.dumps(record["spec"]).encode())
        trials, results = {}, {}
        for entry in record["trials"]:
            number = int(entry["number"])
            trials[number] = TrialRecord.from_record(entry, number, study)
            tests = {"attempt": trials[number].attempt, "tests": entry["tests"]}
            results[number] = Results.from_json(json.dumps(tests).encode())
        stopped = str(record["stopped"] or "")
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror})", remedy="check the folder") from None
    except (ValueError, KeyError, TypeError, UsageError) as error:
        raise UsageError(
            f"{path} is not the summary of a study ({error})", remedy="run the study again"
        ) from None
    return Summary(study, Board(trials, stopped=stopped), results)
