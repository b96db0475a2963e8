"""A supervisor's handling of troubles: each is printed once, a dead etcd is restarted, living weights are fetched."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from gossip_caffe.background import DetachedTasks
from gossip_caffe.cluster.etcd.defragmentation import Defragmenter
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.cluster.fleet.fleet import Fleet
from gossip_caffe.cluster.fleet.peer_messages import Troubles
from gossip_caffe.cluster.supervision.living_weights import LivingWeights, living_weights
from gossip_caffe.cluster.supervision.standstill import Seen, Standstill
from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.peer.core.lifecycle import State
from gossip_caffe.peer.store_news import SAY_AGAIN_AFTER_S

if TYPE_CHECKING:
    from gossip_caffe.gossip.protocol.transport import Transport

ETCD_AGAIN_S = 5.0
"""The pause between two attempts to restart an etcd that has ended."""
_OF_DISKS = ("checkpoint", "disk", "space")


class TroubleHandler:
    """Handles the troubles of one cluster. Use it from the event loop's thread.

    ``say`` is called with one line for each trouble that is the first of its kind.
    """

    def __init__(self, job: str, say: Callable[[str], None]) -> None:
        self.troubles = Troubles()
        self._job = job
        self._say = say
        self._standstill = Standstill()
        self._refused = ""
        self._away_said = False
        self._away_ended_at = float("-inf")
        self._etcd_gone = ""
        self._etcd_tried_at = float("-inf")
        self._figures: dict[str, dict[str, Any]] = {}
        self._defragmenter: Defragmenter | None = None
        self._beside = DetachedTasks()

    def hear(self, line: str) -> None:
        """Note a trouble; the line begins with the name of the peer that has it."""
        if self.troubles.note(line, time.monotonic()):
            self._say(line)

    def note(self, line: str) -> None:
        """Note a trouble of the cluster itself."""
        self.hear(f"cluster: {line}")

    def keep(self, etcd: EtcdServer) -> None:
        """Restart the cluster's own etcd if it has ended; peers train on meanwhile."""
        now = time.monotonic()
        if not (etcd.died or self._etcd_gone) or now - self._etcd_tried_at < ETCD_AGAIN_S:
            return
        self._etcd_tried_at = now
        if not self._etcd_gone:
            self._etcd_gone = etcd.why_it_died()
            self.note(f"etcd has ended ({self._etcd_gone}); it is restarted")
        etcd.kill()
        try:
            etcd.start()
        except GossipCaffeError as error:
            self.note(str(error))
        else:
            self._etcd_gone = ""
            self._say("etcd is back")

    def defragment(self, etcd: EtcdServer, store: EtcdStore) -> None:
        """Defragment the cluster's own etcd in the background, if it is worth it; ``store``: a client of it."""
        if self._defragmenter is None:
            self._defragmenter = Defragmenter(etcd.data_dir, self._say)
        if self._defragmenter.due and not self._beside:
            self._beside.begin(self._defragmenter.look(store), "etcd's defragmentation")

    async def close(self) -> None:
        """Cancel the defragmentation, if one is under way."""
        self._beside.cancel()
        await self._beside.ended()

    def note_refusal(self, refuses: str) -> None:
        """Print once that etcd takes no writes, and once that it takes them again."""
        if refuses != self._refused and (refuses or not self._refused):
            self._say(f"{refuses}; peers go on training meanwhile, and settle their chunks later")
        elif refuses != self._refused:
            self._say("etcd takes writes again")
        self._refused = refuses

    def note_away(self, away: str) -> None:
        """Print once that etcd does not answer, and once that it answers again; once a minute if it wavers.

        ``away``: the reason, "" while it answers. The end of the cluster's own etcd is printed by ``keep``.
        """
        now = time.monotonic()
        if not away:
            if self._away_said:
                self._say("etcd answers again")
                self._away_said, self._away_ended_at = False, now
        elif not (self._away_said or self._etcd_gone) and now - self._away_ended_at >= SAY_AGAIN_AFTER_S:
            self._away_said = True
            self._say(
                f"etcd does not answer ({away}); peers go on training meanwhile, and settle their chunks later"
            )

    def look(self, status: dict[str, Any]) -> str:
        """Return the reason why the job can no longer be finished; "" while it can. ``status``: the newest status."""
        for peer in status["peers"]:
            if figures := peer.get("status"):
                self._figures[peer["peer"]] = figures  # kept for a time when etcd is away
                if not peer["pid"] and figures["trouble"]:
                    self.hear(figures["trouble"])
        budget = max((figures["budget_samples"] for figures in self._figures.values()), default=0)
        seen = Seen(
            trained=0 < budget <= self._progress_samples,
            finished=status["finished"] is not None,
            etcd_gone=self._etcd_gone,
            trouble=self.disk_trouble,
        )
        if why := self._standstill.why(seen, time.monotonic()):
            self.note(f"the job cannot be finished: {why}")
        return why

    @property
    def disk_trouble(self) -> str:
        """The newest trouble with a disk, without the peer's name; "": there was none."""
        found = [told.line for told in self.troubles.told if any(word in told.line for word in _OF_DISKS)]
        return found[-1].partition(": ")[2] if found else ""

    async def living_weights(self, fleet: Fleet, transport: Transport) -> LivingWeights | None:
        """Fetch the mean weights of this machine's peers that have trained; None when no such peer answers."""
        weights_of = {
            peer.name: peer.weights_at
            for peer in fleet.running
            if peer.weights_at is not None and _has_trained(self._figures.get(peer.name))
        }
        return await living_weights(self._job, weights_of, self._learned_samples(weights_of), transport)

    def _learned_samples(self, peers: Iterable[str]) -> int:
        """Return the samples in these peers' weights: more than the ledger says, while etcd takes no writes."""
        figures = [self._figures[peer] for peer in peers]
        budget = max((each["budget_samples"] for each in figures), default=0)
        trained: int = sum(each["samples"] for each in figures)
        return max(self._progress_samples, min(budget, trained))

    def rows(self) -> list[dict[str, Any]]:
        """Return the troubles as JSON objects, the newest last."""
        now = time.monotonic()
        return [
            {"line": told.line, "count": told.count, "seconds_ago": now - told.last_s}
            for told in self.troubles.told
        ]

    @property
    def _progress_samples(self) -> int:
        return max((figures["progress_samples"] for figures in self._figures.values()), default=0)


def _has_trained(figures: dict[str, Any] | None) -> bool:
    return figures is not None and figures["state"] == State.TRAINING.value and figures["iteration"] > 0
