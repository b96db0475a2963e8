"""The records of a study in the store are data, not orders: a value that no worker can have written is left out."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from gossip_caffe.errors import Conflict, NotFound, UsageError
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Put
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.stops import stop_of, why_stopped
from gossip_caffe.tune.board.keys import StudyKeys
from gossip_caffe.tune.board.studies import create_study, go_on, load_study, only_study, stop_study
from gossip_caffe.tune.board.trial import Results, TestResult, TrialRecord, TrialState
from gossip_caffe.tune.board.view import read_board, read_results
from gossip_caffe.tune.study.spec import StudySpec
from tests.fake_clock import FakeClock
from tests.tuning import bare_study, trial

STUDY = bare_study()
KEYS = StudyKeys("study")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(MemoryEtcd(FakeClock()))


def test_a_record_survives_the_store() -> None:
    made = trial(3, STUDY, state=TrialState.PRUNED, value=0.25, cause="asha", samples=100, began_at=1.5)
    assert TrialRecord.from_json(made.to_json(), 3, STUDY) == made
    results = Results(1, (TestResult(1, 100, 0.5), TestResult(3, 300, None)))
    assert Results.from_json(results.to_json()) == results
    assert (results.newest, results.last_mark) == (0.5, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"number": 4},
        {"number": True},
        {"values": {}},
        {"values": {"solver.base_lr": 7.0, "net.conv.num_output": 16, "settings.lr_scaling": "sqrt"}},
        {"values": {"solver.base_lr": 0.1, "net.conv.num_output": 16.5, "settings.lr_scaling": "sqrt"}},
        {"values": {"solver.base_lr": 0.1, "net.conv.num_output": 16, "settings.lr_scaling": "none; rm"}},
        {"job": "another-job"},
        {"attempt": -1},
        {"state": "done"},
        {"value": float("nan")},
        {"value": "0.5"},
        {"cause": "x" * 1000},
        {"checkpoint": "../../etc"},
        {"folder": 5},
        {"samples": -1},
    ],
)
def test_a_record_that_no_worker_writes_is_refused(change: dict[str, Any]) -> None:
    record = {**asdict(trial(3, STUDY)), **change}
    with pytest.raises(ValueError, match=r"trial|state|done"):
        TrialRecord.from_json(json.dumps(record).encode(), 3, STUDY)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"{}",
        b'{"attempt": 0, "tests": 7}',
        b'{"attempt": 0, "tests": [[1, 2]]}',
        b'{"attempt": 0, "tests": [[2, 2, 0.1], [1, 3, 0.1]]}',
        b'{"attempt": 0, "tests": [[1, 2, "x"]]}',
        b'{"attempt": true, "tests": []}',
    ],
)
def test_results_that_no_worker_writes_are_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"results|JSON|Expecting"):
        Results.from_json(value)


async def test_foreign_values_on_the_board_are_left_out_and_told(store: MemoryStore) -> None:
    lease = (await store.grant(60)).id
    good = trial(0, STUDY)
    await store.transact(
        [],
        [
            Put(KEYS.trial(0), good.to_json()),
            Put(KEYS.trial(1), b"garbage"),
            Put(KEYS.trial(2), good.to_json()),
            Put(KEYS.claim(0), b"w1", lease),
            Put(KEYS.claim(1), b"w1"),
            Put(KEYS.claim(2), b"Not A Name", lease),
            Put(KEYS.helper("w2"), b"0", lease),
            Put(KEYS.helper("w3"), b"-1", lease),
            Put(f"{KEYS.board}other", b""),
            Put(KEYS.stopped, b"{}"),
            Put(KEYS.result(0), b"garbage"),
        ],
    )
    told: list[str] = []
    board = await read_board(store, KEYS, STUDY, lambda key, _revision, _why: told.append(key))
    assert board.trials == {0: good}
    assert board.claims == {0: "w1"}
    assert board.helpers == {"w2": 0}
    assert board.stopped == ""
    assert len(told) == 7
    assert await read_results(store, KEYS) == {}


async def test_a_study_is_created_once_and_another_of_its_name_is_a_conflict(store: MemoryStore) -> None:
    with pytest.raises(NotFound, match="no study in etcd"):
        await only_study(store)
    assert await create_study(store, STUDY)
    assert not await create_study(store, bare_study(creation="another command"))
    with pytest.raises(Conflict):
        await create_study(store, bare_study(trials=13))
    assert await load_study(store, await only_study(store)) == STUDY
    with pytest.raises(NotFound, match="known: study"):
        await load_study(store, "other")


async def test_a_study_that_is_stopped_can_go_on(store: MemoryStore) -> None:
    await create_study(store, STUDY)
    assert await stop_study(store, "study", "me")
    assert not await stop_study(store, "study", "you")
    assert (await read_board(store, KEYS, STUDY)).stopped == "me"
    await go_on(store, "study")
    assert (await read_board(store, KEYS, STUDY)).stopped == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trials", 0),
        ("samples", -1),
        ("name", "../x"),
        ("seed", -1),
        ("peers", 0),
        ("store", "exec:///bin/sh"),
        ("sampler", {"kind": "evil"}),
        ("pruner", {"kind": "asha", "reduction": 1}),
        ("space", [{"path": "solver.base_lr", "kind": "float", "low": 2.0, "high": 1.0}]),
        ("space", [{"path": "solver.base_lr", "kind": "code"}]),
        ("space", [{"path": "solver.base_lr", "kind": "choices", "choices": ["no json"]}]),
        ("objective", {"output": 5}),
    ],
)
def test_a_study_that_no_command_writes_is_refused(field: str, value: object) -> None:
    record = {**json.loads(STUDY.to_json()), field: value}
    with pytest.raises(UsageError):
        StudySpec.from_json(json.dumps(record).encode())


async def test_a_stopped_job_says_why(store: MemoryStore) -> None:
    keys = JobKeys("job")
    assert await why_stopped(store, keys) == ""
    await store.transact([], [stop_of(keys, "study s:\ntrial 3 pruned " + "x" * 1000)])
    why = await why_stopped(store, keys)
    assert why.startswith("study s: trial 3 pruned")
    assert len(why) == 300
    await store.transact([], [Put(keys.stopped, b'{"by": 7}')])
    assert await why_stopped(store, keys) == ""
