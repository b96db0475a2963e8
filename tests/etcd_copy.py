"""An etcd that can be put back to a copy of its data: what it acknowledged since is forgotten."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.membership.etcd.etcd_channel import EtcdSettings
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.etcd.store import Operation


def store_of(server: EtcdServer) -> EtcdStore:
    """A client of a server, patient while it starts: no transaction is left in doubt."""
    patient = EtcdSettings(call_timeout_s=20.0, retry_for_s=60.0)
    return EtcdStore([server.endpoint], SystemClock(), random.Random(1), patient)


class EtcdCopied:
    """One server, and at most one copy of its data."""

    def __init__(self, folder: Path) -> None:
        self._data, self._copy = folder / "data", folder / "copy"
        self.server = EtcdServer(self._data)
        self.server.start()

    def keep(self) -> None:
        """Keep a copy of what it has now; it dies for that, and comes back."""
        self.server.kill()
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._data, self._copy)
        self.server.start()

    async def go_back(self, meanwhile: Sequence[Operation] = (), away_s: float = 0.0) -> None:
        """Put it back to the copy, and write ``meanwhile``, one by one, before its clients find it again.

        They cannot for ``away_s`` seconds at least.
        """
        self.server.kill()
        shutil.rmtree(self._data)
        shutil.copytree(self._copy, self._data)
        if meanwhile:
            hidden = EtcdServer(self._data)
            hidden.start()
            store = store_of(hidden)
            for operation in meanwhile:
                assert (await store.transact([], [operation])).succeeded
            await store.close()
            hidden.stop()
        await asyncio.sleep(away_s)
        self.server.start()
