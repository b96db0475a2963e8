"""Builds the pycaffe wheel for the running Python, once per recipe, and prints where it is.

The source is a pinned source distribution, checked by hash; it is adapted (adaptations.py), compiled (CMakeLists.txt)
and packed into a cache outside of the checkout:

    ${GOSSIP_CAFFE_CACHE:-${XDG_CACHE_HOME:-~/.cache}/gossip-caffe}/pycaffe/<python>-<numpy>-<platform>-<recipe>/

Needs only the standard library, and NumPy in the running Python (for its headers).
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from adaptations import AdaptationError, adapt

HERE = Path(__file__).resolve().parent
SOURCE_NAME = "brocolli-caffe"
SOURCE_VERSION = "9.0.2"
SOURCE_SHA256 = "c6410cc60bdd6db685d441b66be7df05410f8850ac88d6b75d48ef9b2315c08a"
WHEEL_NAME = "gossip_caffe_pycaffe"
WHEEL_VERSION = f"1.0.0+brocolli{SOURCE_VERSION}.1"
REQUIRES = ("numpy>=1.26", "protobuf>=3.20", "six>=1.16")
RECIPE = ("CMakeLists.txt", "adaptations.py", "gossip_extension.cpp", "_gossip.pyi", "build.py")
SUPPORTED = ((3, 11), (3, 12), (3, 13))


class BuildError(Exception):
    """One line: what failed, where the log is, what to do."""


def cache_root() -> Path:
    """Where wheels and sources are kept, outside of any checkout."""
    if explicit := os.environ.get("GOSSIP_CAFFE_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gossip-caffe"


def python_tag() -> str:
    return f"cp{sys.version_info.major}{sys.version_info.minor}"


def cache_key() -> str:
    """Names a build: another Python, NumPy ABI, platform or recipe gives another wheel."""
    try:
        numpy = metadata.version("numpy").partition(".")[0]
    except metadata.PackageNotFoundError:
        raise BuildError("NumPy is not installed in this Python; install it first (its headers are needed)") from None
    recipe = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in RECIPE)).hexdigest()[:12]
    return f"{python_tag()}-numpy{numpy}-{sysconfig.get_platform()}-{recipe}"


def wheel_in(folder: Path) -> Path | None:
    """The finished wheel of a cache folder, if there is one."""
    return next(iter(sorted(folder.glob("*.whl"))), None)


def check_platform() -> None:
    if sys.version_info[:2] not in SUPPORTED:
        raise BuildError(f"Python {sys.version.split()[0]} is not supported; use 3.11, 3.12 or 3.13")
    for tool in ("cmake", "ninja", "g++", "protoc"):
        if shutil.which(tool) is None:
            raise BuildError(f"{tool} is missing; run 'make setup', which installs the system packages")
    library = f"libboost_python{sys.version_info.major}{sys.version_info.minor}.so"
    folders = [Path("/usr/lib"), Path("/usr/lib") / f"{os.uname().machine}-linux-gnu", Path("/usr/local/lib")]
    if not any((folder / library).exists() for folder in folders):
        offered = sorted({name.name for folder in folders for name in folder.glob("libboost_python3*.so")})
        have = ", ".join(offered) or "none"
        raise BuildError(
            f"the system's boost.python does not serve this Python ({library} is missing; there: {have}); "
            "run make with PYTHON=python3.X of a version that it serves"
        )


def fetch_source(folder: Path, log: Path) -> Path:
    """The pinned source archive, downloaded with pip's own settings unless it is cached."""
    archive = folder / f"{SOURCE_NAME}-{SOURCE_VERSION}.tar.gz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
        command += ["--no-build-isolation", "--dest", str(folder), f"{SOURCE_NAME}=={SOURCE_VERSION}"]
        with log.open("a") as out:
            subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    if not archive.exists():
        raise BuildError(f"cannot download {SOURCE_NAME} {SOURCE_VERSION}; see {log}, or put the file at {archive}")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SOURCE_SHA256:
        archive.unlink()
        raise BuildError(f"{archive.name} has hash {found[:12]}…, not the pinned {SOURCE_SHA256[:12]}…; it was removed")
    return archive


