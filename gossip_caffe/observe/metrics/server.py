"""The HTTP server of one peer: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for probes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from gossip_caffe.background import owned, thread
from gossip_caffe.clock import Clock
from gossip_caffe.observe.metrics.figures import Figures
from gossip_caffe.observe.metrics.http import HttpServer, Request, Response
from gossip_caffe.observe.metrics.registry import Exposition
from gossip_caffe.observe.metrics.tally import Tally
from gossip_caffe.observe.metrics.values import Buckets, Rising, Surroundings, Value, risen, values_of

OPTION = "--metrics-listen"
BEAT_S = 1.0
STILL_S = 5.0
"""An event loop that has not beaten for this many seconds is not healthy."""
DISK_EVERY_S = 10.0


class Beat:
    """The beat of an event loop. ``lag_s``: the delay of the newest beat, or of the one that is due."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock.monotonic()
        self._lag_s = 0.0

    async def run(self) -> None:
        """Beat for ever."""
        while True:
            await self._clock.sleep(BEAT_S)
            now = self._clock.monotonic()
            self._lag_s, self._at = max(0.0, now - self._at - BEAT_S), now

    @property
    def age_s(self) -> float:
        """Seconds since the newest beat."""
        return self._clock.monotonic() - self._at

    @property
    def lag_s(self) -> float:
        """The delay in seconds."""
        return max(self._lag_s, self.age_s - BEAT_S)


class DiskSpace:
    """The space on the disk of a folder. A thread reads it: a disk that does not answer must stop no event loop."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._read_at = float("-inf")
        self._reads = False
        self.free_bytes: int | None = None
        self.size_bytes: int | None = None

    def look(self) -> None:
        """Have the space read again if that was long ago. The values change when the disk has answered."""
        now = self._clock.monotonic()
        if not self._reads and now >= self._read_at + DISK_EVERY_S:
            self._reads, self._read_at = True, now
            thread(self._read, "the space on a disk")

    def _read(self) -> None:
        try:
            found = shutil.disk_usage(self._folder)
            self.size_bytes, self.free_bytes = found.total, found.free
        except OSError:
            self.size_bytes = self.free_bytes = None
        finally:
            self._reads = False


class MetricsServer:
    """The server of one peer. ``folder``: the peer's run folder. Before ``serve`` it has no figures to show."""

    def __init__(self, tally: Tally, clock: Clock, folder: Path) -> None:
        self._tally = tally
        self._clock = clock
        self._began_at = clock.monotonic()
        self._figures: Callable[[], Figures] | None = None
        self._rising: dict[str, Rising] = {}
        self._beat = Beat(clock)
        self._disk = DiskSpace(folder, clock)
        self._exposition = Exposition(self._values)
        self._http = HttpServer(self._answer, clock, OPTION)
        self._beating: asyncio.Task[None] | None = None

    async def start(self, listen: str) -> int:
        """Listen on "host:port" or "unix:PATH"; returns the port, 0 for a Unix socket. Raises as ``HttpServer``."""
        port = await self._http.start(listen)
        self._disk.look()
        self._beating = owned(self._beat.run(), "the beat of the event loop", _ignored)
        return port

    def serve(self, figures: Callable[[], Figures]) -> None:
        """Show these figures from now on."""
        self._figures = figures

    async def stop(self) -> None:
        """Close the server."""
        await self._http.stop()
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)

    async def _answer(self, request: Request) -> Response:
        match request.path:
            case "/metrics":
                return self._metrics(request)
            case "/healthz":
                age_s = self._beat.age_s
                status = HTTPStatus.OK if age_s < STILL_S else HTTPStatus.SERVICE_UNAVAILABLE
                return Response.text(status, f"the event loop beat {age_s:.1f} s ago")
            case "/readyz":
                return self._ready()
            case "/":
                return Response.text(HTTPStatus.OK, "/metrics /healthz /readyz")
            case _:
                return Response.text(HTTPStatus.NOT_FOUND)

    def _metrics(self, request: Request) -> Response:
        if self._figures is None:
            return Response.text(HTTPStatus.SERVICE_UNAVAILABLE, "the peer starts")
        content_type, body = self._exposition.render(request.headers.get("accept", ""))
        return Response(HTTPStatus.OK, body, content_type)

    def _ready(self) -> Response:
        figures = self._figures() if self._figures is not None else None
        if figures is None or not figures.is_ready:
            return Response.text(HTTPStatus.SERVICE_UNAVAILABLE, figures.state if figures else "starting")
        return Response.text(HTTPStatus.OK, figures.state)

    def _values(self) -> list[Value | Buckets]:
        if self._figures is None:
            return []
        figures = self._figures()
        self._rising = risen(self._rising, figures)
        self._disk.look()
        around = Surroundings(
            wall_s=self._clock.wall(),
            monotonic_s=self._clock.monotonic(),
            lived_s=self._clock.monotonic() - self._began_at,
            event_loop_lag_s=self._beat.lag_s,
            folder_free_bytes=self._disk.free_bytes,
            folder_size_bytes=self._disk.size_bytes,
        )
        return values_of(figures, self._tally, self._rising, around)


def _ignored(error: BaseException | None) -> None:
    """The end of the beat needs no reader: a beat that has ended is old, and ``/healthz`` says so."""
    del error
