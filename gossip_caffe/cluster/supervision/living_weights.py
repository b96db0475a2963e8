"""The weights of a cluster's living peers, fetched without etcd and without a disk, when both may have failed.

The code of exchanges is imported when weights are fetched: most clusters fetch none.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.checkpoint.formats.caffemodel import write_caffemodel
from gossip_caffe.peer.core.overseer import WeightsAt
from gossip_caffe.solver.engines.layout import WeightLayout

if TYPE_CHECKING:
    from gossip_caffe.gossip.protocol.transport import Transport

DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class LivingWeights:
    """The mean weights of the peers ``contributors``. ``weights``: shape (layout.size,), float32.

    ``progress_samples``: the job's samples in these weights, as last seen.
    """

    layout: WeightLayout
    weights: NDArray[np.float32]
    contributors: tuple[str, ...]
    progress_samples: int

    def write(self, path: Path) -> None:
        """Write the weights as a .caffemodel file. Raises OSError."""
        with path.open("wb") as file:
            write_caffemodel(file, self.layout, self.weights)


async def living_weights(
    job: str, weights_of: Mapping[str, WeightsAt], progress_samples: int, transport: Transport
) -> LivingWeights | None:
    """Fetch the weights of the peers with the most common model, and average them; None when no peer answers."""
    from gossip_caffe.gossip.codecs.message import Message  # noqa: PLC0415
    from gossip_caffe.gossip.consensus import mean_of  # noqa: PLC0415
    from gossip_caffe.peer.joining.resuming import VISITOR  # noqa: PLC0415

    models = Counter(weights_at.layout.fingerprint for weights_at in weights_of.values())
    if not models:
        return None
    fingerprint = models.most_common(1)[0][0]
    asked = {
        name: weights_at
        for name, weights_at in weights_of.items()
        if weights_at.layout.fingerprint == fingerprint
    }
    layout = next(iter(asked.values())).layout
    agreed = await mean_of(
        Message("", VISITOR, job, fingerprint),
        layout.size,
        {name: weights_at.address for name, weights_at in asked.items()},
        transport,
        random.Random(0),  # all peers are asked: no random choice is made
        most=len(asked),
        deadline_s=DEADLINE_S,
    )
    if agreed is None:
        return None
    return LivingWeights(layout, agreed.weights, agreed.contributors, progress_samples)
