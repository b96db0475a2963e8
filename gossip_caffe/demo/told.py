"""The figures that pictures of examples show, from the event logs of a run (docs/internals/events.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.reading import logs_of, read_histories
from gossip_caffe.observe.log.runs import one_by_one
from gossip_caffe.observe.report.picture import Curve

Events = dict[str, list[Mapping[str, Any]]]


def events_in(run_dir: Path) -> Events:
    """Return the events of each peer, with one for each trained batch."""
    logs = logs_of(read_histories(run_dir / "events"))
    return {peer: list(one_by_one(lines)) for peer, lines in logs.items()}


def records_over_time(events: Iterable[Mapping[str, Any]], origin_s: float) -> list[tuple[float, int]]:
    """Return the records that one peer has trained, as (seconds since ``origin_s``, records so far)."""
    points, records = [], 0
    for event in events:
        if event["event"] == Event.TRAINED:
            records += sum(stop - start for _, start, stop in event["parts"])
            points.append((float(event["t"]) - origin_s, records))
    return points


def accuracy_over_samples(events: Events, name: str) -> Curve:
    """Return the output "accuracy" of the tests of the consensus, over the samples that were trained."""
    points = {}
    for lines in events.values():
        for event in lines:
            if event["event"] == Event.TESTED:
                means = {found["name"]: found["means"][0] for found in event["outputs"]}
                points[int(event["progress_samples"])] = float(means["accuracy"])
    return Curve(name, tuple(sorted(points.items())))
