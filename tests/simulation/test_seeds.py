"""Seeds of the simulator: nothing is broken, and one seed has one history, byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from gossip_caffe.cli.main import cli
from gossip_caffe.observe.checker.verdict import InvariantStatus, verdict_of
from gossip_caffe.sim.faults.faults import ALL, Fault, Kind, kinds_of, scheduled
from gossip_caffe.sim.shrinking import shrunk
from gossip_caffe.sim.simulation import planned, simulate

SEEDS = int(os.environ.get("GOSSIP_CAFFE_SEEDS", "4"))
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_no_invariant_is_broken_by_any_fault(seed: int) -> None:
    found = simulate(planned(ALL, peers=10, seed=seed, for_s=20.0))
    assert found.failures == ()
    assert found.verdict.counters.records_lost == 0
    assert found.accuracy > 0.85
    assert len(found.plan.schedule) >= 5


@pytest.mark.timeout(600)
def test_no_invariant_is_broken_by_any_fault_in_rounds() -> None:
    plan = planned(ALL, peers=6, seed=1, for_s=14.0)
    found = simulate(replace(plan, settings=replace(plan.settings, strategy="sync")))
    assert found.failures == ()
    assert found.verdict.counters.records_lost == 0
    assert found.verdict.standing("whole-round") is InvariantStatus.HOLDS
    assert found.verdict.counters.rounds > 20


def digest_of(seed: int, hash_seed: int) -> str:
    command = [sys.executable, "-m", "gossip_caffe", "simulate", "--peers", "6", "--for", "12s", "--json"]
    run = subprocess.run(
        [*command, "--seed", str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return str(json.loads(run.stdout)["digest"])


@pytest.mark.timeout(300)
def test_one_seed_has_one_history_in_every_process_and_another_seed_another() -> None:
    assert digest_of(3, 1) == digest_of(3, 2) != digest_of(4, 1)


def test_a_schedule_is_a_function_of_its_seed_and_leaving_a_kind_out_changes_no_other() -> None:
    whole = scheduled(ALL, seed=5, for_s=60.0)
    assert whole == scheduled(ALL, seed=5, for_s=60.0) != scheduled(ALL, seed=6, for_s=60.0)
    without = scheduled([kind for kind in ALL if kind is not Kind.KILL], seed=5, for_s=60.0)
    assert without == tuple(fault for fault in whole if fault.kind is not Kind.KILL)
    assert all(Fault.from_record(fault.to_record()) == fault for fault in whole)
    assert kinds_of("kill, freeze") == (Kind.KILL, Kind.FREEZE)


def test_churn_kills_one_and_lets_one_join_in_each_minute_of_a_run_of_any_length() -> None:
    for every, scale in ((1.0, 1.0), (0.5, 40.0)):
        churn = scheduled([Kind.CHURN], seed=5, for_s=3600.0, every=every, scale=scale)
        assert [int(fault.at_s // 60) for fault in churn] == list(range(1, 60))
        assert [int(fault.ends_s // 60) for fault in churn] == list(range(1, 60))


@pytest.mark.timeout(300)
def test_a_run_with_churn_holds_and_its_report_shows_the_distance_of_all_peers(tmp_path: Path) -> None:
    words = [
        "simulate",
        "--peers",
        "4",
        "--for",
        "170s",
        "--faults",
        "churn",
        "--out",
        str(tmp_path),
        "--json",
    ]
    shown = CliRunner().invoke(cli, words)
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.output)
    assert found["kills"] == 1
    assert found["records_lost"] == 0
    assert found["verdict"]["counters"]["peers"] == 5
    page = (tmp_path / "report.html").read_text()
    assert "measured over all peers" in page


def test_among_a_thousand_peers_everything_takes_its_time() -> None:
    few, many = (planned([Kind.CHURN], peers=peers, seed=1, for_s=3600.0) for peers in (16, 1000))
    assert many.step_s == 10 * few.step_s
    assert many.settings.lease_ttl_s == 10 * few.settings.lease_ttl_s
    assert many.grain_s < many.step_s
    assert many.schedule == few.schedule


def test_a_failing_schedule_is_shrunk_to_what_it_needs() -> None:
    schedule = scheduled(ALL, seed=5, for_s=120.0)
    needed = {schedule[2], schedule[-3]}
    tried = 0

    def fails(part: Sequence[Fault]) -> bool:
        nonlocal tried
        tried += 1
        return needed <= set(part)

    assert set(shrunk(schedule, fails)) == needed
    assert tried < 4 * len(schedule)
    assert shrunk(schedule, lambda part: True) == ()


def test_a_simulated_history_is_a_run_folder_that_verify_reads(tmp_path: Path) -> None:
    words = ["simulate", "--peers", "3", "--for", "8s", "--faults", "kill", "--out", str(tmp_path)]
    shown = CliRunner().invoke(cli, words)
    assert shown.exit_code == 0, shown.output
    found = verdict_of(tmp_path)
    assert not found.broken
    assert found.standing("full-coverage") is InvariantStatus.HOLDS
    again = CliRunner().invoke(cli, [*words[:5], "--schedule", str(tmp_path / "schedule.json"), "--json"])
    assert json.loads(again.output)["digest"][:16] in shown.output