def run_logged(command: Sequence[str], log: Path, what: str, *, progress: bool = False) -> None:
    """Run a command with its output in the log; with ``progress`` a line for every tenth that ninja has done."""
    with log.open("a") as out:
        out.write(f"$ {' '.join(command)}\n")
        out.flush()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        told = 0
        try:
            for line in process.stdout:
                out.write(line)
                step = re.match(r"\[(\d+)/(\d+)\]", line)
                if progress and step and (tenth := 10 * int(step[1]) // int(step[2])) > told:
                    told = tenth
                    print(f"  compiling pycaffe: {10 * tenth}%", file=sys.stderr, flush=True)
        except BaseException:
            process.terminate()
            raise
        finally:
            process.wait()
    if process.returncode:
        raise BuildError(f"{what} failed (exit {process.returncode}); see the end of {log}")


def compile_package(source: Path, build: Path, log: Path, jobs: int) -> Path:
    """Compile; returns the folder that holds the importable ``caffe`` package."""
    configure = ["cmake", "-S", str(HERE), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
    configure += [f"-DCAFFE_SOURCE={source}", f"-DPython3_EXECUTABLE={sys.executable}"]
    run_logged(configure, log, "configuring pycaffe")
    run_logged(["ninja", "-C", str(build), "-j", str(jobs)], log, "compiling pycaffe", progress=True)
    package = build / "package"
    run_logged(["strip", "--strip-unneeded", *map(str, sorted(package.rglob("*.so")))], log, "stripping pycaffe")
    ignore = shutil.ignore_patterns("test", "__pycache__", "*.cpp")
    shutil.copytree(source / "python" / "caffe", package / "caffe", dirs_exist_ok=True, ignore=ignore)
    shutil.copy(HERE / "_gossip.pyi", package / "caffe")
    (package / "caffe" / "proto" / "__init__.py").touch()
    return package


def pack_wheel(package: Path, licence: Path, folder: Path) -> Path:
    """Write the wheel (the binary distribution format 1.0: files, METADATA, WHEEL and RECORD in a zip)."""
    tag = f"{python_tag()}-{python_tag()}-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
    info = f"{WHEEL_NAME}-{WHEEL_VERSION}.dist-info"
    described = ["Metadata-Version: 2.1", f"Name: {WHEEL_NAME.replace('_', '-')}", f"Version: {WHEEL_VERSION}"]
    described += ["Summary: Caffe with its Python interface, and what elastic training needs of its solvers"]
    described += ["License: BSD-2-Clause", *(f"Requires-Dist: {name}" for name in REQUIRES)]
    files = {path.relative_to(package).as_posix(): path.read_bytes() for path in sorted(package.rglob("*")) if path.is_file()}
    files[f"{info}/METADATA"] = ("\n".join(described) + "\n").encode()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: gossip-caffe\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    files[f"{info}/licenses/LICENSE"] = licence.read_bytes()
    record = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(content)}")
    files[f"{info}/RECORD"] = ("\n".join([*record, f"{info}/RECORD,,"]) + "\n").encode()
    wheel = folder / f"{WHEEL_NAME}-{WHEEL_VERSION}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return wheel


def build(jobs: int, *, force: bool) -> Path:
    """The wheel's path; builds it when the cache does not have it. A second build at the same time waits."""
    folder = cache_root() / "pycaffe" / cache_key()
    if not force and (wheel := wheel_in(folder)):
        return wheel
    check_platform()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another build of the same wheel", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not force and (wheel := wheel_in(folder)):
            return wheel
        log = folder.parent / f"{folder.name}.log"
        log.write_text("")
        print(f"building pycaffe for {python_tag()} with {jobs} jobs, about 8 CPU minutes (log: {log})", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="building-") as temporary:
            work = Path(temporary)
            with tarfile.open(fetch_source(cache_root() / "sources", log)) as archive:
                archive.extractall(work, filter="data")
            source = work / f"{SOURCE_NAME}-{SOURCE_VERSION}"
            adapt(source)
            package = compile_package(source, work / "build", log, jobs)
            finished = work / "finished"
            finished.mkdir()
            pack_wheel(package, source / "LICENSE", finished)
            shutil.copytree(source / "python" / "caffe" / "test", finished / "caffes_own_tests")
            shutil.rmtree(folder, ignore_errors=True)
            finished.rename(folder)
        wheel = wheel_in(folder)
        if wheel is None:
            raise BuildError(f"the wheel is not in {folder} after its build")
        return wheel


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time (default: all cores)")
    parser.add_argument("--force", action="store_true", help="build even when the cache has the wheel")
    options = parser.parse_args()
    try:
        print(build(options.jobs, force=options.force))
    except (BuildError, AdaptationError) as error:
        print(f"pycaffe: {error}", file=sys.stderr)
        return 6
    except KeyboardInterrupt:
        print("pycaffe: interrupted; nothing half-built is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
