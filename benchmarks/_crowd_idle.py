"""Idle connections on both ports of a peer that has few descriptors: how soon a joiner gets in beside them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from threading import Event as Flag
from threading import Thread

from _crowd_peers import Peers, peers_of_a_job
from _models import LENET

from gossip_caffe.background import within
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.log.events import Event

DESCRIPTORS = 1024
PORTS = ("exchanges", "weights", "metrics")
AGAIN_S = 0.5
"""Pause before a connection is opened again that the peer has ended."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a connection of gRPC begins: every second one says so much, and the others nothing."""
LISTENING = "0A"
SETTLE_S = 3.0


def ports_of(pid: int) -> list[int]:
    """The TCP ports on which a process listens."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(link.readlink()).removeprefix("socket:[").rstrip("]"))
        except OSError:
            continue
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return sorted({int(row[1].split(":")[1], 16) for row in rows if row[3] == LISTENING and row[9] in inodes})


def descriptors_of(pid: int) -> int:
    """How many a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Idle:
    """So many connections to each port, each opened again as soon as it is ended. ``opened``: how often."""

    def __init__(self, ports: list[int], count: int) -> None:
        self.opened = 0
        self._ports = ports
        self._count = count
        self._over = Flag()

    def run(self) -> None:
        """Keep them until ``stop``, in a thread of its own."""
        asyncio.run(self._run())

    def stop(self) -> None:
        """End them all."""
        self._over.set()

    async def _run(self) -> None:
        works = [self._one(port, number) for port in self._ports for number in range(self._count)]
        async with within(*works):
            while not self._over.is_set():
                await asyncio.sleep(0.1)

    async def _one(self, port: int, number: int) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                self.opened += 1
                try:
                    if number % 2:
                        writer.write(PREFACE)
                    while await reader.read(4096):
                        pass
                finally:
                    writer.close()
            except OSError:
                pass
            await asyncio.sleep(AGAIN_S)


@contextmanager
def idle_connections(pid: int, count: int) -> Iterator[Idle]:
    """So many on each port of a process."""
    idle = Idle(ports_of(pid), count)
    thread = Thread(target=idle.run)
    thread.start()
    try:
        time.sleep(SETTLE_S)
        yield idle
    finally:
        idle.stop()
        thread.join()


def joined_s(peers: Peers, name: str) -> float:
    """From a joiner's first word, just before it registers, until it trains."""
    peers.start(name)
    trains = peers.wait_for(name, Event.STATE, new="training")
    began = peers.wait_for(name, Event.STARTED)
    peers.stop(name)
    return float(trains["m"] - began["m"])


def measure_idle(count: int, repeats: int) -> dict[str, float]:
    """A joiner without them and one beside them, by turns, as often; returns the figures."""
    beside, without = [], []
    most = opened = 0
    with peers_of_a_job(LENET, JobSettings()) as peers:
        peers.start("p0", descriptors=DESCRIPTORS)
        peers.wait_for("p0", Event.TRAINED)
        pid = peers.pid("p0")
        if len(found := ports_of(pid)) != len(PORTS):
            raise SystemExit(f"p0 listens on {found}, and its ports are for {PORTS}")
        print(f"{'without':>10} {'beside':>10}   (s until a joiner trains)")
        for turn in range(repeats):
            without.append(joined_s(peers, f"without{turn}"))
            with idle_connections(pid, count) as idle:
                most = max(most, descriptors_of(pid))
                beside.append(joined_s(peers, f"beside{turn}"))
                most, opened = max(most, descriptors_of(pid)), opened + idle.opened
            print(f"{without[-1]:>10.2f} {beside[-1]:>10.2f}", flush=True)
    print(
        f"{count} connections on each port, opened {opened} times; {most} of {DESCRIPTORS} descriptors in use"
    )
    return {
        "joined_without_s": round(median(without), 2),
        "joined_beside_s": round(median(beside), 2),
        "joined_beside_slowest_s": round(max(beside), 2),
        "descriptors": most,
    }
