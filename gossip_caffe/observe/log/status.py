"""The status that a peer publishes every few seconds, under its lease. Tables read it; peers do not watch it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gossip_caffe.json_records import read_record, to_object


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """Live figures of one peer. ``loss`` and ``consensus_distance`` are None before the first value.

    ``samples_per_s``: of the last seconds; ``steady_samples_per_s``: of the last minutes. ``begun_samples``: those of
    the iteration under way, by the time that it has taken. ``job_samples``: samples that the whole job has trained, as
    far as this peer knows. ``tests_ahead_s``: the seconds for which this peer will yet hold for tests. ``waits_for``:
    the thing that it waits for, "" for nothing.
    ``exchanged_s_ago``: the seconds since a half was last applied here, of an exchange with ``exchanged_with``.
    ``exchanges_half_applied``: exchanges of which this peer applied its half and the offering side did not.
    ``mass_error``: the shift of the sum of all weights by them. ``device``: "cpu" or "gpu:0"; for a GPU also its name,
    its memory and the memory in use by all programs; None: unknown. ``trouble``: the current problem and the remedy,
    else the newest line for the user; "" before the first. ``tested``: the record of its newest test of the consensus
    (tested.py), if there was one.
    """

    peer: str
    state: str
    reason: str = ""
    iteration: int = 0
    samples: int = 0
    samples_per_s: float = 0.0
    loss: float | None = None
    learning_rate: float = 0.0
    stalled_share: float = 0.0
    epoch: int = 0
    chunks_owned: int = 0
    chunks_done: int = 0
    exchanges_applied: int = 0
    exchanges_failed: int = 0
    exchanges_half_applied: int = 0
    mass_error: float = 0.0
    consensus_distance: float | None = None
    progress_samples: int = 0
    budget_samples: int = 0
    checkpoint: str = ""
    agent_pid: int = 0
    solver_pid: int = 0
    loader_pid: int = 0
    solver_restarts: int = 0
    records_skipped: int = 0
    tested: dict[str, Any] | None = None
    device: str = "cpu"
    device_name: str = ""
    device_memory_bytes: int = 0
    device_used_bytes: int | None = None
    trouble: str = ""
    steady_samples_per_s: float = 0.0
    begun_samples: float = 0.0
    job_samples: int = 0
    tests_ahead_s: float = 0.0
    waits_for: str = ""
    exchanged_with: str = ""
    exchanged_s_ago: float | None = None

    def to_json(self) -> bytes:
        """The record as it is stored."""
        return json.dumps(to_object(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, value: bytes) -> PeerStatus:
        """Parse a record. Fields of a newer version are ignored. Raises ValueError for any other value."""
        return read_record(cls, value)
