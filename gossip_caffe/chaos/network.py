"""The network between the peers of a chaos run, into which faults are injected; and its form on loopback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gossip_caffe.chaos.links import Links
from gossip_caffe.chaos.scenario import Act


class PeersNetwork(Protocol):
    """The network of the peers and etcd. ``etcd_host``: the address on which etcd listens; "": a Unix socket."""

    etcd_host: str

    def command_prefix(self, peer: str) -> tuple[str, ...]:
        """The prefix of the command of a peer that is about to start."""
        ...

    def arguments(self, peer: str, etcd: str) -> tuple[str, ...]:
        """Further arguments of its command. ``etcd``: the address of etcd itself."""
        ...

    def inject(self, act: Act, amount: float, peer: str, pid: int) -> Callable[[], None]:
        """Inject a fault of a peer's links. ``pid``: its agent. Returns a function that ends the fault."""
        ...

    async def stop(self) -> None:
        """Clean up after the last peer has ended."""
        ...


class Loopback:
    """The network of peers that are all on loopback, behind proxies if the scenario needs these."""

    etcd_host = ""

    def __init__(self, *, proxied: bool) -> None:
        self._proxied = proxied
        self._links = Links()

    def command_prefix(self, peer: str) -> tuple[str, ...]:
        """No prefix: a peer starts as any process."""
        del peer
        return ()

    def arguments(self, peer: str, etcd: str) -> tuple[str, ...]:
        """The arguments that name the peer's proxies; none without proxies."""
        return self._links.prepare(peer, etcd) if self._proxied else ()

    def inject(self, act: Act, amount: float, peer: str, pid: int) -> Callable[[], None]:
        """Change the behaviour of a peer's proxies."""
        link = self._links.to(peer)
        match act:
            case Act.PARTITION:
                self._links.isolate(peer, pid)
                return lambda: self._links.reconnect(peer)
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
        """Stop the proxies."""
        await self._links.stop()
