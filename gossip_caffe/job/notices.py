"""What a user should know of a job that is in order: where it will not be trained as the files might suggest."""

from __future__ import annotations

from collections.abc import Iterator

from gossip_caffe.job.reading import Model
from gossip_caffe.job.spec import JobSpec

_GPU = ("GPU", "1")


def notices(model: Model, spec: JobSpec, *, on_cards: bool = False) -> Iterator[str]:
    """One line each, with file and line where a line says it. ``on_cards``: this job's peers are being put on cards."""
    root = model.solver.root
    mode = root.last("solver_mode")
    if mode is not None and root.text("solver_mode") in _GPU and not on_cards:
        yield (
            f"{model.solver.name}:{mode.line}: solver_mode: GPU puts no peer on a card; "
            "say which with 'peer start --gpu N' (train, cluster up: --gpus N,N)"
        )
    if not spec.data.sources:
        yield (
            f"{model.train.document.name}: the net makes its own data, so there is none to share out: "
            f"the budget is {spec.budget_samples:,} forward passes"
        )
