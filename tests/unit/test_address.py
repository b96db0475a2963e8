"""Where a peer listens and what it tells others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gossip_caffe.errors import EnvironmentProblem, UsageError
from gossip_caffe.peer.core.address import address_towards, choose_address, choose_metrics_address, listening
from gossip_caffe.security.security import Security

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


@pytest.mark.parametrize(
    ("given", "endpoints", "binds", "told"),
    [
        ("", ETCD, "127.0.0.1:0", "127.0.0.1:4444"),
        ("127.0.0.1:9100", ETCD, "127.0.0.1:9100", "127.0.0.1:4444"),
        ("0.0.0.0:9100", ETCD, "0.0.0.0:9100", "gpu3.example:4444"),
        ("[::]:0", ETCD, "[::]:0", "gpu3.example:4444"),
        ("", ("unix:/s/etcd:1",), "unix:/s/peer-1-00000000", "unix:/s/peer-1-00000000"),
        ("10.0.0.7:9100", ("unix:/s/etcd:1",), "10.0.0.7:9100", "10.0.0.7:4444"),
    ],
)
def test_the_address_of_metrics_is_on_loopback_beside_etcds_socket_or_the_given_one(
    given: str, endpoints: Sequence[str], binds: str, told: str
) -> None:
    calls = choose_address("", "gpu3.example", ETCD, towards)
    address = choose_metrics_address(given, calls, endpoints, towards, "peer-1-00000000")
    assert address is not None
    assert (address.listen, address.advertised(4444)) == (binds, told)


def test_metrics_are_turned_off_by_a_word_and_what_is_no_address_is_refused() -> None:
    calls = choose_address("", "", ETCD, towards)
    assert choose_metrics_address("none", calls, ETCD, towards, "x") is None
    with pytest.raises(UsageError, match="--metrics-listen 'off' is no HOST:PORT"):
        choose_metrics_address("off", calls, ETCD, towards, "x")


def test_etcd_on_this_machine_is_reached_over_loopback() -> None:
    assert address_towards(["127.0.0.1:2379"]) == "127.0.0.1"
    assert address_towards(["no-such-host.invalid:2379", "127.0.0.1:2379"]) == "127.0.0.1"


def test_when_no_endpoint_can_be_resolved_the_remedy_is_to_say_the_address() -> None:
    with pytest.raises(EnvironmentProblem, match="give --listen HOST:PORT"):
        address_towards(["no-such-host.invalid:2379"])


LOCAL = ("unix:/state/sockets/etcd:1",)


def test_beside_an_etcd_on_a_unix_socket_a_peer_has_one_and_no_port() -> None:
    address = choose_address("", "", LOCAL, address_towards, "peer-1")
    assert (address.listen, address.advertised(0)) == ("unix:/state/sockets/peer-1",) * 2
    assert address.why == "beside the socket of etcd"


@pytest.mark.parametrize(
    ("listen", "advertise", "binds", "told"),
    [
        ("127.0.0.1:0", "", "127.0.0.1:0", "127.0.0.1:4444"),
        ("0.0.0.0:0", "", "0.0.0.0:0", "127.0.0.1:4444"),
        ("", "box:7100", "127.0.0.1:0", "box:7100"),
    ],
)
def test_a_port_that_is_asked_for_is_had_there_too(
    listen: str, advertise: str, binds: str, told: str
) -> None:
    address = choose_address(listen, advertise, LOCAL, address_towards, "peer-1")
    assert (address.listen, address.advertised(4444)) == (binds, told)


def test_with_one_etcd_on_a_port_there_is_a_port() -> None:
    both = (*LOCAL, "127.0.0.1:2379")
    assert choose_address("", "", both, address_towards, "peer-1").listen == "127.0.0.1:0"


@pytest.mark.parametrize("text", ["0.0.0.0:2379", "[::]:2379", "2379", "host", "host:x", "unix:/x"])
def test_etcd_listens_at_an_address_by_which_others_reach_it(text: str) -> None:
    with pytest.raises(UsageError, match="--etcd-listen"):
        listening(text)
    assert listening("10.0.0.5:0", Security(insecure=True)) == ("10.0.0.5", 0)
