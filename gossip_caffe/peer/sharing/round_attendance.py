"""One peer's way to the leader of rounds: it finds out which peer leads, and keeps a stream of words to it."""

from __future__ import annotations

from collections.abc import Callable

from gossip_caffe.background import DetachedTasks
from gossip_caffe.errors import ExchangeFailed, GossipCaffeError
from gossip_caffe.gossip.rounds.attending import Attendance
from gossip_caffe.gossip.rounds.leading import Leading
from gossip_caffe.gossip.rounds.local_link import LocalLink
from gossip_caffe.gossip.rounds.words import RoundCarrier, RoundLink, Word, WordKind, carrier_of
from gossip_caffe.peer.core.strategy import StrategyContext
from gossip_caffe.peer.sharing.round_gate import LONGEST_LOOK_S, RoundGate
from gossip_caffe.peer.sharing.round_view import RoundView

ALONE_LOOK_S = 0.02
LEADERLESS_S = 5.0
"""A peer that could attend no leader for so long makes its next steps without a round."""


class ToTheLeader:
    """The stream to the present leader, ``at``; None while there is none.

    * ``leading`` forms the rounds while this peer leads.
    * ``confirm`` is called with the rounds that two peers have applied.
    * ``step_without`` is called when no leader could be attended for LEADERLESS_S.
    """

    def __init__(
        self,
        around: StrategyContext,
        view: RoundView,
        leading: Leading,
        gate: RoundGate,
        *,
        confirm: Callable[[tuple[str, ...]], None],
        step_without: Callable[[], None],
    ) -> None:
        self.at: Attendance | None = None
        self._around = around
        self._view = view
        self._leading = leading
        self._gate = gate
        self._confirm = confirm
        self._step_without = step_without
        self._tasks = DetachedTasks()
        self._leaderless_since: float | None = None

    @property
    def leader(self) -> str:
        """The present leader's name, "" if there is none."""
        return self.at.leader if self.at is not None else ""

    async def attended(self) -> Attendance | None:
        """The stream to the present leader; None, after a while, if this peer is alone or can attend no leader now."""
        choice, at = self._view.leader(), self.at
        if at is not None and (at.broken or at.leader != choice.leader):
            self._detach(at, failed=bool(at.broken) and at.leader != self._around.peer)
            at = None
        if choice.leader == self._around.peer and not self._leading.company:
            self._be_alone()
            await self._around.clock.sleep(ALONE_LOOK_S)
            return None
        if at is None and choice.leader:
            at = await self._attend(choice.leader)
        if at is None:
            await self._be_leaderless()
            return None
        self._leaderless_since = None
        return at

    def _be_alone(self) -> None:
        if self.at is not None:
            self._detach(self.at, failed=False)
        self._gate.open()

    async def _be_leaderless(self) -> None:
        now_s = self._around.clock.monotonic()
        if self._leaderless_since is None:
            self._leaderless_since = now_s
        elif now_s - self._leaderless_since > LEADERLESS_S and self._gate.started:
            self._leaderless_since = now_s
            self._step_without()
        await self._around.clock.sleep(LONGEST_LOOK_S)

    async def _attend(self, leader: str) -> Attendance | None:
        """Begin a stream to a leader; None if that fails."""
        around = self._around
        link: RoundLink
        if leader == around.peer:
            self._leading.leads = True
            link, other = LocalLink.pair()
            self._tasks.begin(self._leading.attend(other), "the leader's own stream")
        else:
            self._leading.rest()
            address = self._view.address_of(leader) or ""
            try:
                link = await self._carrier.attend(address)
            except ExchangeFailed as error:
                self._view.avoided.failed(leader, around.clock.monotonic())
                around.contact.failed(leader, address, error.message)
                return None
        at = self.at = Attendance(leader, link, self._confirm)
        try:
            await at.say(
                Word(WordKind.ATTEND, peer=around.peer, job=around.job, fingerprint=around.fingerprint)
            )
        except ExchangeFailed as error:
            at.broken = at.broken or error.message
            self._detach(at, failed=True)
            return None
        return at

    @property
    def _carrier(self) -> RoundCarrier:
        if (carrier := carrier_of(self._around.transport)) is None:
            raise GossipCaffeError("this transport carries no rounds", remedy="report this defect")
        return carrier

    def _detach(self, at: Attendance, *, failed: bool) -> None:
        at.close()
        if self.at is at:
            self.at = None
        if failed and not at.refused:
            self._view.avoided.failed(at.leader, self._around.clock.monotonic())
        if at.leader == self._around.peer:
            self._leading.rest()

    def stop(self) -> None:
        """End the stream, and lead no more."""
        if self.at is not None:
            self._detach(self.at, failed=False)
        self._leading.rest()
