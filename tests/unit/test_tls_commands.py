"""``gossip-caffe tls``: files that other tools read, narrow certificates, and each mistake as one line."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gossip_caffe.cli.main import cli
from gossip_caffe.errors import Conflict, NotInstalled, UsageError
from gossip_caffe.security import authority
from gossip_caffe.security.authority import lifetime
from gossip_caffe.security.live import LiveTls
from gossip_caffe.security.security import TlsFiles

x509 = pytest.importorskip("cryptography.x509")


def tls(*words: str) -> Result:
    return CliRunner().invoke(cli, ["tls", *words], catch_exceptions=False)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert tls("init").exit_code == 0
    return tmp_path


def shown(folder: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(tls("show", folder, "--json").stdout)
    return found


def test_a_certificate_says_what_was_asked_for(here: Path) -> None:
    said = tls("issue", "gpu1", "gpu1-b", "--job", "mnist", "--ttl", "24h", "--out", "one").output
    assert "one: ca.crt, tls.crt and tls.key for gpu1, gpu1-b, until" in said
    found = shown("one")
    assert (found["names"], found["role"], found["job"]) == (["gpu1", "gpu1-b"], "peer", "mnist")
    assert found["hours_left"] == pytest.approx(24.0, abs=0.2)
    assert "any" in tls("show", "one").output or "mnist" in tls("show", "one").output
    tls("issue", "eve", "--role", "viewer")
    assert (shown("eve")["names"], shown("eve")["role"], shown("eve")["common_name"]) == ([], "viewer", "eve")


def test_files_have_modes_and_forms_that_others_take(here: Path) -> None:
    tls("issue", "etcd", "--role", "viewer", "--host", "10.0.0.1", "--host", "etcd.example")
    for name, mode in (("gossip-caffe-ca/ca.key", 0o600), ("etcd/tls.key", 0o600), ("etcd", 0o700)):
        assert stat.S_IMODE((here / name).stat().st_mode) == mode
    made = x509.load_pem_x509_certificate((here / "etcd/tls.crt").read_bytes())
    also = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(entry) for entry in also.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    assert also.get_values_for_type(x509.DNSName) == ["etcd.example"]
    try:
        checked = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-CAfile", "etcd/ca.crt", "etcd/tls.crt"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert checked.stdout.strip() == "etcd/tls.crt: OK", checked.stderr


def test_a_renewed_certificate_is_used_by_those_who_have_the_old_one(here: Path) -> None:
    tls("issue", "gpu1")
    files = TlsFiles(*(here / "gpu1" / name for name in ("ca.crt", "tls.crt", "tls.key")))
    live = LiveTls(files, serves=True)
    before = live.now().certificate.serial
    tls("issue", "gpu1")
    assert live.now().certificate.serial != before
    assert live.fault == ""


def test_mistakes_are_named(here: Path) -> None:
    with pytest.raises(Conflict, match="has a CA already"):
        tls("init")
    with pytest.raises(UsageError, match="there is no CA in none; make one with 'gossip-caffe tls init'"):
        tls("issue", "x", "--ca", "none")
    for words in (["a/b"], ["x", "--ttl", "soon"], ["x", "--host", "h:2379"], ["x", "--job", "a b"]):
        with pytest.raises(UsageError):
            tls("issue", *words)
    assert not (here / "x").exists()
    with pytest.raises(UsageError, match="no certificate is named"):
        tls("show")
    (here / "gossip-caffe-ca/ca.key").chmod(0o644)
    with pytest.raises(UsageError, match=re.escape("can be read or written by others (mode 0644)")):
        tls("issue", "x")


@pytest.mark.parametrize(("text", "hours"), [("720h", 720), ("30d", 720), ("90m", 1.5), ("36000s", 10)])
def test_lives_are_read(text: str, hours: float) -> None:
    assert lifetime(text, "--ttl") == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "h", "0h", "-1h", "1.5h", "1y", "99999999h", "²h"])
def test_other_lives_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--ttl"):
        lifetime(text, "--ttl")


def test_without_cryptography_the_commands_say_so(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls("issue", "gpu1")
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(NotInstalled, match="need cryptography, which is not installed; pip install"):
        authority.make_authority(here / "other", "x", timedelta(days=1))
    assert "gpu1" in tls("show", "gpu1").output
