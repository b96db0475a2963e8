"""Checks of the files of an identity before they are used: each mistake is one line that names the file."""

# ruff: noqa: PLC0415 - ssl is loaded only where there are files: commands without them stay quick

from __future__ import annotations

import os
import stat
from pathlib import Path

from gossip_caffe.errors import UsageError
from gossip_caffe.security.security import TlsFiles

FOLDER_NAMES = (("ca.crt", "tls.crt", "tls.key"), ("svid_bundle.pem", "svid.pem", "svid_key.pem"))
"""The file names in a folder of certificates: those of cert-manager and Kubernetes, and those of spiffe-helper."""


def files_in(folder: Path, option: str) -> TlsFiles:
    """Find the three files in a folder, by the names of cert-manager or of SPIFFE. Raises UsageError."""
    for names in FOLDER_NAMES:
        paths = [folder / name for name in names]
        if all(path.exists() for path in paths):
            return TlsFiles(*paths)
    there = {name for names in FOLDER_NAMES for name in names if (folder / name).exists()}
    wanted = next((names for names in FOLDER_NAMES if there & {*names}), FOLDER_NAMES[0])
    missing = ", ".join(name for name in wanted if name not in there)
    if not folder.is_dir():
        raise UsageError(f"{option} {folder}: there is no such folder", remedy="check the path")
    raise UsageError(
        f"{option} {folder} lacks {missing}",
        remedy="put ca.crt, tls.crt and tls.key there, or give --cacert, --cert and --key",
    )


def check_files(files: TlsFiles) -> None:
    """Raise UsageError unless all three can be read, belong together, and the key is for its owner alone."""
    import ssl

    material = files.read()
    check_private(files.key, "--key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata=material.cacert.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise UsageError(
            f"--cacert {files.cacert} is no certificate in PEM form",
            remedy="give the file of the CA: it begins with -----BEGIN CERTIFICATE-----",
        ) from None
    if b"PRIVATE KEY-----" not in material.key:
        raise UsageError(
            f"--key {files.key} is no private key in PEM form",
            remedy="give the key of the certificate: it begins with -----BEGIN PRIVATE KEY-----",
        )
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except _Encrypted:
        raise UsageError(
            f"--key {files.key} is encrypted, and nobody could type its password at a restart",
            remedy="decrypt it with 'openssl pkey -in KEY -out NEW', and keep it with mode 0600",
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(
                f"--key {files.key} is not the key of the certificate {files.cert}",
                remedy="give the two files that were made together",
            ) from None
        raise UsageError(
            f"--cert {files.cert} is no certificate in PEM form, or {files.key} no key",
            remedy="give a certificate that begins with -----BEGIN CERTIFICATE-----, and its key",
        ) from None


def check_private(path: Path, option: str) -> None:
    """Raise UsageError for a secret that other users can read.

    Its owner alone may read it. A group may, if root owns the file: root gives it to that group on purpose, as
    Kubernetes does for a volume with fsGroup.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise UsageError(
            f"cannot read {path} ({error.strerror})", remedy="check the path and who may read the file"
        ) from None
    allowed = 0o700 if found.st_uid == os.getuid() or found.st_uid != 0 else 0o740
    if stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) & ~allowed & 0o777:
        raise UsageError(
            f"{option} {path} can be read or written by others (mode {stat.S_IMODE(found.st_mode):04o})",
            remedy=f"chmod 600 {path}",
        )


class _Encrypted(Exception):
    """The key asks for a password."""


def _no_password() -> str:
    raise _Encrypted
