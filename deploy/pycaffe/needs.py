"""What building pycaffe asks of the machine: packages of Debian and Ubuntu, and how to see what is there.

They are looked up by what they install, not in the package database: what came in another way counts.
"""

from __future__ import annotations

import re
import shutil
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

FOLDERS = (Path("/usr/local"), Path("/usr"))


@dataclass(frozen=True, slots=True)
class Need:
    """A system package, what it is for, and a file of it: a program, a header or a library."""

    package: str
    why: str
    program: str = ""
    header: str = ""
    library: str = ""


TOOLS = (
    Need("cmake", "configures the build", program="cmake"),
    Need("ninja-build", "runs the build", program="ninja"),
    Need("g++", "compiles Caffe", program="g++"),
    Need("pkg-config", "finds HDF5", program="pkg-config"),
    Need("protobuf-compiler", "generates Caffe's messages", program="protoc"),
)
LIBRARIES = (
    Need("libprotobuf-dev", "Caffe's messages", header="google/protobuf/message.h"),
    Need("libgoogle-glog-dev", "Caffe's log", header="glog/logging.h"),
    Need("libgflags-dev", "the log's settings", header="gflags/gflags.h"),
    Need("libopenblas-dev", "matrix arithmetic", header="cblas.h"),
    Need("libhdf5-dev", "HDF5 data and snapshots", header="hdf5/serial/hdf5.h"),
    Need("liblmdb-dev", "LMDB data", header="lmdb.h"),
    Need("libleveldb-dev", "LevelDB data", header="leveldb/db.h"),
    Need("libsnappy-dev", "compression of LevelDB", header="snappy.h"),
)
BOOST = (
    Need("libboost-thread-dev", "threads", library="libboost_thread.so"),
    Need("libboost-filesystem-dev", "files", library="libboost_filesystem.so"),
    Need("libboost-regex-dev", "patterns", library="libboost_regex.so"),
)

TESTS = (
    Need("iproute2", "networks of their own for some tests", program="ip"),
    Need("tmux", "a terminal for the tests of 'gossip-caffe top'", program="tmux"),
)
LEVELDB_WHEELS_BEFORE = (3, 13)
"""The LevelDB binding (plyvel) has wheels for older Pythons; pip builds it for newer ones."""


def leveldb_binding(version: tuple[int, int], include: Path) -> list[Need]:
    """What pip needs to build the LevelDB binding for this Python; nothing where there is a wheel."""
    if version < LEVELDB_WHEELS_BEFORE:
        return []
    wanted = {"g++", "libleveldb-dev"}
    headers = python_headers(version, include)
    return [need for need in (*TOOLS, *LIBRARIES) if need.package in wanted] + ([headers] if headers else [])


def python_headers(version: tuple[int, int], include: Path) -> Need | None:
    """The package with this Python's headers, unless it brought them along."""
    if (include / "Python.h").exists():
        return None
    return Need(f"python{version[0]}.{version[1]}-dev", "Python's headers")


def boost_python(version: tuple[int, int]) -> Need:
    """The package with boost.python, present only if it serves this Python."""
    return Need(
        "libboost-python-dev", "Python bindings", library=f"libboost_python{version[0]}{version[1]}.so"
    )


def installed(need: Need) -> bool:
    """Whether what the package brings is on this machine."""
    if need.program:
        return shutil.which(need.program) is not None
    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    if need.header:
        return any(
            (root / "include" / part / need.header).exists() for root in FOLDERS for part in ("", triplet)
        )
    return any((root / "lib" / part / need.library).exists() for root in FOLDERS for part in ("", triplet))


def distribution_python(executable: Path = Path("/usr/bin/python3")) -> tuple[int, int] | None:
    """The version of the distribution's own Python: the one that its boost.python serves."""
    found = re.fullmatch(r"python(\d+)\.(\d+)", executable.resolve().name) if executable.exists() else None
    return (int(found[1]), int(found[2])) if found else None


def system_boost_serves(
    version: tuple[int, int], distribution: tuple[int, int] | None, has: Callable[[Need], bool]
) -> bool:
    """Whether the system's boost.python is, or would be once installed, for this Python."""
    return version == distribution or has(boost_python(version))


def missing(
    version: tuple[int, int],
    *,
    distribution: tuple[int, int] | None,
    include: Path,
    has: Callable[[Need], bool] = installed,
) -> list[Need]:
    """The packages that a build for this Python still needs, in the order of the tables above."""
    needs: list[Need] = [*TOOLS, *LIBRARIES]
    if system_boost_serves(version, distribution, has):
        needs += [boost_python(version), *BOOST]
    absent = [need for need in needs if not has(need)]
    headers = python_headers(version, include)
    return [*absent, headers] if headers else absent


def install_command(needs: Iterable[Need]) -> str:
    """The command that installs them, for a person to run."""
    return f"sudo apt-get install {' '.join(need.package for need in needs)}"
