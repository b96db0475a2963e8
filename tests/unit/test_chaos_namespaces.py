"""Each peer of a chaos run gets an address and a link of its own, and what cannot be had is one line."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from gossip_caffe.chaos import namespaces, own_network
from gossip_caffe.chaos.namespaces import Namespaces, peer_command_prefix
from gossip_caffe.chaos.scenario import Act
from gossip_caffe.errors import EnvironmentProblem

Commands = list[tuple[str, ...]]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """The commands that are given to the system, none of which is run."""
    given: Commands = []
    monkeypatch.setattr(namespaces, "_run", lambda *words: given.append(words))
    return given


def test_no_link_and_no_address_is_used_twice_even_where_a_name_is(commands: Commands) -> None:
    namespaces = Namespaces()
    words = [namespaces.command_prefix(peer) for peer in ("p0", "p1", "p0")]
    assert [entry[-2:] for entry in words] == [
        ("peer1", "10.0.0.2"),
        ("peer2", "10.0.0.3"),
        ("peer3", "10.0.0.4"),
    ]
    assert namespaces.etcd_host == "10.0.0.1"
    assert len(commands) == 1, "only the bridge is made at first"


def test_addresses_last_for_the_longest_of_runs() -> None:
    assert peer_command_prefix(255)[-1] == "10.0.1.0"
    assert peer_command_prefix(70_000)[-2:] == ("peer70000", "10.1.17.113")


def test_a_partition_takes_the_link_down_and_up_again(commands: Commands) -> None:
    namespaces = Namespaces()
    namespaces.command_prefix("p0")
    end = namespaces.inject(Act.PARTITION, 0.0, "p0", 0)
    assert commands[1:] == [("ip", "link", "set", "peer1", "down")]
    end()
    assert commands[2:] == [("ip", "link", "set", "peer1", "up")]


def test_half_open_drops_only_what_goes_to_the_peer(commands: Commands) -> None:
    namespaces = Namespaces()
    namespaces.command_prefix("p0")
    end = namespaces.inject(Act.HALF_OPEN, 0.0, "p0", 0)
    assert commands[1] == ("tc", "qdisc", "replace", "dev", "peer1", "root", "pfifo", "limit", "0")
    end()
    assert commands[2:] == [("tc", "qdisc", "delete", "dev", "peer1", "root")]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_that_cannot_be_changed_is_an_error_unless_it_is_gone_with_its_peer(
    monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def fail(*_: str) -> None:
        raise EnvironmentProblem("no")

    monkeypatch.setattr(namespaces, "_run", lambda *_: None)
    made = Namespaces()
    made.command_prefix("p0")
    monkeypatch.setattr(namespaces, "_run", fail)
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), *([(2, "peer1")] if there else [])])
    with pytest.raises(EnvironmentProblem) if there else nullcontext():
        made.inject(Act.PARTITION, 0.0, "p0", 0)


def test_tools_that_are_missing_are_named_with_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(own_network, "_SYSTEM_PATH", ())
    for tool in ("unshare", "nsenter", "ip"):
        (tmp_path / tool).touch(mode=0o755)
    with pytest.raises(EnvironmentProblem, match=r"needs tc, which.*install iproute2"):
        own_network.namespace_command()


def test_what_is_not_allowed_is_said_as_the_system_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join((str(tmp_path), "/usr/bin", "/bin")))
    for tool in ("unshare", "nsenter", "ip", "tc"):
        (tmp_path / tool).write_text("#!/bin/sh\necho no namespaces for you >&2\nexit 1\n")
        (tmp_path / tool).chmod(0o755)
    with pytest.raises(EnvironmentProblem, match=r"no namespaces for you.*loopback"):
        own_network.namespace_command()
