"""The metrics of one peer process: counts of what passes, and the server that shows them with the peer's figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gossip_caffe.clock import Clock
from gossip_caffe.gossip.protocol.transport import Answerer, Transport
from gossip_caffe.gossip.transport.metered import MeteredAnswerer, MeteredTransport
from gossip_caffe.observe.log.events import EventLog
from gossip_caffe.observe.metrics.figures import Figures
from gossip_caffe.observe.metrics.server import MetricsServer
from gossip_caffe.observe.metrics.tally import Tally, TallyingLog
from gossip_caffe.peer.core.address import Address


class Metering:
    """The metrics of one peer, served at ``at``. With None nothing is counted and nothing is served.

    ``folder``: the peer's run folder.
    """

    def __init__(self, at: Address | None, clock: Clock, folder: Path) -> None:
        self._at = at
        self._clock = clock
        self._tally = Tally()
        self._server = MetricsServer(self._tally, clock, folder)

    async def start(self, say: Callable[[str], None]) -> str:
        """Listen, and say where; returns the address for the peer's record, "" for none. Raises as ``HttpServer``."""
        if self._at is None:
            return ""
        address = self._at.advertised(await self._server.start(self._at.listen))
        say(f"metrics are at {address} ({self._at.why})")
        return address

    def show(self, figures: Callable[[], Figures]) -> None:
        """Show these figures from now on."""
        self._server.serve(figures)

    async def stop(self) -> None:
        """Close the server."""
        await self._server.stop()

    def log(self, log: EventLog, peer: str) -> EventLog:
        """The event log of ``peer``, with its events counted."""
        return log if self._at is None else TallyingLog(log, self._tally, peer, self._clock)

    def transport(self, transport: Transport) -> Transport:
        """The transport, with its bytes counted."""
        return transport if self._at is None else MeteredTransport(transport, self._tally.carried)

    def serve(self, serve: Callable[[Answerer], None]) -> Callable[[Answerer], None]:
        """``PeerDependencies.serve``, with the bytes of the answerer counted."""
        if self._at is None:
            return serve
        return lambda answerer: serve(MeteredAnswerer(answerer, self._tally.carried))
