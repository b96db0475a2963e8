"""Kill -9 of peers that have certificates, which are replaced all the while: nothing is lost, and no exchange by TLS.

``TLS_KILLS=40`` makes it a long run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.security.faults import TlsFault, words_of
from tests.cluster_run import cluster_run
from tests.tiny_job import write_job

pytestmark = pytest.mark.needs("caffe", "etcd", "cryptography")

KILLS = int(os.environ.get("TLS_KILLS", "3"))
SCENARIO = f"""seed = 3
peers = 3
at_least = 2
every_s = [0.3, 1.0]
round_limit_s = 600.0
most_rounds = 40
tls_life_s = 9
settings = ["lease_ttl_s=4"]
[[fault]]
act = "kill"
times = {KILLS}
what = ["agent", "all"]
[[fault]]
act = "poison"
times = {max(1, KILLS // 10)}
for_s = 2
"""


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.timeout(60 * 60)
def test_peers_with_certificates_are_killed_and_nothing_is_lost(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", records=9600, batch=16, iterations=3_000, pace_ms=5)
    # Without an accuracy no run in peace comes first.
    before, _, after = job.net.read_text().partition('layer {\n  name: "accuracy"')
    job.net.write_text(before + "layer {" + after.partition("layer {")[2])
    (tmp_path / "tls.toml").write_text(SCENARIO)
    with cluster_run(tmp_path / "state") as run:
        words = ("--solver", str(job.solver), "--folder", str(tmp_path / "run"), "--json")
        done = run.run("chaos", "run", str(tmp_path / "tls.toml"), *words, deadline_s=3000.0)
        assert done.returncode == 0, done.stderr + done.stdout
        run.assert_nothing_is_left()
    record = json.loads(done.stdout)
    assert sum(record["kills"].values()) == KILLS
    assert (record["records_lost"], record["broken"], record["failed"]) == (0, [], [])
    logs = sorted((tmp_path / "run" / "clusters").glob("*/run/events/*.jsonl"))
    events = [event for path in logs for event in read(path)]
    applied = [event for event in events if event["event"] == "exchanged" and event["outcome"] == "applied"]
    assert applied
    certificates = [event for event in events if event["event"] == "certificate"]
    serials = {event["serial"] for event in certificates if "serial" in event}
    assert len(serials) > 1, "no certificate was replaced"
    assert not [event for event in certificates if "fault" in event]
    by_tls = [words_of(fault, "|").split("|") for fault in TlsFault if fault is not TlsFault.NOT_ACCEPTED]
    reasons = [event["reason"] for event in events if event["event"] == "exchanged" and event.get("reason")]
    assert not [
        reason for reason in reasons if any(all(part in reason for part in words) for words in by_tls)
    ]
    print(
        f"RESULT {json.dumps({'kills': KILLS, 'applied': len(applied), 'certificates': len(certificates)})}"
    )
