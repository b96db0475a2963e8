"""The side file of a database: the recipe that it was made by, and the fingerprint by which a broken run goes on."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossip_caffe.errors import EnvironmentProblem

NAME = "gossip-caffe.json"


@dataclass(frozen=True, slots=True)
class SideFile:
    """``fingerprint``: that of the recipe and its source; ``entries``: their number; ``labels``: names, for folders."""

    fingerprint: str
    entries: int
    labels: tuple[str, ...]
    recipe: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write the file whole, or not at all. Raises EnvironmentProblem."""
        said = {
            "fingerprint": self.fingerprint,
            "entries": self.entries,
            "labels": list(self.labels),
            "recipe": self.recipe,
        }
        new = folder / f"{NAME}.new"
        try:
            with new.open("w", encoding="utf-8") as file:
                json.dump(said, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.replace(folder / NAME)
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot write {new} ({error.strerror})", remedy="free some space"
            ) from None


def read_side_file(folder: Path) -> SideFile | None:
    """Read the side file of a database; None: there is none, or another program wrote it."""
    try:
        said = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return SideFile(
            str(said["fingerprint"]), int(said["entries"]), tuple(said["labels"]), dict(said["recipe"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
