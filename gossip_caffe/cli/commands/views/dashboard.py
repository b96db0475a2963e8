"""``gossip-caffe dashboard``: a run as a living page in the browser."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from gossip_caffe.cli.commands.cluster import name_option
from gossip_caffe.cli.commands.views.logs import event_folder
from gossip_caffe.cli.terminal.streams import never_wait_for_readers, say
from gossip_caffe.errors import NotFound

LISTEN = "127.0.0.1:0"


@click.command()
@click.argument("run_dir", required=False, type=click.Path(file_okay=False, path_type=Path))
@name_option
@click.option("--job", default="", help="Of event logs of several jobs: this one.  [default: the newest]")
@click.option(
    "--listen",
    default=LISTEN,
    show_default=True,
    metavar="HOST:PORT",
    help="The address of the page; port 0: any free port. Any program that reaches the port can read the page.",
)
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser of this machine.")
def dashboard(run_dir: Path | None, name: str, job: str, listen: str, opens: bool) -> None:
    """Show a run as a page in the browser, which follows the run while it goes on.

    The page has the charts of 'gossip-caffe report': the peers' lives, the loss, the tests of the consensus, the
    distance of the peers, shards and exchanges. It is made from the event logs of this machine: those of the local
    cluster, or of the peers whose run folder is RUN_DIR, which may have ended long ago. Peers of other machines are
    shown when their logs lie in that folder, too; else each machine has a page of its own, and 'gossip-caffe
    discover' with Prometheus shows all of them. The page asks no other machine for anything. Ctrl-C ends it.

    \b
    gossip-caffe dashboard --open
    gossip-caffe dashboard gossip-caffe-run --listen 127.0.0.1:8080
    """
    from gossip_caffe.addresses import split_address
    from gossip_caffe.cluster.state.folder import ClusterState

    split_address(listen, "--listen")
    folder = run_dir if run_dir is not None else ClusterState(name).run
    event_folder(folder, "")  # raises when no peer of this machine has written a log there
    asyncio.run(_serve(folder, job, listen, opens))
    say("the page is closed")


async def _serve(folder: Path, job: str, listen: str, opens: bool) -> None:
    """Serve the page until a signal asks for the end."""
    import secrets

    from gossip_caffe.background import within
    from gossip_caffe.clock import SystemClock
    from gossip_caffe.observe.dashboard.server import DashboardServer
    from gossip_caffe.observe.dashboard.source import RunFolder
    from gossip_caffe.observe.metrics.http import is_loopback
    from gossip_caffe.system.host import host_name
    from gossip_caffe.system.signals import ending_signals

    never_wait_for_readers()
    ended = asyncio.Event()
    clock = SystemClock()
    host = listen.rpartition(":")[0]
    names = frozenset({host, host_name()})
    server = DashboardServer(RunFolder(folder, clock, job), clock, secrets.token_hex(4), names)
    try:
        port = await server.start(listen)
        if server.is_empty:
            raise NotFound(
                f"there are no event logs of job {job} in {folder / 'events'}", remedy="leave --job out"
            )
        for number in ending_signals():
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        if not is_loopback(listen):
            say(
                f"every program that reaches {host}:{port} can read the page; it asks for no password",
                err=True,
            )
        url = f"http://{_called(host)}:{port}/"
        say(f"{server.title}: {url} shows the run in {folder}; Ctrl-C ends the page")
        if opens:
            await asyncio.to_thread(_open, url)
        async with within(server.follow(), ended.wait()) as (following, ending):
            await asyncio.wait((following, ending), return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
    finally:
        await server.stop()


def _called(host: str) -> str:
    """The host of the page's URL: this machine's loopback where the page is at all addresses."""
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)


def _open(url: str) -> None:
    import webbrowser

    # Without a display Python would start a browser for terminals in this terminal.
    has_place = any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))
    if not has_place or not webbrowser.open(url):
        say(f"no browser was found here; open {url}", err=True)
