"""One of three etcd members is killed, whoever leads: nobody notices but etcd's log."""

from __future__ import annotations

from pathlib import Path

from gossip_caffe.data.sources.source import measure
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.history.account import account_of
from gossip_caffe.observe.log.events import Event
from tests.cluster_run import cluster_run, wait_for
from tests.etcd_trio import MEMBERS, etcd_trio
from tests.event_logs import chunks_unclaimed, read_logs, wait_for_more_done
from tests.tiny_job import write_job

PACE_MS = 10
LEASE_TTL_S = 15
"""An election takes etcd one to two seconds, and on a machine that is busy with other things many times that."""
MORE_CHUNKS = 20
"""So many more chunks are done by each peer before the next thing happens."""


def test_each_etcd_member_is_killed_once_and_the_job_goes_on(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", records=20_000, batch=16, iterations=10_000, pace_ms=PACE_MS)
    with etcd_trio(tmp_path / "etcd") as etcd, cluster_run(tmp_path / "state") as run:
        arguments = ["--peers", "2", "--solver", str(job.solver), "--etcd", etcd.endpoints, "--allow-code"]
        arguments += ["--set", f"lease_ttl_s={LEASE_TTL_S}"]
        process = run.start("cluster", "up", *arguments)
        wait_for("both train", lambda: len(run.training()) == 2)
        run_dir = run.folder / "clusters" / "local" / "run"

        killed = []
        for _ in range(MEMBERS):
            (leader,) = wait_for(
                "a member leads", lambda: [found] if (found := etcd.leader()) is not None else []
            )
            killed.append(leader)
            etcd.kill(leader)
            wait_for_more_done(run_dir, MORE_CHUNKS)
            etcd.start(leader)
            wait_for("all members are healthy", lambda: all(map(etcd.is_healthy, range(MEMBERS))))
        wait_for_more_done(run_dir, MORE_CHUNKS)
        assert process.poll() is None, "the job was over too soon; make it longer"
        assert run.run("cluster", "down").returncode == 0
        run.assert_nothing_is_left()
        logs = read_logs(run_dir)
        spec = read_job("job", job.solver, JobSettings(), measure)
        found = account_of(run_dir, spec)
    assert not [event for log in logs.values() for event in log.events if event["event"] == Event.LEASE_LOST]
    # Chunks are trained unclaimed where an election takes longer than a renewal may be late.
    assert found.records_twice <= chunks_unclaimed(logs) * spec.data.chunk_records
    assert found.peers_killed == 0
