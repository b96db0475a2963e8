"""How a process of ours begins: the working folder is looked into last, however it came to be on the path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gossip_caffe
from gossip_caffe.begin import (
    POLLING,
    PROTOBUF,
    for_python,
    libraries_choose_for_themselves,
    python_command,
    working_folder_last,
)
from gossip_caffe.system.processes import spawn

SHADOWS = (
    "lmdb",
    "queue",
    "random",
    "numpy",
    "caffe",
    "click",
    "grpc",
    "json",
    "runpy",
    "warnings",
    "importlib",
)


@pytest.fixture
def shadows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder full of names that we, or Python itself, import; half of them are files, half are folders."""
    for number, name in enumerate(SHADOWS):
        file = tmp_path / name / "__init__.py" if number % 2 else tmp_path / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"raise SystemExit('the {name} of the working folder was imported')")
    (tmp_path / "mine.py").write_text("x = 1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "path", ["", ".", os.pathsep, f"/nowhere{os.pathsep}", "./", "HERE", f"HERE{os.pathsep}ROOT"]
)
def test_nothing_of_the_working_folder_takes_the_place_of_what_a_child_imports(
    shadows: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    root = str(Path(gossip_caffe.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", path.replace("HERE", str(shadows)).replace("ROOT", root))
    child = spawn(python_command("gossip_caffe", "version"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said, _ = child.communicate(timeout=60)
    assert said.decode() == f"gossip-caffe {gossip_caffe.__version__}\n"


def test_a_child_runs_this_copy_of_the_package(shadows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = shadows / "other" / "gossip_caffe"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise SystemExit('another copy was imported')")
    monkeypatch.setenv("PYTHONPATH", str(other.parent))
    child = spawn(python_command("gossip_caffe", "version"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert child.communicate(timeout=60)[0].decode().startswith("gossip-caffe ")


@pytest.mark.parametrize("where", ["gossip_caffe", "begin"])
def test_the_command_itself_looks_there_last(shadows: Path, where: str) -> None:
    root = str(Path(gossip_caffe.__file__).parents[1])
    script = f"import sys; sys.path.insert(0, {root!r}); from gossip_caffe import begin; sys.argv[1:] = ['version']; "
    script += "sys.path.insert(0, ''); begin.command()"
    command = (
        [sys.executable, "-P", "-c", script] if where == "begin" else [sys.executable, "-m", "gossip_caffe"]
    )
    done = subprocess.run(
        [*command, *(["version"] if where == "gossip_caffe" else [])],
        env={**os.environ, "PYTHONPATH": root},
        cwd=shadows if where == "begin" else None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.startswith("gossip-caffe "), done.stderr


def test_what_is_only_there_is_found_there(shadows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", str(shadows), "/a", ".", "/b"])
    working_folder_last()
    assert sys.path == ["/a", "/b", str(shadows)]


def test_a_working_folder_that_was_removed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "path", ["", "/a"])
    working_folder_last()
    assert sys.path == ["/a"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, None),
        ("", None),
        (".", None),
        (f"{os.pathsep}/a{os.pathsep}", "/a"),
        (f"/a{os.pathsep}/b", f"/a{os.pathsep}/b"),
        (f"layers{os.pathsep}.", "layers"),
    ],
)
def test_a_childs_path_names_no_working_folder(
    monkeypatch: pytest.MonkeyPatch, before: str | None, after: str | None
) -> None:
    if before is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", before)
    assert for_python()["PYTHONPATH"] == after


def test_warnings_that_are_errors_end_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    script = (
        "import warnings; from gossip_caffe import begin; begin.warnings_stay_warnings(); warnings.warn('x')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert "UserWarning: x" in done.stderr


@pytest.mark.parametrize(
    ("value", "kept"), [("cpp", False), ("bogus", False), ("python", True), ("upb", True)]
)
def test_a_variant_of_protobuf_that_may_not_be_there_is_not_asked_for(
    value: str, *, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PROTOBUF, value)
    libraries_choose_for_themselves()
    assert (os.environ.get(PROTOBUF) == value) is kept


@pytest.mark.parametrize(("value", "kept"), [("bogus", False), ("epollex,poll", True), ("epoll1", True)])
def test_a_way_to_poll_that_grpc_does_not_know_is_not_asked_for(
    value: str, *, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POLLING, value)
    libraries_choose_for_themselves()
    assert (os.environ.get(POLLING) == value) is kept


def test_the_garbage_collector_runs_rarely_while_a_process_begins_and_as_usual_afterwards(
    tmp_path: Path,
) -> None:
    (tmp_path / "looked.py").write_text(
        "import gc, sys\n"
        "from gossip_caffe.begin import collect_as_usual\n"
        "began = gc.get_threshold()\n"
        "collect_as_usual()\n"
        "print(began[0] > 10_000, gc.get_threshold() == (700, 10, 10), gc.isenabled(), gc.get_freeze_count() > 1000)\n"
    )
    child = spawn(python_command("looked"), stdout=subprocess.PIPE, folder=tmp_path)
    assert child.communicate(timeout=60)[0].decode().split() == ["True"] * 4


@pytest.mark.parametrize(
    ("before", "code", "as_usual"),
    [
        ("", 3, False),
        ("import types; sys.modules['caffe'] = types.ModuleType('caffe')", 3, True),
        ("", "a reason", True),
    ],
)
def test_a_process_ends_after_its_exit_handlers_and_with_caffe_as_usual(
    tmp_path: Path, before: str, code: object, as_usual: bool
) -> None:
    """Buffers of C are written at a usual end alone."""
    (tmp_path / "ends.py").write_text(
        "import atexit, ctypes, sys\n"
        f"{before}\n"
        "ctypes.CDLL(None).printf(b'from C')\n"
        "atexit.register(print, 'handler')\n"
        "print('begun')\n"
        f"sys.exit({code!r})\n"
    )
    buffered = {"PYTHONUNBUFFERED": None}
    command = python_command("ends")
    child = spawn(command, stdout=subprocess.PIPE, folder=tmp_path, environment=buffered)
    said = child.communicate(timeout=60)[0].decode()
    assert child.returncode == (code if isinstance(code, int) else 1)
    assert [word in said for word in ("begun", "handler", "from C")] == [True, True, as_usual]
