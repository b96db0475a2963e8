"""The event log of a peer's process: in parts that are compressed, with batches in runs, and also for TensorBoard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gossip_caffe.clock import Clock
from gossip_caffe.observe.export.tensorboard import TensorBoardLog
from gossip_caffe.observe.log.compressing import PARTS_IN_BOUND, ClosedParts
from gossip_caffe.observe.log.events import EventLog
from gossip_caffe.observe.log.runs import LogInRuns
from gossip_caffe.observe.log.writing import PART_BYTES, JsonLinesLog
from gossip_caffe.peer.core.options import PeerOptions

LAST_PART_S = 2.0
"""The longest wait at the end for the compression of a closed part (s). The next process compresses it otherwise."""


class OwnLog:
    """``events``: the log to write to. Create it in the event loop, in which ``say`` is called."""

    def __init__(self, options: PeerOptions, peer: str, clock: Clock, say: Callable[[str], None]) -> None:
        """Raises EnvironmentProblem when the files cannot be written."""
        folder = options.events_dir or options.run_dir / "events"
        loop = asyncio.get_running_loop()

        def say_from_thread(line: str) -> None:
            loop.call_soon_threadsafe(say, line)

        self._closed_parts = ClosedParts(folder, peer, say_from_thread, options.event_log_bytes)
        part_bytes = options.event_log_part_bytes or PART_BYTES
        if options.event_log_bytes:
            part_bytes = min(part_bytes, options.event_log_bytes // PARTS_IN_BOUND)
        self._file = JsonLinesLog(
            folder, peer, clock, say, part_bytes=part_bytes, after_closing=self._closed_parts.begin
        )
        self._runs = LogInRuns(self._file, clock)
        self.events: EventLog = self._runs
        self._board: TensorBoardLog | None = None
        if options.tensorboard is not None:
            try:
                self._board = TensorBoardLog(self._runs, options.tensorboard, peer, clock, say)
            except BaseException:
                self._file.close()
                raise
            self.events = self._board

    def close(self) -> None:
        """Write what is held back, and close the files."""
        self._runs.end_run()
        self._file.close()
        if self._board is not None:
            self._board.close()
        self._closed_parts.wait(LAST_PART_S)
