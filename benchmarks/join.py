"""What a joiner waits for: from `peer start` to its first step, and how fast a checkpoint comes to it.

    python benchmarks/join.py [--models 2,244] [--repeats 3]

A peer trains alone; another one, without a copy of the checkpoint, joins it. Its time is split by what its event log
says: until its process has begun, until its net stands (the checkpoint is fetched and verified meanwhile), until it has
met the other, and until its first step. Then the checkpoint's files are pulled from a holder in another process, beside
as many bytes over a bare TCP connection. docs/internals/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from _models import LENET, Model, dense_net, write_solver
from _peer_process import start_peer, wait_for_end

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.pull import pull
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.data.sources import source
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.jobs import create_job
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.reading import read_history
from gossip_caffe.observe.log.runs import one_by_one

DEADLINE_S = 300.0
TCP_PIECE_BYTES = 1 << 20
MODELS: dict[int, Model] = {2: LENET, 244: dense_net("wide", inputs=3_000, hidden=20_250, batch=4)}
"""Megabytes of weights → net: LeNet's 431,080 weights, and 61 millions in two dense layers."""


class Peers:
    """Peers of one job, each with a run folder of its own, so that none finds another's checkpoints on the disk.

    ``peak_bytes``: the most that any of their agents has held in memory of its own, which the solver does not share.
    """

    def __init__(self, endpoint: str, job: str, folder: Path) -> None:
        self._endpoint, self._job, self.folder = endpoint, job, folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.peak_bytes = 0
        threading.Thread(target=self._watch_memory, daemon=True).start()

    def _watch_memory(self) -> None:
        while True:
            for process in tuple(self._processes.values()):
                self.peak_bytes = max(self.peak_bytes, own_memory_bytes(process.pid))
            time.sleep(0.005)

    def start(self, name: str) -> float:
        """Start one; returns when, in monotonic seconds."""
        began_at = time.monotonic()
        log = self.folder / f"{name}.log"
        self._processes[name] = start_peer(self._endpoint, self._job, name, self.folder / name, log)
        return began_at

    def first(self, name: str, kind: Event, **fields: object) -> dict[str, float] | None:
        for event in one_by_one(read_history(self.folder / name / "events", name).events):
            if event["event"] == kind and all(event.get(key) == value for key, value in fields.items()):
                return dict(event)
        return None

    def wait_for(self, name: str, kind: Event, **fields: object) -> dict[str, float]:
        deadline = time.monotonic() + DEADLINE_S
        while (found := self.first(name, kind, **fields)) is None:
            process = self._processes.get(name)
            if time.monotonic() > deadline or process is None or process.poll() is not None:
                raise SystemExit(f"no {kind} of {name}: {(self.folder / f'{name}.log').read_text()[-500:]}")
            time.sleep(0.02)
        return found

    def stop(self, *names: str) -> None:
        for name in names or tuple(self._processes):
            process = self._processes.pop(name)
            process.terminate()
            wait_for_end(process)


