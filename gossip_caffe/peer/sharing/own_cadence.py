"""The interval between one peer's own exchanges: from the job's settings and length, and from the distances seen."""

from __future__ import annotations

from collections.abc import Callable

from gossip_caffe.gossip.codecs.codec import codec_named
from gossip_caffe.gossip.policy.cadence import SHORTEST, Cadence, Outlook, affordable, begun, early, steered
from gossip_caffe.job.spec.settings import JobSettings, read_ratio

MANY = 1 << 20
"""A number of weights whose payload has the codec's usual bytes a weight."""


class OwnCadence:
    """The cadence of one peer."""

    def __init__(self, settings: JobSettings, outlook: Callable[[], Outlook | None] = lambda: None) -> None:
        self._settings = settings
        self._outlook = outlook
        self._steered: Cadence | None = None
        self._budget = read_ratio(settings.bytes_budget, "bytes_budget")
        self._value_bytes = codec_named(settings.codec).payload_bytes(MANY) / MANY

    @property
    def now(self) -> Cadence:
        """The present interval, and the reason for it."""
        found, seen = self._steered or self._first, self._outlook()
        if seen is None:
            return found
        if self._settings.cadence == "auto":
            found = early(found, seen.share)
        return affordable(found, self._budget, seen.living, self._value_bytes)

    @property
    def _first(self) -> Cadence:
        """The interval before the first exchange. It depends on the peers that live: the founder begins alone."""
        every, seen = self._settings.exchange_every_iterations, self._outlook()
        if self._settings.cadence != "auto" or seen is None:
            return Cadence(every, "the job's own")
        return begun(seen.iterations, every)

    def steer(self, mean_distance: float | None) -> None:
        """Note the running consensus distance after an exchange of this peer."""
        if self._settings.cadence == "auto":
            first = self._first
            shortest = min(SHORTEST, first.every)
            held = self._settings.cadence_distance
            self._steered = steered(self._steered or first, mean_distance, held, shortest)
