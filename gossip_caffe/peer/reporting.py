"""The reports of a peer about itself: a status record every second, and progress events."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from gossip_caffe.clock import Clock
from gossip_caffe.errors import StoreError
from gossip_caffe.membership.etcd.polling import poll_interval_s
from gossip_caffe.membership.etcd.store import Put, Store
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.observe.log.events import Event, EventLog, rounded
from gossip_caffe.observe.log.status import PeerStatus
from gossip_caffe.peer.checkpoints.awaited import A_TEST, Facts, awaited
from gossip_caffe.peer.core.lifecycle import State
from gossip_caffe.peer.training import Training

EVERY_S = 1.0
SAY_EVERY = 15
"""Reports between two lines for people."""
FLOAT32_DIGITS = 9
"""Digits that give back the float32 which Caffe computed."""


class Reporting:
    """Writes ``status()`` under ``key`` on the lease of ``session()``.

    The writes are not fenced, because nothing is decided by a status. ``living`` returns the number of peers that
    train, ``stepping_s`` the seconds that all iterations of this process have taken.
    """

    def __init__(
        self,
        *,
        status: Callable[[], PeerStatus],
        stepping_s: Callable[[], float],
        key: str,
        session: Callable[[], LeaseSession],
        store: Store,
        clock: Clock,
        log: EventLog,
        say: Callable[[str], None],
        living: Callable[[], int],
    ) -> None:
        self._status = status
        self._stepping_s = stepping_s
        self._key = key
        self._session = session
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
        """Report once, and return the status.

        Among many peers only some of the reports go to the store. A report while the store is away is left out.
        """
        status = self._status()
        if status.iteration:
            self._log.emit(
                Event.PROGRESS,
                iteration=status.iteration,
                samples=status.samples,
                loss=_rounded(status.loss, FLOAT32_DIGITS),
                learning_rate=rounded(status.learning_rate, FLOAT32_DIGITS),
                stalled_share=rounded(status.stalled_share),
                stepping_s=rounded(self._stepping_s()),
                progress_samples=status.progress_samples,
                distance=_rounded(status.consensus_distance),
                owns=self._session().owns(),
                **({"testing": True} if status.waits_for == A_TEST else {}),
            )
        now = self._clock.monotonic()
        if now - self._written_at < poll_interval_s(EVERY_S, self._living()) - EVERY_S / 2:
            return status
        self._written_at = now
        try:
            await self._store.transact([], [Put(self._key, status.to_json(), self._session().id)])
        except StoreError:
            pass
        return status


def status_of(training: Training, state: State, reason: str) -> PeerStatus:
    """The present status of a peer that trains."""
    board, sharing = training.trainer.board, training.strategy.figures
    throughput = training.throughput
    throughput.note(board.samples, board.stalled_s, training.held_s)
    record, gauge = training.incarnation.registration.record, training.world.gauge
    half = training.health.last
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
        trouble=training.world.overseer.newest,
        steady_samples_per_s=throughput.steady_samples_per_s,
        begun_samples=throughput.begun_samples,
        job_samples=min(training.job_samples, training.world.spec.budget_samples),
        tests_ahead_s=training.testing.ahead_s if training.alone else 0.0,
        waits_for=awaited(_facts_of(training)),
        exchanged_with="" if half is None else half.partner,
        exchanged_s_ago=None if half is None else round(training.world.clock.monotonic() - half.at_s, 2),
        device=record.device,
        device_name=record.device_name,
        device_memory_bytes=record.device_memory_bytes,
        device_used_bytes=gauge.used_bytes() if gauge is not None else None,
    )


def _rounded(value: float | None, digits: int = 7) -> float | None:
    return None if value is None else rounded(value, digits)


def _facts_of(training: Training) -> Facts:
    budget = training.world.spec.budget_samples
    return Facts(
        holds=training.trainer.board.held,
        tests=training.testing.unfinished,
        trained=max(training.job_samples, training.progress.samples) >= budget,
        settled=training.progress.finished,
        ended=training.checkpointing.job_finished.is_set(),
        stuck=training.incarnation.writer.writing.stuck,
    )


def line_of(status: PeerStatus) -> str:
    """A status as one line, for a terminal that shows no table."""
    done = max(status.progress_samples, status.job_samples)
    share = done / status.budget_samples if status.budget_samples else 0.0
    loss = "" if status.loss is None else f", loss {status.loss:.4f}"
    return (
        f"{status.peer}: job {share:.0%}, {status.iteration:,} iterations, "
        f"{status.samples_per_s:,.0f} samples/s{loss}, "
        f"{status.exchanges_applied} exchanges"
        + (f", waits for {status.waits_for}" if status.waits_for else "")
    )
