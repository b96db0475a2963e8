"""The size of an event log at full speed: a disk can hold it for months."""

from __future__ import annotations

import gzip
import json

from gossip_caffe.observe.log.runs import one_by_one
from gossip_caffe.sim.simulation import Plan, simulate

BATCHES_A_SECOND = 47
"""Those of LeNet at 3,000 samples a second, with batches of 64."""
MOST_MB_A_DAY = 50


def test_a_day_of_full_speed_is_at_most_fifty_megabytes_when_it_is_compressed() -> None:
    """A chunk for each batch, which is the most that can be written about chunks."""
    found = simulate(
        Plan(peers=1, seed=1, for_s=30.0, step_s=1 / BATCHES_A_SECOND, grain_s=0.02, chunk_records=8)
    )
    assert not found.failures
    (log,) = found.logs.values()
    lines = [line for line in log if line["event"] != "corrected"]  # only the simulator writes these
    seconds = lines[-1]["m"] - lines[0]["m"]
    trained = sum(line["event"] == "trained" for line in one_by_one(lines))
    assert trained / seconds > 0.9 * BATCHES_A_SECOND
    size = len(
        gzip.compress("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode())
    )
    assert size / seconds * 86_400 / 1e6 < MOST_MB_A_DAY
