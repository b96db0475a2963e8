"""Where a chaos run stands: what was done, and what came of it. It is on disk after every stroke."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from gossip_caffe.cluster.chaos_phases import Phase
from gossip_caffe.cluster.chaos_scenario import Act, Stroke
from gossip_caffe.errors import Conflict, EnvironmentProblem

FILE = "chaos.json"


@dataclass(slots=True)
class Standing:
    """Where a run stands. ``dealt``: strokes that were carried out; ``kills``: SIGKILLs by what they struck.

    ``phases``: the same by what the peer was at; ``others``: what else was done. ``broken``: what the checker found,
    ``failed``: how else a round went wrong. ``undisturbed``: whether the job was trained once in peace;
    ``undisturbed_accuracy``: of that model on the test data, and ``accuracies`` of the rounds'; from 0 to 1.
    ``no_accuracy``: why there is none.
    """

    scenario: dict[str, Any]
    dealt: int = 0
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
        """Nothing is lost or broken, and every round that was not interrupted came to its end."""
        return not (self.broken or self.failed or self.records_lost)

    def count(self, stroke: Stroke, met: Phase) -> None:
        """One stroke more was carried out."""
        self.dealt = stroke.number + 1
        if stroke.act is not Act.KILL:
            self.others[stroke.act.value] = self.others.get(stroke.act.value, 0) + 1
            return
        self.kills[stroke.what] = self.kills.get(stroke.what, 0) + 1
        self.phases[met.value] = self.phases.get(met.value, 0) + 1

    def to_record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**asdict(self), "kills_in_all": sum(self.kills.values()), "ok": self.ok}

    def write(self, folder: Path) -> None:
        """Keep it; whoever reads it never sees half of it. Raises EnvironmentProblem when it cannot be written."""
        new = (folder / FILE).with_suffix(".new")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(self.to_record(), indent=1))
            new.replace(folder / FILE)
        except OSError as error:
            raise EnvironmentProblem(
                f"where the run stands cannot be written to {folder} ({error.strerror})",
                remedy="give another --folder, or check its disk",
            ) from error

    @classmethod
    def read(cls, folder: Path, scenario: dict[str, Any]) -> Self:
        """What was kept; of a new run when nothing was. Raises Conflict when it is of another scenario."""
        try:
            record = json.loads((folder / FILE).read_text())
        except (FileNotFoundError, NotADirectoryError):
            return cls(scenario)
        if record["scenario"] != scenario:
            raise Conflict(
                f"{folder} has a run of another scenario", remedy="give this one a --folder of its own"
            )
        return cls(**{key: value for key, value in record.items() if key not in {"kills_in_all", "ok"}})


def last_lines(record: dict[str, Any]) -> list[str]:
    """What came of a run, for people: of ``Standing.to_record``."""
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
