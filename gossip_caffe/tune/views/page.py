"""A study as one self-contained HTML page: it loads no network resource, no script and no font."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from gossip_caffe.observe.report.chart import Bar, Lane, Series, lanes, lines
from gossip_caffe.observe.report.page import STYLE
from gossip_caffe.observe.report.style import chart_style
from gossip_caffe.tune.board.trial import TrialRecord, TrialState
from gossip_caffe.tune.views.coordinates import CoordinateTrial, parallel_coordinates
from gossip_caffe.tune.views.importance import importances
from gossip_caffe.tune.views.summary import Summary
from gossip_caffe.tune.views.table import described, headings, headline, rows

_NOTHING = '<p class="unseen">there is nothing to draw yet</p>'
_KINDS = tuple(state.value for state in TrialState)
MOST_CURVES = 60
"""Of more trials those with the most tests are drawn."""


def study_page(summary: Summary) -> str:
    """The page of a study."""
    study = summary.study
    sections = (
        ("Best", _best(summary)),
        ("History", lines("value of each complete trial, and the best so far", history(summary), "trial")),
        (
            "Learning curves",
            lines("test results of the trials", curves(summary), "samples trained by the trial"),
        ),
        ("Parallel coordinates", _coordinates(summary)),
        ("Importance", _importance(summary)),
        ("Trials over time", _times(summary)),
        ("Trials", _table(headings(summary), rows(summary))),
    )
    body = "".join(
        f"<section><h2>{escape(name)}</h2>{content or _NOTHING}</section>" for name, content in sections
    )
    title = f"Study {study.name}"
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"/><title>{escape(title)}</title>'
        f"<style>{chart_style()}{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<p>{escape(headline(summary))}; {summary.samples:,} samples trained by all trials.</p>"
        f"{body}</body></html>\n"
    )


def history(summary: Summary) -> list[Series]:
    """The value of each complete trial, and the best so far, over the trials' numbers."""
    objective = summary.study.objective
    complete = [
        (number, trial.value)
        for number, trial in sorted(summary.board.trials.items())
        if trial.state is TrialState.COMPLETE and trial.value is not None
    ]
    best: list[tuple[float, float]] = []
    for number, value in complete:
        newest = value if not best or objective.is_better(value, best[-1][1]) else best[-1][1]
        best.append((number, newest))
    return [Series("best so far", best), Series("complete trials", complete)] if complete else []


def curves(summary: Summary) -> list[Series]:
    """The tests of each trial over its samples."""
    found = [
        (
            f"trial {number}",
            [(float(test.samples), test.value) for test in tests.tests if test.value is not None],
        )
        for number, tests in sorted(summary.results.items())
    ]
    longest = {
        name for name, points in sorted(found, key=lambda entry: -len(entry[1]))[:MOST_CURVES] if points
    }
    return [Series(name, points) for name, points in found if name in longest]


def _best(summary: Summary) -> str:
    if (trial := summary.best) is None:
        return '<p class="unseen">no trial is complete yet</p>'
    return (
        f"<p>Trial {trial.number}: {escape(summary.study.objective.output)} {trial.value:.5g}</p>"
        f"<pre>{escape(described(trial).replace(', ', chr(10)))}</pre>"
    )


def _compared(summary: Summary) -> list[CoordinateTrial]:
    """The trials with a value at all: pruned ones have that of their last test."""
    return [
        CoordinateTrial(number, trial.values, trial.value)
        for number, trial in sorted(summary.board.trials.items())
        if trial.value is not None and trial.state.is_end
    ]


def _coordinates(summary: Summary) -> str:
    objective = summary.study.objective
    return parallel_coordinates(summary.study.searched, _compared(summary), objective.output, objective.goal)


def _importance(summary: Summary) -> str:
    """The share of each parameter, from values after the first test: every trial has one, and they compare."""
    first = {
        number: tests.tests[0].value
        for number, tests in summary.results.items()
        if tests.tests and tests.tests[0].value is not None and number in summary.board.trials
    }
    trials = [(summary.board.trials[number].values, value or 0.0) for number, value in sorted(first.items())]
    found = importances(summary.study.searched, trials)
    body = "".join(
        f'<tr><td>{escape(entry.path)}</td><td class="n">{entry.share:.0%}</td><td style="width:60%">'
        f'<span style="display:inline-block;height:10px;background:#0072b2;width:{100 * entry.share:.1f}%"></span>'
        "</td></tr>"
        for entry in found
    )
    note = "The share of the ranks' variance after the first test that each parameter explains by itself."
    return f"<p>{note}</p><table>{body}</table>" if found else ""


def _times(summary: Summary) -> str:
    trials = [trial for _, trial in sorted(summary.board.trials.items()) if trial.began_at > 0]
    if not trials:
        return ""
    began = min(trial.began_at for trial in trials)
    last = max(max(trial.ended_at, trial.began_at) for trial in trials)
    found = [Lane(str(trial.number), [_bar(trial, began, last)]) for trial in trials[-200:]]
    return lanes("the trials over time", found, last - began, _KINDS)


def _bar(trial: TrialRecord, began: float, last: float) -> Bar:
    end = trial.ended_at if trial.state.is_end else last
    told = f"trial {trial.number}: {trial.state.value}" + (f": {trial.cause}" if trial.cause else "")
    return Bar(trial.began_at - began, max(end - began, trial.began_at - began), trial.state.value, told)


def _table(names: Iterable[str], entries: Iterable[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in entry) + "</tr>" for entry in entries
    )
    return f"<table><tr>{head}</tr>{body}</table>"
