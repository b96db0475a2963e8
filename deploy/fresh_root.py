"""Runs make targets of this checkout where nothing is installed: in a fresh root of Debian, made by debootstrap.

    sudo python3 deploy/fresh_root.py trixie bookworm [--targets demo test] [--folder DIR] [--ca FILE]

What is committed is cloned into each root; make and python3 are installed there and nothing else: the rest is up to
``make setup``. A root that is already in the folder is used again, with its cache of pycaffe. Mounts and processes end
with the command. Needs root, debootstrap, git, and a Debian mirror and a package index that can be reached.
Exit code: 0 when every target succeeded in every root.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MIRROR = "http://deb.debian.org/debian"
MOUNTS = """
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$0/dev/pts"
mount -t tmpfs tmpfs "$0/dev/shm"
exec chroot "$0" "$@"
"""
EXIT_USAGE = 2


def made(suite: str, folder: Path, ca: Path | None) -> Path:
    """The root of a suite, with a clone of what is committed here; made when it is not there yet."""
    root = folder / suite
    if not (root / "etc" / "debian_version").exists():
        print(f"fresh root: {suite}: debootstrap", flush=True)
        subprocess.run(["debootstrap", "--variant=minbase", suite, root, MIRROR], check=True)
    shutil.copyfile("/etc/resolv.conf", root / "etc" / "resolv.conf")
    if ca is not None:
        shutil.copyfile(ca, root / "root" / "ca.pem")
    checkout = root / "root" / "gossip-caffe"
    shutil.rmtree(checkout, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, checkout], check=True)
    inside(root, "apt-get", "--quiet", "update")
    inside(root, "apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "make", "python3")
    return root


def inside(root: Path, *command: str, check: bool = True) -> int:
    """Run a command in a root, with mounts that nobody else sees; returns its exit code."""
    environment = {
        "HOME": "/root",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND": "noninteractive",
        "LANG": "C.UTF-8",
    }
    if (root / "root" / "ca.pem").exists():
        names = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
        environment |= dict.fromkeys(names, "/root/ca.pem")
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-ec", MOUNTS, str(root)]
    done = subprocess.run([*alone, *command], env=environment, stdin=subprocess.DEVNULL, check=check)
    return done.returncode


def main() -> int:
    """Make the roots and run the targets; prints a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="+", metavar="SUITE", help="of Debian: bookworm, trixie, …")
    parser.add_argument("--targets", nargs="+", default=["demo", "test"], help="what is made, in this order")
    parser.add_argument(
        "--folder", type=Path, default=Path("/var/tmp/gossip-caffe-roots"), help="of the roots"
    )
    parser.add_argument("--ca", type=Path, help="certificates to trust, where a proxy has its own")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        print("fresh root: run it as root, with debootstrap installed", file=sys.stderr)
        return EXIT_USAGE
    options.folder.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for suite in options.suites:
        root = made(suite, options.folder.resolve(), options.ca)
        for target in options.targets:
            code = inside(root, "make", "-C", "/root/gossip-caffe", target, check=False)
            outcomes.append((suite, target, code))
    for suite, target, code in outcomes:
        print(f"fresh root: {suite}: make {target}: exit {code}")
    return int(any(code for _, _, code in outcomes))


if __name__ == "__main__":
    sys.exit(main())
