"""Certificates for tests, made by cryptography: a CA, and identities of it, in the files that options name."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gossip_caffe.security.security import Security, TlsFiles


@dataclass(frozen=True)
class Authority:
    """A CA of a test. ``now``: when its certificates are made; each lasts from an hour before for ``life_s``."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, name: str = "test CA") -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = _builder(named, named, key, 3600.0).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        return cls(made.sign(key, hashes.SHA256()), key)

    def issue(
        self, folder: Path, *names: str, uris: tuple[str, ...] = (), life_s: float = 3600.0
    ) -> Security:
        """An identity in ``folder``: ca.crt, tls.crt and tls.key. Negative ``life_s``: it has ended."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        also = [*map(_alternative, names), *map(x509.UniformResourceIdentifier, uris)]
        builder = _builder(subject, self.certificate.subject, key, life_s)
        made = builder.add_extension(x509.SubjectAlternativeName(also), critical=False).sign(
            self.key, hashes.SHA256()
        )
        folder.mkdir(parents=True, exist_ok=True)
        pem = serialization.Encoding.PEM
        files = self.files(folder)
        _write(files.cacert, self.certificate.public_bytes(pem))
        _write(files.cert, made.public_bytes(pem))
        _write(
            files.key,
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        )
        files.key.chmod(0o600)
        return Security(files)

    @staticmethod
    def files(folder: Path) -> TlsFiles:
        """The names of the files of an identity in a folder."""
        return TlsFiles(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")


def _alternative(name: str) -> x509.GeneralName:
    """A name of a certificate: an address of this machine is one of its own kind."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, content: bytes) -> None:
    """Replace a file in one step, as those do who rotate certificates."""
    new = path.with_suffix(".new")
    new.touch(0o600)
    new.write_bytes(content)
    new.replace(path)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, life_s: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(seconds=life_s))
    )
