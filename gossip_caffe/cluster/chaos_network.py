"""The network between the peers of a chaos run, as strokes see it; and the one of proxies on loopback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gossip_caffe.cluster.chaos_scenario import Act
from gossip_caffe.cluster.links import Links
from gossip_caffe.cluster.ports import LOOPBACK


class Network(Protocol):
    """How peers reach each other and etcd. ``etcd_host``: the address on which etcd listens."""

    etcd_host: str

    def before(self, peer: str) -> tuple[str, ...]:
        """The words before the command of a peer that is about to start."""
        ...

    def words(self, peer: str, etcd: str) -> tuple[str, ...]:
        """Further words for its command; ``etcd`` is etcd's own address."""
        ...

    def strike(self, act: Act, amount: float, peer: str, pid: int) -> Callable[[], None]:
        """Do this to a peer, whose agent is ``pid``; what is returned ends it."""
        ...

    async def stop(self) -> None:
        """No peer runs any more."""
        ...


class Loopback:
    """All peers are on loopback, behind proxies where the scenario needs these."""

    etcd_host = LOOPBACK

    def __init__(self, *, proxied: bool) -> None:
        self._proxied = proxied
        self._links = Links()

    def before(self, peer: str) -> tuple[str, ...]:
        """Nothing: a peer starts as any process."""
        del peer
        return ()

    def words(self, peer: str, etcd: str) -> tuple[str, ...]:
        """Where its proxies are."""
        return self._links.prepare(peer, etcd) if self._proxied else ()

    def strike(self, act: Act, amount: float, peer: str, pid: int) -> Callable[[], None]:
        """Change what a peer's proxies do."""
        link = self._links.to(peer)
        match act:
            case Act.PARTITION:
                self._links.part(peer, pid)
                return lambda: self._links.join(peer)
            case Act.DELAY:
                link.delay_s = amount
                return lambda: setattr(link, "delay_s", 0.0)
            case Act.CAP:
                link.bytes_per_s = amount
                return lambda: setattr(link, "bytes_per_s", 0.0)
            case Act.CUT:
                link.resets_after_bytes = int(amount)
            case _:
                link.reset()
        return lambda: None

    async def stop(self) -> None:
        """End the proxies."""
        await self._links.stop()
