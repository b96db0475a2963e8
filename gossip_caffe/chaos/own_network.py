"""A separate network for a command: it goes on in a new network namespace, which ends with its last process."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from gossip_caffe.begin import for_python, python_command
from gossip_caffe.chaos.namespaces import BRIDGE, MAKE_BRIDGE, drop_command, peer_command_prefix
from gossip_caffe.errors import EnvironmentProblem

TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "tc": "iproute2"}
"""The programs that are needed, and the packages that contain them."""
_BY_RIGHT = ("unshare", "--net", "--")
_AS_USER = ("unshare", "--user", "--map-root-user", "--net", "--")
_SYSTEM_PATH = ("/usr/sbin", "/sbin")
_TRIAL_S = 30.0


def network_id() -> int:
    """The number of this process's network namespace."""
    return Path("/proc/self/ns/net").stat().st_ino


def go_on_in_own_network(arguments: Sequence[str]) -> NoReturn:
    """Become ``gossip-caffe`` with these arguments, in a network namespace of its own, under the same process id.

    Raises EnvironmentProblem, with nothing changed, if this machine does not allow such a namespace.
    """
    way = namespace_command()
    surroundings = {**os.environ, **for_python()}
    environment = {name: value for name, value in surroundings.items() if value is not None}
    os.execvpe(way[0], [*way, *python_command("gossip_caffe", *arguments)], environment)


def namespace_command() -> tuple[str, ...]:
    """The prefix that runs a command in a network namespace of its own, with the privileges that a run needs there.

    Raises EnvironmentProblem. Adds the folders of system programs to $PATH.
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
        f"this machine does not allow network namespaces ({said})",
        remedy='run it as root, or where users may make namespaces, or use network = "loopback" in the scenario',
    )


def trial() -> str:
    """A script that makes every kind of change that a run makes to its network; it fails if one is not allowed."""
    return (
        f"{MAKE_BRIDGE}{shlex.join([*peer_command_prefix(1), 'true'])}\n{shlex.join(drop_command(BRIDGE))}\n"
    )
