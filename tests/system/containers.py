"""Podman and buildah on this machine, with storage of their own: an image, containers, a socket for docker-compose.

Three things make them run also where a container engine is not at home: a mount namespace without cgroup v2, which crun
refuses beside v1; limits below those of this process, which root without CAP_SYS_RESOURCE cannot raise; cgroups by
files instead of systemd.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.cluster_run import ROOT, wait_for

PROGRAMS = ("root", "podman", "buildah", "crun", "iptables", "mmdebstrap")
BASE, IMAGE = "localhost/gossip-caffe-base:bookworm", "localhost/gossip-caffe:cpu"
CACHE = Path(os.environ.get("GOSSIP_CAFFE_IMAGES", "/var/tmp/gossip-caffe-images"))
"""Storage that is kept between runs: the image takes minutes to build."""
CONF = """[containers]
default_ulimits = ["nofile=16384:16384", "nproc=16384:16384"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
STORAGE = """[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""
ALONE = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
CERTIFICATES = Path("/etc/ssl/certs")


@dataclass(frozen=True, slots=True)
class Containers:
    """``folder``: storage and configuration."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "DOCKER_HOST": f"unix://{self.socket}",
            "DISABLE_HC_SYSTEMD": "true",  # no timers of systemd for health checks: where it does not run
        }

    @property
    def socket(self) -> Path:
        return self.folder / "podman.socket"

    @staticmethod
    def alone(*command: str) -> list[str]:
        """A command in a mount namespace of its own."""
        return ["unshare", "--mount", "--propagation", "private", "bash", "-c", ALONE, "_", *command]

    def run(self, *command: str, deadline_s: float = 300.0, check: bool = True) -> str:
        """Run a command; returns what it prints."""
        done = subprocess.run(
            self.alone(*command),
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout + ("" if check else done.stderr)

    def remote(self, *words: str, check: bool = True) -> str:
        """Podman by way of ``service``, in whose mount namespace the networks of its containers are."""
        return self.run("podman", "--remote", "--url", f"unix://{self.socket}", *words, check=check)

    def has(self, image: str) -> bool:
        """Whether the storage has an image."""
        return image in self.run("podman", "images", "--format={{.Repository}}:{{.Tag}}").split()


def containers() -> Containers:
    """The engine, configured."""
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / "containers.conf").write_text(CONF)
    (CACHE / "storage.conf").write_text(STORAGE.format(folder=CACHE))
    return Containers(CACHE)


def image() -> Containers:
    """The engine, with our image built from what is in this checkout."""
    engine = containers()
    make_base(engine)
    build(engine)
    return engine


def make_base(engine: Containers) -> None:
    """An image of Debian with nothing in it, made by mmdebstrap as a registry's would be."""
    root = CACHE / "base.tar"
    leave_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")]
    if not root.exists():
        made = root.with_suffix(".new")
        bootstrap = (
            "mmdebstrap",
            "--variant=minbase",
            "--format=tar",
            "--include=ca-certificates",
            *leave_out,
        )
        engine.run(*bootstrap, "bookworm", str(made), deadline_s=1200)
        made.rename(root)
    if not engine.has(
        BASE
    ):  # another import of it would be another image, and no layer of ours would be kept
        engine.run("podman", "import", str(root), BASE)


def wheel() -> Path | None:
    """The pycaffe of this machine, if it is for the Python of the image: Debian 12's."""
    release = Path("/etc/os-release").read_text()
    if sys.version_info[:2] != (3, 11) or "VERSION_CODENAME=bookworm" not in release:
        return None
    build = [sys.executable, str(ROOT / "deploy" / "pycaffe" / "build.py"), "--print-path"]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    found = Path(done.stdout.strip() or "none")
    return found if found.is_file() else None


def build(engine: Containers) -> None:
    """Build our image on that base, with the pycaffe wheel of this machine where there is one."""
    laid = ROOT / "deploy" / "docker" / "wheels" / found.name if (found := wheel()) else None
    options = [
        "--format=docker",
        "--layers",
        "--isolation=chroot",
        "--network=host",
        f"--build-arg=BASE={BASE}",
    ]
    options += ["--ulimit=nofile=16384:16384", "--ignorefile=deploy/docker/Dockerfile.dockerignore"]
    options += [f"--volume={CERTIFICATES}:{CERTIFICATES}:ro", "--volume=/etc/resolv.conf:/etc/resolv.conf:ro"]
    # Packages come from where this machine takes them, under the authorities that it trusts.
    options += [
        f"--env={name}={os.environ[name]}" for name in ("PIP_CERT", "PIP_INDEX_URL") if name in os.environ
    ]
    words = ("buildah", "bud", *options, "-f", "deploy/docker/Dockerfile", "-t", IMAGE, ".")
    try:
        if found is not None and laid is not None:
            shutil.copy(found, laid)
        engine.run(*words, deadline_s=2400)
    finally:
        if laid is not None:
            laid.unlink(missing_ok=True)


@contextmanager
def service(engine: Containers) -> Iterator[None]:
    """Podman behind a socket, as docker-compose wants it; it ends with the block."""
    engine.socket.unlink(missing_ok=True)
    with (CACHE / "service.log").open("wb") as log:
        process = subprocess.Popen(
            engine.alone("podman", "system", "service", "--time=0", f"unix://{engine.socket}"),
            env=engine.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for("podman listens", engine.socket.exists)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        end_monitors()


def end_monitors() -> None:
    """End the monitors of this storage's containers: those of `podman exec` stay for five minutes by themselves."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if words[0].endswith("conmon") and any(word.startswith(f"{CACHE}/") for word in words):
                os.kill(int(folder.name), signal.SIGKILL)
