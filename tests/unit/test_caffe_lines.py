"""A run as the log that caffe train writes: line by line, and as Caffe's own tool reads it."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.observe.export.caffe_lines import KINDS, CaffeLog
from gossip_caffe.observe.log.events import Event
from tests.caffe_tools import parsed

T = 1_796_040_488.25
GLOG = re.compile(r"I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \w+\.cpp:\d+\] .*")


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def event(after_s: float, kind: Event, peer: str = "p0", **fields: Any) -> dict[str, Any]:
    return {"t": T + after_s, "m": after_s, "peer": peer, "event": kind.value, **fields}


def displayed(after_s: float, number: int, peer: str = "p0", every: int = 100) -> dict[str, Any]:
    iteration = number * every
    lines = [
        f"Iteration {iteration}, loss = {2.5 / (1 + number):.6g}",
        f"    Train net output #0: loss = {2.4 / (1 + number):.6g} (* 1 = {2.4 / (1 + number):.6g} loss)",
        f"Iteration {iteration}, lr = 0.01",
    ]
    return event(after_s, Event.DISPLAYED, peer, number=number, lines=lines)


def of_test(after_s: float, mark: int, iteration: int, peer: str = "p0", nets: int = 1) -> dict[str, Any]:
    outputs = [
        {"name": name, "means": [value], "values": 1, "loss_weight": weight, "net": net}
        for net in range(nets)
        for name, value, weight in (("accuracy", 0.5 + mark / 100, 0.0), ("loss", 1.5, 1.0))
    ]
    fields = {"progress_samples": 64 * iteration, "iteration": iteration, "seconds": 0.1, "mark": mark}
    return event(after_s, Event.TESTED, peer, outputs=outputs, **fields)


def started(peer: str = "p0", pid: int = 4711) -> dict[str, Any]:
    return event(0, Event.STARTED, peer, pid=pid, job="lenet")


def lines_of(*events: dict[str, Any]) -> list[str]:
    log = CaffeLog()
    return [line for each in events for line in log.lines(each)]


def test_each_event_has_the_lines_that_caffe_prints_with_the_head_of_glog() -> None:
    found = lines_of(
        started(),
        of_test(0.5, 1, 0),
        displayed(1, 0),
        displayed(3, 1),
        event(4, Event.FINISHED, checkpoint="c"),
    )
    assert found == [
        "I1130 12:08:08.250000  4711 solver.cpp:282] Solving lenet",
        "I1130 12:08:08.750000  4711 solver.cpp:346] Iteration 0, Testing net (#0)",
        "I1130 12:08:08.750000  4711 solver.cpp:413]     Test net output #0: accuracy = 0.51",
        "I1130 12:08:08.750000  4711 solver.cpp:413]     Test net output #1: loss = 1.5 (* 1 = 1.5 loss)",
        "I1130 12:08:09.250000  4711 solver.cpp:231] Iteration 0, loss = 2.5",
        "I1130 12:08:09.250000  4711 solver.cpp:247]     Train net output #0: loss = 2.4 (* 1 = 2.4 loss)",
        "I1130 12:08:09.250000  4711 sgd_solver.cpp:106] Iteration 0, lr = 0.01",
        "I1130 12:08:11.250000  4711 solver.cpp:231] Iteration 100 (50 iter/s, 2s/100 iters), loss = 1.25",
        "I1130 12:08:11.250000  4711 solver.cpp:247]     Train net output #0: loss = 1.2 (* 1 = 1.2 loss)",
        "I1130 12:08:11.250000  4711 sgd_solver.cpp:106] Iteration 100, lr = 0.01",
        "I1130 12:08:12.250000  4711 solver.cpp:325] Optimization Done.",
    ]
    assert all(map(GLOG.fullmatch, found))


def test_of_several_peers_the_first_at_an_iteration_counts_and_each_test_once() -> None:
    found = lines_of(
        started(),
        started("p1", 4712),
        displayed(1, 1, "p1"),
        displayed(2, 1),
        displayed(3, 2),
        displayed(4, 2, "p1"),
        of_test(5, 2, 200),
        of_test(6, 2, 200, "p1"),
        event(7, Event.FINISHED),
        event(7, Event.FINISHED, "p1"),
    )
    text = "\n".join(found)
    assert [int(n) for n in re.findall(r"Iteration (\d+).*, loss =", text)] == [100, 200]
    assert [line.split()[2] for line in found if ", loss = " in line] == ["4712", "4711"]
    assert text.count("Testing net") == 1
    assert text.count("Solving") == 1
    assert text.count("Optimization Done.") == 1


def test_several_test_nets_wide_outputs_and_the_loss_of_a_net_are_lines_of_their_own() -> None:
    wide = of_test(1, 1, 0, nets=2)
    wide["outputs"][0] |= {"means": [0.25, None, 0.75], "values": 3}
    wide["outputs"].insert(
        2, {"name": "Test loss", "means": [1.25], "values": 1, "loss_weight": 0.0, "net": 1}
    )
    assert [line.partition("] ")[2] for line in lines_of(wide)] == [
        "Iteration 0, Testing net (#0)",
        "    Test net output #0: accuracy = 0.25",
        "    Test net output #1: accuracy = nan",
        "    Test net output #2: accuracy = 0.75",
        "    Test net output #3: loss = 1.5 (* 1 = 1.5 loss)",
        "Iteration 0, Testing net (#1)",
        "Test loss: 1.25",
        "    Test net output #0: accuracy = 0.51",
        "    Test net output #1: loss = 1.5 (* 1 = 1.5 loss)",
    ]


def test_lines_of_debug_info_are_there_and_events_of_other_versions_are_not() -> None:
    debug = event(1, Event.DISPLAYED, number=None, lines=["    [Forward] Layer ip1, top blob ip1 data: 0.5"])
    assert lines_of(debug)[0].endswith("]     [Forward] Layer ip1, top blob ip1 data: 0.5")
    odd = of_test(1, 1, 0)
    odd["outputs"] = "none"
    assert lines_of(odd) == []
    assert lines_of(event(1, Event.PROGRESS, iteration=3)) == []
    assert {Event.STARTED, Event.DISPLAYED, Event.TESTED, Event.FINISHED} == KINDS


def test_a_time_just_below_a_second_is_that_second() -> None:
    line = lines_of({**started(), "t": 1_796_040_488.9999998})[0]
    assert line.startswith("I1130 12:08:09.000000 ")


def test_the_tool_of_caffe_finds_a_row_for_each_display_and_each_test(tmp_path: Path) -> None:
    events = [started()]
    for number in range(12):
        if number % 4 == 0:
            events.append(of_test(2.0 * number, 1 + number // 4, 100 * number))
        events.append(displayed(2.0 * number + 1, number))
    log = tmp_path / "train.log"
    log.write_text("".join(line + "\n" for line in lines_of(*events, event(30, Event.FINISHED))))
    train, test = parsed(log, tmp_path / "tools")
    assert [row["NumIters"] for row in train] == [100.0 * number for number in range(12)]
    assert [row["loss"] for row in train] == pytest.approx(
        [2.4 / (1 + number) for number in range(12)], rel=1e-5
    )
    assert [row["Seconds"] for row in train] == [2.0 * number + 1 for number in range(12)]
    assert {row["LearningRate"] for row in train} == {0.01}
    assert [(row["NumIters"], row["accuracy"]) for row in test] == [(0, 0.51), (400, 0.52), (800, 0.53)]
