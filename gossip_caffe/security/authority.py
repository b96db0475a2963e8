"""A certificate authority in a folder, for people who have none: it makes the certificates of peers, viewers and etcd.

The files are those that openssl, kubectl and etcd read: PEM, with ECDSA keys on P-256.
"""

# ruff: noqa: PLC0415 - an optional package, which only these commands need

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossip_caffe.errors import Conflict, EnvironmentProblem, NotInstalled, UsageError
from gossip_caffe.security.files import FOLDER_NAMES, check_private
from gossip_caffe.security.identity import Role, uri_of

if TYPE_CHECKING:
    from cryptography import x509

CA_CERT, CA_KEY = "ca.crt", "ca.key"
_BACKDATED = timedelta(minutes=5)
"""A certificate begins so long before it is made: clocks of machines differ."""
_PEM_MODE, _SECRET_MODE = 0o644, 0o600


@dataclass(frozen=True, slots=True)
class Wanted:
    """The certificate that is wanted.

    ``names``: the peers that may use it, the first of which is its CN. ``hosts``: addresses of a server such as etcd.
    ``job``: its only job; "": any.
    """

    names: tuple[str, ...]
    role: Role = Role.PEER
    job: str = ""
    hosts: tuple[str, ...] = ()


def make_authority(folder: Path, name: str, life: timedelta) -> Path:
    """Make a CA: its certificate and its key, in a folder of mode 0700. Returns the certificate's path.

    Raises Conflict when one is there, and EnvironmentProblem when the folder cannot be written.
    """
    _require()
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    if (folder / CA_KEY).exists() or (folder / CA_CERT).exists():
        raise Conflict(
            f"{folder} has a CA already", remedy="issue certificates with it, or give another --ca FOLDER"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    builder = _builder(subject, subject, key.public_key(), life).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    made = builder.add_extension(_usage(signs=True), critical=True).sign(key, hashes.SHA256())
    _write(folder, {CA_CERT: (_pem(made), _PEM_MODE), CA_KEY: (_key_pem(key), _SECRET_MODE)})
    return folder / CA_CERT


def issue(authority: Path, wanted: Wanted, folder: Path, life: timedelta) -> None:
    """Make a certificate and put ca.crt, tls.crt and tls.key into ``folder``, each in one step.

    Files that are there are replaced: processes that use them read the new ones. Raises UsageError for an authority or
    a name that cannot be used, and EnvironmentProblem when the folder cannot be written.
    """
    _require()
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    ca, ca_key = _authority(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(life, ca.not_valid_after_utc - datetime.now(UTC))
    builder = _builder(_name(wanted.names[0]), ca.subject, key.public_key(), until)
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName(_also(wanted)), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    )
    made = builder.sign(ca_key, hashes.SHA256())
    names = FOLDER_NAMES[0]
    contents = ((_pem(ca), _PEM_MODE), (_pem(made), _PEM_MODE), (_key_pem(key), _SECRET_MODE))
    _write(folder, dict(zip(names, contents, strict=True)))


def _also(wanted: Wanted) -> list[Any]:
    from cryptography import x509

    found: list[Any] = []
    try:
        found += map(x509.DNSName, wanted.names if wanted.role is Role.PEER else ())
        for host in wanted.hosts:
            found.append(_host(host))
        found.append(x509.UniformResourceIdentifier(uri_of(wanted.role, wanted.names[0], wanted.job)))
    except ValueError:
        raise UsageError(
            f"{', '.join((*wanted.names, *wanted.hosts))!r:.200} cannot stand in a certificate",
            remedy="give names of letters, digits, '.', '_' and '-'",
        ) from None
    return found


def _host(host: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def _authority(folder: Path) -> tuple[x509.Certificate, Any]:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        check_private(folder / CA_KEY, "the CA's key")
        certificate = x509.load_pem_x509_certificate((folder / CA_CERT).read_bytes())
        key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), None)
    except (OSError, UsageError) as error:
        if isinstance(error, UsageError) and (folder / CA_KEY).exists():
            raise
        raise UsageError(
            f"there is no CA in {folder}",
            remedy="make one with 'gossip-caffe tls init', or give --ca FOLDER of one",
        ) from None
    except (ValueError, TypeError):
        raise UsageError(
            f"{folder / CA_CERT} and {CA_KEY} are no CA", remedy="give the folder that 'tls init' made"
        ) from None
    if certificate.not_valid_after_utc <= datetime.now(UTC):
        raise UsageError(
            f"the CA in {folder} has expired", remedy="make another one with 'gossip-caffe tls init'"
        )
    return certificate, key


def _builder(subject: x509.Name, issuer: x509.Name, key: Any, life: timedelta) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    except ValueError:
        raise UsageError(
            f"{common_name!r:.100} cannot be the name in a certificate", remedy="give 1 to 64 characters"
        ) from None


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def _write(folder: Path, files: dict[str, tuple[bytes, int]]) -> None:
    """Write files of a folder of mode 0700; each takes the place of an older one in one step."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, (content, mode) in files.items():
            new = folder / f".{name}.new"
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            new.replace(folder / name)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {error.filename or folder} ({error.strerror})",
            remedy="give a folder that you can write",
        ) from None


def lifetime(text: str, option: str) -> timedelta:
    """Read "720h", "30d", "90m" or "60s". Raises UsageError."""
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    number, unit = text[:-1], text[-1:].lower()
    if not (number.isascii() and number.isdigit() and unit in units and 0 < len(number) < 8 and int(number)):
        raise UsageError(f"{option} {text!r:.40} is no time", remedy="give for example 720h, 30d, 90m or 60s")
    return timedelta(seconds=min(int(number) * units[unit], 100 * 365 * 86400))


def checked_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """The hosts of ``--host``, without a port. Raises UsageError."""
    for host in hosts:
        if not host or "/" in host or host.count(":") == 1:
            raise UsageError(
                f"--host {host!r:.100} is no host", remedy="give a name or an IP address, without a port"
            )
    return tuple(hosts)


def _require() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise NotInstalled(
            "the commands 'gossip-caffe tls' need cryptography, which is not installed",
            name="cryptography",
            remedy="pip install cryptography, or make the files with openssl",
        ) from None
