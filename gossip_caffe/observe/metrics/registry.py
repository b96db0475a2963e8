"""The exposition of a peer's metrics in the formats of Prometheus, by prometheus_client."""

# ruff: noqa: PLC0415 - prometheus_client is imported at the first scrape: a peer that nobody scrapes does not load it

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from gossip_caffe.observe.metrics.table import TABLE, Kind, Metric
from gossip_caffe.observe.metrics.values import Buckets, Value

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry

Collect = Callable[[], list[Value | Buckets]]
OPENMETRICS = "application/openmetrics-text"


class Exposition:
    """The metrics of one process in a registry of their own. ``collect`` returns the values of now."""

    def __init__(self, collect: Collect) -> None:
        self._collect = collect
        self._registry: CollectorRegistry | None = None

    def render(self, accept: str) -> tuple[str, bytes]:
        """The content type and the body of an answer to a scrape. ``accept``: the request's header of that name.

        Only the name of the format is read in it: the library's own reading fails at versions that are no numbers.
        """
        from prometheus_client import exposition
        from prometheus_client.openmetrics import exposition as openmetrics

        registry = self._registry = self._registry or self._made()
        if OPENMETRICS in accept:
            return openmetrics.CONTENT_TYPE_LATEST, bytes(openmetrics.generate_latest(registry))  # type: ignore[no-untyped-call]
        return exposition.CONTENT_TYPE_PLAIN_0_0_4, exposition.generate_latest(registry)

    def _made(self) -> CollectorRegistry:
        from prometheus_client.process_collector import ProcessCollector
        from prometheus_client.registry import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self._collect))
        ProcessCollector(registry=registry)
        return registry


class _Collector:
    """A collector of prometheus_client. It makes new families at each scrape, so none has a ``_created`` series."""

    def __init__(self, collect: Collect) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Any]:
        """The families of all metrics that have a value, in the order of the table."""
        found: dict[str, list[Value | Buckets]] = {}
        for value in self._collect():
            found.setdefault(value.metric.name, []).append(value)
        for name, metric in TABLE.items():
            if name in found:
                yield _family(metric, found[name])

    def describe(self) -> Iterator[Any]:
        """Nothing: the registry then asks for no values when the collector is registered."""
        return iter(())


def _family(metric: Metric, values: list[Value | Buckets]) -> Any:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.full_name, metric.help)
        for value in values:
            if isinstance(value, Buckets):
                histogram.add_metric((), _cumulative(metric, value.counts), value.sum)
        return histogram
    family_of = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = family_of(metric.full_name, metric.help, labels=metric.label_names)
    for value in values:
        if isinstance(value, Value):
            family.add_metric(value.labels, value.value)
    return family


def _cumulative(metric: Metric, counts: tuple[int, ...]) -> list[tuple[str, float]]:
    """The buckets as Prometheus wants them: each with the number of values up to its bound."""
    bounds = [*map(repr, metric.buckets), "+Inf"]
    return list(zip(bounds, map(float, itertools.accumulate(counts)), strict=True))
