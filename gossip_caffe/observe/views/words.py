"""The words of a view: the headline of a job, and all that is known about one peer."""

from __future__ import annotations

import math
import time

from gossip_caffe.observe.views.rows import brief_duration
from gossip_caffe.observe.views.snapshot import PeerView, Snapshot
from gossip_caffe.observe.views.watched import Happening, Watched


def headline(snapshot: Snapshot) -> str:
    """Return one line about the progress of a job."""
    if snapshot.finished:
        return f"job {snapshot.job}: finished, checkpoint {snapshot.finished}"
    if not snapshot.peers:
        return (
            f"job {snapshot.job}: no peer is alive; 'gossip-caffe peer start --job {snapshot.job}' starts one"
        )
    share = snapshot.done_samples / snapshot.budget_samples if snapshot.budget_samples else 0.0
    parts = [f"{share:.0%} of {snapshot.budget_samples:,} samples"]
    if not math.isinf(left_s := snapshot.seconds_left) and left_s:
        parts.append(f"{long_duration(left_s)} left")
    if snapshot.waits_for:
        parts.append(f"waits for {snapshot.waits_for}")
    return f"job {snapshot.job}: {', '.join(parts)}"


def figures(watched: Watched) -> str:
    """Return one line with the figures of all peers together."""
    snapshot = watched.snapshot
    count = len(snapshot.peers)
    parts = [f"{len(snapshot.training)} of {count} {'peer trains' if count == 1 else 'peers train'}"]
    parts.append(f"{snapshot.samples_per_s:,.0f} samples/s")
    if snapshot.loss is not None:
        parts.append(f"loss {snapshot.loss:.4f}")
    if snapshot.tested is not None and snapshot.tested.headline:
        parts.append(snapshot.tested.headline)
    if watched.away:
        parts.insert(0, "etcd is away")
    return ", ".join(parts)


def long_duration(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds: "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def happened(happening: Happening) -> str:
    """Return a happening as one line, with the time of day of this machine."""
    return f"{time.strftime('%H:%M:%S', time.localtime(happening.wall))} {happening.words}"


def details(peer: PeerView) -> list[tuple[str, str]]:
    """Return all that is known about one peer: names and values."""
    gpu = f" ({peer.device_name})" if peer.device_name else ""
    found = [
        ("peer", peer.peer),
        ("state", peer.state),
        ("device", f"{peer.device}{gpu}"),
        ("place", f"pid {peer.pid} on {peer.host}" + (f", zone {peer.zone}" if peer.zone else "")),
        ("address", peer.address + (" (insecure)" if peer.insecure else "")),
        ("version", peer.version),
    ]
    if peer.share is not None:
        found.append(("share of the data", f"{peer.share:.1%}"))
    status = peer.status
    if status is None:
        return found
    used = status.device_used_bytes
    memory = f"{used / 2**30:.1f} of {status.device_memory_bytes / 2**30:.1f} GiB" if used is not None else ""
    exchanged = ""
    if status.exchanged_s_ago is not None:
        exchanged = f"{brief_duration(status.exchanged_s_ago)} ago, with {status.exchanged_with}"
    found += [
        ("reason", status.reason),
        ("waits for", status.waits_for),
        ("trouble", status.trouble),
        ("iterations", f"{status.iteration:,} ({status.samples:,} samples)"),
        ("speed", f"{status.samples_per_s:,.1f} samples/s, idle {status.stalled_share:.0%}"),
        ("loss", "" if status.loss is None else f"{status.loss:.6g} at rate {status.learning_rate:.3g}"),
        ("chunks", f"{status.chunks_owned:,} owned, {status.chunks_done:,} done, epoch {status.epoch}"),
        ("last exchange", exchanged),
        ("exchanges", f"{status.exchanges_applied:,} applied, {status.exchanges_failed:,} failed"),
        ("one-sided", f"{status.exchanges_half_applied:,}, mass error {status.mass_error:.2g}"),
        ("distance", "" if status.consensus_distance is None else f"{status.consensus_distance:.2e}"),
        ("checkpoint", status.checkpoint),
        ("processes", f"agent {status.agent_pid}, solver {status.solver_pid}, loader {status.loader_pid}"),
        ("solver restarts", f"{status.solver_restarts:,}" if status.solver_restarts else ""),
        ("records skipped", f"{status.records_skipped:,}" if status.records_skipped else ""),
        ("memory in use", memory),
    ]
    return [(name, value) for name, value in found if value]
