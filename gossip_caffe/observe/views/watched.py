"""A job over some time, for views: what changed from one snapshot to the next, and the course of each loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from gossip_caffe.observe.views.snapshot import TRAINING, PeerView, Snapshot

MOST_LOSSES = 240
MOST_HAPPENINGS = 500
DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Happening:
    """One line about a change. ``wall``: seconds since 1970. ``alarming``: a person may have to act."""

    wall: float
    words: str
    alarming: bool = False


@dataclass(frozen=True, slots=True)
class Watched:
    """The newest snapshot of a job, and its past as far as it was watched.

    ``losses``: by incarnation, the oldest first. ``happenings``: the oldest first. ``away``: the reason why etcd does
    not answer; the snapshot is then an old one.
    """

    snapshot: Snapshot
    losses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    happenings: tuple[Happening, ...] = ()
    away: str = ""


def begun(snapshot: Snapshot) -> Watched:
    """Begin to watch a job."""
    return Watched(snapshot, _losses({}, (), snapshot))


def advanced(before: Watched, snapshot: Snapshot) -> Watched:
    """Go on with a newer snapshot."""
    news = [Happening(snapshot.wall, "etcd answers again")] if before.away else []
    news += changes(before.snapshot, snapshot)
    losses = _losses(before.losses, before.snapshot.peers, snapshot)
    return Watched(snapshot, losses, _kept(before.happenings, news))


def without_store(before: Watched, why: str, wall: float) -> Watched:
    """Go on while etcd does not answer."""
    news = [] if before.away else [Happening(wall, f"etcd is away: {why}", alarming=True)]
    return replace(before, away=why, happenings=_kept(before.happenings, news))


def noted(before: Watched, words: str, wall: float, *, alarming: bool = False) -> Watched:
    """Add one line about an event that no snapshot shows."""
    return replace(before, happenings=_kept(before.happenings, [Happening(wall, words, alarming)]))


def _kept(happenings: tuple[Happening, ...], news: Iterable[Happening]) -> tuple[Happening, ...]:
    return (*happenings, *news)[-MOST_HAPPENINGS:]


def _losses(
    known: Mapping[str, tuple[float, ...]], before: Iterable[PeerView], snapshot: Snapshot
) -> dict[str, tuple[float, ...]]:
    """Add the loss of each peer that has made an iteration since the snapshot before. Gone peers are forgotten."""
    last = {peer.incarnation: peer.status.iteration for peer in before if peer.status is not None}
    losses = {}
    for peer in snapshot.peers:
        course = known.get(peer.incarnation, ())
        status = peer.status
        if status is not None and status.loss is not None and last.get(peer.incarnation) != status.iteration:
            course = (*course, status.loss)[-MOST_LOSSES:]
        losses[peer.incarnation] = course
    return losses


def changes(before: Snapshot, after: Snapshot) -> Iterator[Happening]:
    """Yield one happening for each change between two snapshots of a job."""
    old = {peer.incarnation: peer for peer in before.peers}
    new = {peer.incarnation: peer for peer in after.peers}
    for incarnation, peer in old.items():
        if incarnation not in new:
            yield _gone(peer, after)
    for incarnation, peer in new.items():
        if incarnation not in old:
            yield Happening(after.wall, f"{peer.peer} joins from {peer.host} ({peer.state})")
        else:
            yield from _changed(old[incarnation], peer, after.wall)
    if after.tested is not None and (before.tested is None or before.tested.mark != after.tested.mark):
        yield Happening(after.wall, f"test at iteration {after.tested.iteration:,}: {after.tested.words()}")
    if after.checkpoint > before.checkpoint:
        yield Happening(after.wall, f"checkpoint {after.checkpoint} is there")
    if after.refuses and not before.refuses:
        yield Happening(after.wall, after.refuses, alarming=True)
    if after.finished and not before.finished:
        yield Happening(after.wall, f"the job is finished: checkpoint {after.finished}")


def _gone(peer: PeerView, after: Snapshot) -> Happening:
    if peer.state == DRAINING or after.finished:
        return Happening(after.wall, f"{peer.peer} has left")
    return Happening(after.wall, f"{peer.peer} is gone; other peers train its data", alarming=True)


def _changed(old: PeerView, new: PeerView, wall: float) -> Iterator[Happening]:
    if old.state != new.state:
        alarming = new.state not in {TRAINING, DRAINING, "syncing"}
        yield Happening(wall, f"{new.peer}: {old.state} → {new.state}{_because(new)}", alarming)
    if old.status is None or new.status is None:
        return
    if new.status.trouble and new.status.trouble != old.status.trouble:
        yield Happening(wall, new.status.trouble, alarming=True)
    if (more := new.status.solver_restarts - old.status.solver_restarts) > 0:
        yield Happening(
            wall, f"{new.peer}: its solver died and was started again ({more} more)", alarming=True
        )


def _because(peer: PeerView) -> str:
    status = peer.status
    said = status is not None and status.state == peer.state and status.reason
    return f" ({status.reason})" if status is not None and said else ""
