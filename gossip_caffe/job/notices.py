"""What a user should know of a job that is in order: where it will not be trained as the files might suggest."""

from __future__ import annotations

from collections.abc import Iterator

from gossip_caffe.job.reading import Model
from gossip_caffe.job.spec import JobSpec

_GPU = ("GPU", "1")


def notices(model: Model, spec: JobSpec) -> Iterator[str]:
    """One line each, with file and line where a line says it."""
    root = model.solver.root
    mode = root.last("solver_mode")
    if mode is not None and root.text("solver_mode") in _GPU:
        yield f"{model.solver.name}:{mode.line}: solver_mode: GPU is not followed, peers train on the CPU"
    if not spec.data.sources:
        yield (
            f"{model.train.document.name}: the net makes its own data, so there is none to share out: "
            f"the budget is {spec.budget_samples:,} forward passes"
        )
