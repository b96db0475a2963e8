"""The Protocol that is told of each attempt to reach a peer, and the cause of a failed attempt in a few words."""

from __future__ import annotations

from typing import Protocol


class Contact(Protocol):
    """Is told how attempts to reach peers end."""

    def trying(self, peer: str) -> None:
        """An attempt begins, and its answer is expected soon."""
        ...

    def answered(self, peer: str) -> None:
        """The peer has answered, possibly with a refusal."""
        ...

    def failed(self, peer: str, address: str, why: str) -> None:
        """No answer came from the peer. ``why``: the transport's error."""
        ...

    def is_unreached(self, peer: str) -> bool:
        """Whether the peer has not answered for a long time."""
        ...

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each living peer that cannot be reached: its address and the cause; then what to check."""
        ...


class NoContact:
    """A Contact that records nothing."""

    def trying(self, peer: str) -> None:
        """Do nothing."""

    def answered(self, peer: str) -> None:
        """Do nothing."""

    def failed(self, peer: str, address: str, why: str) -> None:
        """Do nothing."""

    def is_unreached(self, peer: str) -> bool:
        """False: no peer is known to be unreached."""
        del peer
        return False

    @property
    def lines(self) -> tuple[str, ...]:
        """No lines: no peer is known to be unreached."""
        return ()


_CAUSES = (
    ("is not that of", "the certificate there is for another name"),
    ("speaks no tls", "it speaks no TLS"),
    ("has expired", "its certificate has expired"),
    ("not valid yet", "its certificate is not valid yet"),
    ("another ca than", "its certificate comes from another CA"),
    ("accept this side's", "it does not accept this peer's certificate"),
    ("has no certificate", "it has no certificate"),
    ("asks for a certificate", "it asks for a certificate"),
    ("connection refused", "connection refused"),
    ("network is unreachable", "network is unreachable"),
    ("network unreachable", "network is unreachable"),
    ("no route to host", "no route to host"),
    ("host is unreachable", "no route to host"),
    ("connection reset", "connection reset"),
    ("permission denied", "permission denied"),
    ("certificate", "its certificate is not accepted"),
    ("handshake", "it does not speak as a peer does"),
    ("no such file", "no process listens there"),
    ("name resolution", "its name cannot be resolved"),
    ("dns resolution", "its name cannot be resolved"),
    ("domain name not found", "its name cannot be resolved"),
    ("timed out", "no answer"),
    ("timeout", "no answer"),
    ("deadline", "no answer"),
    ("no answer", "no answer"),
    ("sent nothing", "no answer"),
    ("shows nothing", "no answer"),
    ("no peer answers", "no peer answers"),
    ("failed to connect", "no connection"),
    ("unavailable", "no connection"),
    ("no unix socket of this cluster", "its Unix socket is of another cluster or machine"),
)


def cause_of(why: str) -> str:
    """The cause for which a peer cannot be reached, in a few words; "" if ``why`` is another error."""
    words = why.lower()
    return next((cause for sign, cause in _CAUSES if sign in words), "")
