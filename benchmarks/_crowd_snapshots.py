"""Callers of Snapshot that read nothing: how much memory a living peer takes for them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from _crowd_peers import JOB, peers_of_a_job, wait_for
from _models import CLASSES, dense_net

from gossip_caffe.background import within
from gossip_caffe.chaos.slow_streams import Crowd, slow_streams
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import Message, Refusal
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.log.events import Event

INPUTS, HIDDEN = 3_000, 5_000
MODEL = dense_net("wide", inputs=INPUTS, hidden=HIDDEN, batch=4)
MODEL_MB = 4 * ((INPUTS + 1) * HIDDEN + (HIDDEN + 1) * CLASSES) / 1e6
LOOK_S = 0.1
QUIET_S = 20.0
EXCHANGES = 6
HONEST_EVERY_S = 2.0
PATIENCE_S = 60.0


def memory_mb(pid: int) -> dict[str, float]:
    """Of a process: its pages in memory (Rss), and with its share alone of those of several (Pss)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    fields = (line.split() for line in lines[1:])
    return {
        name.rstrip(":"): int(kilobytes) / 1e3 for name, kilobytes, *_ in fields if name in {"Rss:", "Pss:"}
    }


async def _calls(address: str, count: int, seconds: float) -> None:
    """Callers with a connection each."""
    crowd = Crowd(offers=0, silent=0, unread=1)
    print(sum(await asyncio.gather(*(slow_streams(address, JOB, seconds, crowd) for _ in range(count)))))


async def _read(transport: GrpcTransport, address: str, fingerprint: str) -> bool:
    try:
        shown = await transport.snapshot(address, Message("", "honest", JOB, fingerprint), PATIENCE_S)
        try:
            if shown.header.refusal is not Refusal.NONE:
                return False
            return len(await shown.read(shown.payload_bytes)) == shown.payload_bytes
        finally:
            shown.close()
    except ExchangeFailed:
        return False


class Watch:
    """A peer's memory, and what becomes of one who reads, on one connection, as a partner does."""

    def __init__(self, pid: int, address: str, fingerprint: str) -> None:
        self._pid = pid
        self._address, self._fingerprint = address, fingerprint
        self._transport = GrpcTransport()
        self.came: list[bool] = []
        self.quiet: dict[str, float] = {}
        self.peak: dict[str, float] = {}
        self.opened = 0

    async def look(self, callers: int, seconds: float) -> None:
        """Without such a crowd, and as long as it calls."""
        try:
            for _ in range(round(QUIET_S / LOOK_S)):
                self.quiet = self._highest(self.quiet)
                await asyncio.sleep(LOOK_S)
            for _ in range(2):
                self.came.append(await _read(self._transport, self._address, self._fingerprint))
            command = [sys.executable, __file__, self._address, str(callers), str(seconds)]
            crowd = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            async with within(self._read_on()):
                while crowd.poll() is None:
                    self.peak = self._highest(self.peak)
                    await asyncio.sleep(LOOK_S)
            self.opened = int(crowd.communicate()[0])
        finally:
            await self._transport.close()

    def _highest(self, before: dict[str, float]) -> dict[str, float]:
        now = memory_mb(self._pid)
        return {name: max(before.get(name, 0.0), now[name]) for name in now}

    async def _read_on(self) -> None:
        while True:
            await asyncio.sleep(HONEST_EVERY_S)
            self.came.append(await _read(self._transport, self._address, self._fingerprint))


def measure_snapshots(callers: int, seconds: float) -> dict[str, float]:
    """A peer that trains and exchanges, alone with its partner and beside such a crowd; returns the figures.

    The most that it holds is compared with the most that it holds then: exchanges take memory, too. Nobody
    makes a checkpoint meanwhile, which takes memory of its own; who trains alone would have to.
    """
    settings = JobSettings(checkpoint_every_samples=2**40)
    with peers_of_a_job(MODEL, settings) as peers:
        for name in ("p0", "p1"):
            peers.start(name)
        exchanged = {"outcome": "applied"}
        wait_for("they exchange", lambda: len(peers.events("p0", Event.EXCHANGED, **exchanged)) >= EXCHANGES)
        record = peers.records()["p0"]
        watch = Watch(peers.pid("p0"), record.address, record.fingerprint)
        asyncio.run(watch.look(callers, seconds))
    quiet, peak, came = watch.quiet, watch.peak, watch.came
    grew = {name: (peak[name] - quiet[name]) / MODEL_MB for name in peak}
    went = ", ".join(f"{name} {quiet[name]:.0f} to {peak[name]:.0f} MB" for name in peak)
    print(f"{callers} callers, {watch.opened} calls, a model of {MODEL_MB:.0f} MB: {went}")
    print(f"{sum(came)} of {len(came)} who read got the weights", flush=True)
    return {
        "snapshot_models_rss": round(grew["Rss"], 2),
        "snapshot_models_pss": round(grew["Pss"], 2),
        "snapshot_honest_share": round(sum(came) / len(came), 3),
    }


if __name__ == "__main__":
    asyncio.run(_calls(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
