"""The values of all metrics of a peer, made from its figures and counts: pure functions."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gossip_caffe.observe.metrics.figures import Figures, TrainingFigures
from gossip_caffe.observe.metrics.table import ROUND_OUTCOMES, SIDES, STATES, TABLE, Metric
from gossip_caffe.observe.metrics.tally import Tally

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """The value of one time series. ``labels``: the values of the metric's labels, in their order."""

    metric: Metric
    value: float
    labels: Labels = ()


@dataclass(frozen=True, slots=True)
class Buckets:
    """The value of a histogram: ``counts`` of each bucket alone, the last one for all that is longer; their ``sum``."""

    metric: Metric
    counts: tuple[int, ...]
    sum: float


@dataclass(frozen=True, slots=True)
class Rising:
    """A count that never falls, made from one that may. ``total``: all increases; ``seen``: the newest value."""

    total: float = 0.0
    seen: float = 0.0

    def after(self, seen: float) -> Rising:
        """The count after a new value. A fall adds nothing; the increases after it count again."""
        return Rising(self.total + max(0.0, seen - self.seen), seen)


RISING = ("samples_trained_total", "iterations_total", "data_stall_seconds_total", "round_wait_seconds_total")
"""Counters whose figure falls when a solver is started again: Prometheus would take a fall for a new process."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Values of the process and its machine. None stands for a value that is not known.

    ``lived_s``: seconds since the process began.
    """

    wall_s: float
    monotonic_s: float
    lived_s: float
    event_loop_lag_s: float = 0.0
    folder_free_bytes: int | None = None
    folder_size_bytes: int | None = None


def risen(before: Mapping[str, Rising], figures: Figures) -> dict[str, Rising]:
    """The rising counts after these figures. A peer that does not train keeps the counts that it had."""
    training = figures.training
    if training is None:
        return {name: before.get(name, Rising()) for name in RISING}
    seen = (training.samples, training.iterations, training.stalled_s, training.round_wait_s)
    return {name: before.get(name, Rising()).after(value) for name, value in zip(RISING, seen, strict=True)}


def values_of(
    figures: Figures, tally: Tally, rising: Mapping[str, Rising], around: Surroundings
) -> list[Value | Buckets]:
    """The values of all metrics. A metric whose figure is not known has no value."""
    made = [*_peer(figures, tally, around), *_exchanges(tally, around), *_store(figures, tally)]
    made += [Value(TABLE[name], count.total) for name, count in rising.items()]
    if figures.training is not None:
        made += _training(figures.training, figures.budget_samples, around)
        made += _goodput(figures.training, rising["samples_trained_total"].total, around.lived_s)
    return [value for value in made if not isinstance(value, Value) or math.isfinite(value.value)]


def _peer(figures: Figures, tally: Tally, around: Surroundings) -> Iterator[Value | Buckets]:
    named = (figures.version, platform.python_version(), figures.job, figures.device)
    yield Value(TABLE["build_info"], 1.0, named)
    for state in STATES:
        yield Value(TABLE["state"], float(state == figures.state), (state,))
    yield Value(TABLE["event_loop_lag_seconds"], around.event_loop_lag_s)
    yield Value(TABLE["loader_deaths_total"], tally.loader_deaths)
    yield Value(TABLE["job_budget_samples"], figures.budget_samples)
    for name, size in (("free", around.folder_free_bytes), ("size", around.folder_size_bytes)):
        yield from _known(f"run_folder_{name}_bytes", size)
    if figures.certificate_ends_at is not None:
        yield Value(TABLE["certificate_expires_seconds"], figures.certificate_ends_at - around.wall_s)
    yield Value(TABLE["peers_lost_total"], tally.peers_lost)
    for (state,) in _each("peers"):
        yield Value(TABLE["peers"], figures.members.get(state, 0), (state,))
    yield _buckets(
        "checkpoint_duration_seconds", tally.checkpoint_durations.counts, tally.checkpoint_durations.sum
    )


