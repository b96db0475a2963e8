"""The certificate of a peer: whether it fits the peer, and a watch over its files, which change under way."""

from __future__ import annotations

from collections.abc import Callable

from gossip_caffe.addresses import is_loopback, place_of, with_name
from gossip_caffe.clock import Clock
from gossip_caffe.errors import UsageError
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.secure.callers import TurnedAway
from gossip_caffe.observe.log.events import Event, EventLog
from gossip_caffe.peer.core.address import Address
from gossip_caffe.peer.core.complaints import Complaints
from gossip_caffe.security.certificate import date, own_certificate
from gossip_caffe.security.identity import Role, wrong_names
from gossip_caffe.security.live import LiveTls, Loaded
from gossip_caffe.security.security import Security
from gossip_caffe.system.unix_sockets import folder_of_sockets, socket_path

LOOK_EVERY_S = 10.0
"""Seconds between two looks at the files. A call and a handshake look at them, too."""
WARN_AGAIN_S = 3600.0


def names_by_certificate(security: Security, listen: str, endpoints: tuple[str, ...]) -> tuple[str, ...]:
    """The names in the peer's certificate; none without one, or where the peer will listen on a Unix socket.

    Raises UsageError for files that cannot be used.
    """
    if security.tls is None or (folder_of_sockets(endpoints) is not None and not listen):
        return ()
    return own_certificate(security.tls, serves=True).identity.names


def check_listener(where: Address, security: Security) -> None:
    """Raise UsageError for an address that other machines reach, without a certificate and without --insecure."""
    if socket_path(where.listen) is not None or security.tls is not None or security.insecure:
        return
    host = where.listen.rpartition(":")[0]
    if not is_loopback(host):
        raise UsageError(
            f"other machines reach {host} ({where.why}), and this peer has no certificate",
            remedy="give --tls-dir DIR with a certificate of its own, or --insecure in a network of machines that you "
            "trust (docs/security.md)",
        )


def is_insecure(say: Callable[[str], None], peer: str, address: str, security: Security) -> bool:
    """True if this peer's address is open to all who reach it, because its user wants that; a line says so."""
    if not security.insecure or socket_path(address) is not None:
        return False
    say(f"{peer}: --insecure: every program that reaches {address} can read and change the weights")
    return True


def check_names(live: LiveTls | None, peer: str, job: str) -> None:
    """Raise UsageError unless the certificate is that of this peer, and for this job."""
    if live is None:
        return
    holder, cert = live.now().certificate.identity, live.files.cert
    if holder.role is not Role.PEER:
        raise UsageError(
            f"--cert {cert} is that of a {holder.role.value}, which trains nothing",
            remedy="give the certificate of a peer",
        )
    if why := wrong_names(holder.names, peer):
        raise UsageError(f"--cert {cert}: {why}", remedy="give --name one of the names of the certificate")
    if holder.job and holder.job != job:
        raise UsageError(
            f"--cert {cert} is for job {holder.job}, and this job is {job}",
            remedy="give a certificate for this job, or for any",
        )


def advertised(address: str, peer: str, live: LiveTls | None) -> str:
    """The address for the peer's record: with a certificate it names the peer."""
    return address if live is None else with_name(place_of(address), peer)


class CertificateWatch:
    """Follows the files of the certificate of a peer's ``server``, if it has one, and the calls that it turns away.

    A change, and files that cannot be used, are a line and an event; so is the last third of the certificate's life.
    """

    def __init__(
        self, peer: str, server: PeerServer, clock: Clock, say: Callable[[str], None], log: EventLog
    ) -> None:
        self._peer = peer
        self._live = server.live
        server.callers.told = self.turned_away
        self._clock = clock
        self._say = say
        self._log = log
        self._complaints = Complaints(say, clock)
        self._seen: Loaded | None = None
        self._fault = self._told = ""
        self._warn_at = 0.0

    @property
    def ends_s(self) -> float | None:
        """When the certificate ends, in seconds since 1970; None without one."""
        return self._live.now().certificate.ends_s if self._live is not None else None

    async def follow(self) -> None:
        """Look at the files, for ever."""
        while True:
            self.look()
            await self._clock.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Look at the files once, and say what has changed."""
        if self._live is None:
            return
        loaded, fault = self._live.now(), self._live.fault
        certificate, now = loaded.certificate, self._clock.wall()
        if loaded is not self._seen:
            if self._seen is not None:
                self._say(f"{self._peer}: uses its new certificate, which ends at {date(certificate.ends_s)}")
            self._seen, self._warn_at = loaded, certificate.warns_at_s
            self._log.emit(
                Event.CERTIFICATE,
                names=list(certificate.identity.names),
                job=certificate.identity.job,
                issuer=certificate.issuer,
                serial=certificate.serial,
                ends_s=certificate.ends_s,
            )
        # Files that are replaced one after the other do not fit together for a moment: only what stays is a fault.
        if fault and fault == self._fault and fault != self._told:
            self._told = fault
            self._say(f"{self._peer}: the new certificate files are not used: {fault}")
            self._log.emit(Event.CERTIFICATE, fault=fault)
        self._fault = fault
        self._told = self._told if fault else ""
        if now >= self._warn_at:
            self._warn_at = now + WARN_AGAIN_S
            ends = f"ends at {date(certificate.ends_s)}" if now < certificate.ends_s else "has ended"
            self._say(
                f"{self._peer}: its certificate {self._live.files.cert} {ends}; put a new one in its place: "
                "it is read while the peer trains"
            )

    def turned_away(self, call: TurnedAway) -> None:
        """Note a call that its certificate does not allow: an event, and a line for each caller in a minute."""
        if self._complaints.about(
            call.caller, f"{self._peer}: a call of NAME was turned away: {call.reason}"
        ):
            self._log.emit(
                Event.UNAUTHORIZED,
                call=call.call,
                caller=call.caller,
                claims=call.claims,
                reason=call.reason,
            )
