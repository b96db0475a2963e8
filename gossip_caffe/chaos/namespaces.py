"""A network namespace for each peer of a chaos run, joined by a bridge: links are taken down, and packets are dropped.

The run itself is in a network namespace that it has made (``own_network``), so the host's network is not changed. A
peer's command makes the peer's namespace and then becomes the peer, under one process id. The namespace and its link
end with the peer's last process, in any case, so there is nothing to clean up.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from ipaddress import IPv4Address

from gossip_caffe.chaos.scenario import Act
from gossip_caffe.errors import EnvironmentProblem

BRIDGE = "gossip0"
BRIDGE_ADDRESS = IPv4Address("10.0.0.1")
_PREFIX = 8
# The search for the machine of an address (ARP) never ends. With its default limit, connecting would fail after three
# seconds, with an error. In a partition of a larger network, connecting hangs without an error.
_ASKS_ON = "ip ntable change name arp_cache dev {device} ucast_probes 100000 mcast_probes 100000"
MAKE_BRIDGE = f"""set -e
ip link set lo up
ip link add {BRIDGE} type bridge
ip address add {BRIDGE_ADDRESS}/{_PREFIX} dev {BRIDGE}
ip link set {BRIDGE} up
{_ASKS_ON.format(device=BRIDGE)}
"""
# $1: the name of the peer's link in the run's namespace; $2: its address; then the peer's command. $PPID is the run.
_JOIN_BRIDGE = f"""set -e
ip link set lo up
ip link add eth0 type veth peer name "$1" netns "$PPID"
ip address add "$2/{_PREFIX}" dev eth0
ip link set eth0 up
{_ASKS_ON.format(device="eth0")}
nsenter --net="/proc/$PPID/ns/net" ip link set "$1" master {BRIDGE} up
shift 2
exec "$@"
"""


def peer_command_prefix(number: int) -> tuple[str, ...]:
    """The prefix of a command that runs it in a namespace of its own, the ``number``-th of the run, counted from 1."""
    address = str(BRIDGE_ADDRESS + number)
    return ("unshare", "--net", "--", "sh", "-c", _JOIN_BRIDGE, "peer", _link(number), address)


def drop_command(link: str) -> tuple[str, ...]:
    """The command that drops all packets which go out on a link: it gives the link a queue without places."""
    return ("tc", "qdisc", "replace", "dev", link, "root", "pfifo", "limit", "0")


def _link(number: int) -> str:
    return f"peer{number}"


class Namespaces:
    """The namespaces of all peers of a run.

    No address is used twice, so that the address of a dead peer never answers again, as in a large network.
    """

    etcd_host = str(BRIDGE_ADDRESS)

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._last = 0
        _run("sh", "-c", MAKE_BRIDGE)

    def command_prefix(self, peer: str) -> tuple[str, ...]:
        """The prefix of the peer's command that runs it in a new namespace."""
        self._last += 1
        self._numbers[peer] = self._last
        return peer_command_prefix(self._last)

    def arguments(self, peer: str, etcd: str) -> tuple[str, ...]:
        """No arguments: a peer listens at the address from which it reaches etcd."""
        del peer, etcd
        return ()

    def inject(self, act: Act, amount: float, peer: str, pid: int) -> Callable[[], None]:
        """Take a peer's link down, or drop all packets to the peer."""
        del amount, pid
        link = _link(self._numbers[peer])
        if act is Act.HALF_OPEN:
            _on_link(link, *drop_command(link))
            return lambda: _on_link(link, "tc", "qdisc", "delete", "dev", link, "root")
        _on_link(link, "ip", "link", "set", link, "down")
        return lambda: _on_link(link, "ip", "link", "set", link, "up")

    async def stop(self) -> None:
        """Do nothing: a namespace and its link end with the peer."""


def _on_link(link: str, *words: str) -> None:
    try:
        _run(*words)
    except EnvironmentProblem:
        if link in {name for _, name in socket.if_nameindex()}:  # otherwise the link has ended with its peer
            raise


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip() or f"exit {done.returncode}"
        raise EnvironmentProblem(
            f"the network of the run cannot be changed ({said})", remedy='use network = "loopback"'
        )
