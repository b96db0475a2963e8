"""The identity from the options of a command, and from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from gossip_caffe.errors import UsageError
from gossip_caffe.security.files import check_files, check_private, files_in
from gossip_caffe.security.security import Security, TlsFiles
from gossip_caffe.system.environment import yes_or_no

PREFIX = "GOSSIP_CAFFE_"


@dataclass(frozen=True, slots=True)
class Given:
    """The words of a command about its identity. Each is a path or a name, "" or False if it was not given."""

    cacert: str = ""
    cert: str = ""
    key: str = ""
    tls_dir: str = ""
    user: str = ""
    password_file: str = ""
    insecure: bool = False

    @classmethod
    def in_environment(cls, environment: Mapping[str, str] = os.environ) -> Given:
        """Read $GOSSIP_CAFFE_CACERT and the others. Raises UsageError when _INSECURE is neither yes nor no."""
        names = [field.name for field in fields(cls) if field.name != "insecure"]
        said = {name: environment.get(variable(name), "").strip() for name in names}
        return cls(**said, insecure=yes_or_no(variable("insecure"), environment) or False)

    @property
    def has_files(self) -> bool:
        """True if it names certificate files."""
        return bool(self.cacert or self.cert or self.key or self.tls_dir)


def variable(name: str) -> str:
    """The environment variable of an option: ``tls_dir`` → GOSSIP_CAFFE_TLS_DIR."""
    return PREFIX + name.upper()


def security_of(given: Given, environment: Mapping[str, str] = os.environ) -> Security:
    """Make the identity of ``given`` words; each group of words that is missing is read from the environment.

    The groups are the certificate files with --insecure, and the user with its password. Raises UsageError for words
    that contradict each other, for a part that is missing, and for a file that cannot be used.
    """
    around = Given.in_environment(environment)
    of_tls = given if given.has_files or given.insecure else around
    of_user = given if given.user or given.password_file else around
    tls = _files(of_tls)
    if tls is not None and of_tls.insecure:
        raise UsageError(
            "--insecure and certificate files contradict each other", remedy="leave --insecure out"
        )
    if tls is not None:
        check_files(tls)
    return Security(tls, *_user(of_user), insecure=of_tls.insecure)


def identity(
    *,
    cacert: str | Path = "",
    cert: str | Path = "",
    key: str | Path = "",
    tls_dir: str | Path = "",
    user: str = "",
    password_file: str | Path = "",
    insecure: bool = False,
) -> Security:
    """Make the identity of a script, for ``connect``, ``train``, ``start`` and ``join``.

    The parameters are the options of the command line: ``tls_dir`` holds ca.crt, tls.crt and tls.key; or ``cacert``,
    ``cert`` and ``key`` name the three files. ``user`` and ``password_file``: a user of etcd. ``insecure``: plain
    connections to other machines are wanted. What is not given is read from the environment. Raises UsageError for a
    file that is missing, does not fit, or can be read by others.
    """
    given = Given(str(cacert), str(cert), str(key), str(tls_dir), user, str(password_file), insecure)
    return security_of(given)


def or_of_environment(security: Security | None) -> Security:
    """``security``, or the identity of the environment if there is none. Raises UsageError, as ``security_of``."""
    return security_of(Given()) if security is None else security


def _files(given: Given) -> TlsFiles | None:
    three = {"--cacert": given.cacert, "--cert": given.cert, "--key": given.key}
    named = [option for option, path in three.items() if path]
    if given.tls_dir:
        if named:
            raise UsageError(
                f"--tls-dir and {named[0]} name the same file twice",
                remedy="give --tls-dir alone, or --cacert, --cert and --key",
            )
        return files_in(Path(given.tls_dir).absolute(), "--tls-dir")
    if not named:
        return None
    if missing := [option for option in three if option not in named]:
        raise UsageError(
            f"{' and '.join(named)} without {' and '.join(missing)}",
            remedy="give all three files: TLS is mutual here, each side shows a certificate",
        )
    return TlsFiles(*(Path(path).absolute() for path in three.values()))


def _user(given: Given) -> tuple[str, Path | None]:
    if not given.user and not given.password_file:
        return "", None
    if not given.password_file:
        raise UsageError(
            f"--user {given.user} without --password-file",
            remedy="write the password into a file of mode 0600, and give its path",
        )
    if not given.user:
        raise UsageError("--password-file without --user", remedy="give --user NAME, the user of etcd")
    if ":" in given.user:
        raise UsageError(
            "--user holds a colon", remedy="give the name alone, and the password by --password-file"
        )
    path = Path(given.password_file).absolute()
    check_private(path, "--password-file")
    Security(user=given.user, password_file=path).password()
    return given.user, path
