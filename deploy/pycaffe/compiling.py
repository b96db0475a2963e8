"""Configures, compiles and assembles the importable ``caffe`` package from an adapted source tree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent


class BuildError(Exception):
    """One line: what failed, where the log is, what to do."""


def say(text: str) -> None:
    """Tell how far it is, on stderr."""
    print(f"pycaffe: {text}", file=sys.stderr, flush=True)


def run_logged(command: Sequence[str], log: Path, what: str) -> None:
    """Run a command with its output in the log; a line is said for each tenth of what ninja counts."""
    with (
        log.open("a") as out,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        out.write(f"$ {' '.join(command)}\n")
        tenths, cause = 0, ""
        try:
            for line in process.stdout or ():
                out.write(line)
                out.flush()
                step = re.match(r"\[(\d+)/(\d+)\]", line)
                if step and (now := 10 * int(step[1]) // int(step[2])) > tenths:
                    tenths = now
                    say(f"{what} {10 * tenths}%")
                if not cause and re.search(r"\berror\b", line, re.IGNORECASE):
                    cause = line.strip()
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise BuildError(f"{what} failed{f': {cause}' if cause else ''} (whole log: {log})")


def carry_libraries(package: Path, prefix: Path) -> None:
    """Copy those libraries of a carried Boost that the modules need, directly or not, into the package."""
    waiting = sorted((package / "caffe").glob("*.so"))
    while waiting:
        dynamic = subprocess.run(
            ["readelf", "--dynamic", str(waiting.pop())], capture_output=True, text=True, check=True
        ).stdout
        for name in re.findall(r"\(NEEDED\).*\[(libboost_[^]]+)\]", dynamic):
            target = package / "caffe" / name
            if not target.exists():
                shutil.copy(prefix / "lib" / name, target)
                waiting.append(target)


def compile_package(
    source: Path, build: Path, log: Path, jobs: int, boost: Path | None, settings: Sequence[str] = ()
) -> Path:
    """Compile, with further ``settings`` for CMake; returns the folder that holds the importable ``caffe`` package."""
    configure = ["cmake", "-S", str(HERE), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
    configure += [f"-DCAFFE_SOURCE={source}", f"-DPython3_EXECUTABLE={sys.executable}", *settings]
    if boost:
        configure.append(f"-DBOOST_PREFIX={boost}")
    say("configuring")
    run_logged(configure, log, "configuring")
    run_logged(["ninja", "-C", str(build), "-j", str(jobs)], log, "compiling")
    package = build / "package"
    modules = [str(path) for path in sorted((package / "caffe").glob("*.so"))]
    run_logged(["strip", "--strip-unneeded", *modules], log, "stripping")
    if boost:
        carry_libraries(package, boost)
    leave_out = shutil.ignore_patterns("test", "__pycache__", "*.cpp")
    shutil.copytree(source / "python" / "caffe", package / "caffe", dirs_exist_ok=True, ignore=leave_out)
    shutil.copy(HERE / "_gossip.pyi", package / "caffe")
    return package
