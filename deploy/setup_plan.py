"""What a checkout still needs before ``make demo`` and ``make test`` can run: decisions only, nothing is touched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

EXTRAS = ("demo", "dev", "docs")  # each holds the one before it


class SetupError(Exception):
    """One line: what is wrong and what to do about it."""


class Kind(StrEnum):
    """The kinds of step, in the order in which they are done."""

    SYSTEM = "system packages"
    VENV = "virtual environment"
    PACKAGE = "gossip-caffe and its dependencies"
    PYCAFFE = "pycaffe"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, and why."""

    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True)
class SystemPackage:
    """A package of Debian or Ubuntu, and what it is for; ``optional``: setup succeeds without it as well."""

    name: str
    why: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What should be in the virtual environment; each field names a state, and two states differ if it does.

    ``python`` is empty when any Python that is recent enough will do.
    """

    python: str
    package: str
    extras: str
    pycaffe: str


@dataclass(frozen=True, slots=True)
class Found:
    """What is in the virtual environment, as its stamp tells: "" where nothing is known."""

    venv_works: bool
    python: str = ""
    package: str = ""
    extras: str = ""
    pycaffe: str = ""


def digest(files: Iterable[Path]) -> str:
    """Name the content of some files; one that is not there counts as empty."""
    sha = hashlib.sha256()
    for file in sorted(files):
        content = file.read_bytes() if file.exists() else b""
        sha.update(f"{file.name} {len(content)}\n".encode() + content)
    return sha.hexdigest()[:16]


def pycaffe_words(cuda: int, architectures: str, cudnn: int) -> list[str]:
    """The options of pycaffe's build: none for the CPU; for GPUs their architectures, and whether with cuDNN."""
    if not cuda:
        return []
    words = ["--cuda", "1"]
    if architectures.strip():
        words += ["--cuda-archs", ",".join(architectures.replace(",", " ").split())]
    return words if cudnn else [*words, "--cudnn", "0"]


def found(venv_works: bool, stamp: Mapping[str, str]) -> Found:
    """What a stamp says, as far as it can be believed: nothing of it, when the environment does not work."""
    if not venv_works:
        return Found(venv_works=False)
    known = {name: stamp.get(name, "") for name in ("python", "package", "extras", "pycaffe")}
    return Found(venv_works=True, **known)


def steps_in_venv(found: Found, wanted: Wanted) -> list[Step]:
    """The steps that the virtual environment needs; system packages are added by ``with_system``."""
    if not found.venv_works:
        fresh = "there is none that works"
    elif wanted.python not in ("", found.python):
        fresh = f"it was made with {found.python or 'another Python'}"
    else:
        fresh = ""
    if fresh:
        first = [Step(Kind.VENV, fresh)]
        return [*first, Step(Kind.PACKAGE, "not installed yet"), Step(Kind.PYCAFFE, "not installed yet")]
    steps = []
    if not found.package:
        steps.append(Step(Kind.PACKAGE, "not installed yet"))
    elif found.package != wanted.package:
        steps.append(Step(Kind.PACKAGE, "what they are installed from has changed"))
    elif not covers(found.extras, wanted.extras):
        steps.append(Step(Kind.PACKAGE, f"installed without what '{wanted.extras}' needs"))
    if not found.pycaffe:
        steps.append(Step(Kind.PYCAFFE, "not installed yet"))
    elif found.pycaffe != wanted.pycaffe:
        steps.append(Step(Kind.PYCAFFE, "its recipe, or the choice of another one, has changed"))
    return steps


def with_system(steps: Sequence[Step], packages: Sequence[SystemPackage]) -> list[Step]:
    """The steps, with system packages first if some are missing."""
    if not packages:
        return list(steps)
    listed = ", ".join(f"{package.name} ({package.why})" for package in packages)
    return [Step(Kind.SYSTEM, f"missing: {listed}"), *steps]


def covers(installed: str, wanted: str) -> bool:
    """Whether the installed extras hold all that the wanted ones do."""
    return installed in EXTRAS and EXTRAS.index(installed) >= EXTRAS.index(wanted)


def wider(installed: str, wanted: str) -> str:
    """The extras to install: never fewer than there are."""
    return installed if covers(installed, wanted) else wanted


def system_packages(
    steps: Sequence[Step],
    *,
    python: tuple[int, int],
    python_has_venv: bool,
    missing_for_package: Sequence[SystemPackage],
    missing_for_pycaffe: Sequence[SystemPackage],
) -> list[SystemPackage]:
    """The system packages that these steps need and that are missing; each once."""
    kinds = {step.kind for step in steps}
    packages = []
    if Kind.VENV in kinds and not python_has_venv:
        packages.append(SystemPackage(f"python{python[0]}.{python[1]}-venv", "virtual environments"))
    if Kind.PACKAGE in kinds:
        packages += missing_for_package
    if Kind.PYCAFFE in kinds:
        packages += missing_for_pycaffe
    return list({package.name: package for package in packages}.values())


def without_optional(
    packages: Sequence[SystemPackage], *, is_root: bool, has_apt: bool, has_sudo: bool
) -> list[SystemPackage]:
    """The packages to ask for: where none can be installed, the optional ones are not."""
    if has_apt and (is_root or has_sudo):
        return list(packages)
    return [package for package in packages if not package.optional]


def install_commands(
    packages: Sequence[SystemPackage], *, is_root: bool, has_apt: bool, has_sudo: bool
) -> list[list[str]]:
    """The commands that install system packages. Raises SetupError with the command for a person when we may not."""
    names = [package.name for package in packages]
    by_hand = f"apt-get install {' '.join(names)}"
    if not has_apt:
        raise SetupError(
            f"system packages are missing and there is no apt-get; install what Debian calls {' '.join(names)}"
        )
    if not is_root and not has_sudo:
        raise SetupError(f"system packages are missing; run as root: {by_hand}")
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    if not is_root:
        apt = ["sudo", *apt]
    return [[*apt, "update"], [*apt, "install", "--yes", "--no-install-recommends", *names]]
