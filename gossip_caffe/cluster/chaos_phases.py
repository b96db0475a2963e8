"""What a peer of a chaos run is at, read from what the peers write down as they go; nobody asks them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from gossip_caffe.checkpoint.manifest import MANIFEST
from gossip_caffe.observe.events import Event
from gossip_caffe.peer.lifecycle import State

APPLYING_S = 0.03
"""So long after an exchange the solver may still be adding its half: it does between two steps."""


class Phase(StrEnum):
    """What a peer is at."""

    STARTING = "starting"
    """Its process runs, and has not said anything."""
    REGISTERING = "registering"
    """Nobody has seen its record in etcd yet."""
    BUILDING = "building"
    """Registered; the net is being built."""
    PULLING = "pulling"
    """A checkpoint is on its way to it."""
    LOADING = "loading"
    """The checkpoint is here, and is verified and read."""
    SYNCING = "syncing"
    """The net stands, and the solver does not have the consensus yet."""
    MEETING = "meeting"
    """It has the checkpoint's weights, and exchanges for the first time before it claims anything."""
    OFFERING = "offering"
    """An exchange that it has offered is not over."""
    ANSWERING = "answering"
    """An exchange that it was offered is neither answered nor over."""
    APPLYING = "applying"
    """It has just taken its half of an exchange."""
    TRAINING = "training"
    """Registered, and none of the others."""
    AWAY = "away"
    """Its lease is lost."""
    LEAVING = "leaving"
    """It drains, or has left."""


JOINING = (
    Phase.STARTING,
    Phase.REGISTERING,
    Phase.BUILDING,
    Phase.PULLING,
    Phase.LOADING,
    Phase.SYNCING,
    Phase.MEETING,
)
EXCHANGING = (Phase.OFFERING, Phase.ANSWERING, Phase.APPLYING)


@dataclass(slots=True)
class Said:
    """What one peer has written down so far. ``offers``: its own exchanges that are not over, with the partner.

    ``members``: of whom it has seen a record; ``answered``: exchanges that it was offered and that are over there.
    """

    started: bool = False
    loaded: bool = False
    joined: bool = False
    finished: bool = False
    state: str = ""
    trained: int = 0
    applied_at: float = 0.0
    checkpointed_at: float = 0.0
    offers: dict[str, str] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)

    def take(self, line: Mapping[str, Any]) -> None:
        """One event more."""
        match line["event"]:
            case Event.STARTED:
                self.started = True
            case Event.LOADED | Event.FOUNDED:
                self.loaded = True
            case Event.JOINED:
                self.joined = True
            case Event.STATE:
                self.state = line["new"]
                if self.state == State.JOINING:  # it had lost its lease on the way, and begins anew
                    self.loaded = self.joined = False
            case Event.MEMBER:
                self.members.add(line["member"])
            case Event.TRAINED:
                self.trained += 1
            case Event.OFFERED:
                self.offers[line["exchange"]] = line["partner"]
            case Event.EXCHANGED:
                self._take_exchanged(line)
            case Event.CHECKPOINTED:
                self.checkpointed_at = line["t"]
            case Event.FINISHED:
                self.finished = True

    def _take_exchanged(self, line: Mapping[str, Any]) -> None:
        if line["side"] == "offered":
            self.offers.pop(line["exchange"], None)
        else:
            self.answered.add(line["exchange"])
        if line["outcome"] == "applied":
            self.applied_at = line["t"]


@dataclass(frozen=True, slots=True)
class Copies:
    """What is in a peer's own folder of checkpoints: one that is not whole yet, one that is."""

    coming: bool = False
    whole: bool = False


def phase_of(peer: str, said: Mapping[str, Said], copies: Copies, now: float) -> Phase:
    """What a peer is at, by what it and the others who live have said until ``now`` (wall seconds)."""
    own = said[peer]
    match own.state:
        case "":
            return _joining(own, copies, seen=any(peer in other.members for other in said.values()))
        case State.SYNCING:
            return Phase.MEETING if own.joined else Phase.SYNCING
        case State.TRAINING:
            return _exchanging(peer, said, now)
        case State.ORPHANED | State.JOINING:
            return Phase.AWAY
    return Phase.LEAVING


def _joining(own: Said, copies: Copies, *, seen: bool) -> Phase:
    if not own.started:
        return Phase.STARTING
    if copies.coming:
        return Phase.PULLING
    if copies.whole and not own.loaded:
        return Phase.LOADING
    return Phase.BUILDING if own.loaded or seen else Phase.REGISTERING


def _exchanging(peer: str, said: Mapping[str, Said], now: float) -> Phase:
    own = said[peer]
    if any(
        partner == peer and exchange not in own.answered
        for other in said.values()
        for exchange, partner in other.offers.items()
    ):
        return Phase.ANSWERING
    if own.offers:
        return Phase.OFFERING
    return Phase.APPLYING if now - own.applied_at < APPLYING_S else Phase.TRAINING


class Watch:
    """Reads what the peers of one run add to their logs. ``checkpoints``: of a peer, its folder of checkpoints."""

    def __init__(self, events: Path, checkpoints: Mapping[str, Path]) -> None:
        self._events = events
        self._checkpoints = checkpoints
        self._offsets: dict[str, int] = {}
        self.said: dict[str, Said] = {}

    def look(self, running: Iterable[str]) -> None:
        """Read what is new of those who run; what the others said no longer counts."""
        names = set(running)
        for name in names:
            self._read(name, self.said.setdefault(name, Said()))
        for name in self.said.keys() - names:
            del self.said[name]

    def phase(self, peer: str, now: float) -> Phase:
        """What one of them is at."""
        return phase_of(peer, self.said, self._copies(peer), now)

    def _read(self, peer: str, said: Said) -> None:
        offset = self._offsets.get(peer, 0)
        try:
            with (self._events / f"{peer}.jsonl").open("rb", buffering=0) as file:
                file.seek(offset)
                new = file.read()
        except FileNotFoundError:
            return
        whole = new.rpartition(b"\n")[0]
        if not whole:
            return
        self._offsets[peer] = offset + len(whole) + 1
        for line in whole.split(b"\n"):
            try:
                said.take(json.loads(line))
            except (ValueError, KeyError):
                continue  # torn: its writer was killed, or the disk was full

    def _copies(self, peer: str) -> Copies:
        if self.said[peer].state:
            return Copies()
        try:
            found = list(self._checkpoints[peer].iterdir())
        except (KeyError, FileNotFoundError):
            return Copies()
        return Copies(
            coming=any(path.name.startswith(".") for path in found),
            whole=any((path / MANIFEST).is_file() for path in found if not path.name.startswith(".")),
        )
