"""What this peer says about itself: a status record every second, and progress events."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from gossip_caffe.clock import Clock
from gossip_caffe.errors import StoreError
from gossip_caffe.membership.load import asks_after_s
from gossip_caffe.membership.store import Put, Store
from gossip_caffe.observe.events import Event, EventLog
from gossip_caffe.observe.status import PeerStatus
from gossip_caffe.peer.lifecycle import State
from gossip_caffe.peer.training import Training

EVERY_S = 1.0
SAY_EVERY = 15
"""Every so many reports a line for people."""


class Reporting:
    """Writes ``status()`` under ``key`` on the lease that ``lease()`` names; not fenced, for it decides nothing."""

    def __init__(
        self,
        *,
        status: Callable[[], PeerStatus],
        key: str,
        lease: Callable[[], int],
        store: Store,
        clock: Clock,
        log: EventLog,
        say: Callable[[str], None],
        living: Callable[[], int],
    ) -> None:
        self._status = status
        self._key = key
        self._lease = lease
        self._store = store
        self._clock = clock
        self._log = log
        self._say = say
        self._living = living
        self._written_at = float("-inf")

    async def run(self) -> None:
        """Report for ever."""
        for count in itertools.count():
            status = await self.report()
            if count % SAY_EVERY == SAY_EVERY - 1:
                self._say(line_of(status))
            await self._clock.sleep(EVERY_S)

    async def report(self) -> PeerStatus:
        """Report once, in the store less often among many peers; a store that is away misses it."""
        status = self._status()
        if status.iteration:
            self._log.emit(
                Event.PROGRESS,
                iteration=status.iteration,
                samples=status.samples,
                loss=status.loss,
                learning_rate=status.learning_rate,
                stalled_share=status.stalled_share,
                progress_samples=status.progress_samples,
                distance=status.consensus_distance,
            )
        now = self._clock.monotonic()
        if now - self._written_at < asks_after_s(EVERY_S, self._living()) - EVERY_S / 2:
            return status
        self._written_at = now
        try:
            await self._store.transact([], [Put(self._key, status.to_json(), self._lease())])
        except StoreError:
            pass
        return status


def status_of(training: Training, state: State, reason: str) -> PeerStatus:
    """The live figures of a peer that trains."""
    board, sharing = training.trainer.board, training.strategy.figures
    throughput = training.throughput
    throughput.note(board.samples, board.stalled_s)
    record, gauge = training.incarnation.registration.record, training.world.gauge
    return PeerStatus(
        peer=training.peer,
        state=state.value,
        reason=reason,
        iteration=board.iteration,
        samples=board.samples,
        samples_per_s=throughput.samples_per_s,
        loss=board.loss if board.iteration else None,
        learning_rate=board.learning_rate,
        stalled_share=throughput.stalled_share,
        epoch=training.progress.folded,
        chunks_owned=len(training.claims.owned),
        chunks_done=training.claims.done_chunks,
        exchanges_applied=sharing.applied,
        exchanges_failed=sharing.failed,
        exchanges_half_applied=sharing.half_applied,
        mass_error=sharing.mass_error,
        consensus_distance=sharing.distance,
        progress_samples=training.progress.samples,
        budget_samples=training.world.spec.budget_samples,
        checkpoint=training.checkpointing.newest,
        agent_pid=record.pid,
        solver_pid=training.trainer.solver_pid,
        loader_pid=training.trainer.loader_pid,
        solver_restarts=training.trainer.solver_restarts,
        records_skipped=training.trainer.records_skipped,
        tested=tested.to_record() if (tested := training.testing.newest) is not None else None,
        device=record.device,
        device_name=record.device_name,
        device_memory_bytes=record.device_memory_bytes,
        device_used_bytes=gauge.used_bytes() if gauge is not None else None,
    )


def line_of(status: PeerStatus) -> str:
    """A status in one line, for where nobody shows a table."""
    share = status.progress_samples / status.budget_samples if status.budget_samples else 0.0
    loss = "" if status.loss is None else f", loss {status.loss:.4f}"
    return (
        f"{status.peer}: job {share:.0%}, {status.iteration:,} iterations, "
        f"{status.samples_per_s:,.0f} samples/s{loss}, "
        f"{status.exchanges_applied} exchanges"
    )
