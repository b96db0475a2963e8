"""What a peer says about itself every few seconds, under its lease; read by tables, never watched by other peers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gossip_caffe.stored import read_record, to_object


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """Live figures of one peer. ``loss`` and ``consensus_distance`` are None before the first of their kind.

    ``exchanges_half_applied``: exchanges of which this peer applied its half and the offering side did not;
    ``mass_error``: by how much they moved the sum of all weights.
    ``device``: "cpu" or "gpu:0"; of a card its name and memory, and what of that is in use, by whomever; None: unknown.
    ``tested``: the record of its newest test of the consensus (tested.py), if it has made one.
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

    def to_json(self) -> bytes:
        """The record as it stands in the store."""
        return json.dumps(to_object(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, value: bytes) -> PeerStatus:
        """Read a record; fields of a newer version are left out. Raises ValueError when it is no status record."""
        return read_record(cls, value)
