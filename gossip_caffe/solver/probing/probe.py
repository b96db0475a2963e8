"""The agent's side of the measurement of a job's first gradients: a process for each, which may end at any time."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Sequence
from typing import Any, Protocol

from gossip_caffe.errors import ModelError
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.solver.checks.caffe_errors import abort_cause
from gossip_caffe.solver.engines.engine import EngineSpec
from gossip_caffe.solver.probing.gradient_lengths import Batch
from gossip_caffe.system.children import Child

MODULE = "gossip_caffe.solver.probing.probe_child"


class GradientProbe(Protocol):
    """Measures the lengths of a job's first gradients."""

    async def lengths(self, batches: Sequence[Batch]) -> list[float]:
        """The length of the gradient of each iteration on these batches, before any clipping.

        Raises ModelError with the reason when they cannot be measured on this machine.
        """
        ...


class ProbeProcess:
    """Measures in a process of its own, on the device of the peer's solver.

    ``spec``: the job with the paths of this machine.
    """

    def __init__(self, built_from: EngineSpec, spec: JobSpec) -> None:
        self._built_from = dataclasses.replace(built_from, display=0, debug_info=False)
        self._spec = spec

    async def lengths(self, batches: Sequence[Batch]) -> list[float]:
        """Start the process, and wait for its answer. A cancelled wait kills the process."""
        answers: list[dict[str, Any]] = []
        child = Child(MODULE, answers.append)
        child.start({"OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")})
        try:
            child.send(
                {
                    "build": dataclasses.asdict(self._built_from),
                    "data": dataclasses.asdict(self._spec.data),
                    "schedule": dataclasses.asdict(self._spec.schedule),
                    "batches": [[list(part) for part in batch] for batch in batches],
                    "first_record": self._spec.first_record,
                }
            )
            end = await child.wait()
        finally:
            child.signal(signal.SIGKILL)
            await child.wait()
        for answer in answers:
            if "lengths" in answer:
                return [float(length) for length in answer["lengths"]]
            if "failed" in answer:
                raise ModelError(answer["failed"], remedy=answer["remedy"])
        cause, remedy = abort_cause(end.stderr)
        raise ModelError(cause or f"the measuring process ended ({end.how})", remedy=remedy)
