"""The table of metrics keeps the rules of Prometheus, and agrees with the enumerations of the rooms above it."""

from __future__ import annotations

import re
from bisect import bisect_left

import pytest

from gossip_caffe.gossip.codecs.codec import CODECS as ENCODINGS
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from gossip_caffe.observe.metrics.table import CODECS, SECTIONS, SIDES, STATES, TABLE, Kind, Metric
from gossip_caffe.peer.core.lifecycle import State

METRICS = [pytest.param(metric, id=metric.name) for metric in TABLE.values()]
BASE_UNITS = ("seconds", "bytes", "ratio", "samples", "records", "iterations", "epochs")


def test_no_metric_is_declared_twice() -> None:
    assert sum(len(section.metrics) for section in SECTIONS) == len(TABLE)


@pytest.mark.parametrize("metric", METRICS)
def test_a_name_says_kind_and_unit_as_prometheus_wants_it(metric: Metric) -> None:
    assert re.fullmatch(r"gossip_caffe_[a-z][a-z_]*[a-z]", metric.full_name)
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert not re.search(r"_(count|sum|bucket|gauge|counter|histogram|ms|milliseconds|kb)$", metric.name)
    if metric.unit in BASE_UNITS and metric.kind is not Kind.COUNTER:
        assert metric.name.endswith(metric.unit), "the unit ends the name"


@pytest.mark.parametrize("metric", METRICS)
def test_each_help_is_one_sentence_or_two(metric: Metric) -> None:
    assert metric.help.endswith(".")
    assert 20 < len(metric.help) < 120
    assert "\n" not in metric.help


@pytest.mark.parametrize("metric", METRICS)
def test_no_label_is_named_as_prometheus_own_or_has_unbounded_values(metric: Metric) -> None:
    for name, values in metric.labels:
        assert name not in {"job", "instance", "peer", "partner", "le"}
        assert values or metric.name == "build_info", "only the info of the build has texts of this process"


@pytest.mark.parametrize("metric", METRICS)
def test_histograms_alone_have_buckets_and_those_ascend(metric: Metric) -> None:
    assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert all(bisect_left(metric.buckets, bound) == place for place, bound in enumerate(metric.buckets))


def test_the_values_of_labels_are_those_of_the_rooms_above() -> None:
    assert tuple(State) == STATES
    assert SIDES["offered"] == tuple(OutcomeKind)
    assert tuple(ENCODINGS) == CODECS
