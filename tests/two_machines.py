"""Two machines for a test, or three: each a network and a mount namespace of its own, with cables to the first one.

Machine A has the address 10.0.0.1, machine B 10.0.0.2, machine C 10.0.0.3. ``/srv`` of each and ``/mnt`` of each is a
folder of the test. The namespaces end with their last process; nothing of the host's network or mounts is touched.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gossip_caffe.chaos.own_network import namespace_command
from gossip_caffe.errors import EnvironmentProblem

TWO, THREE = ("A", "B"), ("A", "B", "C")
# The holder of a machine's namespaces says so and then waits until its stdin is closed.
_HOLD = """set -e
mount --make-rprivate /
mount --bind "$1" /srv
mount --bind "$2" /mnt
ip link set lo up
echo ready
read -r _ || true
"""
_CABLES = """set -e
ip link add br0 type bridge
ip address add 10.0.0.1/24 dev br0
ip link set br0 up
number=2
for holder in "$@"; do
    ip link add "to$number" type veth peer name eth0 netns "$holder"
    ip link set "to$number" master br0 up
    nsenter --target "$holder" --net sh -c "ip address add 10.0.0.$number/24 dev eth0; ip link set eth0 up"
    number=$((number + 1))
done
"""


@contextmanager
def machines(folder: Path, names: tuple[str, ...] = TWO) -> Iterator[dict[str, tuple[str, ...]]]:
    """The words that lead onto each machine, by its name. Skips the test where namespaces cannot be had."""
    try:
        way = namespace_command()
    except EnvironmentProblem as error:
        pytest.skip(str(error))
    if "--user" in way:
        pytest.skip("two machines need root: one user namespace cannot hold the cable between two")
    holders: list[subprocess.Popen[str]] = []
    try:
        for name in names:
            for place in ("srv", "mnt"):
                (folder / name / place).mkdir(parents=True)
            command = ["unshare", "--net", "--mount", "--", "sh", "-c", _HOLD, "machine"]
            holder = subprocess.Popen(
                [*command, folder / name / "srv", folder / name / "mnt"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            holders.append(holder)
            assert holder.stdout is not None
            assert holder.stderr is not None
            if holder.stdout.readline() != "ready\n":
                pytest.skip(f"a machine's namespaces cannot be had here: {holder.stderr.read().strip()}")
        ways = {name: _onto(holder.pid) for name, holder in zip(names, holders, strict=True)}
        cables = [*ways["A"], "sh", "-c", _CABLES, "cables", *(str(holder.pid) for holder in holders[1:])]
        subprocess.run(cables, check=True, capture_output=True, text=True)
        yield ways
    finally:
        for holder in holders:
            holder.communicate()


def _onto(pid: int) -> tuple[str, ...]:
    return ("nsenter", "--target", str(pid), "--net", "--mount", f"--wd={os.sep}", "--")
