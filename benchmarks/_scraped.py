"""A peer whose metrics are scraped, for benchmarks: scrapes at the interval of Prometheus, and the cost of them."""

from __future__ import annotations

import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

from gossip_caffe.clock import SystemClock
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.reading import read_history
from gossip_caffe.observe.log.runs import one_by_one
from gossip_caffe.observe.metrics.tally import Tally, TallyingLog

EVERY_S = 5.0
"""The interval of deploy/prometheus/prometheus.yml."""
BURST = 100
"""Scrapes in a row: their CPU time is far above the tick of the kernel's account."""
HEAD = {"t", "m", "peer", "event"}
"""The fields that the event log itself gives each line."""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


class Scraper:
    """Scrapes a peer at a port of loopback."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._at = 0.0
        self.bytes = 0

    def scrape(self) -> None:
        """Scrape once. A peer that does not listen yet is left alone."""
        try:
            with urllib.request.urlopen(self._url, timeout=10) as answer:
                self.bytes = len(answer.read())
        except OSError:
            self.bytes = 0

    def look(self) -> None:
        """Scrape if that is due."""
        if time.monotonic() >= self._at + EVERY_S:
            self._at = time.monotonic()
            self.scrape()


class _Nowhere:
    """An event log that keeps nothing."""

    def emit(self, event: Event, **fields: object) -> None:
        pass


def share_of_counting(events: Path, peer: str) -> float:
    """The time for counting all events of a finished log, over the time from its first to its last line."""
    lines = list(one_by_one(read_history(events, peer).events))
    written: list[tuple[Event, dict[str, Any]]] = [
        (Event(line["event"]), {k: v for k, v in line.items() if k not in HEAD}) for line in lines
    ]
    counting = TallyingLog(_Nowhere(), Tally(), peer, SystemClock())
    began = time.perf_counter()
    for event, fields in written:
        counting.emit(event, **fields)
    took_s, times = time.perf_counter() - began, [float(line["m"]) for line in lines]
    return took_s / (max(times) - min(times))
