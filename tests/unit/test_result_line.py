"""The verdict and the last lines of the demonstration."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gossip_caffe.demo.result import DemoResult, result_line

GOOD = DemoResult(
    accuracy=0.975,
    accuracy_single=0.9777777,
    records_trained=100_590,
    records_lost=0,
    records_twice=512,
    peers_joined=1,
    peers_killed=1,
)


def test_the_very_last_line_is_result_and_one_json_object() -> None:
    last = GOOD.last_lines(Path("demo.png"))[-1]
    assert last.startswith("RESULT {")
    assert json.loads(last.removeprefix("RESULT ")) == {
        "accuracy": 0.975,
        "accuracy_single": 0.977778,
        "records_trained": 100_590,
        "records_lost": 0,
        "records_twice": 512,
        "peers_joined": 1,
        "peers_killed": 1,
    }


def test_the_lines_above_say_the_same_to_people() -> None:
    consensus, records, picture, _ = GOOD.last_lines(Path("out/demo.png"))
    assert consensus == "consensus accuracy 97.50% (single solver 97.78%; gap +0.28 points)"
    assert records == "records trained 100,590, lost 0, trained twice 512"
    assert picture == "picture out/demo.png"


def test_no_gap_has_no_sign() -> None:
    for single in (0.975, 0.97500001, 0.97499999):
        line = replace(GOOD, accuracy_single=single).last_lines(Path("demo.png"))[0]
        assert line.endswith("gap +0.00 points)")


def test_a_run_as_it_should_be_is_no_failure() -> None:
    assert GOOD.failures() == []


def test_a_consensus_above_the_single_solver_is_no_failure() -> None:
    assert replace(GOOD, accuracy=1.0).failures() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"records_lost": 1}, "lost"),
        ({"accuracy": 0.96}, "points below"),
        ({"finished": False}, "deadline"),
        ({"peers_joined": 0}, "joined"),
        ({"peers_killed": 0}, "killed"),
    ],
)
def test_each_reason_to_fail_is_one_line_of_its_own(change: dict[str, float], said: str) -> None:
    failures = replace(GOOD, **change).failures()  # type: ignore[arg-type]
    assert len(failures) == 1
    assert said in failures[0]
    assert "\n" not in failures[0]


def test_a_gap_of_one_point_is_still_good_whatever_the_rounding_of_floats() -> None:
    assert replace(GOOD, accuracy=0.97, accuracy_single=0.98).failures() == []


def test_a_result_line_refuses_what_is_no_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        result_line({"accuracy": float("nan")})
