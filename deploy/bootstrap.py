"""Makes a checkout ready for ``make demo`` and ``make test``: does what is missing, and says what and how far it is.

    python3 deploy/bootstrap.py [--extras demo|dev|docs] [--only-this-python]
                                [--cuda 0|1 [--cuda-archs …] [--cudnn 0|1]]

System packages come from apt-get (as root, or through sudo), everything else goes into ``.venv`` and the cache.
Packages that only some tests use are left out where none can be installed: these tests are skipped then. When nothing
is missing it takes a fraction of a second. ``GOSSIP_CAFFE_PYCAFFE=/folder/with/caffe`` uses that pycaffe and builds
none. Which pycaffe was asked for, with CUDA or without, is kept until another one is. Standard library only.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - python3 may be older than what the package asks for
    import old_python

    old_python.hand_over()

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "pycaffe"))

import needs
import setup_plan
from setup_plan import Kind, SetupError, Step, SystemPackage, Wanted

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "gossip-caffe-setup.json"
BUILD = ROOT / "deploy" / "pycaffe" / "build.py"
WHEEL = "gossip-caffe-pycaffe"
BY_PATH = "gossip_caffe_pycaffe.pth"
EXIT_ENVIRONMENT, EXIT_INTERRUPTED = 6, 130
PROBE = """
import caffe, pathlib
assert "Python" in list(caffe.layer_type_list()), "it was built without Python layers"
caffe.Net, caffe.Layer, caffe.SGDSolver, caffe.get_solver, caffe.set_mode_cpu
try:
    from caffe import _gossip
except ImportError:
    caffe.SGDSolver.param  # how BVLC 1.0 lets the learning rate be set
print(pathlib.Path(caffe.__file__).parent.parent)
"""


def say(text: str) -> None:
    """Tell how far it is, on stderr."""
    print(f"setup: {text}", file=sys.stderr, flush=True)


def cache_root() -> Path:
    """Where logs and locks are kept, beside the pycaffe wheels."""
    if explicit := os.environ.get("GOSSIP_CAFFE_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gossip-caffe"


@contextlib.contextmanager
def alone() -> Iterator[Path]:
    """Hold this checkout's lock, so that two makes do not set it up at once; gives the log's path."""
    folder = cache_root() / "setup"
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
    with (folder / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another make that sets this checkout up")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield folder / f"{name}.log"


def read_stamp() -> dict[str, str]:
    """What was installed last time; nothing, when the stamp is not there or not readable."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(**changed: str) -> None:
    """Note what has been installed."""
    new = STAMP.with_suffix(".new")
    new.write_text(json.dumps({**read_stamp(), **changed}, indent=1))
    new.rename(STAMP)


def venv_works(stamp: Mapping[str, str]) -> bool:
    """Whether there is a virtual environment to build on: one that we finished, or somebody's own with pip."""
    if not PYTHON.exists() or stamp.get("python"):
        return PYTHON.exists()
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    return subprocess.run([PYTHON, "-c", check], capture_output=True, check=False).returncode == 0


def this_python() -> str:
    """The running Python, as the stamp names it."""
    return f"Python {sys.version.split()[0]} of {sys.base_prefix}"


def wanted(extras: str, words: Sequence[str], *, only_this_python: bool) -> Wanted:
    """What should be in the virtual environment; ``words``: what pycaffe's build is told."""
    recipe = [path for path in BUILD.parent.iterdir() if path.is_file()]
    recipe += [path for path in (BUILD.parent / "cuda").iterdir() if words]
    package = [ROOT / "pyproject.toml", ROOT / "setup.py", *(ROOT / "protos").glob("*.proto")]
    package += (ROOT / "gossip_caffe").rglob("*.c")
    other = os.environ.get("GOSSIP_CAFFE_PYCAFFE", "")
    return Wanted(
        python=this_python() if only_this_python else "",
        package=setup_plan.digest(package),
        extras=extras,
        pycaffe=f"at {other}" if other else " ".join([setup_plan.digest(recipe), *words]),
    )


