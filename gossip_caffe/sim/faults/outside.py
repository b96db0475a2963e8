"""Files beside the folders of simulated peers, which must not change."""

from __future__ import annotations

from pathlib import Path

VICTIM = "victim"
"""The name of a file that hostile ids with path components would reach."""
_CONTENT = b"nobody asked for this to be touched"

Seen = dict[str, bytes | None]
"""Path → content; None for a folder."""


def plant_victims(folder: Path) -> Seen:
    """Create files beside the peers' folders. Returns all files and folders there now that belong to no peer."""
    victim = folder / VICTIM
    victim.mkdir()
    (victim / "file").write_bytes(_CONTENT)
    return _seen(folder)


def touched_since(folder: Path, before: Seen) -> list[str]:
    """The files and folders that were created, changed or removed there since."""
    now = _seen(folder)
    return sorted(path for path in {*before, *now} if before.get(path, b"") != now.get(path, b""))


def _seen(folder: Path) -> Seen:
    """All files except those in the peers' checkpoint folders: FOLDER/PEER/checkpoints/ID/FILE."""
    found: Seen = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_peers = parts[0] != VICTIM and (len(parts) == 1 or parts[1] == "checkpoints")
        if not is_peers:
            found["/".join(parts)] = path.read_bytes() if path.is_file() else None
    return found