def _exchanges(tally: Tally, around: Surroundings) -> Iterator[Value | Buckets]:
    for side, outcomes in SIDES.items():
        for outcome in outcomes:
            yield Value(TABLE["exchanges_total"], tally.exchanges[side, outcome], (side, outcome))
    for outcome in ROUND_OUTCOMES:
        yield Value(TABLE["rounds_total"], tally.rounds[outcome], (outcome,))
    for labels, size_bytes in sorted(tally.bytes.items()):
        yield Value(TABLE["exchange_bytes_total"], size_bytes, labels)
    yield _buckets("exchange_half_ratio", tally.half_ratios.counts, tally.half_ratios.sum)
    yield _buckets("exchange_staleness_iterations", tally.staleness.counts, tally.staleness.sum)
    if tally.exchanged_at is not None:
        yield Value(TABLE["last_exchange_age_seconds"], around.monotonic_s - tally.exchanged_at)


def _store(figures: Figures, tally: Tally) -> Iterator[Value]:
    if figures.store_up is not None:
        yield Value(TABLE["store_up"], float(figures.store_up))
    if figures.lease_margin_s is not None:
        yield Value(TABLE["lease_margin_seconds"], max(0.0, figures.lease_margin_s))
    yield Value(TABLE["leases_lost_total"], tally.leases_lost)


def _training(
    training: TrainingFigures, budget_samples: int, around: Surroundings
) -> Iterator[Value | Buckets]:
    plain = {
        "samples_per_second": training.samples_per_s,
        "learning_rate": training.learning_rate,
        "records_skipped_total": training.records_skipped,
        "solver_restarts_total": training.solver_restarts,
        "exchanges_half_applied_total": training.half_applied,
        "mass_error": training.mass_error,
        "job_progress_samples": training.progress_samples,
        "job_finished_epochs": training.finished_epochs,
        "shard_records": training.shard_records,
        "chunks_owned": training.chunks_owned,
        "chunks_done_total": training.chunks_done,
        "checkpoint_interval_samples": training.checkpoint_interval_samples,
    }
    for name, value in plain.items():
        yield Value(TABLE[name], value)
    if budget_samples > 0:
        yield Value(TABLE["job_progress_ratio"], min(1.0, training.progress_samples / budget_samples))
    yield from _known("loss", training.loss)
    yield from _known("consensus_distance_ratio", training.distance)
    yield from _known("job_test_score", training.test_score)
    yield from _known("checkpoint_progress_samples", training.checkpoint_samples)
    if training.checkpoint_made_at is not None:
        yield Value(TABLE["checkpoint_age_seconds"], max(0.0, around.wall_s - training.checkpoint_made_at))
    yield from _known("device_memory_used_bytes", training.device_used_bytes)
    yield from _known("device_memory_size_bytes", training.device_size_bytes or None)
    if training.steps is not None:
        yield _buckets("step_duration_seconds", training.steps.counts, training.steps.sum_s)


def _goodput(training: TrainingFigures, trained_samples: float, lived_s: float) -> Iterator[Value]:
    """The time of iterations over all of a peer's time, without the share of samples that it trained again."""
    if training.steps is not None and trained_samples > 0 and lived_s > 0:
        new = min(1.0, training.samples / trained_samples)
        yield Value(TABLE["goodput_ratio"], min(1.0, new * training.steps.sum_s / lived_s))


def _known(name: str, value: float | None) -> Iterator[Value]:
    if value is not None:
        yield Value(TABLE[name], value)


def _each(name: str) -> Iterator[Labels]:
    """Every value of a metric with one label."""
    ((_, values),) = TABLE[name].labels
    for value in values:
        yield (value,)


def _buckets(name: str, counts: Sequence[int], total: float) -> Buckets:
    return Buckets(TABLE[name], tuple(counts), total)
