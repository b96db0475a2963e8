"""The house is built in floors: what stands higher imports what stands lower, never the other way."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import gossip_caffe

ROOT = Path(gossip_caffe.__file__).parent
FLOORS = (
    ("cli", "demo"),
    ("aio", "api"),
    ("chaos", "doctor", "tune"),
    ("cluster", "sim"),
    ("peer",),
    ("checkpoint",),
    ("gossip",),
    ("shards",),
    ("membership",),
    ("solver",),
    ("data",),
    ("job",),
    ("observe",),
    ("security",),
    (
        "addresses",
        "background",
        "begin",
        "clock",
        "errors",
        "grpc_runtime",
        "mixing",
        "plain",
        "printable",
        "protofields",
        "json_records",
        "system",
        "wire",
    ),
)
INNER_FLOORS = {
    "cli": ("terminal", "options", "top", "commands", "from_caffe"),
    "api": ("values", "looking", "starting"),
    "cluster": ("state", "etcd", "fleet", "supervision"),
    "sim": ("faults",),
    "peer": ("core", "registration", "sharing", "work", "checkpoints", "joining"),
    "checkpoint": ("formats",),
    "gossip": ("averaging", "codecs", "policy", "protocol", "rounds", "transport"),
    "membership": ("etcd",),
    "solver": ("gpu", "engines", "checks", "evaluation", "timing", "probing"),
    "data": ("sources", "making"),
    "job": ("spec", "prototxts"),
    "observe": ("log", "metrics", "export", "history", "checker", "report", "views", "dashboard"),
    "tune": ("study", "board", "search", "work", "views", "simulated"),
}
"""Rooms within a room, from the ground up; the files that lie in the room itself stand on top of them."""
MOST_FILES = 15
"""Side by side in a folder, beside __init__.py: what one takes in at a look."""
HEIGHT = {room: -floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# The processes that are Caffe; everything else must live when Caffe aborts.
CAFFES_PROCESSES = {
    "solver/checks/gpu_child.py",
    "solver/engines/net_structure.py",
    "solver/engines/pycaffe_engine.py",
    "solver/engines/script_engine.py",
    "solver/engines/source_layer.py",
    "solver/checks/trial_child.py",
    "solver/evaluation/phase_net.py",
    "demo/pace.py",
    "demo/plain_caffe.py",
    "sim/training_comparison.py",
}


@functools.cache
def files() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if not path.stem.endswith(("_pb2", "_pb2_grpc")))


@functools.cache
def modules() -> frozenset[tuple[str, ...]]:
    """The parts of the name of each module of the package, from the package's folder on."""
    return frozenset(path.relative_to(ROOT).with_suffix("").parts for path in files())


@functools.cache
def imported(path: Path) -> tuple[str, ...]:
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inner_height(parts: tuple[str, ...]) -> int:
    """How high a file or module stands within its room; ``parts``: its path from the package's folder on."""
    floors = INNER_FLOORS.get(parts[0], ())
    return floors.index(parts[1]) if len(parts) > 2 and parts[1] in floors else len(floors)


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_a_floor() -> None:
    rooms = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in files()}
    assert rooms - {"__init__", "__main__"} <= set(HEIGHT)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_never_point_up(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if own in {"__init__", "__main__"}:
        return
    for name in imported(path):
        if name.startswith("gossip_caffe.") and name != "gossip_caffe.__version__":
            assert HEIGHT[room_of(name)] <= HEIGHT[own], f"{own} imports {name}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_never_point_up_within_a_room(path: Path) -> None:
    own = path.relative_to(ROOT).parts
    if path.name == "__init__.py":
        return
    for name in imported(path):
        parts = tuple(name.split(".")[1:])
        module = parts if parts in modules() else parts[:-1]
        if name.startswith("gossip_caffe.") and module in modules() and module[0] == own[0] and len(own) > 1:
            assert inner_height(module) <= inner_height(own), f"{'/'.join(own)} imports {name}"


def test_every_folder_within_a_room_has_a_floor_and_none_is_crowded() -> None:
    for room, floors in INNER_FLOORS.items():
        assert {path.name for path in (ROOT / room).iterdir() if (path / "__init__.py").is_file()} == {
            *floors
        }
    for folder in {path.parent for path in files()}:
        beside = [path for path in files() if path.parent == folder and path.name != "__init__.py"]
        assert len(beside) <= MOST_FILES, f"{folder.relative_to(ROOT)} has {len(beside)} files"


def test_only_caffes_own_processes_import_caffe() -> None:
    importers = {
        str(path.relative_to(ROOT))
        for path in files()
        if any(name == "caffe" or name.startswith("caffe.") for name in imported(path))
    }
    assert importers == CAFFES_PROCESSES


def test_only_the_network_rooms_know_grpc_and_only_the_etcd_files_its_messages() -> None:
    for path in files():
        names = set(imported(path))
        room = path.relative_to(ROOT).parts[0]
        if any(name == "grpc" or name.startswith("grpc.") for name in names):
            assert path.name == "grpc_runtime.py"
        if any(name.startswith("gossip_caffe.grpc_runtime") for name in names):
            assert room in {"gossip", "membership", "chaos"} or path.name == "grpc_credentials.py"
        if any("etcd_pb2" in name for name in names):
            assert room == "membership"
            assert path.name.startswith("etcd_") or path.parent.name == "access"
