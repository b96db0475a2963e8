"""Joiners that all pull one large checkpoint of one holder at the same time; each copy is hashed, and removed."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from gossip_caffe.background import within
from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.formats.digest import digest_of
from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.checkpoint.pull import pull
from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.solver.engines.layout import WeightLayout

PROCESSES = 4
"""The joiners share so many: two hundred of their own would be the machine's memory."""
BEAT_S = 0.005
NAME = "00000000000100-maker-aaaa"


def written(folder: Path, megabytes: int) -> Manifest:
    """A checkpoint of that size; its weights are noise."""
    values = np.random.default_rng(1).standard_normal(megabytes * 250_000).astype(np.float32)
    manifest = Manifest(
        checkpoint=NAME,
        job="job",
        job_fingerprint="fingerprint",
        layout=WeightLayout.of([("ip", 0, (values.size,))]).entries,
        progress_samples=100,
        folded=0,
        done=(),
        maker="maker",
        contributors=("maker",),
        made_at=1.0,
    )
    return CheckpointFolder(folder).write(manifest, values)


async def _serve(root: Path) -> None:
    """The holder: prints its port, and for each line of stdin how long its event loop was held since the last."""
    worst = 0.0

    async def beat() -> None:
        nonlocal worst
        while True:
            began_at = time.monotonic()
            await asyncio.sleep(BEAT_S)
            worst = max(worst, time.monotonic() - began_at - BEAT_S)

    server = PeerServer("127.0.0.1:0", CheckpointFolder(root, own=False))
    print(await server.start(), flush=True)
    async with within(beat()):
        while await asyncio.to_thread(sys.stdin.readline):
            print(worst, flush=True)
            worst = 0.0
    await server.stop()


async def _join(port: int, manifest: Manifest, folder: Path, number: int) -> str:
    """One joiner; returns why its copy is not whole, or "". It asks nobody twice."""
    announcement = Announcement(NAME, manifest.digest, 100, 1.0, {"maker": f"127.0.0.1:{port}"})
    transport, kept = GrpcTransport(), CheckpointFolder(folder / str(number))
    try:
        got = await pull(announcement, job="job", client=transport, folder=kept, rng=random.Random(number))
        return await asyncio.to_thread(_flaw, kept, got, manifest)
    except GossipCaffeError as error:
        return error.message
    finally:
        await transport.close()
        if NAME in kept.ids():
            await asyncio.to_thread(kept.remove, NAME)


def _flaw(kept: CheckpointFolder, got: Manifest, manifest: Manifest) -> str:
    if got != manifest:
        return "another manifest"
    wrong = [
        entry.name
        for entry in got.files
        if digest_of(kept.path(got.checkpoint, entry.name).read_bytes()) != entry.blake3
    ]
    return f"{wrong} have other bytes" if wrong else ""


async def _join_all(port: int, root: Path, folder: Path, first: int, count: int) -> None:
    """So many joiners at once, when a line of stdin comes; prints what became of them."""
    manifest = CheckpointFolder(root, own=False).manifest(NAME)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2 * count, "joiners"))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    took: list[float] = []

    async def timed(number: int) -> str:
        began_at = time.monotonic()
        flaw = await _join(port, manifest, folder, number)
        took.append(time.monotonic() - began_at)
        return flaw

    flaws = await asyncio.gather(*(timed(number) for number in range(first, first + count)))
    print(json.dumps({"flaws": list(filter(None, flaws)), "took_s": took}), flush=True)


class _Child:
    """This script in a process of its own, by lines."""

    def __init__(self, *words: object) -> None:
        command = [sys.executable, __file__, *map(str, words)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, line: str = "go") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit("a process of the crowd has ended")
        return line if line == "ready" else json.loads(line)

    @property
    def peak_mb(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("VmHWM"))

    def end(self) -> None:
        self._process.communicate()


def _crowd(port: int, root: Path, scratch: Path, count: int) -> tuple[list[float], list[str]]:
    """So many joiners at once: how long each took, in seconds, and what was wrong with copies."""
    shares = [count // PROCESSES + (number < count % PROCESSES) for number in range(PROCESSES)]
    children, first = [], 0
    for share in shares:
        if share:
            children.append(_Child("join", port, root, scratch, first, share))
            first += share
    try:
        for child in children:
            child.hear()
        for child in children:
            child.say()
        told = [child.hear() for child in children]
    finally:
        for child in children:
            child.end()
    return [took for one in told for took in one["took_s"]], [flaw for one in told for flaw in one["flaws"]]


def measure_pulls(joiners: int, megabytes: int, repeats: int) -> dict[str, float]:
    """The crowd once, and a joiner alone so often before it and after it; returns the figures."""
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-crowds-") as name:
        root, scratch = Path(name) / "holder", Path(name) / "joiners"
        size = sum(entry.size_bytes for entry in written(root, megabytes).files)
        holder = _Child("serve", root)
        try:
            port = holder.hear()
            quiet_mb = holder.peak_mb
            alone = [_crowd(port, root, scratch, 1)[0][0] for _ in range(repeats)]
            holder.say()
            holder.hear()
            took, flaws = _crowd(port, root, scratch, joiners)
            holder.say()
            held_s, peak_mb = holder.hear(), holder.peak_mb
            alone += [_crowd(port, root, scratch, 1)[0][0] for _ in range(repeats)]
        finally:
            holder.end()
    for flaw in sorted(set(flaws)):
        print(f"not whole: {flaws.count(flaw)} × {flaw}")
    alone_s, whole = float(np.median(alone)), len(took) - len(flaws)
    print(
        f"{whole} of {joiners} whole, {size / 1e6:.0f} MB each; the last after {max(took):.1f} s", flush=True
    )
    print(f"one alone: {alone_s:.2f} s; the holder's event loop was held for {1e3 * held_s:.0f} ms at most")
    return {
        "pulls_whole": whole,
        "pulls_s": round(max(took), 1),
        "pulls_mb_s": round(whole * size / 1e6 / max(took)),
        "ratio_pulls_alone": round(whole * alone_s / max(took), 2),
        "holder_held_ms": round(1e3 * held_s),
        "holder_grew_mb": round(peak_mb - quiet_mb),
    }


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", root]:
            asyncio.run(_serve(Path(root)))
        case ["join", port, root, folder, first, count]:
            asyncio.run(_join_all(int(port), Path(root), Path(folder), int(first), int(count)))
