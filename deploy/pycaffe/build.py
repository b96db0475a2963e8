"""Builds the pycaffe wheel for the running Python, once per recipe, and prints where it is.

The source is a pinned source distribution (pinned.py), adapted (adaptations.py), compiled (compiling.py with
CMakeLists.txt) and packed (wheel_file.py) into a cache outside of the checkout:

    ${GOSSIP_CAFFE_CACHE:-${XDG_CACHE_HOME:-~/.cache}/gossip-caffe}/pycaffe/<python>-<numpy>-<platform>-<recipe>/

With --cuda 1 it gets the device's half too (cuda_toolkit.py, adaptations_cuda.py, cuda.cmake, cuda/); that wheel trains
on the CPU as well, on machines without a GPU and without any of CUDA. How far it is goes to stderr, the wheel's path
to stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import adaptations_api
import adaptations_cuda
import adaptations_fields
import adaptations_schema
import cuda_toolkit
import needs
import pinned
import wheel_file
from adaptations import AdaptationError, adapt, apply, remove
from compiling import BuildError, compile_package, say
from cuda_toolkit import Toolkit

HERE = Path(__file__).resolve().parent
RECIPE = (
    "CMakeLists.txt",
    "adaptations.py",
    "adaptations_api.py",
    "adaptations_fields.py",
    "adaptations_schema.py",
    "compiling.py",
    "gossip_extension.cpp",
    "_gossip.pyi",
    "pinned.py",
    "wheel_file.py",
    *(
        f"{folder}/{path.name}"
        for folder in ("bindings", "layers")
        for path in sorted((HERE / folder).glob("*.[ch]pp"))
    ),
)
CUDA_RECIPE = (
    "adaptations_cuda.py",
    "cuda.cmake",
    "cuda_toolkit.py",
    *sorted(f"cuda/{path.name}" for path in (HERE / "cuda").iterdir()),
    *sorted(f"layers/{path.name}" for path in (HERE / "layers").glob("*.cu")),
)
"""What the device's half adds: a change of it leaves the wheels for the CPU as they are."""
NAME = "gossip-caffe-pycaffe"
VERSION = f"1.0.0+brocolli{pinned.CAFFE.version}.3"
SUMMARY = "Caffe with its Python interface, and what elastic training needs of its solvers"
REQUIRES = ("numpy>=1.26", "protobuf>=3.20", "six>=1.16")
SUPPORTED = ((3, 11), (3, 12), (3, 13))
EXIT_NOT_FOUND, EXIT_ENVIRONMENT, EXIT_INTERRUPTED = 3, 6, 130


def cache_root() -> Path:
    """Where wheels and sources are kept, outside of any checkout."""
    if explicit := os.environ.get("GOSSIP_CAFFE_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gossip-caffe"


def python_tag() -> str:
    """The running Python, as wheels name it."""
    return f"cp{sys.version_info.major}{sys.version_info.minor}"


def version_of(cuda: Toolkit | None) -> str:
    """The wheel's version: it says for what it was built."""
    return f"{VERSION}.{cuda.tag}" if cuda else VERSION


def cache_key(cuda: Toolkit | None) -> str:
    """Names a build: another Python, NumPy ABI, platform, recipe or CUDA gives another wheel."""
    try:
        numpy = metadata.version("numpy").partition(".")[0]
    except metadata.PackageNotFoundError:
        raise BuildError(
            f"{sys.executable} lacks NumPy, whose headers are needed; run 'make pycaffe', which installs it"
        ) from None
    parts = [VERSION.encode(), repr(REQUIRES).encode(), *((HERE / name).read_bytes() for name in RECIPE)]
    if cuda:
        parts += [repr((cuda.version, cuda.architectures)).encode()]
        parts += [(HERE / name).read_bytes() for name in CUDA_RECIPE]
    recipe = hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]
    key = f"{python_tag()}-numpy{numpy}-{sysconfig.get_platform()}-{recipe}"
    return f"{key}-{cuda.tag}" if cuda else key


def cached_wheel(cuda: Toolkit | None) -> Path | None:
    """The wheel of this recipe for the running Python, if it has been built."""
    return next((cache_root() / "pycaffe" / cache_key(cuda)).glob("*.whl"), None)


def missing_packages() -> list[needs.Need]:
    """The system packages that a build still needs."""
    return needs.missing(
        sys.version_info[:2],
        distribution=needs.distribution_python(),
        include=Path(sysconfig.get_path("include")),
    )


def check_machine() -> pinned.Pinned | None:
    """Refuse what cannot be built; returns the Boost to carry along, or None when the system's serves."""
    version = sys.version_info[:2]
    if version not in SUPPORTED:
        raise BuildError(f"Python {version[0]}.{version[1]} is not supported; use 3.11, 3.12 or 3.13")
    if absent := missing_packages():
        raise BuildError(
            f"missing on this machine: {', '.join(need.package for need in absent)}; "
            f"run '{needs.install_command(absent)}'"
        )
    if needs.system_boost_serves(version, None, needs.installed):
        return None
    if boost := pinned.carried_boost(python_tag(), os.uname().machine):
        return boost
    raise BuildError(
        f"this system's boost.python does not serve Python {version[0]}.{version[1]}, and none is pinned for "
        f"{os.uname().machine}; use the distribution's own Python"
    )


