"""The figures of a peer for its metrics. They are only read here: a scrape changes no state of the peer."""

from __future__ import annotations

from collections import Counter

from gossip_caffe import __version__
from gossip_caffe.membership.members import MembersView, PeerRecord
from gossip_caffe.observe.metrics.figures import Figures, TrainingFigures
from gossip_caffe.observe.metrics.table import STATES
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.core.lifecycle import State
from gossip_caffe.peer.registration.incarnation import Incarnation
from gossip_caffe.peer.training import Training


def figures_of(
    world: PeerDependencies,
    record: PeerRecord,
    state: State,
    view: MembersView,
    incarnation: Incarnation | None,
    training: Training | None,
) -> Figures:
    """The figures of now. ``incarnation``: None before the peer is registered; ``training``: None before it trains."""
    states = Counter(member.state for member in view.members.values())
    session = incarnation.session if incarnation is not None else None
    stuck = incarnation is not None and incarnation.writer.writing.stuck
    return Figures(
        job=world.spec.name,
        version=__version__,
        device=record.device,
        state=state.value,
        budget_samples=world.spec.budget_samples,
        members={state: states[state] for state in STATES if state in states},
        store_up=not (session.overdue() or stuck) if session is not None else None,
        lease_margin_s=session.expires_at - world.clock.monotonic() if session is not None else None,
        certificate_ends_at=world.certificates.ends_s if world.certificates is not None else None,
        training=training_figures(training) if training is not None else None,
    )


def training_figures(training: Training) -> TrainingFigures:
    """The figures of a peer that has weights."""
    trainer, sharing, checkpoints = training.trainer, training.strategy.figures, training.checkpointing
    board, gauge, tested = trainer.board, training.world.gauge, training.testing.newest
    return TrainingFigures(
        samples=board.samples,
        iterations=board.iteration,
        samples_per_s=training.throughput.samples_per_s,
        loss=board.loss if board.iteration else None,
        learning_rate=board.learning_rate,
        steps=board.steps,
        stalled_s=board.stalled_s,
        round_wait_s=board.round_wait_s,
        records_skipped=trainer.records_skipped,
        solver_restarts=trainer.solver_restarts,
        half_applied=sharing.half_applied,
        mass_error=sharing.mass_error,
        distance=sharing.distance,
        progress_samples=training.progress.samples,
        finished_epochs=training.progress.folded,
        test_score=tested.score if tested is not None else None,
        shard_records=training.chooser.shard_records,
        chunks_owned=len(training.claims.owned),
        chunks_done=training.claims.done_chunks,
        checkpoint_made_at=checkpoints.made_at,
        checkpoint_samples=checkpoints.newest_samples if checkpoints.newest else None,
        checkpoint_interval_samples=checkpoints.every_samples,
        device_used_bytes=gauge.used_bytes() if gauge is not None else None,
        device_size_bytes=training.incarnation.registration.record.device_memory_bytes,
    )
