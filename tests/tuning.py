"""Studies for tests: a spec without files, and a learner whose best place is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gossip_caffe.tune.board.trial import TrialRecord
from gossip_caffe.tune.study.parameters import Parameter, Value
from gossip_caffe.tune.study.spec import NetFile, Objective, Pruner, Sampler, StudySpec

SPACE = (
    Parameter("solver.base_lr", "float", 1e-4, 1.0, log=True),
    Parameter("net.conv.num_output", "int", 8.0, 64.0),
    Parameter("settings.lr_scaling", "choices", choices=('"sqrt"', '"none"')),
)


def bare_study(**differs: Any) -> StudySpec:
    """A study of twelve trials of nine tests; ``differs``: what is otherwise."""
    fields: dict[str, Any] = {
        "name": "study",
        "solver": NetFile("/solver.prototxt", ""),
        "working": "/",
        "nets": (),
        "space": SPACE,
        "objective": Objective("accuracy", "max"),
        "samples": 2000,
        "tests": 9,
        "trials": 12,
        "sampler": Sampler(),
        "pruner": Pruner(),
        "seed": 1,
        "store": "file:///store",
        "creation": "c0",
    }
    return StudySpec(**{**fields, **differs})


def learn(values: Mapping[str, Value], share: float) -> float:
    """An accuracy after a share of the budget: best at a rate of about 0.03 and 40 outputs."""
    rate, outputs = float(values["solver.base_lr"]), float(values["net.conv.num_output"])
    best = 0.95 - 0.1 * abs(math.log10(rate) + 1.5) - 0.001 * abs(outputs - 40)
    return best * (1 - math.exp(-4 * share))


def trial(number: int, study: StudySpec, **differs: Any) -> TrialRecord:
    """A record of the study."""
    values = {"solver.base_lr": 0.1, "net.conv.num_output": 16, "settings.lr_scaling": "sqrt"}
    return TrialRecord(**{"number": number, "values": values, "job": study.job_name(number), **differs})
