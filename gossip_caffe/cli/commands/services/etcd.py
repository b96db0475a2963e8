"""``gossip-caffe etcd``: an etcd for peers of other machines, where there is none."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.options.security import security_options
from gossip_caffe.errors import UsageError

if TYPE_CHECKING:
    from gossip_caffe.cluster.etcd.server import EtcdServer
    from gossip_caffe.security.security import Security

PORT = 2379


@click.group()
def etcd() -> None:
    """Run an etcd of one member, for machines that have none.

    \b
    gossip-caffe etcd start --listen 10.0.0.5:2379 --insecure
    """


@etcd.command()
@click.option(
    "--listen",
    default=f"127.0.0.1:{PORT}",
    show_default=True,
    metavar="HOST:PORT",
    help="The address of this machine at which peers reach the etcd; port 0: any free port.",
)
@click.option(
    "--data-dir",
    default="gossip-caffe-etcd",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of its data. The same folder again: the jobs in it go on.",
)
@click.option(
    "--address-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write HOST:PORT into this file as soon as the etcd answers, and remove the file at the end.",
)
@security_options
def start(listen: str, data_dir: Path, address_file: Path | None, security: Security) -> None:
    """Run an etcd until Ctrl-C or SIGTERM, and start it again when it dies.

    It is one member, made to stay small (docs/etcd.md). Peers train on while it is away, for as long as they have
    data of their own. Where jobs must survive the loss of its disk, run three members instead.

    \b
    gossip-caffe etcd start --listen 10.0.0.5:2379 --insecure
    gossip-caffe etcd start --listen gpu1.example:0 --data-dir /shared/etcd --address-file /shared/etcd.address
    """
    from gossip_caffe.cluster.etcd.server import EtcdServer
    from gossip_caffe.cluster.serving import own_address
    from gossip_caffe.peer.core.address import listening

    if security.tls is not None:
        raise UsageError(
            "this etcd has no certificates", remedy="start etcd itself with --cert-file (docs/security.md)"
        )
    host, port = listening(listen, security, "--listen")
    asyncio.run(_serve(EtcdServer(data_dir, port, own_address(host)), address_file, security))


async def _serve(server: EtcdServer, address_file: Path | None, security: Security) -> None:
    from gossip_caffe.cli.terminal.streams import never_wait_for_readers, say
    from gossip_caffe.cluster.serving import serve
    from gossip_caffe.system.signals import ending_signals

    asked = asyncio.Event()
    never_wait_for_readers()
    for number in ending_signals():
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    await serve(server, asked, say, address_file, security)