def run(command: Sequence[str | Path], log: Path, what: str) -> None:
    """Run a command with its output in the log. Raises SetupError with the likely cause."""
    with log.open("a") as out:
        out.write(f"$ {' '.join(map(str, command))}\n")
        out.flush()
        start = out.tell()
        done = subprocess.run(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False
        )
    if done.returncode:
        with log.open(errors="replace") as written:
            written.seek(start)
            lines = [line.strip() for line in written if line.strip()]
        told = [line for line in lines if line.lower().startswith(("error", "e:", "sudo:"))] or lines[-1:]
        raise SetupError(f"{what} failed: {told[0] if told else 'no message'} (whole log: {log})")


def probe(python: Path | str, folder: str = "") -> str | None:
    """The folder of the pycaffe that a Python imports, or None; ``folder`` is searched first."""
    environment = {**os.environ, "GLOG_minloglevel": "2"}
    if folder:
        environment["PYTHONPATH"] = folder
    done = subprocess.run(
        [python, "-c", PROBE], capture_output=True, text=True, cwd="/", env=environment, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def rights() -> dict[str, bool]:
    """Whether system packages can be installed, as setup_plan asks it."""
    return {
        "is_root": os.geteuid() == 0,
        "has_apt": shutil.which("apt-get") is not None,
        "has_sudo": shutil.which("sudo") is not None,
    }


def missing_for_pycaffe() -> list[SystemPackage]:
    """The system packages that building pycaffe asks for."""
    python = str(PYTHON) if PYTHON.exists() else sys.executable
    done = subprocess.run(
        [python, str(BUILD), "--missing-packages"], capture_output=True, text=True, check=True
    )
    listed = (line.split("\t") for line in done.stdout.splitlines())
    return [SystemPackage(name, why) for name, why in listed]


def missing_for_package(extras: str) -> list[SystemPackage]:
    """The system packages that the package, with these extras, and its tests ask for."""
    if not setup_plan.covers(extras, "dev"):
        return []
    python = sys.version_info[:2]
    wanted = needs.leveldb_binding(python, Path(sysconfig.get_path("include")))
    required = [SystemPackage(need.package, need.why) for need in wanted if not needs.installed(need)]
    optional = [need for need in needs.TESTS if not needs.installed(need)]
    return required + [SystemPackage(need.package, need.why, optional=True) for need in optional]


def install_system(packages: Sequence[SystemPackage], log: Path) -> None:
    """Install with apt-get."""
    for command in setup_plan.install_commands(packages, **rights()):
        run(command, log, "apt-get")


def make_venv(log: Path) -> None:
    """Make the virtual environment anew."""
    run([sys.executable, "-m", "venv", "--clear", VENV], log, "making .venv")
    write_stamp(python=this_python())


def install_package(target: Wanted, log: Path) -> None:
    """Install this checkout, editable, with its dependencies."""
    stamp = read_stamp()
    extras = setup_plan.wider(stamp.get("extras", ""), target.extras)
    pip: list[str | Path] = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check"]
    run([*pip, "--editable", f"{ROOT}[{extras}]"], log, "installing gossip-caffe")
    write_stamp(
        package=target.package, extras=extras, python=stamp.get("python") or "a Python of your choice"
    )


def install_pycaffe(target: Wanted, elsewhere: str, words: Sequence[str], log: Path) -> None:
    """Install our wheel, built if need be as ``words`` say, or a path to another pycaffe.

    The old one stays until the new one is there: a build takes minutes, may fail, and peers may be running.
    """
    by_path = next((VENV / "lib").glob("python3*/site-packages")) / BY_PATH
    removing: list[str | Path] = [PYTHON, "-m", "pip", "uninstall", "--yes", WHEEL]
    if elsewhere:
        if probe(PYTHON, elsewhere) is None:
            raise SetupError(
                f"{PYTHON} cannot use the pycaffe in {elsewhere} (see: PYTHONPATH={elsewhere} {PYTHON} "
                "-c 'import caffe'); name another in GOSSIP_CAFFE_PYCAFFE, or take a PYTHON that has none"
            )
        run(removing, log, "removing the old pycaffe")
        by_path.write_text(f"{elsewhere}\n")
        say(f"using the pycaffe in {elsewhere}")
    else:
        built = subprocess.run([PYTHON, BUILD, *words], stdout=subprocess.PIPE, text=True, check=False)
        if built.returncode:
            raise SetupError("pycaffe was not built, see the line above")
        wheel = built.stdout.strip()
        by_path.unlink(missing_ok=True)
        run(removing, log, "removing the old pycaffe")
        run([PYTHON, "-m", "pip", "install", "--disable-pip-version-check", wheel], log, "installing pycaffe")
        say(f"using the pycaffe that was built here: {wheel}")
    write_stamp(pycaffe=target.pycaffe, pycaffe_words=" ".join(words))


def other_pycaffe() -> str:
    """The folder of a pycaffe to use instead of building one: asked for, or this Python's own; "" if none."""
    if explicit := os.environ.get("GOSSIP_CAFFE_PYCAFFE"):
        if not (Path(explicit) / "caffe" / "__init__.py").exists():
            raise SetupError(f"GOSSIP_CAFFE_PYCAFFE={explicit} holds no folder 'caffe' with pycaffe in it")
        return str(Path(explicit).resolve())
    if importlib.util.find_spec("caffe") is None or Path(sys.prefix).resolve() == VENV.resolve():
        return ""
    return probe(sys.executable) or ""


def build_words(options: argparse.Namespace, stamp: Mapping[str, str]) -> list[str]:
    """What pycaffe's build is told: as asked for now, else as it was last time."""
    if options.cuda is None:
        return stamp.get("pycaffe_words", "").split()
    return setup_plan.pycaffe_words(options.cuda, options.cuda_archs, options.cudnn)


def set_up(options: argparse.Namespace, log: Path) -> None:
    """Find what is missing, say it, do it."""
    stamp = read_stamp()
    words = build_words(options, stamp)
    target = wanted(options.extras, words, only_this_python=options.only_this_python)
    steps = setup_plan.steps_in_venv(setup_plan.found(venv_works(stamp), stamp), target)
    if not steps:
        return
    log.write_text("")
    for_pycaffe = any(step.kind is Kind.PYCAFFE for step in steps)
    elsewhere = other_pycaffe() if for_pycaffe else ""
    packages = setup_plan.system_packages(
        steps,
        python=sys.version_info[:2],
        python_has_venv=importlib.util.find_spec("ensurepip") is not None,
        missing_for_package=missing_for_package(target.extras),
        missing_for_pycaffe=missing_for_pycaffe() if for_pycaffe and not elsewhere else (),
    )
    packages = setup_plan.without_optional(packages, **rights())
    planned = setup_plan.with_system(steps, packages)
    for number, step in enumerate(planned, 1):
        say(f"{number}/{len(planned)} {step.kind}: {step.reason}")
        do(step, target, packages, elsewhere, words, log)
    say("ready")


def do(
    step: Step,
    target: Wanted,
    packages: Sequence[SystemPackage],
    elsewhere: str,
    words: Sequence[str],
    log: Path,
) -> None:
    """Do one step."""
    if step.kind is Kind.SYSTEM:
        install_system(packages, log)
    elif step.kind is Kind.VENV:
        make_venv(log)
    elif step.kind is Kind.PACKAGE:
        install_package(target, log)
    else:
        install_pycaffe(target, elsewhere, words, log)


def main() -> int:
    """Parse, set up; one line for what can be foreseen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--extras", choices=setup_plan.EXTRAS, default="dev", help="what to install for")
    parser.add_argument(
        "--only-this-python", action="store_true", help="make .venv anew if it was made with another Python"
    )
    parser.add_argument("--cuda", type=int, choices=(0, 1), help="which pycaffe: 1 for NVIDIA GPUs too")
    parser.add_argument(
        "--cuda-archs", default="", metavar="N[,N…]", help="for these compute capabilities alone"
    )
    parser.add_argument("--cudnn", type=int, choices=(0, 1), default=1, help="0: without cuDNN")
    options = parser.parse_args()
    try:
        with alone() as log:
            set_up(options, log)
    except SetupError as error:
        say(str(error))
        return EXIT_ENVIRONMENT
    except KeyboardInterrupt:
        say("interrupted; run again to go on")
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
