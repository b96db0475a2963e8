"""The certificate files as they are now: they are read again when they change, and the last good ones are kept."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from gossip_caffe.errors import UsageError
from gossip_caffe.security.certificate import OwnCertificate, own_certificate
from gossip_caffe.security.files import check_files
from gossip_caffe.security.security import Security, TlsFiles, TlsMaterial

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Files that were found good. ``number`` counts the changes, from 0."""

    material: TlsMaterial
    certificate: OwnCertificate
    number: int


class LiveTls:
    """The newest good state of an identity's files. Threads may share it.

    ``serves``: the certificate must also do for a server. ``fault``: why the newest files are not used; "" while they
    are. Raises UsageError when the first files cannot be used.
    """

    def __init__(self, files: TlsFiles, *, serves: bool = False) -> None:
        self.files = files
        self.fault = ""
        self._serves = serves
        self._lock = threading.Lock()
        self._stamp = _stamp(files)
        self._loaded = self._load(0)

    def now(self) -> Loaded:
        """The newest good state. Three calls of ``stat``, and more only after a change. Raises nothing."""
        with self._lock:
            if (stamp := _stamp(self.files)) != self._stamp:
                self._stamp = stamp
                self._renew()
            return self._loaded

    def _renew(self) -> None:
        try:
            loaded = self._load(self._loaded.number + 1)
            if _stamp(self.files) != self._stamp:
                self._stamp = ()  # a file was written meanwhile, and the three may not belong together: look again
                return
            self._loaded, self.fault = loaded, ""
        except UsageError as error:
            # Perhaps one of the files was written and the others follow: their writing changes the stamp again.
            self.fault = str(error)

    def _load(self, number: int) -> Loaded:
        check_files(self.files)
        return Loaded(self.files.read(), own_certificate(self.files, serves=self._serves), number)


def live_of(security: Security, *, serves: bool = False) -> LiveTls | None:
    """The files of an identity, to be followed; None if it has none. Raises UsageError, as ``LiveTls``."""
    return LiveTls(security.tls, serves=serves) if security.tls is not None else None


def _stamp(files: TlsFiles) -> Stamp:
    found = []
    for path in (files.cacert, files.cert, files.key):
        try:
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        except OSError:
            found.append((0, 0, 0))
    return tuple(found)
