"""The progress of a chaos run: its injections and their results. It is written to disk after every injection."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from gossip_caffe.chaos.phases import Phase
from gossip_caffe.chaos.scenario import Act, Injection
from gossip_caffe.errors import Conflict, EnvironmentProblem

FILE = "chaos.json"


@dataclass(slots=True)
class ChaosProgress:
    """The progress of a run.

    ``carried_out``: the number of injections so far. ``kills``: the number of SIGKILLs by process; ``phases``: the same
    by the phase of their target; ``others``: the number of other injections by act. ``broken``: the invariants that the
    checker found broken; ``failed``: other failures of a round. ``undisturbed``: the job was trained once without
    injections; ``undisturbed_accuracy``: the test accuracy of that model, and ``accuracies`` those of the rounds, from
    0 to 1. ``no_accuracy``: the reason why there is no accuracy.
    """

    scenario: dict[str, Any]
    carried_out: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    phases: dict[str, int] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    finished: int = 0
    records_trained: int = 0
    records_lost: int = 0
    records_twice: int = 0
    undisturbed: bool = False
    undisturbed_accuracy: float | None = None
    accuracies: list[float] = field(default_factory=list)
    no_accuracy: str = ""
    broken: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether no record is lost, no invariant is broken, and no round has failed."""
        return not (self.broken or self.failed or self.records_lost)

    def count(self, injection: Injection, met: Phase) -> None:
        """Count an injection that was carried out on a target in the phase ``met``."""
        self.carried_out = injection.number + 1
        if injection.act is not Act.KILL:
            self.others[injection.act.value] = self.others.get(injection.act.value, 0) + 1
            return
        self.kills[injection.what] = self.kills.get(injection.what, 0) + 1
        self.phases[met.value] = self.phases.get(met.value, 0) + 1

    def to_record(self) -> dict[str, Any]:
        """The progress as a JSON object."""
        return {**asdict(self), "kills_in_all": sum(self.kills.values()), "ok": self.ok}

    def write(self, folder: Path) -> None:
        """Write the progress to ``folder``, atomically. Raises EnvironmentProblem if that fails."""
        new = (folder / FILE).with_suffix(".new")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(self.to_record(), indent=1))
            new.replace(folder / FILE)
        except OSError as error:
            raise EnvironmentProblem(
                f"the progress of the run cannot be written to {folder} ({error.strerror})",
                remedy="give another --folder, or check its disk",
            ) from error

    @classmethod
    def read(cls, folder: Path, scenario: dict[str, Any]) -> Self:
        """Read the progress from ``folder``; that of a new run if there is none.

        Raises Conflict if it belongs to another scenario, or to another version of gossip-caffe.
        """
        try:
            record = json.loads((folder / FILE).read_text())
        except (FileNotFoundError, NotADirectoryError):
            return cls(scenario)
        values = {key: value for key, value in record.items() if key not in {"kills_in_all", "ok"}}
        if values.keys() != {entry.name for entry in fields(cls)}:
            raise Conflict(
                f"{folder / FILE} was written by another version of gossip-caffe",
                remedy="give this run a --folder of its own",
            )
        if record["scenario"] != scenario:
            raise Conflict(
                f"{folder} has a run of another scenario", remedy="give this one a --folder of its own"
            )
        return cls(**values)


def last_lines(record: dict[str, Any]) -> list[str]:
    """The last lines of a run's output, from ``ChaosProgress.to_record``."""
    lines = [*record["failed"], *record["broken"]]
    if record["phases"]:
        order = {phase.value: number for number, phase in enumerate(Phase)}
        met = sorted(record["phases"].items(), key=lambda entry: order[entry[0]])
        lines.append("killed while " + ", ".join(f"{phase}: {count}" for phase, count in met))
    kills = ", ".join(f"{count} of {what}" for what, count in sorted(record["kills"].items()))
    others = ", ".join(f"{count} × {what}" for what, count in sorted(record["others"].items()))
    lines.append(_accuracy_line(record))
    lines.append(
        f"{record['kills_in_all']} kills ({kills}); {others or 'nothing else'}; {record['rounds']} rounds in "
        f"{record['seconds']:.0f} s; {record['records_lost']} records lost, "
        f"{record['records_twice']:,} trained twice"
    )
    return lines


def _accuracy_line(record: dict[str, Any]) -> str:
    if record["no_accuracy"]:
        return f"test accuracy: not observable, {record['no_accuracy']}"
    if record["undisturbed_accuracy"] is None:
        return "test accuracy: not known yet"
    rounds = record["accuracies"]
    told = f"{min(rounds):.2%} to {max(rounds):.2%} after {len(rounds)} rounds" if rounds else "no round yet"
    return f"test accuracy: {record['undisturbed_accuracy']:.2%} undisturbed, {told}"
