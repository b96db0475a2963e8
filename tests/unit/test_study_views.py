"""A study for people: the table, the page, the importance of parameters, the file that a local study leaves."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from gossip_caffe.errors import UsageError
from gossip_caffe.tune.board.trial import Results, TestResult, TrialState
from gossip_caffe.tune.board.view import Board
from gossip_caffe.tune.study.parameters import Parameter
from gossip_caffe.tune.study.spec import Objective, StudySpec
from gossip_caffe.tune.views.importance import importances
from gossip_caffe.tune.views.page import study_page
from gossip_caffe.tune.views.summary import Summary, read_summary, write_summary
from gossip_caffe.tune.views.table import headings, headline, rows
from tests.tuning import SPACE, bare_study, learn, trial


def summary(study: StudySpec | None = None, count: int = 10) -> Summary:
    study = study or bare_study()
    trials, results = {}, {}
    for number in range(count):
        values = {
            "solver.base_lr": 10 ** (-4 + 4 * number / count),
            "net.conv.num_output": 8 + 5 * (number * 7 % 10),
            "settings.lr_scaling": "sqrt" if number % 2 else "none",
        }
        state = TrialState.PRUNED if number % 3 == 1 else TrialState.COMPLETE
        marks = 2 if state is TrialState.PRUNED else study.tests
        tests = tuple(
            TestResult(mark, 222 * mark, learn(values, mark / study.tests)) for mark in range(1, marks + 1)
        )
        cause = "asha: <b>3</b> of 4" if state is TrialState.PRUNED else ""
        trials[number] = trial(
            number, study, values=values, state=state, value=tests[-1].value, cause=cause,
            began_at=100.0 + number, ended_at=103.0 + number, samples=tests[-1].samples,
        )  # fmt: skip
        results[number] = Results(0, tests)
    trials[count] = trial(count, study, began_at=120.0)
    return Summary(study, Board(trials, {count: "w1"}, {"w2": count}), results, {"w1": "host", "w2": "host"})


def test_the_best_trial_is_complete_and_follows_the_goal() -> None:
    seen = summary()
    assert seen.best is not None
    complete = [one for one in seen.board.trials.values() if one.state is TrialState.COMPLETE]
    assert seen.best.value == max(one.value or 0 for one in complete)
    least = summary(bare_study(objective=Objective("loss", "min"))).best
    assert least is not None
    assert least.value == min(one.value or 0 for one in complete)
    assert Summary(bare_study(), Board()).best is None


def test_the_table_has_a_row_for_each_trial() -> None:
    seen = summary()
    found = rows(seen)
    assert len(found) == 11
    assert all(len(row) == len(headings(seen)) for row in found)
    assert found[10][:2] == ("10", "running")
    assert "w1+w2" in found[10]
    assert [row[0] for row in rows(seen, 3)] == ["8", "9", "10"]
    assert headline(seen).startswith(
        "study study: 11 of 12 trials begun (1 running, 7 complete, 3 pruned); best acc"
    )


def test_the_page_is_well_formed_loads_nothing_and_escapes() -> None:
    page = study_page(summary())
    body = page.removeprefix("<!DOCTYPE html>")
    ElementTree.fromstring(body)
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    assert "<b>3</b>" not in page
    for name in ("History", "Learning curves", "Parallel coordinates", "Importance", "Trials over time"):
        assert f"<h2>{name}</h2>" in page
    ElementTree.fromstring(study_page(Summary(bare_study(), Board())).removeprefix("<!DOCTYPE html>"))


def test_the_importance_finds_the_parameter_that_decides() -> None:
    trials = []
    for number in range(60):
        values = {
            "solver.base_lr": 10 ** (-4 + 4 * (number * 37 % 60) / 60),
            "net.conv.num_output": 8 + number * 17 % 50,
            "settings.lr_scaling": "sqrt" if number % 2 else "none",
        }
        trials.append((values, -abs((number * 37 % 60) - 30.0)))
    found = importances(SPACE, trials)
    assert found[0].path == "solver.base_lr"
    assert found[0].share > 0.8
    assert all(entry.share < 0.3 for entry in found[1:])
    assert importances(SPACE, trials[:3]) == ()
    assert importances((Parameter("a", "fixed", choices=("1",)),), [({"a": 1}, 0.5)] * 9)[0].share == 0.0


def test_the_file_of_a_local_study_is_read_back(tmp_path: Path) -> None:
    seen = summary()
    write_summary(tmp_path, seen)
    again = read_summary(tmp_path / "study.json")
    assert again.board.trials == seen.board.trials
    assert {n: r for n, r in again.results.items() if r.tests} == seen.results
    assert again.study == seen.study
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(UsageError):
        read_summary(tmp_path / "study.json")
