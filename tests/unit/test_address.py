"""Where a peer listens and what it tells others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gossip_caffe.errors import EnvironmentProblem, UsageError
from gossip_caffe.peer.address import address_towards, choose_address

ETCD = ("10.0.0.5:2379",)
REACHED = "the address with which etcd is reached"


def towards(endpoints: Sequence[str]) -> str:
    assert endpoints == ETCD
    return "10.0.0.7"


@pytest.mark.parametrize(
    ("listen", "advertise", "binds", "told", "why"),
    [
        ("", "", "10.0.0.7:0", "10.0.0.7:4444", REACHED),
        ("0.0.0.0:7100", "", "0.0.0.0:7100", "10.0.0.7:4444", REACHED),
        ("[::]:7100", "", "[::]:7100", "10.0.0.7:4444", REACHED),
        ("192.168.1.2:7100", "", "192.168.1.2:7100", "192.168.1.2:4444", "as --listen says"),
        ("", "gpu3.example", "10.0.0.7:0", "gpu3.example:4444", "as --advertise says"),
        ("", "gpu3.example:0", "10.0.0.7:0", "gpu3.example:4444", "as --advertise says"),
        ("0.0.0.0:7100", "gpu3.example:80", "0.0.0.0:7100", "gpu3.example:80", "as --advertise says"),
        ("", "[fe80::1]", "10.0.0.7:0", "[fe80::1]:4444", "as --advertise says"),
    ],
)
def test_what_a_peer_binds_and_what_it_tells_others(
    listen: str, advertise: str, binds: str, told: str, why: str
) -> None:
    address = choose_address(listen, advertise, ETCD, towards)
    assert (address.listen, address.advertised(4444), address.why) == (binds, told, why)


@pytest.mark.parametrize(
    ("listen", "advertise", "says"),
    [
        ("nonsense", "", "--listen 'nonsense' is no HOST:PORT"),
        ("", "host:port", "--advertise 'host:port' is no HOST:PORT"),
        ("", "0.0.0.0:7100", "--advertise '0.0.0.0:7100' is no address that others can call"),
    ],
)
def test_what_is_no_address_is_refused(listen: str, advertise: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        choose_address(listen, advertise, ETCD, towards)


def test_etcd_on_this_machine_is_reached_over_loopback() -> None:
    assert address_towards(["127.0.0.1:2379"]) == "127.0.0.1"
    assert address_towards(["no-such-host.invalid:2379", "127.0.0.1:2379"]) == "127.0.0.1"


def test_when_no_endpoint_can_be_resolved_the_remedy_is_to_say_the_address() -> None:
    with pytest.raises(EnvironmentProblem, match="give --listen HOST:PORT"):
        address_towards(["no-such-host.invalid:2379"])
