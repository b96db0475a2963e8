"""The own certificate, read and checked as a partner would do it: by a TLS handshake with itself, in memory.

So neither a parser of certificates is needed, nor a package, and the check is that of OpenSSL.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gossip_caffe.errors import UsageError
from gossip_caffe.security.identity import Identity, identity_of
from gossip_caffe.security.security import TlsFiles

_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python does not name: a certificate that has ended can be read."""
_EXPIRED, _NOT_YET, _PURPOSE = 10, 9, 26
_FOREIGN = frozenset({2, 18, 19, 20, 21})
_STEPS = 8
"""Calls that a handshake takes; one of TLS 1.3 takes three."""


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """The own certificate. ``begins_s`` and ``ends_s``: its life, in seconds since 1970; ``issuer``: the CA's CN."""

    identity: Identity
    begins_s: float
    ends_s: float
    issuer: str
    serial: str

    def left(self, now_s: float) -> float:
        """The share of its life that is left, 0 to 1."""
        life_s = max(1.0, self.ends_s - self.begins_s)
        return min(1.0, max(0.0, (self.ends_s - now_s) / life_s))

    @property
    def warns_at_s(self) -> float:
        """When a third of its life is left, in seconds since 1970."""
        return self.ends_s - (self.ends_s - self.begins_s) / 3


def own_certificate(files: TlsFiles, *, serves: bool = False) -> OwnCertificate:
    """Check the certificate of ``files`` against its CA, as etcd or a peer will, and return it.

    ``serves``: check it also as that of a server. Raises UsageError that says which fault it has.
    """
    try:
        return _read(_shake_hands(files, serves=serves))
    except ssl.SSLCertVerificationError as error:
        raise _fault(files, error) from None
    except (ssl.SSLError, OSError) as error:
        raise UsageError(
            f"--cert {files.cert} cannot be used for TLS 1.3 ({error.reason or error})"
            if isinstance(error, ssl.SSLError)
            else f"cannot read the files beside {files.cert} ({error.strerror})",
            remedy="give the three files that were made together",
        ) from None


def date(seconds: float) -> str:
    """A time in seconds since 1970 as people read it, in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def context_of(files: TlsFiles, *, is_server: bool) -> ssl.SSLContext:
    """A context for TLS 1.3 with both sides' certificates. Names are not checked. Raises OSError and ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(files.cert, files.key)
    context.load_verify_locations(files.cacert)
    return context


def _shake_hands(files: TlsFiles, *, serves: bool, also_ended: bool = False) -> dict[str, Any]:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    answering, calling = context_of(files, is_server=True), context_of(files, is_server=False)
    if not serves:
        calling.verify_mode = ssl.CERT_NONE
    if also_ended:
        for context in (answering, calling):
            context.verify_flags |= _NO_CHECK_TIME
    server = answering.wrap_bio(up, down, server_side=True)
    left = [calling.wrap_bio(down, up), server]
    for _ in range(_STEPS):
        for side in tuple(left):
            try:
                side.do_handshake()
                left.remove(side)
            except ssl.SSLWantReadError:
                continue
        if not left:
            return server.getpeercert() or {}
    raise ssl.SSLError("the handshake does not end")


def _read(found: dict[str, Any]) -> OwnCertificate:
    also = found.get("subjectAltName", ())
    names = tuple(str(value) for kind, value in also if kind == "DNS")
    uris = tuple(str(value) for kind, value in also if kind == "URI")
    return OwnCertificate(
        identity_of(names, uris, _common_name(found.get("subject", ()))),
        float(ssl.cert_time_to_seconds(found["notBefore"])),
        float(ssl.cert_time_to_seconds(found["notAfter"])),
        _common_name(found.get("issuer", ())),
        str(found.get("serialNumber", "")),
    )


def _common_name(parts: Any) -> str:
    return next((str(value) for part in parts for name, value in part if name == "commonName"), "")


def _fault(files: TlsFiles, error: ssl.SSLCertVerificationError) -> UsageError:
    code = error.verify_code
    if code in {_EXPIRED, _NOT_YET}:
        found = _read(_shake_hands(files, serves=False, also_ended=True))
        if code == _NOT_YET:
            return UsageError(
                f"--cert {files.cert} begins only at {date(found.begins_s)}",
                remedy="check this machine's clock, or wait",
            )
        whose = "" if datetime.now(UTC).timestamp() >= found.ends_s else ", or rather the CA of its chain,"
        ended = f" at {date(found.ends_s)}" if not whose else ""
        return UsageError(
            f"--cert {files.cert}{whose} has expired{ended}", remedy="put a new certificate in its place"
        )
    if code in _FOREIGN:
        return UsageError(
            f"--cert {files.cert} comes from another CA than --cacert {files.cacert}",
            remedy="give the CA that has made the certificate",
        )
    if code == _PURPOSE:
        return UsageError(
            f"--cert {files.cert} is not for both sides of a connection (extendedKeyUsage)",
            remedy="make it for serverAuth and clientAuth: each peer calls and is called",
        )
    return UsageError(
        f"--cert {files.cert} does not hold: {error.verify_message}", remedy="make a new certificate"
    )
