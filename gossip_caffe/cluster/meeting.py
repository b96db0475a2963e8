"""The ranks of one launch of MPI on one machine: rank 0 tells the others, by a file, where its training is.

The file is in the user's own folder of clusters, under the launch's name. It holds the arguments of ``peer start``, or
the reason why there is no training.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gossip_caffe.cluster.state.folder import INSTEAD, clusters_root
from gossip_caffe.errors import EnvironmentProblem, GossipCaffeError
from gossip_caffe.system.folders import open_within, own_folder
from gossip_caffe.system.processes import started_at

WAIT_S = 120.0
"""The longest time from the start of a rank to the word of rank 0, which first reads and checks the job."""
END_S = 30.0
INIT, ORPHAN_S = 1, 15.0
"""The parent of a process whose launcher has ended, and the time that such a process waits: it may be a container's."""
LOOK_EVERY_S = 0.1


class Meeting:
    """The file of a launch, as rank 0 writes it and the others read it. ``name``: of the launch (``launcher``)."""

    def __init__(self, name: str) -> None:
        folder = clusters_root()
        own_folder(folder, INSTEAD)
        self.path: Path = folder / f"launch-{name}.json"
        self._rank_0: tuple[int, int] | None = None

    def tell(self, arguments: Sequence[str]) -> None:
        """Tell the others the arguments with which they become peers of the training."""
        self._write({"arguments": list(arguments), "pid": os.getpid(), "started": started_at(os.getpid())})

    @contextmanager
    def held(self) -> Iterator[None]:
        """Remove the file at the end of the block; if the block fails before ``tell``, tell the others the reason."""
        self.path.unlink(missing_ok=True)
        try:
            yield
        except BaseException as error:
            if not self.path.exists():
                self._write(
                    {"failed": error.message if isinstance(error, GossipCaffeError) else "it has ended"}
                )
            else:
                self.path.unlink()
            raise
        self.path.unlink(missing_ok=True)

    def heard(self, patience_s: float = WAIT_S) -> tuple[str, ...]:
        """The arguments that rank 0 tells. Raises EnvironmentProblem if there are none in time."""
        parent = os.getppid()
        until = time.monotonic() + (patience_s if parent != INIT else min(patience_s, ORPHAN_S))
        while (told := self._read()) is None:
            if os.getppid() != parent:
                raise EnvironmentProblem("the launcher of this rank has ended")
            if time.monotonic() > until:
                raise EnvironmentProblem(
                    f"rank 0 has started no training on this machine within {patience_s:g} s",
                    remedy="for ranks on several machines give all of them --etcd and --job",
                )
            time.sleep(LOOK_EVERY_S)
        if "failed" in told:
            raise EnvironmentProblem(f"rank 0 has no training: {told['failed']}")
        self._rank_0 = int(told["pid"]), int(told["started"])
        return tuple(map(str, told["arguments"]))

    @property
    def was_killed(self) -> bool:
        """Whether rank 0, which this process has heard, was killed: an orderly end removes the file first."""
        if self._rank_0 is None or started_at(self._rank_0[0]) == self._rank_0[1]:
            return False
        return self.path.exists()

    def ends(self, patience_s: float = END_S) -> None:
        """Wait until rank 0 has written its result, for so long at most; at once if it has no file here."""
        until = time.monotonic() + patience_s
        parent = os.getppid()
        while (
            self.path.exists() and time.monotonic() < until and not self.was_killed and os.getppid() == parent
        ):
            time.sleep(LOOK_EVERY_S)

    def _write(self, told: Mapping[str, object]) -> None:
        new = self.path.with_suffix(".new")
        with open_within(new, "w", INSTEAD) as file:
            json.dump(told, file)
        new.replace(self.path)

    def _read(self) -> dict[str, Any] | None:
        try:
            told: dict[str, Any] = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return told
