"""A peer's figures for TensorBoard, taken from its event log as it writes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gossip_caffe.clock import Clock
from gossip_caffe.observe.export.event_file import INSTEAD, EventFile
from gossip_caffe.observe.log.events import Event, EventLog
from gossip_caffe.observe.log.tested import ConsensusTest
from gossip_caffe.system.folders import folder_within, own_folder
from gossip_caffe.system.host import host_name

TAGS = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "distance": "gossip/consensus_distance",
    "stalled_share": "train/stalled_share",
}
"""Field of a ``progress`` event → tag."""


class TensorBoardLog:
    """An event log that also writes its figures to ``folder``/PEER, which TensorBoard shows as a run of that name.

    A step is an iteration: of the peer for the figures of training, of the whole job for those of a test. Every process
    has a file of its own. A disk that takes nothing costs figures, and is said once.
    """

    def __init__(
        self, log: EventLog, folder: Path, peer: str, clock: Clock, say: Callable[[str], None]
    ) -> None:
        """Raises EnvironmentProblem when the file cannot be created."""
        own_folder(folder, INSTEAD)
        folder_within(folder / peer, INSTEAD)
        now = clock.wall()
        name = f"events.out.tfevents.{int(now):010d}.{host_name()}.{os.getpid()}"
        self._file = EventFile(folder / peer / name, now)
        self._log = log
        self._peer = peer
        self._clock = clock
        self._say = say
        self._said = False

    def emit(self, event: Event, **fields: object) -> None:
        """Log the event, and write its figures."""
        self._log.emit(event, **fields)
        for step, scalars in scalars_of(event, fields):
            try:
                self._file.write(self._clock.wall(), step, scalars)
            except OSError as error:
                self._say_once(error)

    def _say_once(self, error: OSError) -> None:
        if not self._said:
            self._said = True
            path = self._file.path
            self._say(f"{self._peer}: figures cannot be written to {path} ({error.strerror}) and are lost")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def scalars_of(event: Event, fields: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, float]]]:
    """The step and the scalars of an event: tag → value. Most events have none."""
    if event is Event.PROGRESS:
        scalars = {tag: fields[name] for name, tag in TAGS.items() if fields.get(name) is not None}
        yield fields["iteration"], scalars
    elif event is Event.TESTED:
        test = ConsensusTest.from_record(
            {name: fields[name] for name in ("progress_samples", "iteration", "outputs")}
        )
        scalars = {
            f"test/{output.name}" if not output.net else f"test-{output.net}/{output.name}": output.scalar
            for output in test.outputs
            if output.scalar is not None
        }
        yield test.iteration, scalars
