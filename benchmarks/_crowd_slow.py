"""Slow streams at living peers: how many exchanges the peers make beside them, and how many in as much quiet time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from _crowd_peers import JOB, Peers, peers_of_a_job, wait_for
from _models import LENET

from gossip_caffe.chaos.slow_streams import Crowd, slow_streams
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.log.events import Event

PEERS = 3
SETTLE_S = 2.0
QUIET = "quiet"
CROWDS = {
    QUIET: None,
    "slow": Crowd(offers=4, silent=0, unread=0, byte_every_s=8.0),
    "every": Crowd(byte_every_s=8.0),
}
"""At each peer: nobody; four offers of which a byte comes every 8 s; eight of these, eight calls that say nothing and
eight that read nothing. A call that the peer ends is opened again at once."""


@dataclass(frozen=True, slots=True)
class Window:
    """Applied exchanges and steps of all peers in so many seconds; ``opened``: the crowd's calls."""

    kind: str
    exchanges: int
    steps: int
    opened: int


def watched(peers: Peers, names: list[str], kind: str, seconds: float) -> Window:
    """One window of time with one crowd."""
    addresses = [peers.records()[name].address for name in names]
    crowd, opened = CROWDS[kind], 0
    time.sleep(SETTLE_S)
    began_at = time.monotonic()
    if crowd is None:
        time.sleep(seconds)
    else:
        opened = asyncio.run(_opened(addresses, seconds, crowd))
    ended_at = time.monotonic()

    def counted(event: Event, **fields: object) -> int:
        found = [entry["m"] for name in names for entry in peers.events(name, event, **fields)]
        return sum(began_at < at <= ended_at for at in found)

    exchanges = counted(Event.EXCHANGED, side="offered", outcome="applied")
    return Window(kind, exchanges, counted(Event.TRAINED), opened)


async def _opened(addresses: list[str], seconds: float, crowd: Crowd) -> int:
    return sum(await asyncio.gather(*(slow_streams(address, JOB, seconds, crowd) for address in addresses)))


def measure_slow(seconds: float, repeats: int) -> dict[str, float]:
    """Every crowd for so many seconds, in one order and back, as often; returns the figures."""
    windows: list[Window] = []
    with peers_of_a_job(LENET, JobSettings(cadence="fixed")) as peers:
        names = [f"p{number}" for number in range(PEERS)]
        for name in names:
            peers.start(name)
        wait_for("all train", lambda: all(peers.events(name, Event.TRAINED) for name in names))
        wait_for("they exchange", lambda: all(peers.events(name, Event.EXCHANGED) for name in names))
        print(f"{'crowd':>8} {'exchanges':>10} {'steps':>8} {'opened':>8}   in {seconds:g} s")
        for turn in range(repeats):
            for kind in sorted(CROWDS, key=list(CROWDS).index, reverse=turn % 2 == 1):
                windows.append(found := watched(peers, names, kind, seconds))
                print(f"{kind:>8} {found.exchanges:>10} {found.steps:>8} {found.opened:>8}", flush=True)
    figures: dict[str, float] = {}
    quiet, quiet_steps = _sums(windows, QUIET)
    figures["quiet_exchanges_per_s"] = round(quiet / (repeats * seconds), 2)
    for kind in CROWDS:
        if kind != QUIET:
            exchanges, steps = _sums(windows, kind)
            figures[f"ratio_{kind}"] = round(exchanges / quiet, 3)
            figures[f"ratio_{kind}_a_step"] = round(exchanges / steps / (quiet / quiet_steps), 3)
    return figures


def _sums(windows: list[Window], kind: str) -> tuple[int, int]:
    of_kind = [window for window in windows if window.kind == kind]
    return sum(window.exchanges for window in of_kind), sum(window.steps for window in of_kind)
