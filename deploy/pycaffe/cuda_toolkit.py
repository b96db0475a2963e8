"""Where CUDA is: nvcc and its runtime in a toolkit; cuBLAS, cuRAND and cuDNN there or in the nvidia-* wheels.

What is found is decided here and told to CMake; nothing is fetched. At run time the same libraries are looked for in
the nvidia-* wheels that are installed beside pycaffe, and in the folders where toolkits are.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiling import BuildError

SUPPORTED = (12, 13)
OLDEST_CUDNN = 9
ARCHITECTURES: Mapping[int, tuple[str, ...]] = {
    12: ("70", "75", "80", "86", "89", "90"),
    13: ("75", "80", "86", "89", "90", "100", "120"),
}
"""Cards of the years 2017 to 2025, by CUDA's major version; the newest also as PTX, for the driver to compile for later
ones. CUDA 13 knows nothing older than 7.5."""

WHEELS: Mapping[int, tuple[str, str, str]] = {
    12: ("nvidia-cublas-cu12", "nvidia-curand-cu12", "nvidia-cudnn-cu12"),
    13: ("nvidia-cublas", "nvidia-curand", "nvidia-cudnn-cu13"),
}
"""The packages of cuBLAS, cuRAND and cuDNN, by CUDA's major version."""

FOLDERS: Mapping[int, tuple[str, ...]] = {12: ("cublas", "curand", "cudnn"), 13: ("cu13", "cudnn")}
"""Where those packages put them, below site-packages/nvidia."""


@dataclass(frozen=True, slots=True)
class Toolkit:
    """What a build uses. ``includes``: folders with the headers that are not the toolkit's own."""

    nvcc: Path
    version: tuple[int, int]
    includes: tuple[Path, ...]
    architectures: tuple[str, ...]
    cudnn: bool

    @property
    def tag(self) -> str:
        """How it is named in a wheel's version: "cu13.cudnn9"."""
        return f"cu{self.version[0]}" + (f".cudnn{OLDEST_CUDNN}" if self.cudnn else "")

    @property
    def settings(self) -> list[str]:
        """What CMake is told."""
        major = self.version[0]
        run_path = [f"$ORIGIN/../nvidia/{folder}/lib" for folder in FOLDERS[major]]
        run_path += [f"/usr/local/cuda-{major}/lib64", "/usr/local/cuda/lib64"]
        return [
            "-DCUDA=ON",
            f"-DCMAKE_CUDA_COMPILER={self.nvcc}",
            f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(cmake_architectures(self.architectures))}",
            f"-DCUDNN={'ON' if self.cudnn else 'OFF'}",
            f"-DCUDA_INCLUDE={';'.join(map(str, self.includes))}",
            f"-DCUDA_RUN_PATH={';'.join(run_path)}",
            f"-DCUDA_WHEELS={';'.join(WHEELS[major])}",
        ]


def cmake_architectures(architectures: Sequence[str]) -> list[str]:
    """Machine code for each, and PTX of the newest."""
    *older, newest = sorted(architectures, key=int)
    return [*(f"{one}-real" for one in older), newest]


def parse_architectures(text: str) -> tuple[str, ...]:
    """``"80 90"`` or ``"80,90"``, also written as 8.0 or sm_90. Raises BuildError when it is none."""
    found = tuple(
        dict.fromkeys(
            word.removeprefix("sm_").replace(".", "") for word in re.split(r"[,;\s]+", text) if word
        )
    )
    for one in found:
        if not re.fullmatch(r"\d{2,3}", one):
            raise BuildError(
                f"CUDA_ARCHS: {one!r} is no architecture; give numbers such as 80,90 (compute capability)"
            )
    return found


def find_nvcc(environment: Mapping[str, str]) -> Path | None:
    """The compiler of ``CUDA_HOME``, else on ``PATH``, else of /usr/local/cuda."""
    if home := environment.get("CUDA_HOME"):
        asked = Path(home) / "bin" / "nvcc"
        if not asked.exists():
            raise BuildError(
                f"CUDA_HOME={home} has no bin/nvcc; name the folder of a CUDA toolkit, or unset it"
            )
        return asked.resolve()
    on_path = shutil.which("nvcc", path=environment.get("PATH", os.defpath))
    for candidate in (on_path, "/usr/local/cuda/bin/nvcc"):
        if candidate and Path(candidate).exists():
            return Path(candidate).resolve()
    return None


