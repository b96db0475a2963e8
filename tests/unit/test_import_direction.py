"""The house is built in floors: what stands higher imports what stands lower, never the other way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gossip_caffe

ROOT = Path(gossip_caffe.__file__).parent
FLOORS = (
    ("cli", "demo"),
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
    (
        "errors",
        "clock",
        "processes",
        "children",
        "sharedmem",
        "stored",
        "mixing",
        "protofields",
        "grpc_runtime",
        "wire",
    ),
)
HEIGHT = {room: -floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# The processes that are Caffe; everything else must live when Caffe aborts.
CAFFES_PROCESSES = {
    "solver/card_child.py",
    "solver/pycaffe_engine.py",
    "solver/source_layer.py",
    "solver/trial_child.py",
    "solver/evaluation_child.py",
    "demo/plain_caffe.py",
    "sim/course.py",
}


def files() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if not path.stem.endswith(("_pb2", "_pb2_grpc")))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


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
            assert room in {"gossip", "membership"}
        if any("etcd_pb2" in name for name in names):
            assert room == "membership"
            assert path.name.startswith("etcd_")
