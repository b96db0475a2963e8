"""A network of a command's own: it goes on in a new network namespace, which ends with its last process."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from gossip_caffe.cluster.chaos_namespaces import BRIDGE, MAKE_BRIDGE, drop_words, peer_words
from gossip_caffe.errors import EnvironmentProblem

TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "tc": "iproute2"}
"""Programs that are needed, and the packages that bring them."""
_BY_RIGHT = ("unshare", "--net", "--")
_AS_USER = ("unshare", "--user", "--map-root-user", "--net", "--")
_SYSTEM_PATH = ("/usr/sbin", "/sbin")
_TRIAL_S = 30.0


def network_id() -> int:
    """The number of the network namespace that this process is in."""
    return Path("/proc/self/ns/net").stat().st_ino


def go_on_in_own_network(arguments: Sequence[str]) -> NoReturn:
    """Become ``gossip-caffe`` with these arguments, in a network namespace of its own; the process id stays.

    Raises EnvironmentProblem where that is not to be had; nothing was changed then.
    """
    way = way_in()
    os.execvp(way[0], [*way, sys.executable, "-m", "gossip_caffe", *arguments])


def way_in() -> tuple[str, ...]:
    """The words before a command with which it has a network namespace, and may do there what a run does.

    Raises EnvironmentProblem. The folders where a system keeps such programs are on $PATH afterwards.
    """
    os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_PATH))
    missing = {tool: package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    if missing:
        raise EnvironmentProblem(
            f'network = "namespaces" needs {", ".join(missing)}, which this machine lacks',
            remedy=f'install {" and ".join(sorted(set(missing.values())))}, or use network = "loopback"',
        )
    said = ""
    for way in (_BY_RIGHT, _AS_USER) if os.geteuid() == 0 else (_AS_USER,):
        try:
            tried = subprocess.run(
                [*way, "sh", "-c", trial()],
                capture_output=True,
                text=True,
                check=False,
                timeout=_TRIAL_S,
            )
        except subprocess.TimeoutExpired:
            said = f"no answer in {_TRIAL_S:.0f} s"
            continue
        if tried.returncode == 0:
            return way
        said = tried.stderr.strip().partition("\n")[0] or f"exit {tried.returncode}"
    raise EnvironmentProblem(
        f"network namespaces are not to be had here ({said})",
        remedy='run it as root, or where users may make namespaces, or use network = "loopback" in the scenario',
    )


def trial() -> str:
    """A script that does everything once that a run does to its network; it fails where something is not allowed."""
    return f"{MAKE_BRIDGE}{shlex.join([*peer_words(1), 'true'])}\n{shlex.join(drop_words(BRIDGE))}\n"
