"""Archives that are fetched from the package index by exact version and SHA-256, and kept in the cache.

pip fetches them, with whatever index, mirror or proxy it is set up with here. A file that is put into the
cache by hand serves as well: the hash decides.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


class FetchError(Exception):
    """An archive cannot be had, or is not the pinned one."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """One archive of the package index."""

    project: str
    version: str
    file: str
    sha256: str


CAFFE = Pinned(
    "brocolli-caffe",
    "9.0.2",
    "brocolli-caffe-9.0.2.tar.gz",
    "c6410cc60bdd6db685d441b66be7df05410f8850ac88d6b75d48ef9b2315c08a",
)

# Boost with boost.python for one Python: for those that the distribution's own Boost does not serve.
_BOOST_SHA256 = {
    ("cp311", "x86_64"): "14efe34db660c9aacb61247a7f9ae0ee6d7626ec9a3d89b8b27e62dba6fcaa4d",
    ("cp312", "x86_64"): "c306b9af69d13502a6598672a341deb4f549fa3eb8cfb363de190e7409919a4a",
    ("cp313", "x86_64"): "deeefeae790e4a9ac200ece07c935faf415e48933ccffd7a692682f7f4c3f524",
}


def carried_boost(python_tag: str, machine: str) -> Pinned | None:
    """The pinned Boost for a Python ("cp312") and machine ("x86_64"); None where there is none."""
    sha256 = _BOOST_SHA256.get((python_tag, machine))
    if sha256 is None:
        return None
    file = f"cmeel_boost-1.90.0-0-{python_tag}-{python_tag}-manylinux_2_28_{machine}.whl"
    return Pinned("cmeel-boost", "1.90.0", file, sha256)


def fetch(pinned: Pinned, folder: Path, log: Path) -> Path:
    """The archive in ``folder``, downloaded if it is not there; pip's output is logged. Raises FetchError."""
    archive = folder / pinned.file
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="fetching-") as temporary:
            _download(pinned, Path(temporary), log)
            fetched = Path(temporary) / pinned.file
            if not fetched.exists():
                raise FetchError(
                    f"cannot download {pinned.project} {pinned.version} with pip (see {log}); "
                    f"check the network and pip's settings, or put {pinned.file} into {folder}"
                )
            fetched.rename(archive)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != pinned.sha256:
        archive.unlink()
        raise FetchError(
            f"{pinned.file} has SHA-256 {found[:12]}…, not the pinned {pinned.sha256[:12]}…; it was removed: "
            f"run again, or ask whoever runs the package mirror"
        )
    return archive


def _download(pinned: Pinned, folder: Path, log: Path) -> None:
    """Run pip; what it leaves in ``folder`` shows whether it did."""
    if importlib.util.find_spec("pip") is None:
        raise FetchError(
            f"{sys.executable} has no pip; run 'make setup', or use the Python of a virtual environment"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
    if pinned.file.endswith(".whl"):
        attempts = [[*command, "--only-binary", ":all:"]]
    else:
        # pip reads an archive's name with a setuptools that it fetches first; where that fails, the one here may do.
        from_source = [*command, "--no-binary", ":all:"]
        attempts = [from_source, [*from_source, "--no-build-isolation"]]
    for attempt in attempts:
        with log.open("a") as out:
            out.write(f"$ {' '.join(attempt)} {pinned.project}=={pinned.version}\n")
            out.flush()
            subprocess.run(
                [*attempt, f"{pinned.project}=={pinned.version}"], stdout=out, stderr=out, check=False
            )
        if (folder / pinned.file).exists():
            return


def unpack(archive: Path, folder: Path, *, under: str = "") -> None:
    """Unpack an archive, or only what lies under a path of it; version control's own files are left out."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
        return
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not in every 3.11
        wanted = [part for part in tar if ".git" not in Path(part.name).parts and part.name.startswith(under)]
        tar.extractall(folder, members=wanted)
