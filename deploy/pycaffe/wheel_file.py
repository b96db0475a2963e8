"""Packs a folder into a wheel (binary distribution format 1.0): a zip of files and of three about them."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same content gives the same file
_MODE = 0o644 << 16


@dataclass(frozen=True, slots=True)
class Description:
    """What METADATA says."""

    name: str
    version: str
    summary: str
    licence: str
    requires: Sequence[str]
    requires_python: str


def pack(
    package: Path, described: Description, tag: str, licences: Mapping[str, bytes], folder: Path
) -> Path:
    """Write the wheel of all that is under ``package`` into ``folder``; ``licences`` are named texts."""
    escaped = described.name.replace("-", "_")
    info = f"{escaped}-{described.version}.dist-info"
    content = {
        path.relative_to(package).as_posix(): path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    content[f"{info}/METADATA"] = _metadata(described, licences).encode()
    content[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: {described.name}\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    )
    for name, text in licences.items():
        content[f"{info}/licenses/{name}"] = text
    record = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in content.items()]
    content[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    wheel = folder / f"{escaped}-{described.version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = _MODE
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return wheel


def _metadata(described: Description, licences: Mapping[str, bytes]) -> str:
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {described.name}",
        f"Version: {described.version}",
        f"Summary: {described.summary}",
        f"License-Expression: {described.licence}",
        *(f"License-File: {name}" for name in licences),
        f"Requires-Python: {described.requires_python}",
        *(f"Requires-Dist: {requirement}" for requirement in described.requires),
    ]
    return "\n".join(lines) + "\n"


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
