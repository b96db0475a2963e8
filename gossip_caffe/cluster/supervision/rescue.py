"""The rescue of the peers' weights before they leave, in case the disk cannot take their last checkpoint."""

from __future__ import annotations

from gossip_caffe.cluster.supervision.living_weights import LivingWeights
from gossip_caffe.cluster.supervision.snapshot_files import SnapshotFiles
from gossip_caffe.cluster.supervision.supervisor import Supervisor


class Rescue:
    """Fetches the weights of a supervisor's peers before it goes down.

    ``in_trouble``: True fetches them only if there was a trouble with a disk.
    """

    def __init__(self, supervisor: Supervisor, files: SnapshotFiles, *, in_trouble: bool = False) -> None:
        self._supervisor = supervisor
        self._files = files
        self._in_trouble = in_trouble
        self._weights: LivingWeights | None = None
        self._kept: frozenset[str] = frozenset()
        supervisor.before_down = self._ask

    async def _ask(self) -> None:
        if self._files.wants_result and not (
            self._in_trouble and not self._supervisor.trouble_handler.disk_trouble
        ):
            self._weights, self._kept = await self._supervisor.living_weights(), self._files.kept

    @property
    def newest(self) -> LivingWeights | None:
        """The fetched weights; None if they were not fetched, or if the peers have since left a newer checkpoint."""
        return None if self._files.kept - self._kept else self._weights
