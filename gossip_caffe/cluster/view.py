"""A cluster's status as text: a table for terminals, aligned lines for everything else."""

from __future__ import annotations

from typing import Any

from gossip_caffe.observe.tested import ConsensusTest

HEADINGS = (
    *("PEER", "STATE", "PID", "ITER", "SAMPLES/S", "LOSS", "RATE", "DONE", "OWNED"),
    *("EXCHANGED", "FAILED", "DISTANCE", "NOTE"),
)


def rows(status: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row a peer, in the order of HEADINGS; DONE and OWNED are chunks, "idle" is waiting for batches."""
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
    """What is in use of a card's memory; empty when that is not known."""
    used, size = figures.get("device_used_bytes"), figures.get("device_memory_bytes")
    return f" {used / 2**30:.1f} of {size / 2**30:.1f} GiB" if used is not None and size else ""


def headline(status: dict[str, Any]) -> str:
    """One line about the whole cluster."""
    figures = [peer["status"] for peer in status["peers"] if peer["running"] and peer.get("status")]
    done = max((entry["progress_samples"] for entry in figures), default=0)
    budget = max((entry["budget_samples"] for entry in figures), default=0)
    rate = sum(entry["samples_per_s"] for entry in figures)
    share = (
        f"{done / budget:.0%} of {budget:,} samples, {rate:,.0f} samples/s" if budget else "not training yet"
    )
    if status["finished"] is not None:
        share = f"finished, checkpoint {status['finished']['checkpoint']}"
    if status["tested"] is not None:
        share += f"; {words_of_test(status['tested'])}"
    away = f"; etcd is away ({status['etcd_away']})" if status["etcd_away"] else ""
    return f"cluster {status['cluster']}, job {status['job']}, etcd {status['etcd']}: {share}{away}"


def words_of_test(record: dict[str, Any]) -> str:
    """The newest test in a few words; empty when it cannot be read."""
    try:
        tested = ConsensusTest.from_record(record)
    except ValueError:
        return ""
    return f"test at iteration {tested.iteration:,}: {tested.words()}"


def plain(headings: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Columns aligned with spaces; empty columns at the end leave none."""
    widths = [max(len(line[index]) for line in (headings, *lines)) for index in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (headings, *lines)
    )
