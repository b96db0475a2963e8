"""A study for the commands: read from its file and checked, or found in etcd or in a local study's folder."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossip_caffe.cli.options.etcd import EtcdPlace, with_store
from gossip_caffe.cli.terminal.output import above, rich_table, said_on_stderr, terminal
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.errors import ModelError, NotFound, UsageError

if TYPE_CHECKING:
    from gossip_caffe.cluster.state.folder import ClusterState
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore
    from gossip_caffe.tune.study.spec import StudySpec
    from gossip_caffe.tune.views.summary import Summary

PLAIN_EVERY_S = 10.0


def checked_study(path: Path, default_store: Callable[[str], str], *, checked: bool) -> StudySpec:
    """Read and check a study file; with ``checked`` Caffe builds the nets of a few trials. Raises UsageError."""
    from gossip_caffe.data.sources.source import measure
    from gossip_caffe.solver.checks.trial import try_with_caffe
    from gossip_caffe.tune.study.study_file import blamed, read_study

    study = read_study(path, measure, default_store=default_store)
    told: list[str] = []

    def tell_once() -> None:
        if not told:
            told.append("Caffe builds the nets of a few trials, to check them …")
            say(told[0], err=True)

    for probe in study.probes if checked else ():
        try:
            try_with_caffe(probe.model, probe.spec, measure, tell_once)
        except ModelError as error:
            raise blamed(study, error) from None
    return study.spec


def found_study(name: str, place: EtcdPlace) -> Summary:
    """A study's summary: from etcd if one is given, else from the local study of that name, which need not run.

    Raises NotFound or UsageError.
    """
    from gossip_caffe.tune.views.summary import FILE, read_summary

    if is_given(place):
        return from_etcd(name, place)
    state = local_study(name)
    if state.taken:
        try:
            return from_etcd(state.name.removeprefix("tune-"), endpoint_of(state))
        except NotFound:
            pass  # it is just being created
    return read_summary(state.folder / FILE)


def from_etcd(name: str, place: EtcdPlace) -> Summary:
    """A study's summary from etcd."""
    from gossip_caffe.tune.board.studies import load_study, only_study
    from gossip_caffe.tune.views.summary import summary_of

    async def read(store: EtcdStore) -> Summary:
        study = await load_study(store, name or await only_study(store))
        return await summary_of(store, study, said_on_stderr)

    return with_store(place, read)


def local_study(name: str) -> ClusterState:
    """The folder of a study on this machine; without a name, of the only one. Raises NotFound or UsageError."""
    from gossip_caffe.cluster.state.folder import clusters_root
    from gossip_caffe.tune.local import state_of

    known = sorted(path.name.removeprefix("tune-") for path in (clusters_root() / "clusters").glob("tune-*"))
    if not name and len(known) > 1:
        raise UsageError(f"there are several studies here ({', '.join(known)})", remedy="give --study NAME")
    if not known or (name and name not in known):
        what = f"no study {name!r} here" if name else "no study here"
        raise NotFound(
            f"there is {what} (known: {', '.join(known) or 'none'})",
            remedy="give --etcd HOST:PORT, or run one with 'gossip-caffe tune run STUDY.toml'",
        )
    return state_of(name or known[0])


def is_given(place: EtcdPlace) -> bool:
    """True if an option, or the environment, says where etcd is."""
    return bool(place.etcd or place.cluster or os.environ.get("GOSSIP_CAFFE_ETCD"))


def endpoint_of(state: ClusterState) -> EtcdPlace:
    """The etcd of a running local study."""
    from gossip_caffe.cluster.etcd.server import CLIENTS
    from gossip_caffe.system.unix_sockets import unix_address

    return EtcdPlace(unix_address(state.sockets.resolve() / CLIENTS))


class StudyScreen:
    """The display of a running study: a live table on a terminal, lines elsewhere."""

    def __init__(self, live: Any, *, to_stderr: bool) -> None:
        self._live = live
        self._to_stderr = to_stderr
        self._said = ""
        self._said_at = float("-inf")

    def say(self, line: str) -> None:
        """Print one line about an event."""
        if self._live is not None:
            above(self._live.console, line)
        else:
            say(line, err=self._to_stderr)

    def look(self, summary: Summary) -> None:
        """Show the newest summary."""
        from gossip_caffe.tune.views.table import MOST_ROWS, headings, headline, rows

        if self._live is not None:
            self._live.update(rich_table(headings(summary), rows(summary, MOST_ROWS), headline(summary)))
            return
        line = headline(summary)
        if line != self._said and time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._said, self._said_at = line, time.monotonic()
            self.say(line)


@contextmanager
def study_screen(*, to_stderr: bool = False) -> Iterator[StudyScreen]:
    """Yield the table if standard output is a terminal, else the lines."""
    if not sys.stdout.isatty() or to_stderr:
        yield StudyScreen(None, to_stderr=to_stderr)
        return
    from rich.live import Live

    with Live(refresh_per_second=4, console=terminal()) as live:
        yield StudyScreen(live, to_stderr=False)
