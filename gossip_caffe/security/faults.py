"""The faults of TLS, told apart: the texts of gRPC and of OpenSSL are read, and the words are those of the user."""

from __future__ import annotations

from enum import Enum


class TlsFault(Enum):
    """The reasons for which no secured connection came about."""

    NO_CERTIFICATE = "no certificate"
    FOREIGN_CA = "foreign CA"
    EXPIRED = "expired"
    NOT_YET = "not valid yet"
    PLAIN = "plain"
    WRONG_NAME = "wrong name"
    NOT_ACCEPTED = "not accepted"


_SIGNS = (
    ("hostname verification", TlsFault.WRONG_NAME),
    ("hostname mismatch", TlsFault.WRONG_NAME),
    ("ip address mismatch", TlsFault.WRONG_NAME),
    ("wrong_version_number", TlsFault.PLAIN),
    ("wrong version number", TlsFault.PLAIN),
    ("certificate has expired", TlsFault.EXPIRED),
    ("certificate_expired", TlsFault.EXPIRED),
    ("certificate expired", TlsFault.EXPIRED),
    ("not yet valid", TlsFault.NOT_YET),
    ("unable to get local issuer", TlsFault.FOREIGN_CA),
    ("unable to get issuer", TlsFault.FOREIGN_CA),
    ("self-signed certificate", TlsFault.FOREIGN_CA),
    ("self signed certificate", TlsFault.FOREIGN_CA),
    ("certificate signature failure", TlsFault.FOREIGN_CA),
    ("certificate required", TlsFault.NO_CERTIFICATE),
    ("certificate_required", TlsFault.NO_CERTIFICATE),
    ("unknown ca", TlsFault.NOT_ACCEPTED),
    ("unknown_ca", TlsFault.NOT_ACCEPTED),
    ("bad certificate", TlsFault.NOT_ACCEPTED),
    ("bad_certificate", TlsFault.NOT_ACCEPTED),
)
_NOT_CONNECTED = "failed to connect"
_CLOSED = ("socket closed", "connection reset", "stream removed", "end of tcp stream", "unwrap failed")
"""``unwrap failed``: an alert of TLS 1.3, which may come when this side's handshake is done, and gRPC does not read."""


def fault_in(details: str) -> TlsFault | None:
    """The fault that gRPC's text about a failed call on a secured channel tells; None for a fault of another kind.

    A partner that does not accept this side's certificate closes the connection in the handshake, and says no more, or
    sends an alert that gRPC cannot read: then the connection is not made (``failed to connect``), and was closed.
    """
    said = details.lower()
    for sign, fault in _SIGNS:
        if sign in said:
            return fault
    if _NOT_CONNECTED in said and any(sign in said for sign in _CLOSED):
        return TlsFault.NOT_ACCEPTED
    return None


def words_of(fault: TlsFault, whom: str) -> str:
    """One phrase about a fault of the connection to ``whom``, a peer's name or "etcd"."""
    return _WORDS[fault].replace("WHOM", whom)


_WORDS = {
    TlsFault.WRONG_NAME: "the certificate at that address is not that of WHOM",
    TlsFault.PLAIN: "WHOM speaks no TLS: it was started without certificates",
    TlsFault.EXPIRED: "the certificate of WHOM has expired",
    TlsFault.NOT_YET: "the certificate of WHOM is not valid yet: check the clocks of both machines",
    TlsFault.FOREIGN_CA: "the certificate of WHOM comes from another CA than --cacert",
    TlsFault.NO_CERTIFICATE: "WHOM asks for a certificate, and this side shows none",
    TlsFault.NOT_ACCEPTED: "WHOM does not accept this side's certificate: it has expired there, or is of another CA",
}
