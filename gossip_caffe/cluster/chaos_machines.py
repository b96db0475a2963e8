"""A folder for each peer of a chaos run, as if each had a machine of its own: only the event logs are in one place.

Peers that find each other's checkpoints on their own disk copy them; these have to pull them.
"""

from __future__ import annotations

from pathlib import Path

from gossip_caffe.checkpoint.manifest import MODEL


class Machines:
    """The machines of the peers of one run, whose folder is ``run``."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "machines"
        self.events = run / "events"
        self.checkpoints: dict[str, Path] = {}

    def prepare(self, peer: str) -> tuple[str, ...]:
        """Make that of a peer that is about to start; returns the words that its command needs for it."""
        machine = self.folder / peer
        machine.mkdir(parents=True)
        self.events.mkdir(exist_ok=True)
        (machine / "events").symlink_to(self.events.absolute())
        self.checkpoints[peer] = machine / "checkpoints" / peer
        return ("--run-dir", str(machine))

    def model(self, checkpoint: str) -> Path | None:
        """The weights of a checkpoint, on any machine that has it; None when none has."""
        held = sorted(self.folder.glob(f"*/checkpoints/*/{checkpoint}/{MODEL}"))
        return held[0] if held and checkpoint else None
