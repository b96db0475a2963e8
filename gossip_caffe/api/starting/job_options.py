"""The options of a new job. This file imports nothing heavy: the command line reads it for ``--help``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PEERS_OF_A_CLUSTER = 2
"""The number of peers of ``cluster up`` where none is given."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """The options of a new job. ``settings``: each entry is "name=value".

    ``level``, ``stage``: those of the trained net, besides the solver's train_state; ``stage``: names with commas.
    """

    settings: tuple[str, ...] = ()
    weights: str = ""
    resume: str = ""
    dataset: str = ""
    unchecked: bool = False
    level: int | None = None
    stage: str = ""

    @property
    def arguments(self) -> list[str]:
        """The arguments that pass the given options on to another command, without ``--unchecked``."""
        level = "" if self.level is None else str(self.level)
        named = {"--weights": self.weights, "--resume": self.resume, "--dataset": self.dataset}
        named |= {"--level": level, "--stage": self.stage}
        settings = [argument for setting in self.settings for argument in ("--set", setting)]
        return settings + [part for option, value in named.items() if value for part in (option, value)]


def named_after(solver: str) -> str:
    """Make a job's name from the name of its solver file."""
    return re.sub(r"[^a-z0-9._-]+", "-", Path(solver).stem.lower()).strip("-._")[:50] or "job"
