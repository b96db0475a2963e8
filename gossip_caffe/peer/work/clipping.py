"""The job's limit of gradients under ``clip=auto``: the peer that leads measures it, once, and every peer reads it.

A lone peer needs none, so nothing is measured before a second peer is there. The measurement runs beside training, and
depends on the job alone (solver/probing). So it does not matter which peer makes it, and a job whose store was lost
finds the same limit again. A later measurement on later weights would not serve: gradients become much shorter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import islice

from gossip_caffe.errors import EnvironmentProblem, ModelError, StoreError
from gossip_caffe.job.prototxts.starting import start_file_problem
from gossip_caffe.job.spec.gradient_clip import (
    MEASURED_ITERATIONS,
    UNKNOWN,
    GradientClip,
    fitted,
    unmeasurable,
)
from gossip_caffe.job.spec.settings import AUTO, LARGEST_CLIP
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.json_records import read_record
from gossip_caffe.membership.etcd.store import Absent, KeyValue, Put
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.work.progress import Progress, look_after_s
from gossip_caffe.plain import is_text
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.stream import RecordStream

MOST_REASON = 300
Parts = tuple[tuple[int, int, int], ...]


def clip_to_json(clip: GradientClip) -> bytes:
    """The limit as it is stored."""
    return json.dumps({"limit": clip.limit, "reason": clip.reason[:MOST_REASON]}).encode()


def clip_from_json(value: bytes) -> GradientClip:
    """Parse a stored limit. Raises ValueError for any other value."""
    read = read_record(GradientClip, value)
    if not math.isfinite(read.limit) or not 0 <= read.limit <= LARGEST_CLIP:
        raise ValueError(f"a limit of {read.limit!r:.40}")
    if not is_text(read.reason, MOST_REASON):
        raise ValueError("its reason is no line of text")
    return read


def first_batches(spec: JobSpec) -> list[Parts]:
    """The records of MEASURED_ITERATIONS iterations, in the job's order; fewer if the budget has fewer whole batches.

    Each batch is parts of (epoch, start, stop).
    """
    epochs, stream = Epochs.of(spec), RecordStream(spec.data.batch_records)
    wanted = MEASURED_ITERATIONS * spec.iter_size
    chunks = (ChunkId(epoch, chunk) for epoch in range(epochs.count) for chunk in epochs.order(epoch))
    batches: list[Parts] = []
    for chunk in chunks:
        stream.add(chunk, *epochs.extent(chunk))
        for batch in islice(iter(stream.cut, None), wanted - len(batches)):
            batches.append(tuple((part.epoch, part.start, part.stop) for part in batch.parts))
        if len(batches) == wanted:
            break
    return batches


class Clipping:
    """The part of one peer that finds the job's limit. ``leads``: whether this peer measures, if it has to be measured.

    ``living``: the peers that train, with this one; ``members``: all that are registered.
    """

    def __init__(
        self,
        world: PeerDependencies,
        progress: Progress,
        peer: str,
        writer: Callable[[], FencedWriter],
        leads: Callable[[], bool],
        living: Callable[[], int],
        members: Callable[[], int],
    ) -> None:
        self._world = world
        self._progress = progress
        self._peer = peer
        self._writer = writer
        self._leads = leads
        self._living = living
        self._members = members
        self._measured: GradientClip | None = None
        self._cannot = ""

    async def run(self) -> None:
        """Find the limit, and return once it is known that there is one, or none for good."""
        spec = self._world.spec
        if spec.settings.clip != AUTO:
            return
        if why := unmeasurable(spec):
            self._take(GradientClip(0.0, why))
            return
        while (found := await self._look()) is None:
            await self._world.clock.sleep(look_after_s(self._living()))
        self._take(found)

    def _take(self, clip: GradientClip) -> None:
        self._progress.clip = clip
        self._world.log.emit(Event.CLIP, limit=clip.limit, reason=clip.reason)
        if not clip.limit:
            self._world.say_once(f"{self._peer}: gradients are not clipped: {clip.reason}")

    async def _look(self) -> GradientClip | None:
        """The job's limit; None while it is not known. Measures it if that is this peer's turn."""
        try:
            if (found := await self._read()) is not None:
                return found
            if self._members() < 2 or not self._leads() or self._cannot:
                return None
            if self._measured is None and (measured := await self._measure()) is not None:
                self._measured = measured
            return await self._write(self._measured) if self._measured is not None else None
        except StoreError:
            return None  # it is looked for again

    async def _read(self) -> GradientClip | None:
        keys = self._world.keys
        return self._of(await self._world.store.get(keys.clip), keys)

    def _of(self, item: KeyValue | None, keys: JobKeys) -> GradientClip | None:
        if item is None:
            return None
        try:
            return clip_from_json(item.value)
        except ValueError as error:
            self._world.ignored.note(keys.clip, item.mod_revision, str(error))
            return UNKNOWN  # √n stays: no peer overwrites what it does not know

    async def _write(self, clip: GradientClip) -> GradientClip | None:
        """Write the limit, unless another peer has written one; returns the one that is stored."""
        keys = self._world.keys
        result = await self._writer().transact([Absent(keys.clip)], [Put(keys.clip, clip_to_json(clip))])
        return clip if result.succeeded else await self._read()

    async def _measure(self) -> GradientClip | None:
        """Measure the limit on this machine; None if that cannot be done here."""
        world = self._world
        try:
            if world.probe is None:
                raise ModelError("this peer's solver is not the job's own")
            if lacks := start_file_problem(world.spec.start):
                raise ModelError(lacks)
            return fitted(await world.probe.lengths(first_batches(world.spec)))
        except (ModelError, EnvironmentProblem) as error:
            self._cannot = error.message
            world.warn(f"{self._peer}: the limit of gradients cannot be measured here: {error.message}")
            return None
