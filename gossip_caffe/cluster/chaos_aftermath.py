"""What is left of a round of a chaos run when all of its peers have ended: processes and leases."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd_server import EtcdServer
from gossip_caffe.cluster.state import ClusterState
from gossip_caffe.errors import StoreError
from gossip_caffe.membership.etcd_store import EtcdStore
from gossip_caffe.membership.keys import JobKeys

MARK = "GOSSIP_CAFFE_CHAOS"
"""In the environment of every process of a run, so that one that is left behind is found."""
GONE_DEADLINE_S = 20.0
LEASES_DEADLINE_S = 60.0
LOOK_EVERY_S = 0.2


async def leases_left(state: ClusterState, job: str) -> list[str]:
    """Fences of peers that are still there when every lease has had the time to end."""
    etcd = EtcdServer(state.etcd)
    etcd.start()
    store = EtcdStore([etcd.endpoint], SystemClock(), random.Random(os.getpid()))
    try:
        deadline = time.monotonic() + LEASES_DEADLINE_S
        while True:
            late = time.monotonic() > deadline
            try:
                left = await store.keys(JobKeys(job).fence(""))
                if late or not left:
                    return list(left)
            except StoreError:
                if late:  # on a busy machine it takes its time to answer
                    raise
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        await store.close()
        etcd.stop()


async def processes_left(mark: str) -> list[str]:
    """Command lines of the processes of a round that do not end."""
    deadline = time.monotonic() + GONE_DEADLINE_S
    needle = f"{MARK}={mark}".encode()
    while True:
        left = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                ours = int(folder.name) == os.getpid() or needle not in (folder / "environ").read_bytes()
                if not ours and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    left.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
            except OSError:
                continue  # it has ended meanwhile
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(LOOK_EVERY_S)
