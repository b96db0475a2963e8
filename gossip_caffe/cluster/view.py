"""A cluster's status as text: the rows of a table, a headline, and remarks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gossip_caffe.cluster.figures import Figures, figures_of
from gossip_caffe.observe.log.tested import ConsensusTest
from gossip_caffe.printable import printable_line

HEADINGS = (
    *("PEER", "STATE", "PID", "ITER", "SAMPLES/S", "LOSS", "RATE", "DONE", "OWNED"),
    *("EXCHANGED", "FAILED", "DISTANCE", "NOTE"),
)


def rows(status: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return one row for each peer, in the order of HEADINGS. DONE and OWNED are chunks; "idle": no batches."""
    return [_row(peer) for peer in status["peers"]]


def _row(peer: dict[str, Any]) -> tuple[str, ...]:
    figures = peer.get("status")
    if not peer["running"]:
        how = f"{peer['end']}: {peer['cause']}" if peer.get("cause") else peer["end"]
        return (peer["peer"], "ended", *[""] * 10, how)
    if figures is None:
        return (peer["peer"], "starting", str(peer["pid"] or ""), *[""] * 10)
    loss, distance = figures["loss"], figures["consensus_distance"]
    counted = {"solver restarts": figures["solver_restarts"], "records skipped": figures["records_skipped"]}
    notes = [f"{count:,} {what}" for what, count in counted.items() if count]
    if figures["stalled_share"] > 0.5:
        notes.insert(0, f"idle {figures['stalled_share']:.0%}")
    if waits_for := figures.get("waits_for"):
        notes.insert(0, f"waits for {waits_for}")
    if "cannot reach" in (trouble := str(figures.get("trouble", ""))):
        notes.insert(0, trouble.partition(": ")[2].partition(" at ")[0])
    if (device := figures.get("device", "cpu")) != "cpu":
        notes.append(device + _memory(figures))
    note = ", ".join(notes)
    return (
        peer["peer"],
        figures["state"],
        str(figures["agent_pid"] or peer["pid"]),
        f"{figures['iteration']:,}",
        f"{figures['samples_per_s']:,.0f}",
        "" if loss is None else f"{loss:.4f}",
        f"{figures['learning_rate']:.2g}",
        f"{figures['chunks_done']:,}",
        f"{figures['chunks_owned']:,}",
        f"{figures['exchanges_applied']:,}",
        f"{figures['exchanges_failed']:,}",
        "" if distance is None else f"{distance:.1e}",
        note,
    )


def _memory(figures: dict[str, Any]) -> str:
    """Describe the used memory of a peer's GPU; empty when it is unknown."""
    used, size = figures.get("device_used_bytes"), figures.get("device_memory_bytes")
    return f" {used / 2**30:.1f} of {size / 2**30:.1f} GiB" if used is not None and size else ""


def headline(status: dict[str, Any]) -> str:
    """Return one line about the whole cluster."""
    entries = [peer["status"] for peer in status["peers"] if peer["running"] and peer.get("status")]
    budget = max((entry["budget_samples"] for entry in entries), default=0)
    share = _progress(figures_of(status, budget), budget) if budget else "not training yet"
    if status["finished"] is not None:
        share = f"finished, checkpoint {status['finished']['checkpoint']}"
    if status["tested"] is not None:
        share += f"; {words_of_test(status['tested'])}"
    away = f"; etcd is away ({status['etcd_away']})" if status["etcd_away"] else ""
    away += "; etcd takes no writes" if status.get("etcd_refuses") else ""
    return f"cluster {status['cluster']}, job {status['job']}, etcd {status['etcd']}: {share}{away}"


def _progress(figures: Figures, budget: int) -> str:
    left_s = figures.seconds_left(budget)
    parts = [
        f"{figures.done_samples / budget:.0%} of {budget:,} samples",
        f"{figures.samples_per_s:,.0f} samples/s",
    ]
    if figures.done_samples < budget and not math.isinf(left_s):
        parts.append(f"{duration(left_s)} left")
    if figures.waits_for:
        parts.append(f"waits for {figures.waits_for}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds: "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class Remembering:
    """Shows each status; while etcd is away, with the peers' figures of the last status before that."""

    def __init__(self, show: Callable[[dict[str, Any]], None]) -> None:
        self._show = show
        self._last: dict[str, Any] = {"peers": [], "tested": None}

    def __call__(self, status: dict[str, Any]) -> None:
        """Show a status, as ``cluster status --json`` gives it."""
        if status["etcd_away"]:
            status = with_figures_of(self._last, status)
        else:
            self._last = status
        self._show(status)


def with_figures_of(last: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """Return ``status`` with the figures of ``last`` for the running peers that have none."""
    figures = {peer["peer"]: peer["status"] for peer in last["peers"] if peer.get("status")}
    peers = [
        {**peer, "status": figures[peer["peer"]]}
        if peer["running"] and not peer.get("status") and peer["peer"] in figures
        else peer
        for peer in status["peers"]
    ]
    return {**status, "peers": peers, "tested": status["tested"] or last["tested"]}


def remarks(status: dict[str, Any]) -> list[str]:
    """Return one line, with the remedy, for each trouble that the table does not show; the newest is last."""
    lines = [str(status["etcd_refuses"])] if status.get("etcd_refuses") else []
    for told in status.get("troubles", []):
        times = f"{told['count']} times, " if told["count"] > 1 else ""
        lines.append(f"{told['line']} ({times}{told['seconds_ago']:.0f} s ago)")
    for peer in status["peers"]:
        trouble = (peer.get("status") or {}).get("trouble", "") if peer["running"] else ""
        if trouble and not any(trouble in line for line in lines):
            lines.append(trouble)
    return lines


def words_of_test(record: dict[str, Any]) -> str:
    """Describe the newest test in one phrase; empty when its record cannot be read."""
    try:
        tested = ConsensusTest.from_record(record)
    except ValueError:
        return ""
    return f"test at iteration {tested.iteration:,}: {tested.words()}"


def plain(headings: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Return the table as lines with aligned columns, without spaces at the end of a line."""
    lines = [tuple(map(printable_line, line)) for line in lines]
    widths = [max(len(line[index]) for line in (headings, *lines)) for index in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (headings, *lines)
    )
