"""A job for tests that train nothing: no text of it is read."""

from __future__ import annotations

from typing import Any

from gossip_caffe.job.spec.spec import DataSpec, JobSettings, JobSpec, RateSchedule


def bare_job(**differs: Any) -> JobSpec:
    """One of a hundred records in chunks of ten, for SGD; ``differs``: what is otherwise."""
    fields: dict[str, Any] = {
        "name": "job",
        "solver_text": "",
        "train_net_text": "",
        "solver_for_peer": "",
        "tests": (),
        "solver_type": "SGD",
        "iter_size": 1,
        "budget_samples": 200,
        "data": DataSpec((), 100, 10, 10),
        "schedule": RateSchedule("fixed", 0.1),
        "settings": JobSettings(),
    }
    return JobSpec(**{**fields, **differs})
