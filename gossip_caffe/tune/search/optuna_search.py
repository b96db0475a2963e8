"""The search by Optuna: samplers and pruners over any of its storages. All calls are synchronous."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from gossip_caffe.tune.board.trial import TrialRecord, TrialState
from gossip_caffe.tune.search.search import Asked, Verdict
from gossip_caffe.tune.study.parameters import Parameter, Value
from gossip_caffe.tune.study.spec import StudySpec

_ENDS = {
    TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
}
_RUNNING = (optuna.trial.TrialState.RUNNING,)


class OptunaSearch:
    """The search of one study. Every process makes its own over the same storage.

    The sampler of a trial is seeded by the study's seed and the trial's number, so that it does not depend on the
    worker that asks.
    """

    def __init__(self, spec: StudySpec, storage: BaseStorage) -> None:
        self._spec = spec
        self._distributions = {parameter.path: distribution_of(parameter) for parameter in spec.searched}
        self._study = optuna.create_study(
            storage=storage,
            study_name=f"{spec.name}-{spec.creation}",
            direction="maximize" if spec.objective.goal == "max" else "minimize",
            pruner=pruner_of(spec),
            load_if_exists=True,
        )
        self._storage = self._study._storage

    def ask(self, recorded: Collection[int]) -> Asked:
        """The next trial. See ``Search.ask``."""
        trials = self.trials()
        left = [trial for trial in trials if trial.state in _RUNNING and trial.number not in recorded]
        number = left[0].number if left else len(trials)
        self._study.sampler = sampler_of(self._spec, number)
        if self._spec.sampler.kind == "grid" and not left:
            self._begin(grid_values(self._spec, number))
            left = [trial for trial in self.trials() if trial.number == number]
        if left:
            trial = optuna.Trial(self._study, left[0]._trial_id)
            for name, distribution in self._distributions.items():
                trial._suggest(name, distribution)
        else:
            trial = self._study.ask(fixed_distributions=dict(self._distributions))
        values = trial.params
        return Asked(trial.number, {name: values[name] for name in self._distributions})

    def report(self, number: int, mark: int, value: float) -> None:
        """Report a test's result."""
        if (trial := self._running(number)) is not None and mark not in trial.intermediate_values:
            self._storage.set_trial_intermediate_value(trial._trial_id, mark, float(value))

    def verdict(self, number: int) -> Verdict:
        """Whether a trial ends early."""
        trial = self._running(number)
        if trial is None or trial.last_step is None:
            return Verdict(False, "it has no result yet")
        rank = self._rank(trial)
        if self._study.pruner.prune(self._study, trial):
            return Verdict(True, f"{self._spec.pruner.kind}: {rank}")
        return Verdict(False, f"it goes on: {rank}")

    def tell(self, record: TrialRecord) -> None:
        """Tell the end of a trial."""
        if self._running(record.number) is None:
            return
        values = [float(record.value or 0.0)] if record.state is TrialState.COMPLETE else None
        self._study.tell(record.number, values=values, state=_ENDS[record.state], skip_if_finished=True)

    def unfinished(self) -> frozenset[int]:
        """The trials whose end was not told."""
        return frozenset(trial.number for trial in self.trials(_RUNNING))

    def trials(self, states: Any = None) -> list[FrozenTrial]:
        """The trials as Optuna knows them, in the order of their numbers."""
        return self._study.get_trials(deepcopy=False, states=states)

    def _running(self, number: int) -> FrozenTrial | None:
        return next((trial for trial in self.trials(_RUNNING) if trial.number == number), None)

    def _rank(self, trial: FrozenTrial) -> str:
        step = trial.last_step or 0
        value = trial.intermediate_values[step]
        others = [
            other.intermediate_values[step]
            for other in self.trials()
            if step in other.intermediate_values and other.number != trial.number
        ]
        better = sum(self._spec.objective.is_better(other, value) for other in others)
        return f"{value:.4g} at test {step} is number {better + 1} of {len(others) + 1}"

    def _begin(self, values: dict[str, Value]) -> None:
        template = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING, params=dict(values), distributions=self._distributions
        )
        self._storage.create_new_trial(self._study._study_id, template_trial=template)


def distribution_of(parameter: Parameter) -> BaseDistribution:
    """Optuna's form of a parameter that is searched."""
    if parameter.choices:
        return CategoricalDistribution(parameter.values)
    if parameter.kind == "int":
        step = max(1, int(parameter.step))
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log, step=step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step or None)


def sampler_of(spec: StudySpec, number: int) -> BaseSampler:
    """The sampler for trial ``number``."""
    seed = random.Random(f"{spec.seed}/{number}").getrandbits(31)
    match spec.sampler.kind:
        case "tpe":
            return TPESampler(n_startup_trials=spec.sampler.startup, constant_liar=True, seed=seed)
        case "cmaes":
            return CmaEsSampler(n_startup_trials=max(1, spec.sampler.startup), seed=seed)
        case _:
            return RandomSampler(seed=seed)


def pruner_of(spec: StudySpec) -> BasePruner:
    """The pruner; a step is one test."""
    pruner = spec.pruner
    match pruner.kind:
        case "asha":
            return SuccessiveHalvingPruner(min_resource=pruner.min_tests, reduction_factor=pruner.reduction)
        case "hyperband":
            most = max(spec.tests, pruner.min_tests)
            return HyperbandPruner(pruner.min_tests, max_resource=most, reduction_factor=pruner.reduction)
        case "median":
            return MedianPruner(pruner.startup, n_warmup_steps=pruner.min_tests - 1)
        case _:
            return NopPruner()


def grid_size(spec: StudySpec) -> int:
    """The number of points of the study's grid."""
    size = 1
    for parameter in spec.searched:
        size *= len(parameter.grid(spec.sampler.points))
    return size


def grid_values(spec: StudySpec, number: int) -> dict[str, Value]:
    """The point of the grid for trial ``number``, in an order that the study's seed shuffles."""
    axes = [parameter.grid(spec.sampler.points) for parameter in spec.searched]
    order = list(range(grid_size(spec)))
    random.Random(spec.seed).shuffle(order)
    point = next(itertools.islice(itertools.product(*axes), order[number % len(order)], None))
    return {parameter.path: value for parameter, value in zip(spec.searched, point, strict=True)}
