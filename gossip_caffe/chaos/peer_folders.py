"""A folder for each peer of a chaos run, as if each peer had its own machine; only the event logs share a folder.

Peers that find each other's checkpoints on their disk copy them. With separate folders they must pull them.
"""

from __future__ import annotations

from pathlib import Path

from gossip_caffe.checkpoint.manifest import MODEL


class PeerFolders:
    """The folders of the peers of one run, in the run's folder ``run``. ``checkpoints``: peer → its checkpoints."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "machines"
        self.events = run / "events"
        self.checkpoints: dict[str, Path] = {}

    def prepare(self, peer: str) -> tuple[str, ...]:
        """Choose the folder of a peer that is about to start; returns the arguments of its command for it."""
        machine = self.folder / peer
        self.checkpoints[peer] = machine / "checkpoints" / peer
        return ("--run-dir", str(machine), "--events-dir", str(self.events))

    def model(self, checkpoint: str) -> Path | None:
        """The weights of a checkpoint, from any peer's folder that holds it; None if none does."""
        held = sorted(self.folder.glob(f"*/checkpoints/*/{checkpoint}/{MODEL}"))
        return held[0] if held and checkpoint else None