@contextlib.contextmanager
def sole_builder(lock: Path) -> Iterator[None]:
    """Hold the lock of one wheel; a second build of it waits here."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build of the same wheel")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(jobs: int, cuda: Toolkit | None, *, force: bool) -> Path:
    """The wheel's path; builds it when the cache lacks it. Nothing half-built is ever in its place."""
    if not force and (wheel := cached_wheel(cuda)):
        return wheel
    boost = check_machine()
    folder = cache_root() / "pycaffe" / cache_key(cuda)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.log")
    with sole_builder(folder.with_name(f"{folder.name}.lock")):
        if not force and (wheel := cached_wheel(cuda)):
            return wheel
        for left in folder.parent.glob(f"building-{folder.name}-*"):  # of a build that was killed
            shutil.rmtree(left)
        log.write_text("")
        minutes = 6
        if cuda:
            minutes += 3 + 6 * len(cuda.architectures)
            say(
                f"with CUDA {cuda.version[0]}.{cuda.version[1]} for architectures {', '.join(cuda.architectures)}"
            )
        say(
            f"building for {python_tag()} with {jobs} compilers, about {minutes} minutes of CPU time (log: {log})"
        )
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"building-{folder.name}-") as temporary:
            finished = build_in(Path(temporary), log, jobs, boost, cuda)
            shutil.rmtree(folder, ignore_errors=True)
            finished.rename(folder)
    wheel = next(folder.glob("*.whl"))
    say(f"built {wheel}")
    return wheel


def build_in(work: Path, log: Path, jobs: int, boost: pinned.Pinned | None, cuda: Toolkit | None) -> Path:
    """Build within a folder that goes away; returns a folder in it with the wheel."""
    sources = cache_root() / "sources"
    prefix = None
    if boost:
        say(f"fetching {boost.project} {boost.version}: this system's Boost does not serve this Python")
        pinned.unpack(pinned.fetch(boost, sources, log), work / "boost")
        prefix = work / "boost" / "cmeel.prefix"
    say(f"fetching {pinned.CAFFE.project} {pinned.CAFFE.version}")
    pinned.unpack(pinned.fetch(pinned.CAFFE, sources, log), work)
    source = work / pinned.CAFFE.file.removesuffix(".tar.gz")
    adapt(source)
    remove(adaptations_schema.STALE, source)
    apply((*adaptations_schema.CHANGES, *adaptations_fields.CHANGES, *adaptations_api.CHANGES), source)
    if cuda:
        apply(adaptations_cuda.CHANGES, source)
    settings = cuda.settings if cuda else ()
    package = compile_package(source, work / "build", log, jobs, prefix, settings)
    finished = work / "finished"
    finished.mkdir()
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    described = wheel_file.Description(
        NAME,
        version_of(cuda),
        SUMMARY,
        "BSD-2-Clause",
        REQUIRES,
        f"=={sys.version_info.major}.{sys.version_info.minor}.*",
    )
    licences = {"LICENSE": (source / "LICENSE").read_bytes()}
    wheel_file.pack(package, described, f"{python_tag()}-{python_tag()}-{platform}", licences, finished)
    return finished


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="compilers at a time (default: all cores)",
    )
    parser.add_argument("--force", action="store_true", help="build even when the cache has the wheel")
    parser.add_argument(
        "--cuda",
        type=int,
        choices=(0, 1),
        default=0,
        help="1: for NVIDIA GPUs too, with nvcc of $CUDA_HOME, PATH or /usr/local/cuda",
    )
    parser.add_argument(
        "--cuda-archs",
        default="",
        metavar="N[,N…]",
        help="compute capabilities to compile for, for example 80,90 (default: all that CUDA knows since 7.0 or 7.5)",
    )
    parser.add_argument("--cudnn", type=int, choices=(0, 1), default=1, help="0: without cuDNN")
    parser.add_argument("--wheel-dir", type=Path, metavar="DIR", help="also copy the wheel into DIR")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "--print-path", action="store_true", help="print the cached wheel's path; build nothing"
    )
    asked.add_argument(
        "--missing-packages", action="store_true", help="print the system packages to install, each with why"
    )
    return parser


def answer(options: argparse.Namespace) -> int:
    """Do what the options ask for; returns the exit code."""
    if options.missing_packages:
        for need in missing_packages():
            print(f"{need.package}\t{need.why}")
        return 0
    cuda = None
    if options.cuda:
        asked = cuda_toolkit.parse_architectures(options.cuda_archs)
        cuda = cuda_toolkit.find(asked, cudnn=bool(options.cudnn), environment=os.environ)
    if options.print_path:
        wheel = cached_wheel(cuda)
        if wheel is None:
            say("not built yet; run without --print-path")
            return EXIT_NOT_FOUND
    else:
        wheel = build(options.jobs, cuda, force=options.force)
    if options.wheel_dir:
        options.wheel_dir.mkdir(parents=True, exist_ok=True)
        wheel = Path(shutil.copy(wheel, options.wheel_dir))
    print(wheel)
    return 0


def interrupt(signum: int, frame: object) -> None:  # noqa: ARG001 - the shape of a signal handler
    """Let SIGTERM end a build as Ctrl-C does: compilers stopped, nothing left."""
    raise KeyboardInterrupt


def main() -> int:
    """Parse, build, print; one line for what can be foreseen."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        return answer(arguments().parse_args())
    except (BuildError, AdaptationError, pinned.FetchError) as error:
        say(str(error))
        return EXIT_ENVIRONMENT
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        say(f"{error.strerror or error}{where}; is the cache's disk full or read-only?")
        return EXIT_ENVIRONMENT
    except KeyboardInterrupt:
        say("interrupted; nothing half-built is left")
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
