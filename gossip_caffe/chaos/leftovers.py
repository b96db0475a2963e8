"""The leftovers of a round of a chaos run after all of its peers have ended: processes and leases."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.own_etcd import own_etcd
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.cluster.state.sockets import remove_sockets
from gossip_caffe.errors import StoreError
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.keys import JobKeys

MARK = "GOSSIP_CAFFE_CHAOS"
"""An environment variable of every process of a run, by which leftover processes are found."""
GONE_DEADLINE_S = 20.0
LEASES_DEADLINE_S = 60.0
LOOK_EVERY_S = 0.2


async def leases_left(state: ClusterState, job: str) -> list[str]:
    """The fences of peers that still exist after every lease has had the time to end."""
    etcd: EtcdServer = own_etcd(state)
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
                if late:  # until then a busy machine's etcd may answer late
                    raise
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        await store.close()
        etcd.stop()
        remove_sockets(state.sockets)


async def processes_left(mark: str) -> list[str]:
    """The command lines of the processes of a round that have not ended."""
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
                continue  # the process has ended meanwhile
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(LOOK_EVERY_S)
