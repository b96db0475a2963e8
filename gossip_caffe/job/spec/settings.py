"""The settings of a job and their valid values, for the command line and for the store alike."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any

from gossip_caffe.errors import UsageError
from gossip_caffe.job.spec.store_url import checked_store_url

MOST_RANKS = 10_000


@dataclass(frozen=True, slots=True)
class JobSettings:
    """The settings of the peers' training. Each can be set with ``--set name=value`` when the job is created.

    The text below a setting is its row in docs/settings.md (deploy/settings_page.py writes that page).
    """

    strategy: str = "pairs"
    """How peers share what they learn: `pairs`, by exchanges of two peers for which no step waits; `sync`, by rounds in
    which all peers go to the mean of their weights, and wait for each other. Which one, when: docs/strategies.md."""
    sync_every_iterations: int = 1
    """With `sync`: the iterations between two rounds."""
    sync_wait_s: float = 0.0
    """With `sync`: a round that has waited so many seconds begins without the peers that are not ready. They are in the
    next one. 0: it waits for all that live."""
    sync_start_peers: int = 0
    """With `sync`: the first step waits until so many peers train. 0: the first peer begins alone."""
    exchange_every_iterations: int = 8
    """A peer offers an exchange about once in so many iterations. Under the cadence `auto` it begins with so many at
    most."""
    exchange_jitter: float = 0.2
    """The share by which the distance between two exchanges varies at random."""
    cadence: str = "auto"
    """`auto`: as often as holds the peers together, up to once in 64 iterations, beginning with what the length of the
    job asks for (docs/internals/protocol.md#cadence); `fixed`: always `exchange_every_iterations`."""
    cadence_distance: float = 1e-4
    """The consensus distance that the cadence `auto` holds."""
    bytes_budget: str = "0"
    """The most bytes of weights that exchanges take, relative to those of a ring all-reduce of float32 in each
    iteration: `0.01`, or `1/100`. Exchanges become rarer until they keep to it. 0: no limit."""
    codec: str = "float16"
    """How weights travel, and how much each codec loses: docs/internals/protocol.md#codecs. Blobs out of the codec's
    range travel as float32."""
    half_limit: float = 0.25
    """The most that one exchange may move a peer, in lengths of the peer's own weights; wider while the job warms up
    (docs/internals/protocol.md#how-far-an-exchange-may-move-a-peer). 0: no limit."""
    half_clip: float = 4.0
    """Between peers with certificates a half longer than so many usual ones is cut to that
    (docs/internals/protocol.md#a-member-that-stays-under-the-bound). 0: none is."""
    partners: str = "uniform"
    """Which partners a peer asks: docs/internals/protocol.md#partners."""
    lr_scaling: str = "sqrt"
    """The learning rate's factor for n living peers: √n, n or 1; also `--lr-scaling`."""
    clip: str = "none"
    """The limit of the gradient's length while several peers train, beside the solver's own `clip_gradients`: the
    smaller one counts. `auto`: half the median length of the first gradients, measured once for the job
    (docs/strategies.md#a-rate-for-many-peers); `none`; or a number. With `linear` and `auto` the factor is √n until the
    limit is known, and where none can be."""
    warmup: float = 0.05
    """The share of the budget over which a peer's learning rate reaches that factor from the schedule's own, and again
    after a jump in membership. The rate falls at once."""
    lease_ttl_s: float = 5.0
    """After so many seconds a silent peer counts as gone."""
    checkpoint_every_samples: int = 0
    """Samples between two checkpoints. 0: a twentieth of the budget."""
    checkpoint_peers: int = 8
    """A checkpoint is the mean of so many peers' weights at most, its maker's among them."""
    keep_checkpoints: int = 5
    """So many of the newest checkpoints are kept."""
    keep_every_samples: int = 0
    """The first checkpoint after each so many samples of the job is kept as well. 0: none."""
    keep_best: int = 1
    """So many checkpoints are kept as well that were best by test."""
    checkpoint_store: str = ""
    """The URL of a store that keeps checkpoints, too (docs/checkpoints.md). docs/security.md lists the URLs that are
    taken."""
    joiner_momentum: str = "zero"
    """The momentum that a joiner begins with: `zero`, or `checkpoint` for that of the checkpoint's maker. No difference
    could be measured."""
    seed: int = 1
    """The seed of the order of each epoch and of the job's first weights. The solver's `random_seed` takes the place of
    the default."""
    prefetch_batches: int = 8
    """The loader is so many batches ahead of the solver."""
    shuffle: bool = True
    """Whether each epoch has an order of its own."""
    corrupt_records: str = "stop"
    """`stop`: a record that cannot be read ends the job; `skip`: the record is left out and counted
    (docs/data.md#corrupt-records)."""
    layer_ranks: int = 0
    """The number of ranks that `Python` layers which make data are told of
    (docs/data.md#layers-of-your-own-that-make-data). 0: as many as `--peers` of the command that makes the job,
    else 1."""


LATER_SETTINGS = (
    "layer_ranks",
    "clip",
    "bytes_budget",
    "strategy",
    "sync_every_iterations",
    "sync_wait_s",
    "sync_start_peers",
)
"""Settings that older versions do not have: with its default none of them is part of a job's fingerprint."""

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
CHOICES = {
    "strategy": ("pairs", "sync"),
    "corrupt_records": ("stop", "skip"),
    "joiner_momentum": ("zero", "checkpoint"),
    "cadence": ("fixed", "auto"),
    "codec": ("float32", "float16", "bfloat16", "int8", "int4"),
    "partners": ("uniform", "exponential", "ring"),
    "lr_scaling": ("none", "sqrt", "linear"),
}
RANGES = {
    "sync_every_iterations": (1, 1_000_000),
    "sync_wait_s": (0.0, 3600.0),
    "sync_start_peers": (0, 1024),
    "exchange_every_iterations": (1, 1_000_000),
    "exchange_jitter": (0.0, 0.9),
    "cadence_distance": (1e-9, 1.0),
    "half_limit": (0.0, 10.0),
    "half_clip": (0.0, 1000.0),
    "warmup": (0.0, 1.0),
    "lease_ttl_s": (2.0, 600.0),
    "checkpoint_every_samples": (0, 2**62),
    "checkpoint_peers": (1, 1000),
    "keep_checkpoints": (1, 100_000),
    "keep_every_samples": (0, 2**62),
    "keep_best": (0, 100_000),
    "seed": (0, 2**31 - 1),
    "prefetch_batches": (2, 1024),
    "layer_ranks": (0, MOST_RANKS),
}


AUTO, NO_CLIP = "auto", "none"
LARGEST_CLIP = 1e30


def with_overrides(settings: JobSettings, overrides: typing.Mapping[str, str]) -> JobSettings:
    """The settings with some fields replaced, given as text. Raises UsageError with the field and its valid values."""
    known = {field.name: field for field in dataclasses.fields(JobSettings)}
    values: dict[str, Any] = {}
    for name, text in overrides.items():
        if name not in known:
            raise UsageError(
                f"there is no setting {name!r}", remedy=f"known settings: {', '.join(sorted(known))}"
            )
        kind = type(getattr(settings, name))
        try:
            value = _BOOLEANS[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise UsageError(
                f"--set {name}={text}: not a {kind.__name__}", remedy=f"give a {kind.__name__}"
            ) from None
        values[name] = checked_setting(name, value, f"--set {name}={text}")
    return dataclasses.replace(settings, **values)


def checked_setting(name: str, value: Any, where: str) -> Any:
    """A setting's value, converted to its type. Raises UsageError for an invalid value; ``where`` names its place."""
    if name in CHOICES and value not in CHOICES[name]:
        raise UsageError(f"{where}: unknown", remedy=f"choose one of {', '.join(CHOICES[name])}")
    if name in RANGES and not RANGES[name][0] <= value <= RANGES[name][1]:
        low, high = RANGES[name]
        raise UsageError(f"{where}: out of range", remedy=f"give a value from {low} to {high}")
    if name == "clip":
        _check_clip(value, where)
    if name == "bytes_budget":
        read_ratio(value, where)
    return checked_store_url(value) if name == "checkpoint_store" else value


def read_ratio(text: str, where: str) -> float:
    """The value of a ratio from 0 to 1, given as a number or as ``1/100``. Raises UsageError."""
    above, _, below = text.partition("/")
    try:
        ratio = float(above) / (float(below) if below else 1.0)
    except (ValueError, ZeroDivisionError):
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise UsageError(
            f"{where}: not a ratio", remedy="give a number from 0 to 1, or a fraction like 1/100"
        )
    return ratio


def _check_clip(value: str, where: str) -> None:
    if value in {AUTO, NO_CLIP}:
        return
    try:
        fits = 0 < float(value) <= LARGEST_CLIP
    except ValueError:
        fits = False
    if not fits:
        raise UsageError(f"{where}: unknown", remedy=f"give {AUTO}, {NO_CLIP}, or a number above 0")
