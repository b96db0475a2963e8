"""The accuracy of a chaos run's models on the job's test data, and its difference from the undisturbed run's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gossip_caffe.job.prototxts.nets import NetState, present
from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.prototxts.testing import plan_of
from gossip_caffe.job.spec.spec import JobSpec, NetTest
from gossip_caffe.observe.log.tested import Output
from gossip_caffe.solver.evaluation.evaluation import CaffeEvaluator

_TYPE = "Accuracy"


def why_none(spec: JobSpec, engine: str) -> str:
    """The reason why a job's model has no test accuracy; "" if it has one."""
    if engine != "pycaffe":
        return f"the engine {engine!r} has no test nets"
    plan = plan_of(spec)
    if not plan.nets:
        return plan.why_not or "the solver names no test_iter, or its net has no TEST phase with data"
    if not any(map(_accuracies, plan.nets)):
        return f"no test net has a layer of type {_TYPE}"
    return ""


async def accuracy_of(spec: JobSpec, model: Path) -> float:
    """The first accuracy of the job's test nets, from 0 to 1. Raises ModelError if it cannot be computed."""
    nets = plan_of(spec).nets
    return accuracy_in(nets, await CaffeEvaluator().evaluate(nets, model))


def accuracy_in(nets: Sequence[NetTest], outputs: Sequence[Output]) -> float:
    """The first accuracy among the outputs of a job's test nets; 0 if it is not finite, or missing."""
    tops = [_accuracies(net) for net in nets]
    for output in outputs:
        if output.values == 1 and output.name in tops[output.net]:
            return output.scalar or 0.0
    return 0.0


def points_below(undisturbed: float, accuracy: float) -> float:
    """The number of points (hundredths) by which a model is below the undisturbed one; negative if it is better."""
    return 100.0 * (undisturbed - accuracy)


def _accuracies(test: NetTest) -> set[str]:
    """The names of the accuracy outputs of a test net."""
    state = NetState("TEST", test.level, frozenset(test.stages))
    layers = present(Document(test.text, "test net").root, state)
    return {layer.tops[0] for layer in layers if layer.type == _TYPE and layer.tops}
