"""``gossip-caffe top``: a living view of a job, with keys."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.options.etcd import EtcdPlace, etcd_options, with_store
from gossip_caffe.cli.options.job import job_option
from gossip_caffe.errors import NotInstalled

if TYPE_CHECKING:
    from gossip_caffe.cli.top.chosen_view import View
    from gossip_caffe.cluster.state.folder import ClusterState
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore


@click.command()
@click.option(
    "--view",
    "wanted",
    default="",
    type=click.Choice(["", "textual", "rich", "lines"]),
    metavar="[textual|rich|lines]",
    help="The way to show it.  [default: textual if it is installed, else rich; lines without a terminal]",
)
@job_option
@etcd_options
def top(wanted: str, job: str, place: EtcdPlace) -> None:
    """Show a job while it trains: its peers, their speed, loss, share of the data and last exchange, and the events.

    Keys: the arrows select a peer, Enter shows all about it, s sorts by the next column and r the other way round, d
    lets the peer leave in good order, wherever it runs, k kills a peer of a local cluster of this machine, q ends the
    view. d and k ask before they do it.

    \b
    gossip-caffe top
    gossip-caffe top --job mnist --etcd 10.0.0.5:2379
    gossip-caffe top --view lines
    """
    from gossip_caffe.cli.top.chosen_view import View, chosen_view
    from gossip_caffe.cli.top.keyboard import Interrupted

    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    lacks = _textual_lacks() if on_terminal and wanted in {"", View.TEXTUAL} else ""
    choice = chosen_view(
        wanted, on_terminal=on_terminal, term=os.environ.get("TERM", ""), has_textual=not lacks
    )
    if choice.view is View.TEXTUAL and lacks:
        raise NotInstalled(
            lacks, name="textual", remedy="pip install 'gossip-caffe[top]', or give --view rich"
        )
    cluster = None if choice.view is View.LINES else _local_cluster(place)
    try:
        with_store(place, lambda store: _show(store, job, choice.view, cluster))
    except Interrupted:
        raise KeyboardInterrupt from None


def _textual_lacks() -> str:
    """Return the reason why textual cannot be used; "" when it can."""
    try:
        import textual  # noqa: F401
    except ImportError as error:
        return (
            "textual is not installed" if error.name == "textual" else f"textual cannot be imported ({error})"
        )
    if not sys.stderr.isatty():
        return "standard error, to which textual draws, is no terminal"
    if "utf" not in (sys.stdout.encoding or "").lower():
        return f"textual draws in UTF-8, and the terminal's encoding is {sys.stdout.encoding}"
    return ""


def _local_cluster(place: EtcdPlace) -> ClusterState | None:
    """Return the local cluster whose etcd is asked; None for an etcd that was named otherwise."""
    from gossip_caffe.cluster.state.folder import DEFAULT_NAME, ClusterState

    if place.etcd or (not place.cluster and os.environ.get("GOSSIP_CAFFE_ETCD")):
        return None
    return ClusterState(place.cluster or DEFAULT_NAME)


async def _show(store: EtcdStore, job: str, view: View, cluster: ClusterState | None) -> None:
    from gossip_caffe.cli.top.chosen_view import View
    from gossip_caffe.cli.top.lines import follow_as_lines
    from gossip_caffe.cli.top.restoring import restored
    from gossip_caffe.cli.top.session import Session
    from gossip_caffe.cli.top.watching import watching

    looked = await watching(store, job)
    if view is View.LINES:
        await follow_as_lines(looked)
        return
    session = Session(looked, cluster)
    if view is View.RICH:
        from gossip_caffe.cli.top import rich_view

        await restored(rich_view.show(session))
        return
    from gossip_caffe.cli.top import textual_view

    app = textual_view.TopApp(session)
    await restored(textual_view.show(app), stop=app.exit)
