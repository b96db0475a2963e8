"""A stranger offers real peers their own weights, spoilt, for a third of a job: it learns what it learns in peace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gossip_caffe.observe.checker.verdict import InvariantStatus, verdict_of
from tests.chaos_job import write_chaos_job
from tests.cluster_run import cluster_run
from tests.event_logs import read_logs

SCENARIO = """seed = 5
peers = 3
at_least = 3
every_s = [0.1, 0.3]
settings = ["lease_ttl_s=5"]
accuracy_points = 1.0
[[fault]]
act = "poison"
times = 3
for_s = 14.0
"""


@pytest.mark.timeout(900)
def test_spoilt_offers_of_a_stranger_end_no_peer_and_cost_no_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACE_MS", "10")
    job = write_chaos_job(tmp_path / "job", epochs=2, records=24_000, batch=16)
    (tmp_path / "poison.toml").write_text(SCENARIO)
    words = ("chaos", "run", str(tmp_path / "poison.toml"), "--solver", str(job.solver))
    with cluster_run(tmp_path / "state") as run:
        done = run.run(*words, "--folder", str(tmp_path / "run"), "--json", deadline_s=800.0)
        assert done.returncode == 0, done.stderr + done.stdout
        run.assert_nothing_is_left()
    record = json.loads(done.stdout)
    print(record["undisturbed_accuracy"], record["accuracies"])
    assert (record["carried_out"], record["records_lost"], record["records_twice"], record["broken"]) == (
        3,
        0,
        0,
        [],
    )
    named, refused = [], []
    for folder in sorted((tmp_path / "run" / "clusters").glob("round-*")):
        logs = read_logs(folder / "run")
        events = [entry for log in logs.values() for entry in log.events]
        assert len(logs) == 3  # nobody ended, and was replaced
        assert not [entry for entry in events if entry["event"] == "left" and entry["error"]]
        refused += [entry for entry in events if entry.get("partner") == "stranger" and "refusal" in entry]
        named += [path for path in (folder / "logs").glob("p*.log") if "stranger" in path.read_text()]
        assert verdict_of(folder / "run").standing("bounded-half") is InvariantStatus.HOLDS
    assert {entry["refusal"] for entry in refused} >= {"TOO_FAR", "NON_FINITE"}
    assert len(refused) > 40
    assert named
