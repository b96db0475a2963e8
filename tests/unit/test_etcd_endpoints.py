"""The words of --etcd: what is taken, and what is refused with the right form."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from gossip_caffe.errors import UsageError
from gossip_caffe.gossip.transport import channels
from gossip_caffe.membership.etcd.access import channels as etcd_channels
from gossip_caffe.membership.etcd.access.endpoints import parse_endpoints
from gossip_caffe.security.security import Security, TlsFiles


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("127.0.0.1:2379", ("127.0.0.1:2379",)),
        (" a:1 , b:2 ,", ("a:1", "b:2")),
        ("http://a:1/", ("a:1",)),
        ("HTTP://a:1", ("a:1",)),
        ("[::1]:2379", ("[::1]:2379",)),
        ("http://[fe80::1]:65535", ("[fe80::1]:65535",)),
        ("unix:/run/x/etcd:1", ("unix:/run/x/etcd:1",)),
        ("unix:///run/x/etcd:1", ("unix:/run/x/etcd:1",)),
        ("unix:/run//x/../x/etcd", ("unix:/run/x/etcd",)),
        ("unix:/home/me@host/etcd:1,a:1", ("unix:/home/me@host/etcd:1", "a:1")),
    ],
)
def test_endpoints_are_taken(text: str, endpoints: tuple[str, ...]) -> None:
    assert parse_endpoints(text) == endpoints


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("::1:2379", "is an IPv6 address without brackets; give [::1]:2379"),
        ("fe80::1", "is an IPv6 address without brackets; give [fe80::1]:2379"),
        ("2001:db8::1:2379,a:1", "is an IPv6 address without brackets; give [2001:db8::1]:2379"),
        ("1:2:3:4:5:6:7:8", "is an IPv6 address without brackets; give [1:2:3:4:5:6:7:8]:2379"),
        ("https://a:2379", "needs certificates; give --tls-dir DIR, or --cacert, --cert and --key"),
        ("https://[::1]:2379", "needs certificates"),
        ("etcd://a:2379", "begins with etcd://; give a:2379 alone, or https://a:2379"),
        ("a:2379/v3/kv", "goes on after the port; give a:2379 alone"),
        ("http://a:2379/v3", "goes on after the port; give a:2379 alone"),
        ("a:2379?x=1", "goes on after the port; give a:2379 alone"),
        ("/run/etcd.sock", "goes on after the port"),
        ("a", "'a' is no HOST:PORT; give a:2379"),
        ("[::1]", "'[::1]' is no HOST:PORT; give [::1]:2379"),
        ("[::1:2379", "has no IPv6 address between its brackets"),
        ("[a]:2379", "has no IPv6 address between its brackets"),
        ("a:65536", "is no HOST:PORT"),
        ("a:²", "is no HOST:PORT"),
        ("a b:1", "is no HOST:PORT"),
        ("unix:", "'unix:' names no socket; give unix:PATH"),
        ("unix:///", "names no socket"),
        ("unix://etcd:1", "names a host; give unix:PATH"),
        ("unix:/" + "x" * 107, "the path is longer than the 107 bytes"),
        ("unix:/run/\x1b[2J", "cannot be printed"),
        ("unix:/run/x,y", "'y' is no HOST:PORT"),
        ("unix:/run/x,me:secret@h:1", "--etcd holds a user's name or password"),
        ("a\x1b[2J:1", "is no HOST:PORT"),
        ("", "is no HOST:PORT; give for example 127.0.0.1:2379"),
    ],
)
def test_others_are_refused_with_the_right_form(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        parse_endpoints(text)


@pytest.mark.parametrize("scheme", ["", "http://", "https://"])
@pytest.mark.parametrize("password", ["hunter2", "hun,ter2", "hunter2/x", "hun@ter2", "hunter2:3"])
def test_a_password_is_refused_and_never_repeated(scheme: str, password: str) -> None:
    with pytest.raises(UsageError, match="what follows the @ alone: h:2379") as refusal:
        parse_endpoints(f"{scheme}root:{password}@h:2379")
    assert not any(part in str(refusal.value) for part in ("hun", "ter2", "root"))


WITH_FILES = Security(TlsFiles(Path("/t/ca.crt"), Path("/t/tls.crt"), Path("/t/tls.key")))


def test_with_certificate_files_an_endpoint_may_be_https_or_bare_and_never_http() -> None:
    assert parse_endpoints("https://a:1,b:2,unix:/run/x", WITH_FILES) == ("a:1", "b:2", "unix:/run/x")
    with pytest.raises(
        UsageError, match=re.escape("'http://b:2' is plain, and certificate files are given; give h")
    ):
        parse_endpoints("https://a:1,http://b:2", WITH_FILES)


@pytest.mark.parametrize("options", [etcd_channels.OPTIONS, channels.OPTIONS])
def test_no_channel_takes_a_proxy_of_the_environment(options: list[tuple[str, int]]) -> None:
    assert ("grpc.enable_http_proxy", 0) in options


def test_a_relative_socket_begins_at_the_working_folder_and_links_are_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    assert parse_endpoints("unix:link/etcd:1") == (f"unix:{tmp_path.resolve()}/there/etcd:1",)


def test_a_password_goes_to_another_machine_by_tls_alone() -> None:
    user = Security(user="carol", password_file=Path("/nowhere"))
    for here in ("127.0.0.1:2379", "localhost:2379", "[::1]:2379", "unix:/run/x/etcd:1"):
        assert parse_endpoints(here, user) == (here,)
    with pytest.raises(UsageError, match="--tls-dir") as caught:
        parse_endpoints("10.0.0.5:2379", user)
    assert "10.0.0.5:2379" in caught.value.message
    files = TlsFiles(Path("ca"), Path("cert"), Path("key"))
    for allowed in (replace(user, tls=files), replace(user, insecure=True)):
        assert parse_endpoints("10.0.0.5:2379", allowed) == ("10.0.0.5:2379",)
