"""What a certificate allows, what its files are, and the words for each fault."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gossip_caffe.addresses import is_address_of, is_loopback, name_in, place_of, with_name
from gossip_caffe.doctor.certificate_checks import certificate_checks
from gossip_caffe.doctor.check_result import CheckResult
from gossip_caffe.errors import Conflict, UsageError
from gossip_caffe.gossip.policy.contact import cause_of
from gossip_caffe.gossip.transport.secure.callers import Callers, caller_of
from gossip_caffe.observe.log.events import Event, MemoryLog
from gossip_caffe.peer.core.address import Address, listening
from gossip_caffe.peer.core.certificates import (
    CertificateWatch,
    check_listener,
    check_names,
    names_by_certificate,
)
from gossip_caffe.peer.process import _taken
from gossip_caffe.security.certificate import own_certificate
from gossip_caffe.security.faults import TlsFault, fault_in, words_of
from gossip_caffe.security.identity import (
    Identity,
    Role,
    identity_of,
    objection_to_member,
    objection_to_viewer,
    uri_of,
)
from gossip_caffe.security.live import LiveTls
from gossip_caffe.security.security import PLAIN, Security
from tests.tls_files import Authority


@pytest.mark.parametrize(
    ("names", "uri", "identity"),
    [
        (("p0",), "", Identity(("p0",), Role.PEER)),
        ((), "", Identity((), Role.VIEWER)),
        (("p0",), "spiffe://t/ns/x/sa/y", Identity(("p0",), Role.PEER)),
        (("p0",), uri_of(Role.PEER, "p0", "j"), Identity(("p0",), Role.PEER, "j")),
        (("p0",), "spiffe://t.example/gossip-caffe/job/j/peer", Identity(("p0",), Role.PEER, "j")),
        (("v",), uri_of(Role.VIEWER, "v"), Identity(("v",), Role.VIEWER)),
        (("o",), uri_of(Role.OWNER, "o", "j"), Identity(("o",), Role.OWNER, "j")),
        (("p0",), "spiffe://t/gossip-caffe/job/a/b/peer/p0", Identity(("p0",), Role.PEER)),
    ],
)
def test_roles_and_jobs_are_read_from_the_uri(names: tuple[str, ...], uri: str, identity: Identity) -> None:
    assert identity_of(names, (uri,) if uri else (), "") == identity


def test_a_peer_speaks_for_itself_and_its_job_alone() -> None:
    p0 = Identity(("p0", "p1"), Role.PEER, "j")
    assert objection_to_member(p0, "p1", "j") == ""
    assert "the message says p2" in objection_to_member(p0, "p2", "j")
    assert "for job j, and not for k" in objection_to_member(p0, "p0", "k")
    assert "for job j, and not for any other" in objection_to_viewer(p0, "")
    assert objection_to_viewer(Identity((), Role.VIEWER), "k") == ""
    assert "never exchange" in objection_to_member(Identity(("p0",), Role.VIEWER), "p0", "j")


def context(**auth: list[bytes]) -> Any:
    return SimpleNamespace(auth_context=lambda: auth)


def test_a_plain_connection_has_no_identity_and_one_of_tls_1_2_no_rights() -> None:
    assert caller_of(context()) is None
    assert caller_of(context(transport_security_type=[b"insecure"])) is None
    old = context(transport_security_type=[b"ssl"], peer_dns=[b"p0"], ssl_tls_version=[b"TLSv1.2"])
    assert "TLSv1.3 is the least" in Callers().objection_to_viewer("pull", old, "j")
    new = context(transport_security_type=[b"ssl"], peer_dns=[b"p0"], ssl_tls_version=[b"TLSv1.3"])
    assert Callers().objection_to_member("exchange", new, "p0", "j") == ""


def test_an_address_may_name_its_peer_and_no_other_one() -> None:
    address = with_name("h:1", "p0")
    assert (name_in(address), place_of(address)) == ("p0", "h:1")
    assert (name_in("unix:/a@b/s"), place_of("unix:/a@b/s")) == ("", "unix:/a@b/s")
    assert is_address_of(address, "p0")
    assert is_address_of("h:1", "p0")
    assert not any(
        is_address_of(other, "p0") for other in ("p1@h:1", "@h:1", "p0@p0@h:1", "p0@unix:/x", "p0@")
    )


@pytest.mark.parametrize(
    ("details", "fault"),
    [
        ("… Custom verification check failed …: Hostname Verification Check failed.", TlsFault.WRONG_NAME),
        ("CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate", TlsFault.FOREIGN_CA),
        ("CERTIFICATE_VERIFY_FAILED: certificate has expired", TlsFault.EXPIRED),
        ("SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER", TlsFault.PLAIN),
        ("failed to connect to all addresses; last error: UNAVAILABLE: Socket closed", TlsFault.NOT_ACCEPTED),
        ("failed to connect to all addresses; …: Unwrap failed (TSI_DATA_CORRUPTED)", TlsFault.NOT_ACCEPTED),
        ("Socket closed", None),
        ("failed to connect to all addresses; … connection refused", None),
    ],
)
def test_the_faults_of_tls_are_read_from_the_texts_of_grpc(details: str, fault: TlsFault | None) -> None:
    assert fault_in(details) is fault
    if fault is not None:
        assert cause_of(words_of(fault, "p1")) not in {"", "its certificate is not accepted"}


def test_files_that_change_are_used_and_bad_ones_are_not(tmp_path: Path) -> None:
    authority = Authority.make()
    files = authority.issue(tmp_path, "p0").tls
    assert files is not None
    live = LiveTls(files, serves=True)
    first = live.now()
    assert live.now() is first
    authority.issue(tmp_path, "p0", life_s=50)
    second = live.now()
    assert (second.number, live.fault) == (1, "")
    assert second.certificate.ends_s < first.certificate.ends_s
    Authority.make().issue(tmp_path / "other", "p0")
    good = files.cert.read_bytes()
    files.cert.write_bytes((tmp_path / "other" / "tls.crt").read_bytes())
    assert live.now() is second
    assert "is not the key of the certificate" in live.fault
    files.cert.write_bytes(good + b"\n")
    assert (live.now().number, live.fault) == (2, "")


def test_an_own_certificate_that_cannot_work_is_named(tmp_path: Path) -> None:
    authority = Authority.make()
    late = authority.issue(tmp_path / "late", "p0", life_s=-5).tls
    assert late is not None
    with pytest.raises(UsageError, match=r"has expired at .* UTC; put a new certificate in its place"):
        own_certificate(late)
    found = authority.issue(tmp_path / "p0", "p0", uris=(uri_of(Role.PEER, "p0", "j"),)).tls
    assert found is not None
    certificate = own_certificate(found, serves=True)
    assert certificate.identity == Identity(("p0",), Role.PEER, "j", "p0")
    assert certificate.issuer == "test CA"
    assert 0.4 < certificate.left(time.time()) < 0.51  # an hour of two


class AClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = time.time()

    def wall(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


def test_a_change_a_fault_and_the_last_third_are_each_a_line_and_an_event(tmp_path: Path) -> None:
    authority = Authority.make()
    files = authority.issue(tmp_path, "p0").tls
    assert files is not None
    live, clock, log, lines = LiveTls(files), AClock(), MemoryLog(), list[str]()
    server: Any = SimpleNamespace(live=live, callers=Callers())
    as_clock: Any = clock
    watch = CertificateWatch("p0", server, as_clock, lines.append, log)
    watch.look()
    watch.look()
    assert lines == []
    authority.issue(tmp_path, "p0", life_s=7200)
    watch.look()
    files.key.chmod(0o644)
    (tmp_path / "tls.crt").touch()
    watch.look()
    watch.look()
    clock.at += 4500
    watch.look()
    watch.look()
    said = ("uses its new certificate", "files are not used", "put a new one in its place")
    assert [words in line for words, line in zip(said, lines, strict=True)] == [True] * 3
    assert [event["event"] for event in log.events] == [Event.CERTIFICATE] * 3
    assert "mode 0644" in str(log.events[2]["fault"])


def test_an_address_that_other_machines_reach_needs_a_certificate_or_insecure(tmp_path: Path) -> None:
    security = Authority.make().issue(tmp_path, "p0")
    open_to_all = Address("10.0.0.5:0", "10.0.0.5", 0, "as --listen says")
    with pytest.raises(
        UsageError, match=r"other machines reach 10\.0\.0\.5 .*and this peer has no certificate; give"
    ):
        check_listener(open_to_all, PLAIN)
    for enough in (security, Security(insecure=True)):
        check_listener(open_to_all, enough)
        assert listening("10.0.0.5:0", enough) == ("10.0.0.5", 0)
    with pytest.raises(UsageError, match="other machines reach --etcd-listen"):
        listening("10.0.0.5:0")
    for host in ("127.0.0.1", "127.8.0.1", "[::1]", "localhost"):
        assert is_loopback(host)
        check_listener(Address(f"{host}:0", host, 0, ""), PLAIN)
    for host in ("0.0.0.0", "[::]", "gpu3.example", "[fe80::1%eth0]"):
        assert not is_loopback(host)
    check_listener(Address("unix:/run/x/s", "", 0, ""), PLAIN)


def test_doctor_judges_the_certificate(tmp_path: Path) -> None:
    authority, now = Authority.make(), time.time()

    def check(name: str, *uris: str, life_s: float = 7200.0, job: str = "") -> CheckResult:
        (found,) = certificate_checks(
            authority.issue(tmp_path / name, name, uris=uris, life_s=life_s), job, now
        )
        return found

    assert certificate_checks(PLAIN, "", now) == []
    assert "plain" in certificate_checks(Security(insecure=True), "", now)[0].found
    good = check("p0", uri_of(Role.PEER, "p0", "j"), job="j")
    assert good.good
    assert "p0, peer of j, by test CA, until" in good.found
    assert "not for job k" in check("p0", uri_of(Role.PEER, "p0", "j"), job="k").found
    assert "no peer can be started with it" in check("v", uri_of(Role.VIEWER, "v")).found
    assert "less than a third of its life is left" in check("p0", life_s=60).found
    expired = check("p0", life_s=-60)
    assert (expired.good, expired.needed) == (False, True)
    assert "has expired" in expired.found


def test_a_peer_is_called_as_its_certificate_says(tmp_path: Path) -> None:
    authority = Authority.make()
    security = authority.issue(tmp_path, "p0", "p1", uris=(uri_of(Role.PEER, "p0", "j"),))
    assert security.tls is not None
    assert names_by_certificate(security, "", ("h:2379",)) == ("p0", "p1")
    assert names_by_certificate(security, "", ("unix:/run/x/etcd",)) == ()
    assert names_by_certificate(PLAIN, "", ("h:2379",)) == ()
    with ExitStack() as held:
        assert [_taken(held, tmp_path / "run", ("p0", "p1")) for _ in range(2)] == ["p0", "p1"]
        with pytest.raises(Conflict, match="a peer 'p1' is running already"):
            _taken(held, tmp_path / "run", ("p0", "p1"))
    live = LiveTls(security.tls)
    check_names(live, "p1", "j")
    check_names(None, "p7", "j")
    with pytest.raises(UsageError, match="for p0, p1, and this peer is called p7; give --name one of"):
        check_names(live, "p7", "j")
    with pytest.raises(UsageError, match="is for job j, and this job is k"):
        check_names(live, "p0", "k")
    viewer = authority.issue(tmp_path / "v", "v", uris=(uri_of(Role.VIEWER, "v"),)).tls
    assert viewer is not None
    with pytest.raises(UsageError, match="that of a viewer, which trains nothing"):
        check_names(LiveTls(viewer), "v", "j")
