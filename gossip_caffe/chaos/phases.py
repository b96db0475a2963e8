"""The phase of each peer of a chaos run, read from the event logs of the peers and their folders of checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from gossip_caffe.checkpoint.manifest import MANIFEST
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.following import LogTail
from gossip_caffe.peer.core.lifecycle import State

APPLYING_S = 0.03
"""The time after an exchange in which the solver may not have added the half yet: it does so between two steps."""


class Phase(StrEnum):
    """The phases of a peer."""

    STARTING = "starting"
    """The peer's process runs, and has logged nothing yet."""
    REGISTERING = "registering"
    """No other peer has seen its record in etcd yet."""
    BUILDING = "building"
    """The peer is registered, and builds the net."""
    PULLING = "pulling"
    """A checkpoint is being pulled."""
    LOADING = "loading"
    """The checkpoint has been pulled, and is verified and read."""
    SYNCING = "syncing"
    """The net is built, and the solver does not have the consensus yet."""
    WARMING_UP = "warming-up"
    """The peer has the checkpoint's weights, and makes its first exchanges before it claims chunks."""
    OFFERING = "offering"
    """An exchange that the peer has offered is not over."""
    ANSWERING = "answering"
    """An exchange that the peer was offered is neither answered nor over."""
    APPLYING = "applying"
    """The peer has just taken its half of an exchange."""
    TRAINING = "training"
    """The peer trains, and is in no other phase."""
    AWAY = "away"
    """The peer has lost its lease."""
    LEAVING = "leaving"
    """The peer drains, or has left."""


JOINING = (
    Phase.STARTING,
    Phase.REGISTERING,
    Phase.BUILDING,
    Phase.PULLING,
    Phase.LOADING,
    Phase.SYNCING,
    Phase.WARMING_UP,
)
EXCHANGING = (Phase.OFFERING, Phase.ANSWERING, Phase.APPLYING)


@dataclass(slots=True)
class LoggedState:
    """The state of one peer, from its event log so far.

    ``offers``: its own offers that are not over, with their partner. ``members``: the peers whose record it has seen.
    ``answered``: the exchanges that it was offered and has ended. ``trained``: the number of its trained events.
    ``applied_at`` and ``checkpointed_at``: wall seconds.
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
        """Take the next event."""
        match line["event"]:
            case Event.STARTED:
                self.started = True
            case Event.LOADED | Event.FOUNDED:
                self.loaded = True
            case Event.JOINED:
                self.joined = True
            case Event.STATE:
                self.state = line["new"]
                if self.state == State.JOINING:  # the peer lost its lease while it joined, and starts over
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
    """The contents of a peer's folder of checkpoints: one that is ``coming``, and one that is ``whole``."""

    coming: bool = False
    whole: bool = False


def phase_of(peer: str, logged: Mapping[str, LoggedState], copies: Copies, now: float) -> Phase:
    """The phase of a peer, from the logs of all living peers until ``now`` (wall seconds)."""
    own = logged[peer]
    match own.state:
        case "":
            return _joining(own, copies, seen=any(peer in other.members for other in logged.values()))
        case State.SYNCING:
            return Phase.WARMING_UP if own.joined else Phase.SYNCING
        case State.TRAINING:
            return _exchanging(peer, logged, now)
        case State.ORPHANED | State.JOINING:
            return Phase.AWAY
    return Phase.LEAVING


def _joining(own: LoggedState, copies: Copies, *, seen: bool) -> Phase:
    if not own.started:
        return Phase.STARTING
    if copies.coming:
        return Phase.PULLING
    if copies.whole and not own.loaded:
        return Phase.LOADING
    return Phase.BUILDING if own.loaded or seen else Phase.REGISTERING


def _exchanging(peer: str, logged: Mapping[str, LoggedState], now: float) -> Phase:
    own = logged[peer]
    if any(
        partner == peer and exchange not in own.answered
        for other in logged.values()
        for exchange, partner in other.offers.items()
    ):
        return Phase.ANSWERING
    if own.offers:
        return Phase.OFFERING
    return Phase.APPLYING if now - own.applied_at < APPLYING_S else Phase.TRAINING


class PhaseWatch:
    """Reads the event logs of the peers of one run as they grow. ``checkpoints``: peer → its folder of checkpoints."""

    def __init__(self, events: Path, checkpoints: Mapping[str, Path]) -> None:
        self._events = events
        self._checkpoints = checkpoints
        self._tails: dict[str, LogTail] = {}
        self.logged: dict[str, LoggedState] = {}

    def look(self, running: Iterable[str]) -> None:
        """Read the new lines of the running peers, and drop the state of all other peers."""
        names = set(running)
        for name in names:
            self._read(name, self.logged.setdefault(name, LoggedState()))
        for name in self.logged.keys() - names:
            del self.logged[name]

    def phase(self, peer: str, now: float) -> Phase:
        """The phase of a running peer at ``now`` (wall seconds)."""
        return phase_of(peer, self.logged, self._copies(peer), now)

    def _read(self, peer: str, logged: LoggedState) -> None:
        tail = self._tails.get(peer) or self._tails.setdefault(peer, LogTail(self._events, peer))
        for line in tail.new():
            try:
                logged.take(line)
            except KeyError:
                continue  # an event of another version

    def _copies(self, peer: str) -> Copies:
        if self.logged[peer].state:
            return Copies()
        try:
            found = list(self._checkpoints[peer].iterdir())
        except (KeyError, FileNotFoundError):
            return Copies()
        return Copies(
            coming=any(path.name.startswith(".") for path in found),
            whole=any((path / MANIFEST).is_file() for path in found if not path.name.startswith(".")),
        )
