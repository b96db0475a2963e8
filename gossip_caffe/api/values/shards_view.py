"""The ledger of a job as the API returns it: which peer owns which chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gossip_caffe.api.values.html import table
from gossip_caffe.shards.overview import EpochOverview, Overview

HEADINGS = ("EPOCH", "PEER", "OWNED", "DONE", "LEFT", "OWNS CHUNKS")
SHOWN_CHUNKS = 8


@dataclass(frozen=True, slots=True)
class Shards:
    """The open epochs of a job. ``overview``: epochs, and in each the claimed and settled chunks by peer."""

    job: str
    overview: Overview

    @property
    def finished(self) -> bool:
        """True if every chunk of the budget is settled."""
        return self.overview.finished

    @property
    def open(self) -> tuple[EpochOverview, ...]:
        """The open epochs."""
        return self.overview.open

    def headline(self) -> str:
        """Return one line about all epochs."""
        found = self.overview
        if found.finished:
            return f"job {self.job}: all {found.epochs} epochs are finished; no chunk is left"
        return f"job {self.job}: {found.folded} of {found.epochs} epochs are finished"

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of a table below HEADINGS."""
        return [row for epoch in self.overview.open for row in _rows(epoch)]

    def to_record(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        found = self.overview
        return {
            "job": self.job,
            "epochs": found.epochs,
            "epochs_finished": found.folded,
            "finished": found.finished,
            "open": [
                {
                    "epoch": epoch.epoch,
                    "chunks": epoch.chunks,
                    "owned": epoch.owned_chunks,
                    "done": epoch.done_chunks,
                    "left": epoch.left_chunks,
                    "peers": {
                        peer: {"owned": epoch.owned.get(peer, ()), "done": epoch.done.get(peer, ())}
                        for peer in epoch.peers
                    },
                }
                for epoch in found.open
            ],
        }

    def _repr_html_(self) -> str:
        return table(HEADINGS, self.rows(), self.headline())


def _rows(epoch: EpochOverview) -> list[tuple[str, ...]]:
    """Return one row for the epoch, then one row for each peer that owns or has done chunks of it."""
    number = str(epoch.epoch)
    totals = (str(epoch.owned_chunks), str(epoch.done_chunks), str(epoch.left_chunks))
    rows: list[tuple[str, ...]] = [(number, f"all {epoch.chunks} chunks", *totals, "")]
    for peer in epoch.peers:
        owned, done = epoch.owned.get(peer, ()), epoch.done.get(peer, ())
        shown = " ".join(map(str, owned[:SHOWN_CHUNKS])) + (" …" if len(owned) > SHOWN_CHUNKS else "")
        rows.append((number, peer, str(len(owned)), str(len(done)), "", shown))
    return rows
