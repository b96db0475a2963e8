"""The server of the page: it looks at the run, draws it, and tells every browser the parts that have changed."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator
from http import HTTPStatus

from gossip_caffe.clock import Clock
from gossip_caffe.observe.dashboard import cards, figures
from gossip_caffe.observe.dashboard.feed import BEAT, Feed
from gossip_caffe.observe.dashboard.page import EVENTS, HEADERS, assets, page
from gossip_caffe.observe.dashboard.source import News, Source
from gossip_caffe.observe.dashboard.speed import Speed
from gossip_caffe.observe.metrics.http import HttpServer, Request, Response, Stream
from gossip_caffe.observe.report.gathered import Gathered

OPTION = "--listen"
LOOK_EVERY_S = 1.0
LEAST_REST = 4.0
"""The rest between two looks, in times of the look before: a page of many peers takes at most a fifth of a core."""
BEAT_S = 5.0
MOST_READERS = 16
"""The number of pages that are told of changes; half of the connections that the server keeps."""
KEPT_POINTS = 40_000
"""About so many points of each figure are kept, of all peers together."""


class Drawing:
    """The run as it is gathered so far, and the parts that are drawn of it. A thread may call ``look``."""

    def __init__(self, source: Source, most_points: int = KEPT_POINTS) -> None:
        self._source = source
        self.gathered = Gathered(most_points)
        self._speed = Speed()

    def look(self) -> dict[str, str]:
        """Take the news, and draw all parts. Raises as the source."""
        self._take(self._source.look())
        speed = self._speed.samples_per_s(self.gathered.until)
        return figures.parts_of(self.gathered, speed) | cards.parts_of(self.gathered)

    def _take(self, news: News) -> None:
        for event in news.events:
            try:
                self.gathered.take(event)
                self._speed.take(event)
            except (KeyError, TypeError, ValueError):
                continue  # an event of another version, or none at all: the others are drawn
        for line in news.observed:
            try:
                self.gathered.observe(line)
            except (KeyError, TypeError, ValueError):
                continue
        self.gathered.running = news.running
        if self.gathered.is_live:
            self.gathered.until = max(self.gathered.until, news.now)


class DashboardServer:
    """The page of one run. ``origin``: a random hexadecimal word, which tells this server from an earlier one.

    ``names``: host names by which the machine may be called where the server does not listen on loopback.
    """

    def __init__(
        self, source: Source, clock: Clock, origin: str, names: frozenset[str] = frozenset()
    ) -> None:
        self._drawing = Drawing(source)
        self._clock = clock
        self._feed = Feed(origin)
        self._names = frozenset(name.lower() for name in names)
        self._changed = asyncio.Event()
        self._readers = 0
        self._assets = assets()
        self._http = HttpServer(self._answer, clock, OPTION)

    async def start(self, listen: str) -> int:
        """Draw the run once, and listen on "host:port"; returns the port. Raises as the source and ``HttpServer``."""
        port = await self._http.start(listen)
        await self._look()
        return port

    async def follow(self) -> None:
        """Look again and again, for ever. Raises as the source."""
        while True:
            began = self._clock.monotonic()
            await self._look()
            took_s = self._clock.monotonic() - began
            await self._clock.sleep(max(LOOK_EVERY_S - took_s, LEAST_REST * took_s))

    async def stop(self) -> None:
        """End all connections, and close."""
        await self._http.stop()

    @property
    def is_empty(self) -> bool:
        """Whether the logs have shown no peer of the job yet."""
        return not self._drawing.gathered.peers

    @property
    def title(self) -> str:
        """The name of the job."""
        return self._drawing.gathered.job or "gossip-caffe"

    async def _look(self) -> None:
        self._tell(self._feed.advanced(await asyncio.to_thread(self._drawing.look)))

    def _tell(self, feed: Feed) -> None:
        """Tell the readers of a feed, if it is a new one."""
        if feed is not self._feed:
            self._feed = feed
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def _answer(self, request: Request) -> Response | Stream:
        if not self._is_of_here(request):
            return Response(HTTPStatus.FORBIDDEN, b"this page is not for other sites\n", headers=HEADERS)
        if request.path == "/":
            parts = self._feed.newer_than(0)
            body = page(self.title, parts).encode()
            return Response(HTTPStatus.OK, body, "text/html; charset=utf-8", HEADERS)
        if request.path == EVENTS:
            if self._readers >= MOST_READERS:
                return Response(HTTPStatus.SERVICE_UNAVAILABLE, b"too many pages are open\n", headers=HEADERS)
            return Stream(self._told(request), "text/event-stream", HEADERS)
        if (found := self._assets.get(request.path)) is not None:
            return Response(HTTPStatus.OK, found[1], found[0], HEADERS)
        return Response(HTTPStatus.NOT_FOUND, b"Not Found\n", headers=HEADERS)

    async def _told(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The changes for one reader, from those on that it lacks."""
        self._readers += 1
        try:
            revision = self._feed.revision_of(request.headers.get("last-event-id", ""))
            while True:
                changed, feed = self._changed, self._feed
                if feed.revision > revision:
                    yield feed.message(revision)
                    revision = feed.revision
                    continue
                try:
                    async with self._clock.timeout(BEAT_S):
                        await changed.wait()
                except TimeoutError:
                    yield BEAT
        finally:
            self._readers -= 1

    def _is_of_here(self, request: Request) -> bool:
        """Whether a request is this page's own, or of a person who opens it, by a name that is this machine's.

        A site elsewhere may let its own name lead to this server (DNS rebinding). It has no IP address as its name.
        """
        if request.path != "/" and request.headers.get("sec-fetch-site", "none") not in {
            "none",
            "same-origin",
        }:
            return False
        host = request.headers.get("host", "")
        name = (host if host.endswith("]") else host.rpartition(":")[0] or host).strip("[]").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in {"", "localhost", *self._names}
        return True
