"""How one process proves its identity to etcd and to peers: the one object that every connection is made with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gossip_caffe.errors import UsageError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The three files of an identity, as PEM: the CAs that are trusted, the certificate with its chain, and its key."""

    cacert: Path
    cert: Path
    key: Path

    def read(self) -> TlsMaterial:
        """Read the three files. Raises UsageError that names the file which cannot be read."""
        return TlsMaterial(*(_read(path) for path in (self.cacert, self.cert, self.key)))


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """The content of the three files, as PEM. The key is in no ``repr``."""

    cacert: bytes
    cert: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Security:
    """The identity of one process, and what it permits. It holds paths, and no secret.

    - ``tls``: the certificate files; None: connections over TCP are plain. Unix sockets never use TLS.
    - ``user``, ``password_file``: a user of etcd, where etcd knows users by passwords; else "" and None.
    - ``insecure``: plain connections to other machines are wanted.
    """

    tls: TlsFiles | None = None
    user: str = ""
    password_file: Path | None = None
    insecure: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """The options that give another command the same identity."""
        words: list[str] = []
        if self.tls is not None:
            words += [
                "--cacert",
                str(self.tls.cacert),
                "--cert",
                str(self.tls.cert),
                "--key",
                str(self.tls.key),
            ]
        if self.password_file is not None:
            words += ["--user", self.user, "--password-file", str(self.password_file)]
        return (*words, "--insecure") if self.insecure else tuple(words)

    def password(self) -> str:
        """Read the password of ``user``. Raises UsageError when the file cannot be read, or is empty."""
        if self.password_file is None:
            return ""
        try:
            text = _read(self.password_file).decode().rstrip("\r\n")
        except UnicodeDecodeError:
            text = ""
        if not text or "\n" in text:
            raise UsageError(
                f"--password-file {self.password_file} does not hold one line of text",
                remedy=f"write the password of etcd's user {self.user!r} into it, and nothing else",
            )
        return text


PLAIN = Security()
"""No identity: plain connections, to this machine and to etcd."""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read {path} ({error.strerror})", remedy="check the path and who may read the file"
        ) from None
