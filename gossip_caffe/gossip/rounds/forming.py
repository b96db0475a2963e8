"""Who leads rounds, and who is in the next one: pure functions that return a value and the reason for it.

Every peer computes the same leader from the same view: the lowest name among the peers that train. While two views
differ, two leaders may form rounds of their own for a moment; means of both mix in the next round of all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gossip_caffe.gossip.rounds.words import Word


@dataclass(frozen=True, slots=True)
class LeaderChoice:
    """The leader, "" if there is none, and the reason."""

    leader: str
    reason: str


def leader_of(own: str, *, trains: bool, partners: Collection[str], avoided: Collection[str]) -> LeaderChoice:
    """The leader of the peer ``own``. ``trains``: it may lead; ``avoided``: partners that it could not attend."""
    well = [peer for peer in partners if peer not in avoided]
    candidates = [*well, own] if trains else well
    if not candidates:
        return LeaderChoice(
            "", "no other peer trains" if not partners else "no peer that trains can be attended"
        )
    return LeaderChoice(min(candidates), f"the lowest name of {len(candidates)}")


@dataclass(frozen=True, slots=True)
class Standing:
    """One peer that attends the leader. ``ready``: its newest READY, None while it steps.

    ``in_view``: the view shows that it trains, so that the others wait for it.
    """

    ready: Word | None
    in_view: bool


@dataclass(frozen=True, slots=True)
class Situation:
    """The facts on which the leader decides.

    * ``standings``: the attending peers, the leader among them.
    * ``awaited``: peers that train by the view, and have not attended yet, since a short time.
    * ``avoided``: attending peers that others cannot reach: they are in no round now.
    * ``waited_s``: seconds since the first peer was ready; ``patience_s``: 0 for no limit.
    * ``start_peers``: the first step waits for so many peers.
    """

    standings: Mapping[str, Standing]
    awaited: Collection[str] = ()
    avoided: Collection[str] = ()
    waited_s: float = 0.0
    patience_s: float = 0.0
    start_peers: int = 0


@dataclass(frozen=True, slots=True)
class Formation:
    """A decision about the next round: its ``members``, sorted; empty if no round begins now.

    * ``base``: the newest round that most members have applied; "" if there is none.
    * ``everyone``: no member brings anything new, and all but guests count in the mean.
    * ``started``: the members may make steps after this round.
    * ``confirms``: no round is needed, but a member waits to hear which rounds two peers have applied.
    """

    members: tuple[str, ...]
    reason: str
    base: str = ""
    everyone: bool = False
    started: bool = False
    confirms: bool = False


def formation(now: Situation) -> Formation:
    """Who is in the next round. It begins when all who train are ready, and at least one brings anything new."""
    ready = {peer: stands.ready for peer, stands in now.standings.items() if stands.ready is not None}
    missing = [peer for peer, stands in now.standings.items() if stands.in_view and stands.ready is None]
    missing += [peer for peer in now.awaited if peer not in now.standings]
    missing = [peer for peer in missing if peer not in now.avoided]
    in_time = not now.patience_s or now.waited_s < now.patience_s
    if missing and in_time:
        return Formation((), f"it waits for {', '.join(sorted(missing))}")
    members = tuple(sorted(peer for peer in ready if peer not in now.avoided))
    full = {peer: ready[peer] for peer in members if not ready[peer].guest}
    if len(members) < 2 or not full:
        return Formation((), "no other peer is ready")
    base = _most_common([word.last for word in full.values()])
    guests = len(members) > len(full)
    started = any(word.started for word in full.values()) or len(full) >= now.start_peers
    begins = started and not all(word.started for word in full.values())
    brings = [peer for peer, word in full.items() if word.stepped or word.last != base]
    if not (brings or guests or begins):
        confirms = any(word.wants for word in full.values())
        return Formation((), "no peer has trained since the last round", base=base, confirms=confirms)
    if not started and not guests:
        return Formation((), f"{len(full)} of {now.start_peers} peers are there for the first step")
    without = f", without {', '.join(sorted(missing))}: {now.waited_s:.1f} s are over" if missing else ""
    return Formation(
        members,
        f"{len(members)} peers are ready{without}",
        base=base,
        everyone=not brings,
        started=started,
    )


def contributes(*, guest: bool, stepped: bool, last: str, base: str, everyone: bool) -> bool:
    """Whether a member's weights count in the mean.

    The weights of a member that has made no step since the round ``base`` are in the others' already, and a guest's are
    not the job's.
    """
    return not guest and (stepped or everyone or last != base)


def _most_common(rounds: Collection[str]) -> str:
    counts = Counter(rounds)
    return max(sorted(counts), key=lambda name: (counts[name], bool(name)))


def unreachable(reports: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """The members to leave out when some cannot reach others: (reporting peer → peers that it cannot reach).

    A member that most others cannot reach is left out; of two that cannot reach each other the higher name. One member
    at a time, until no report is left.
    """
    left = {(peer, other) for peer, others in reports.items() for other in others if peer != other}
    out: list[str] = []
    while left:
        counts = Counter(peer for pair in {frozenset(pair) for pair in left} for peer in pair)
        worst = max(counts, key=lambda peer: (counts[peer], peer))
        out.append(worst)
        left = {pair for pair in left if worst not in pair}
    return tuple(sorted(out))
