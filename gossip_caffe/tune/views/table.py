"""A study as text: a headline, and a row for each trial."""

from __future__ import annotations

from gossip_caffe.tune.board.trial import TrialRecord, TrialState
from gossip_caffe.tune.study.parameters import Value
from gossip_caffe.tune.views.summary import Summary

MOST_ROWS = 30


def headings(summary: Summary) -> tuple[str, ...]:
    """The headings of the rows."""
    values = [short_path(parameter.path) for parameter in summary.study.searched]
    return (
        "TRIAL",
        "STATE",
        summary.study.objective.output.upper(),
        "TESTS",
        "SAMPLES",
        *values,
        "WORKER",
        "NOTE",
    )


def rows(summary: Summary, most: int = 0) -> list[tuple[str, ...]]:
    """One row for each trial; with ``most``, so many of them: those that run, and the newest others."""
    numbers = sorted(summary.board.trials)
    if most and len(numbers) > most:
        running = set(summary.board.running)
        kept = running | set(
            [number for number in numbers if number not in running][-max(0, most - len(running)) :]
        )
        numbers = sorted(kept)
    return [_row(summary, summary.board.trials[number]) for number in numbers]


def _row(summary: Summary, trial: TrialRecord) -> tuple[str, ...]:
    tests = summary.tests_of(trial.number)
    value = trial.value if trial.value is not None else (tests.newest if tests is not None else None)
    samples = max(trial.samples, tests.tests[-1].samples if tests is not None else 0)
    worker = summary.board.claims.get(trial.number, "")
    helpers = summary.board.helpers_of(trial.number)
    state = trial.state.value
    if trial.state is TrialState.RUNNING and not worker:
        state = "waiting"  # for a worker that takes it over
    best = summary.best
    note = trial.cause or ("best" if best is not None and best.number == trial.number else "")
    return (
        str(trial.number),
        state,
        "" if value is None else f"{value:.4g}",
        f"{tests.last_mark if tests is not None else 0}/{summary.study.tests}",
        f"{samples:,}",
        *(shown(trial.values.get(parameter.path, "")) for parameter in summary.study.searched),
        "+".join([worker, *helpers]) if worker or helpers else "",
        note,
    )


def headline(summary: Summary) -> str:
    """One line about the whole study."""
    study, best = summary.study, summary.best
    counts = ", ".join(
        f"{summary.counted(state)} {state.value}" for state in TrialState if summary.counted(state)
    )
    parts = [f"study {study.name}: {len(summary.board.trials)} of {study.trials} trials begun"]
    if counts:
        parts.append(f"({counts})")
    line = " ".join(parts)
    if best is not None and best.value is not None:
        line += f"; best {study.objective.output} {best.value:.4g} (trial {best.number})"
    if summary.workers:
        line += f"; {len(summary.workers)} workers"
    return line + (f"; stopped: {summary.board.stopped}" if summary.board.stopped else "")


def short_path(path: str) -> str:
    """A parameter's name for a heading: the last part of its path, with its layer's name."""
    parts = path.split(".")
    return ".".join((parts[1], parts[-1])) if parts[0] == "net" and len(parts) > 2 else parts[-1]


def shown(value: Value) -> str:
    """A parameter's value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def described(trial: TrialRecord) -> str:
    """A trial's values in one line."""
    return ", ".join(f"{path} = {shown(value)}" for path, value in sorted(trial.values.items()))
