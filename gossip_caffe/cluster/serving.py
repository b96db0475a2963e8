"""An etcd that serves peers of other machines until it is asked to end: ``gossip-caffe etcd start``."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable
from pathlib import Path

from gossip_caffe.addresses import is_loopback
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.cluster.supervision.trouble_handler import TroubleHandler
from gossip_caffe.errors import EnvironmentProblem, UsageError
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.security.security import Security

LOOK_EVERY_S = 1.0


def own_address(host: str) -> str:
    """Return the IP address of a host's name: etcd listens at addresses alone.

    Raises UsageError for a name that has none, and for a name that means loopback without saying so, as Debian's
    /etc/hosts has it for a machine's own name: other machines would call themselves.
    """
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(
            f"--listen: {host} has no address ({error.strerror or error})",
            remedy="give an address of this machine's network interface",
        ) from None
    address = str(found[0][4][0])
    if is_loopback(address) and not is_loopback(host):
        raise UsageError(
            f"--listen: {host} is {address} on this machine, where no other machine reaches it",
            remedy="give the address of this machine's network interface",
        )
    return address


async def serve(
    etcd: EtcdServer,
    asked: asyncio.Event,
    say: Callable[[str], None],
    address_file: Path | None,
    security: Security,
) -> None:
    """Run ``etcd`` until ``asked`` is set: start it, start it again when it dies, and keep its file small.

    ``say`` is called with a line for each event; ``address_file`` has "host:port" while it runs. Raises the errors of
    ``EtcdServer.start``, and EnvironmentProblem when the file cannot be written.
    """
    etcd.start()
    store = EtcdStore((etcd.endpoint,), SystemClock(), random.Random(), security=security)
    troubles = TroubleHandler("", say)
    try:
        if address_file is not None:
            _write(address_file, etcd.endpoint)
        say(f"etcd listens at {etcd.endpoint}; its data is in {etcd.data_dir}, its log is {etcd.log}")
        while not asked.is_set():
            troubles.keep(etcd)
            troubles.defragment(etcd, store)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asked.wait(), LOOK_EVERY_S)
    finally:
        if address_file is not None:
            address_file.unlink(missing_ok=True)
        await troubles.close()
        await store.close()
        etcd.stop()
    say("etcd has ended; the same command goes on with its data")


def _write(path: Path, text: str) -> None:
    """Write a file whole, or not at all: others wait for it."""
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_text(f"{text}\n")
        new.rename(path)
    except OSError as error:
        raise EnvironmentProblem(
            f"--address-file {path} cannot be written ({error.strerror})",
            remedy="give a file in a folder of yours",
        ) from None