def toolkit_of(nvcc: Path) -> Path:
    """The folder of the toolkit that a compiler belongs to: where it says so itself, for ``nvcc`` may be a script."""
    told = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False
    ).stderr
    found = re.search(r"TOP=(.+)", told)
    return Path(found[1].strip()).resolve() if found else nvcc.parent.parent


def version_of(told: str) -> tuple[int, int]:
    """The version in what ``nvcc --version`` prints. Raises BuildError when there is none, or it is not supported."""
    found = re.search(r"release (\d+)\.(\d+)", told)
    if found is None:
        raise BuildError("nvcc does not tell its version; is it NVIDIA's?")
    version = (int(found[1]), int(found[2]))
    if version[0] not in SUPPORTED:
        raise BuildError(
            f"CUDA {version[0]}.{version[1]} is not supported; use CUDA 12 or 13, named by CUDA_HOME"
        )
    return version


def wheel_folders(major: int) -> list[Path]:
    """Folders of the nvidia-* wheels that the running Python has, whether or not something is in them."""
    found = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (found.submodule_search_locations or ())] if found else []
    return [root / folder for root in roots for folder in FOLDERS[major]]


def find_headers(toolkit: Path, wheels: Iterable[Path], *, cudnn: bool, major: int) -> tuple[Path, ...]:
    """The folders with cuBLAS's, cuRAND's and cuDNN's headers, the toolkit's own before those of wheels.

    Raises BuildError naming the packages to install for those that are nowhere.
    """
    system = [
        Path("/usr/include"),
        Path("/usr/include/x86_64-linux-gnu"),
        Path("/usr/include/aarch64-linux-gnu"),
    ]
    places = [toolkit / "include", *(wheel / "include" for wheel in wheels), *system]
    wanted = [("cublas_v2.h", 0), ("curand.h", 1), *([("cudnn.h", 2)] if cudnn else [])]
    folders: list[Path] = []
    absent: list[int] = []
    for header, package in wanted:
        place = next((place for place in places if (place / header).exists()), None)
        if place is None:
            absent.append(package)
        elif place not in folders and place not in system:
            folders.append(place)
    if absent:
        names = " ".join(WHEELS[major][package] for package in absent)
        without = "; without cuDNN: CUDNN=0" if absent == [2] else ""
        headers = ", ".join(wanted[package][0] for package in absent)
        raise BuildError(
            f"no {headers} in {toolkit} or in nvidia-* packages; "
            f"run '.venv/bin/pip install {names}', or install them into the toolkit{without}"
        )
    return tuple(folders)


def find(architectures: tuple[str, ...], *, cudnn: bool, environment: Mapping[str, str]) -> Toolkit:
    """What this machine builds with. Raises BuildError with what to install."""
    nvcc = find_nvcc(environment)
    if nvcc is None:
        raise BuildError(
            "there is no nvcc; install a CUDA toolkit of version 12 or 13, or name its folder in CUDA_HOME"
        )
    told = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    version = version_of(told)
    major = version[0]
    headers = find_headers(toolkit_of(nvcc), wheel_folders(major), cudnn=cudnn, major=major)
    if cudnn and (found := cudnn_version(headers)) is not None and found < OLDEST_CUDNN:
        raise BuildError(f"cuDNN {found} is too old; install cuDNN {OLDEST_CUDNN}, or build with CUDNN=0")
    return Toolkit(nvcc, version, headers, architectures or ARCHITECTURES[major], cudnn)


def cudnn_version(folders: Iterable[Path]) -> int | None:
    """The major version of the cuDNN whose headers are in one of the folders."""
    for folder in folders:
        header = folder / "cudnn_version.h"
        if header.exists() and (found := re.search(r"#define CUDNN_MAJOR (\d+)", header.read_text())):
            return int(found[1])
    return None
