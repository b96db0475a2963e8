"""The memory that a peer of a job needs, from the net that Caffe builds."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.solver.checks.trial import heard
from gossip_caffe.solver.checks.trial_request import Attempt, Trial

_VALUE_BYTES = 4
BOARD_COPIES = 4
"""Copies of the weights in the board: three snapshots and a correction."""
SOLVER_COPIES = 3
"""Copies in the solver: weights, gradients, momentum. Adam and its kin have one more."""
EXCHANGE_COPIES = 2
"""Copies that an exchange and a checkpoint make for a while."""


@dataclass(frozen=True, slots=True)
class NetSize:
    """The size of a job's net. ``values``: its weights; ``blob_bytes``: its blobs, with their gradients."""

    values: int
    blob_bytes: int

    @property
    def board_bytes(self) -> int:
        """The size of a peer's board in shared memory."""
        return BOARD_COPIES * _VALUE_BYTES * self.values

    def peer_bytes(self, ring_bytes: int) -> int:
        """The memory of one peer, in bytes, without the libraries; ``ring_bytes``: its ring of batches."""
        copies = SOLVER_COPIES + EXCHANGE_COPIES
        return self.board_bytes + copies * _VALUE_BYTES * self.values + self.blob_bytes + ring_bytes


def net_size(spec: JobSpec) -> NetSize:
    """Let Caffe build the net of a job's peer once, in a child process. Raises EnvironmentProblem.

    The net's Python layers run: call it only for a job whose code this machine allows.
    """
    attempt = Attempt(spec.solver_for_peer, (), is_solver=True)
    messages, end = asyncio.run(
        heard(Trial((), (attempt,), spec.data.tops, spec.data.batch_records), lambda: None)
    )
    found = next((message["found"] for message in messages if "built" in message), None)
    if found is None:
        raise EnvironmentProblem(
            f"Caffe cannot build the net of job {spec.name} here ({end.how})",
            remedy="'gossip-caffe job validate SOLVER' gives the reason",
        )
    blobs = sum(math.prod(shape) for shape in found["shapes"].values())
    return NetSize(found["values"], 2 * _VALUE_BYTES * blobs)