def own_memory_bytes(pid: int) -> int:
    """What a process holds that no file or shared memory backs; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next(
        (1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0
    )


@dataclass(frozen=True, slots=True)
class Join:
    """Seconds. ``pull_s`` and ``verify_s`` run while the net is built; ``construction_s`` ends when both are done."""

    first_step_s: float
    process_s: float
    construction_s: float
    pull_s: float
    verify_s: float
    meet_s: float
    step_s: float


def join(peers: Peers, name: str) -> Join:
    began_at = peers.start(name)
    step = peers.wait_for(name, Event.TRAINED)
    started = peers.wait_for(name, Event.STARTED)
    built = peers.wait_for(name, Event.STATE, old="joining")
    loaded = peers.wait_for(name, Event.LOADED)
    trains = peers.wait_for(name, Event.STATE, new="training")
    return Join(
        first_step_s=step["m"] - began_at,
        process_s=started["m"] - began_at,
        construction_s=built["m"] - started["m"],
        pull_s=loaded["pull_s"],
        verify_s=loaded["verify_s"],
        meet_s=trains["m"] - max(built["m"], loaded["m"]),
        step_s=step["m"] - trains["m"],
    )


async def make_job(endpoint: str, job: str, solver: Path) -> None:
    store = EtcdStore([endpoint], SystemClock(), random.Random(1))
    try:
        settings = JobSettings(checkpoint_every_samples=2**40)  # only those that a lone peer needs
        await create_job(store, read_job(job, solver, settings, source.measure))
    finally:
        await store.close()


def measure_joins(megabytes: int, repeats: int, folder: Path) -> tuple[list[Join], int]:
    """The joins, and the most megabytes that an agent held meanwhile."""
    server = EtcdServer(folder / "etcd")
    server.start()
    job = f"join-{megabytes}"
    peers = Peers(server.endpoint, job, folder)
    try:
        solver = write_solver(MODELS[megabytes], folder, max_iter=10_000_000)
        asyncio.run(make_job(server.endpoint, job, solver))
        peers.start("founder")
        peers.wait_for("founder", Event.TRAINED)
        joins = []
        for repeat in range(repeats):
            joins.append(join(peers, f"joiner{repeat}"))
            peers.stop(f"joiner{repeat}")
        return joins, round(peers.peak_bytes / 1e6)
    finally:
        peers.stop()
        server.stop()


def serve(root: str) -> None:
    """The holder, in a process of its own: prints its port, and serves until its stdin ends."""

    async def run() -> None:
        server = PeerServer("127.0.0.1:0", CheckpointFolder(Path(root), own=False))
        print(await server.start(), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await server.stop()

    asyncio.run(run())


def send_for_ever(size_bytes: int) -> None:
    """A bare sender, in a process of its own: prints its port, and sends so many bytes to whoever connects."""
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    piece = memoryview(bytes(TCP_PIECE_BYTES))
    while True:
        wire, _ = listening.accept()
        with wire:
            for start in range(0, size_bytes, TCP_PIECE_BYTES):
                wire.sendall(piece[: size_bytes - start])


def bare_tcp_s(port: int, size_bytes: int, keep: Path | None = None) -> float:
    """``keep``: where what comes is written to, and removed afterwards."""
    scratch = memoryview(bytearray(TCP_PIECE_BYTES))
    began_at, came = time.monotonic(), 0
    with socket.create_connection(("127.0.0.1", port)) as wire, ExitStack() as ending:
        file = ending.enter_context(keep.open("wb", buffering=0)) if keep is not None else None
        while count := wire.recv_into(scratch):
            came += count
            if file is not None:
                file.write(scratch[:count])
    took_s = time.monotonic() - began_at
    if keep is not None:
        keep.unlink()
    if came != size_bytes:
        raise SystemExit(f"{came} of {size_bytes} bytes came")
    return took_s


async def pull_s(port: int, announcement: Announcement, folder: Path, transport: GrpcTransport) -> float:
    kept = CheckpointFolder(folder)
    began_at = time.monotonic()
    announcement.holders["holder"] = f"127.0.0.1:{port}"
    await pull(announcement, job="job", client=transport, folder=kept, rng=random.Random(1))
    took_s = time.monotonic() - began_at
    for checkpoint in kept.ids():
        kept.remove(checkpoint)
    return took_s


async def measure_pulls(root: Path, scratch: Path, repeats: int) -> tuple[float, float, float]:
    """Bytes a second of pulls, of a bare connection, and of one whose receiver writes what comes, in turns."""
    folder = CheckpointFolder(root, own=False)
    manifest = folder.manifest(folder.ids()[0])
    size = sum(entry.size_bytes for entry in manifest.files)
    announcement = Announcement(manifest.checkpoint, manifest.digest, 0, 0.0, {})
    command = [sys.executable, __file__]
    processes = [
        subprocess.Popen([*command, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for words in (("--serve", str(root)), ("--send", str(size)))
    ]
    holder, bare = (int(process.stdout.readline()) for process in processes if process.stdout)
    transport, pulls, bares, kept = GrpcTransport(), [], [], []
    try:
        await pull_s(holder, announcement, scratch, transport)
        for _ in range(repeats):
            pulls.append(await pull_s(holder, announcement, scratch, transport))
            bares.append(bare_tcp_s(bare, size))
            kept.append(bare_tcp_s(bare, size, scratch / "bare"))
    finally:
        await transport.close()
        for process in processes:
            process.communicate()
    return size / median(pulls), size / median(bares), size / median(kept)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="2,244", help=f"which of {', '.join(map(str, MODELS))} (MB)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    parser.add_argument("--send", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return 0
    if options.send:
        send_for_ever(options.send)
    figures: dict[str, float] = {}
    names = list(Join.__dataclass_fields__)
    print(f"{'MB':>6} " + " ".join(f"{name:>14}" for name in names) + "   (s)")
    for megabytes in map(int, options.models.split(",")):
        with tempfile.TemporaryDirectory(prefix="gossip-caffe-join-") as name:
            folder = Path(name)
            joins, figures[f"agent_peak_mb_{megabytes}"] = measure_joins(megabytes, options.repeats, folder)
            for found in joins:
                print(f"{megabytes:>6} " + " ".join(f"{getattr(found, name):>14.3f}" for name in names))
            figures |= {
                f"{name}_{megabytes}": round(median(getattr(found, name) for found in joins), 3)
                for name in names
            }
            holder = folder / "founder" / "checkpoints" / "founder"
            pulled, bare, kept = asyncio.run(
                measure_pulls(holder, folder / "pulled", 2 * options.repeats + 1)
            )
            print(
                f"{megabytes:>6} pull {pulled / 1e6:,.0f} MB/s, bare TCP {bare / 1e6:,.0f}, kept {kept / 1e6:,.0f}",
                flush=True,
            )
            figures[f"pull_mb_s_{megabytes}"] = round(pulled / 1e6)
            figures[f"ratio_pull_tcp_{megabytes}"] = round(pulled / bare, 3)
            figures[f"ratio_pull_kept_{megabytes}"] = round(pulled / kept, 3)
    peaks = {
        megabytes: figures[f"agent_peak_mb_{megabytes}"] for megabytes in map(int, options.models.split(","))
    }
    if {2, 244} <= peaks.keys():
        figures["agent_models_244"] = round((peaks[244] - peaks[2]) / (244 - 2), 2)
        print(f"an agent held at most {figures['agent_models_244']} models of 244 MB")
    print(f"RESULT {json.dumps(figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
