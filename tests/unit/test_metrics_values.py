"""Values of metrics from the figures of a peer: nothing counts backwards, nothing unknown is invented."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from gossip_caffe.observe.log.events import Event, MemoryLog
from gossip_caffe.observe.metrics.figures import Durations, Figures, TrainingFigures
from gossip_caffe.observe.metrics.registry import Exposition
from gossip_caffe.observe.metrics.table import STEP_BUCKETS_S, TABLE, Kind
from gossip_caffe.observe.metrics.tally import Distribution, Tally, TallyingLog
from gossip_caffe.observe.metrics.values import (
    RISING,
    Buckets,
    Rising,
    Surroundings,
    Value,
    risen,
    values_of,
)
from tests.fake_clock import FakeClock

AROUND = Surroundings(2000.0, 100.0, 6.0, 0.01, folder_free_bytes=10, folder_size_bytes=20)
TRAINING = TrainingFigures(
    samples=64,
    iterations=4,
    samples_per_s=32.0,
    loss=0.5,
    learning_rate=0.01,
    steps=Durations((1,) * (len(STEP_BUCKETS_S) + 1), 3.0),
    stalled_s=0.25,
    distance=0.001,
    progress_samples=128,
    test_score=0.9,
    checkpoint_made_at=1990.0,
    checkpoint_samples=64,
    device_used_bytes=5,
    device_size_bytes=9,
)
FIGURES = Figures(
    job="digits",
    version="1",
    device="cpu",
    state="training",
    budget_samples=256,
    members={"training": 2},
    store_up=True,
    certificate_ends_at=3600.0,
    lease_margin_s=3.0,
    training=TRAINING,
)
NEW = Figures(job="digits", version="1", device="cpu", state="joining", budget_samples=256)


def filled() -> Tally:
    """A tally in which every event has been seen."""
    tally = Tally()
    applied = {"side": "offered", "outcome": "applied", "ratio": 0.02, "steps": 3}
    tally.note(Event.EXCHANGED, applied, "p0", 90.0)
    tally.carried("sent", "float16", 100)
    tally.note(Event.CHECKPOINTED, {"seconds": 2.0}, "p0", 91.0)
    return tally


def values(figures: Figures, tally: Tally) -> list[Value | Buckets]:
    return values_of(figures, tally, risen({}, figures), AROUND)


def text(figures: Figures, tally: Tally, accept: str = "") -> str:
    return Exposition(lambda: values(figures, tally)).render(accept)[1].decode()


def samples(rendered: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_plain(rendered)
        for sample in family.samples
    }


def test_a_peer_of_which_everything_is_known_has_every_metric_of_the_table_and_no_other() -> None:
    assert {value.metric.name for value in values(FIGURES, filled())} == set(TABLE)


def test_a_peer_that_joins_has_no_value_of_what_it_does_not_know() -> None:
    known = {value.metric.name for value in values(NEW, Tally())}
    assert not known & {
        "loss",
        "store_up",
        "lease_margin_seconds",
        "job_progress_ratio",
        "step_duration_seconds",
    }
    assert {"build_info", "state", *RISING, "exchanges_total", "peers"} <= known


def test_values_and_labels_are_those_of_the_figures() -> None:
    found = samples(text(FIGURES, filled()))

    def value(name: str, **labels: str) -> float:
        return found["gossip_caffe_" + name, frozenset(labels.items())]

    assert value("job_progress_ratio") == 0.5
    assert value("samples_trained_total") == 64
    assert value("goodput_ratio") == 0.5
    assert value("state", state="training") == 1
    assert value("state", state="draining") == 0
    assert value("peers", state="training") == 2
    assert value("exchanges_total", side="offered", outcome="applied") == 1
    assert value("exchanges_total", side="answered", outcome="refused") == 0
    assert value("exchange_bytes_total", direction="sent", codec="float16") == 100
    assert value("last_exchange_age_seconds") == 10
    assert value("checkpoint_age_seconds") == 10
    assert value("step_duration_seconds_bucket", le="+Inf") == value("step_duration_seconds_count") == 16
    assert value("step_duration_seconds_bucket", le="0.002") == 2
    assert value("exchange_half_ratio_bucket", le="0.01") == 0
    assert value("exchange_half_ratio_bucket", le="0.03") == 1


def test_samples_that_are_trained_again_count_once_in_the_goodput() -> None:
    before = risen({}, dataclasses.replace(FIGURES, training=dataclasses.replace(TRAINING, samples=96)))
    back = risen(before, dataclasses.replace(FIGURES, training=dataclasses.replace(TRAINING, samples=32)))
    after = risen(back, FIGURES)
    found = {value.metric.name: value for value in values_of(FIGURES, Tally(), after, AROUND)}
    goodput = found["goodput_ratio"]
    assert isinstance(goodput, Value)
    assert goodput.value == pytest.approx(0.5 * 64 / 128)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_value(odd: float) -> None:
    figures = dataclasses.replace(FIGURES, training=dataclasses.replace(TRAINING, loss=odd, distance=odd))
    known = {value.metric.name for value in values(figures, Tally())}
    assert not known & {"loss", "consensus_distance_ratio"}


def test_both_formats_say_the_same_and_have_no_series_of_creation_times() -> None:
    plain = text(FIGURES, filled())
    opened = text(FIGURES, filled(), "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert "_created" not in plain + opened
    both = [
        {(family.name.removesuffix("_total"), family.type) for family in parse(rendered)}
        for parse, rendered in ((parse_plain, plain), (parse_openmetrics, opened))
    ]
    assert both[0] == both[1]
    kinds = dict(both[0])
    for metric in TABLE.values():
        assert kinds[metric.full_name.removesuffix("_total")] == metric.kind.value


@pytest.mark.parametrize(
    "accept", ["", "text/plain;version=abc", "text/plain;version=" + "9" * 5000, "\x00é", "*/*;q=x"]
)
def test_no_header_of_a_caller_spoils_an_answer(accept: str) -> None:
    assert text(FIGURES, filled(), accept).startswith("# HELP gossip_caffe_build_info")


def test_any_text_of_a_name_is_escaped_in_a_label() -> None:
    odd = 'a"b\\c\nd'
    found = samples(text(dataclasses.replace(FIGURES, device=odd), Tally()))
    assert any(("device", odd) in labels for name, labels in found if name == "gossip_caffe_build_info")


@given(st.lists(st.integers(0, 10**9), max_size=40))
def test_a_rising_count_never_falls_and_holds_every_increase(seen: list[int]) -> None:
    count, totals = Rising(), []
    for value in seen:
        count = count.after(value)
        totals.append(count.total)
    assert totals == sorted(totals)
    assert count.total == sum(max(0, after - before) for before, after in zip([0, *seen], seen, strict=False))
    if seen == sorted(seen) and seen:
        assert count.total == seen[-1], "of a figure that never falls it is the figure"


@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans()), max_size=20))
def test_counters_of_a_peer_never_fall_whatever_becomes_of_its_solver_and_its_training(
    course: list[tuple[int, bool]],
) -> None:
    rising: dict[str, Rising] = {}
    for samples, trains in course:
        before = {name: count.total for name, count in rising.items()}
        training = TrainingFigures(samples=samples, iterations=samples // 2, stalled_s=samples / 3)
        rising = risen(rising, dataclasses.replace(NEW, training=training if trains else None))
        assert all(rising[name].total >= total for name, total in before.items())
        assert set(rising) == set(RISING)


@given(st.lists(st.one_of(st.floats(), st.integers(), st.none(), st.text(), st.booleans())))
def test_a_distribution_counts_each_finite_number_once(added: list[Any]) -> None:
    distribution = Distribution(STEP_BUCKETS_S)
    for value in added:
        distribution.add(value)
    numbers = [value for value in added if isinstance(value, (int, float)) and not isinstance(value, bool)]
    assert sum(distribution.counts) == sum(map(math.isfinite, numbers))


def test_events_are_counted_and_passed_on() -> None:
    tally, log, clock = Tally(), MemoryLog(), FakeClock()
    counting = TallyingLog(log, tally, "p0", clock)
    counting.emit(Event.EXCHANGED, side="offered", outcome="failed", exchange="a", partner="p1")
    counting.emit(Event.EXCHANGED, side="answered", outcome="applied", ratio=0.5, exchange="b", partner="p1")
    counting.emit(Event.LEASE_LOST, reason="r")
    counting.emit(Event.LOADER_DIED, cause="c")
    counting.emit(Event.PROGRESS, iteration=1)
    assert [event["event"] for event in log.events] == [
        "exchanged",
        "exchanged",
        "lease-lost",
        "loader-died",
        "progress",
    ]
    assert dict(tally.exchanges) == {("offered", "failed"): 1, ("answered", "applied"): 1}
    assert (tally.leases_lost, tally.loader_deaths, tally.exchanged_at) == (1, 1, clock.monotonic())
    assert sum(tally.half_ratios.counts) == 1
    assert sum(tally.staleness.counts) == 0, "only an offered exchange has a snapshot of its own"


@pytest.mark.parametrize(
    ("fields", "lost"),
    [
        ({"member": "p1", "old": "training", "new": "", "lost": True}, 1),
        ({"member": "p1", "old": "training", "new": ""}, 0),
        ({"member": "p1", "old": "", "new": "joining"}, 0),
        ({"member": "p0", "old": "training", "new": "", "lost": True}, 0),
    ],
)
def test_other_peers_that_are_lost_are_counted(fields: dict[str, Any], lost: int) -> None:
    tally = Tally()
    tally.note(Event.MEMBER, fields, "p0", 0.0)
    assert tally.peers_lost == lost


def test_a_strangers_codec_makes_no_series() -> None:
    tally = Tally()
    for number in range(1000):
        tally.carried("received", f"codec{number}", 1)
    assert not tally.bytes


def test_each_counter_is_one_for_prometheus_client_too() -> None:
    types = {family.name: family.type for family in parse_plain(text(FIGURES, filled()))}
    counters = {
        metric.full_name.removesuffix("_total") for metric in TABLE.values() if metric.kind is Kind.COUNTER
    }
    assert counters <= {name.removesuffix("_total") for name, kind in types.items() if kind == "counter"}
