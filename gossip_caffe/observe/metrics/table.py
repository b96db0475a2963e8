"""All metrics of a peer in one table: name, kind, help, unit, labels and buckets.

docs/metrics.md is made from this table (deploy/metrics_page.py), and nothing else declares a metric.

Two rules hold for labels. No label is named ``job``: Prometheus gives each target a label of that name, and renames
ours. No label has unbounded values, such as the names of partners: each value is a time series that Prometheus keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PREFIX = "gossip_caffe_"

STATES = ("joining", "syncing", "training", "orphaned", "draining", "left", "failed")
"""The states of a peer's lifecycle."""
SIDES = {
    "offered": ("applied", "refused", "withdrawn", "failed", "rejected"),
    "answered": ("applied", "refused"),
}
"""Side of an exchange → the outcomes that it can have there."""
ROUND_OUTCOMES = ("applied", "failed", "left-out")
"""The ways in which a synchronous round ends for a peer."""
CODECS = ("float32", "float16", "bfloat16", "int8", "int4")
"""The encodings of weights."""
DIRECTIONS = ("received", "sent")

STEP_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of an iteration's duration, in seconds. The solver counts in shared memory by them."""
RATIO_BUCKETS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
ITERATION_BUCKETS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
CHECKPOINT_BUCKETS_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Kind(StrEnum):
    """The kind of a metric, as Prometheus names it."""

    COUNTER = "counter"  # it never falls, except to 0 when the process is a new one
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. ``labels``: label → all of its values; an empty tuple stands for a text of this process.

    ``buckets``: the upper bounds of a histogram, ascending, without infinity.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """The name that Prometheus shows."""
        return PREFIX + self.name

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels, in the order of their values."""
        return tuple(name for name, _ in self.labels)


@dataclass(frozen=True, slots=True)
class Section:
    """The metrics of one subject."""

    title: str
    metrics: tuple[Metric, ...]


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

SECTIONS = (
    Section(
        "The peer",
        (
            Metric(
                "build_info",
                _G,
                "",
                "Always 1. The labels hold the version, the Python version, the job and the device.",
                (("version", ()), ("python_version", ()), ("job_name", ()), ("device", ())),
            ),
            Metric(
                "state",
                _G,
                "",
                "1 for the present state of the peer, 0 for each other state.",
                (("state", STATES),),
            ),
            Metric(
                "event_loop_lag_seconds", _G, "seconds", "Delay of the newest beat of the agent's event loop."
            ),
            Metric(
                "solver_restarts_total",
                _C,
                "restarts",
                "Solvers that were started again after one had ended.",
            ),
            Metric("loader_deaths_total", _C, "deaths", "Loaders that ended before the peer did."),
        ),
    ),
    Section(
        "Training",
        (
            Metric(
                "samples_trained_total",
                _C,
                "samples",
                "Samples that the solver has trained, including those that it trained again after a death.",
            ),
            Metric("iterations_total", _C, "iterations", "Iterations that the solver has made."),
            Metric("samples_per_second", _G, "samples/s", "Present throughput of this peer, a running mean."),
            Metric("loss", _G, "", "Loss of the newest iteration."),
            Metric("learning_rate", _G, "", "Learning rate of the newest iteration."),
            Metric(
                "step_duration_seconds",
                _H,
                "seconds",
                "Duration of an iteration: forward, backward and update, without waits.",
                buckets=STEP_BUCKETS_S,
            ),
            Metric(
                "data_stall_seconds_total", _C, "seconds", "Time for which the solver waited for a batch."
            ),
            Metric(
                "goodput_ratio",
                _G,
                "",
                "Share of this process's time that went into iterations, without samples that were trained again.",
            ),
            Metric(
                "records_skipped_total", _C, "records", "Corrupt records that were left out of their batches."
            ),
        ),
    ),
    Section(
        "Exchanges",
        (
            Metric(
                "exchanges_total",
                _C,
                "exchanges",
                "Exchanges by side (this peer offered or answered) and outcome.",
                (("side", tuple(SIDES)), ("outcome", SIDES["offered"])),
            ),
            Metric(
                "exchanges_half_applied_total",
                _C,
                "exchanges",
                "Exchanges of which this peer applied its half and the offering peer did not.",
            ),
            Metric(
                "mass_error",
                _G,
                "",
                "Shift of the sum of all weights by exchanges that were half applied, and by halves that were cut.",
            ),
            Metric(
                "exchange_bytes_total",
                _C,
                "bytes",
                "Weights of exchanges in bytes, by direction and codec.",
                (("direction", DIRECTIONS), ("codec", CODECS)),
            ),
            Metric(
                "exchange_half_ratio",
                _H,
                "ratio",
                "Length of an applied half divided by the length of the peer's own weights.",
                buckets=RATIO_BUCKETS,
            ),
            Metric(
                "exchange_staleness_iterations",
                _H,
                "iterations",
                "Iterations that this peer made between the snapshot that it offered and the end of that exchange.",
                buckets=ITERATION_BUCKETS,
            ),
            Metric("last_exchange_age_seconds", _G, "seconds", "Time since this peer last applied a half."),
            Metric(
                "consensus_distance_ratio",
                _G,
                "ratio",
                "Squared distance of the peers' weights from their mean, divided by the mean's squared length.",
            ),
        ),
    ),
    Section(
        "Rounds",
        (
            Metric(
                "rounds_total",
                _C,
                "rounds",
                "Synchronous rounds of this peer by outcome. A failed round is formed anew.",
                (("outcome", ROUND_OUTCOMES),),
            ),
            Metric(
                "round_wait_seconds_total",
                _C,
                "seconds",
                "Time for which the solver waited between two steps for a synchronous round.",
            ),
        ),
    ),
    Section(
        "The job, as this peer sees it",
        (
            Metric(
                "job_progress_ratio", _G, "ratio", "Share of the job's budget that is trained, from 0 to 1."
            ),
            Metric("job_progress_samples", _G, "samples", "Samples of the whole job that are done."),
            Metric("job_budget_samples", _G, "samples", "Samples that the whole job has to train."),
            Metric("job_finished_epochs", _G, "epochs", "Epochs of the job that are finished."),
            Metric(
                "job_test_score",
                _G,
                "",
                "Main output of the newest test: an accuracy, or a negated loss.",
            ),
            Metric(
                "peers",
                _G,
                "peers",
                "Peers of the job that have a record in the store, by state.",
                (("state", STATES[:5]),),
            ),
            Metric(
                "peers_lost_total",
                _C,
                "peers",
                "Other peers that trained and vanished without leaving: they died, or etcd does not hear them.",
            ),
        ),
    ),
    Section(
        "The shard",
        (
            Metric("shard_records", _G, "records", "Records of the data set in this peer's planned shard."),
            Metric("chunks_owned", _G, "chunks", "Chunks that this peer owns at present."),
            Metric("chunks_done_total", _C, "chunks", "Chunks that this peer has settled as done."),
        ),
    ),
    Section(
        "The store",
        (
            Metric("store_up", _G, "", "1 while etcd renews the lease and takes writes, 0 while it is away."),
            Metric(
                "lease_margin_seconds", _G, "seconds", "Time until the lease ends here, unless it is renewed."
            ),
            Metric("leases_lost_total", _C, "leases", "Leases that this peer has lost."),
        ),
    ),
    Section(
        "Checkpoints",
        (
            Metric(
                "checkpoint_age_seconds",
                _G,
                "seconds",
                "Age of the job's newest checkpoint.",
            ),
            Metric(
                "checkpoint_progress_samples", _G, "samples", "Progress of the job at its newest checkpoint."
            ),
            Metric("checkpoint_interval_samples", _G, "samples", "Planned progress between two checkpoints."),
            Metric(
                "checkpoint_duration_seconds",
                _H,
                "seconds",
                "Time that this peer took for a checkpoint: collect, write and announce.",
                buckets=CHECKPOINT_BUCKETS_S,
            ),
        ),
    ),
    Section(
        "The machine",
        (
            Metric(
                "certificate_expires_seconds",
                _G,
                "seconds",
                "Time until this peer's certificate ends; absent without one.",
            ),
            Metric("run_folder_free_bytes", _G, "bytes", "Free space on the disk of the run folder."),
            Metric("run_folder_size_bytes", _G, "bytes", "Size of the disk of the run folder."),
            Metric(
                "device_memory_used_bytes",
                _G,
                "bytes",
                "Memory of the peer's GPU that all programs use together.",
            ),
            Metric("device_memory_size_bytes", _G, "bytes", "Memory of the peer's GPU."),
        ),
    ),
)

TABLE: dict[str, Metric] = {metric.name: metric for section in SECTIONS for metric in section.metrics}
"""Name without the prefix → metric."""
