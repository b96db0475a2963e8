"""The start of every process of this package: the package's own modules are imported first, the working folder's last.

A user may work in a folder with a converter named ``lmdb.py``, or in a Caffe checkout with a folder ``caffe``. Neither
may replace a module that this package imports. The net's Python layers are still found there, after everything else.
As a script it runs a module of this package: ``python -P begin.py MODULE WORDS…``, even if ``sys.path`` names other
copies of the package. This file imports no module that a working folder could replace before ``sys.path`` is
corrected.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys

TYPE_CHECKING = False  # ``typing`` is imported later
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PATH = "PYTHONPATH"
_PARENT = "--parent"
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
PROTOBUF, POLLING = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "GRPC_POLL_STRATEGY"
_USUALLY, _RARELY = (700, 10, 10), (50_000, 20, 1000)
"""Arguments of gc.set_threshold: those of Python 3.11, and those of a process that begins."""


def python_command(module: str, *words: str) -> list[str]:
    """The command that runs a module of this package as a child. Its environment must be ``for_python()``."""
    return [sys.executable, "-P", os.path.abspath(__file__), module, *words]  # noqa: PTH100 - see above


def dying_with(parent: int, number: int, command: Sequence[str]) -> list[str] | None:
    """Make a command of ``python_command`` request the signal ``number`` for the end of its parent as it begins.

    ``parent``: the parent's process id. None: the command is of another program.
    """
    begun = python_command("")[:-1]
    if list(command[: len(begun)]) != begun:
        return None
    return [*begun, _PARENT, str(parent), str(number), *command[len(begun) :]]


def die_with_parent(parent: int, number: int = _SIGKILL) -> None:
    """Ask the kernel to send this process the signal ``number`` when its parent ends.

    ``parent``: the process that created this process. If it is gone before the request takes effect, the process gets
    the signal at once. The request survives ``exec`` of an ordinary binary.
    """
    import ctypes  # noqa: PLC0415 - see above

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def for_python() -> dict[str, str | None]:
    """The environment variables of a Python child; None removes one.

    With them the child's interpreter does not search the working folder before this module runs, and ends when its
    work does.
    """
    entries = os.environ.get(PATH, "").split(os.pathsep)
    kept = [entry for entry in entries if entry and not _is_working_folder(entry)]
    return {PATH: os.pathsep.join(kept) or None, "PYTHONINSPECT": None, "PYTHONSTARTUP": None}


def working_folder_last() -> None:
    """Move the working folder to the end of ``sys.path``."""
    elsewhere = [entry for entry in sys.path if entry and not _is_working_folder(entry)]
    sys.path[:] = elsewhere
    try:
        import google  # noqa: F401, PLC0415 - see the next line
    except ImportError:
        # A folder ``google`` with an __init__.py would replace protobuf's, which has none, even from later in the
        # path.
        pass
    try:
        sys.path[:] = [*elsewhere, os.getcwd()]  # noqa: PTH109 - see above
    except OSError:  # the folder was removed
        sys.path[:] = elsewhere


def warnings_stay_warnings() -> None:
    """Keep warnings of imported libraries from ending the process when $PYTHONWARNINGS turns warnings into errors."""
    if any(option.startswith("error") for option in sys.warnoptions):
        import warnings  # noqa: PLC0415 - see above

        warnings.simplefilter("default")


def libraries_choose_for_themselves() -> None:
    """Forget variables that name a variant of protobuf or gRPC which need not be there: each ends a process then.

    Protobuf takes "cpp" where it has that without being told.
    """
    if os.environ.get(PROTOBUF) not in {None, "python", "upb"}:
        del os.environ[PROTOBUF]
    if {"all", "epoll1", "poll"}.isdisjoint(os.environ.get(POLLING, "all").split(",")):
        del os.environ[POLLING]


def collect_rarely() -> None:
    """Let the garbage collector run rarely.

    Imports make hundreds of thousands of objects and hardly any garbage: collections take a tenth of the CPU time of a
    process that lives for seconds. A process that lives long calls ``collect_as_usual`` after its imports.
    """
    gc.set_threshold(*_RARELY)


def collect_as_usual() -> None:
    """Let the garbage collector run as often as Python does; it does not look at the objects that exist now."""
    gc.freeze()
    gc.set_threshold(*_USUALLY)


def ended_at_once(run: Callable[[], object]) -> None:
    """Call ``run``; if it ends the process, end it without taking all objects apart.

    That takes a tenth of the CPU time of a short process. The exit handlers are called. A process with Caffe ends as
    usual: the user's own layers may have output in buffers of C.
    """
    try:
        run()
    except SystemExit as end:
        if "caffe" in sys.modules or not (end.code is None or isinstance(end.code, int)):
            raise
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                pass  # there is none, or it takes nothing any more
        os._exit(end.code or 0)


def command() -> None:
    """Run ``gossip-caffe``."""
    _run("gossip_caffe")


def _is_working_folder(entry: str) -> bool:
    try:
        return os.path.samefile(entry, os.curdir)  # noqa: PTH121 - see above
    except (OSError, ValueError):
        return False


def _run(module: str) -> None:
    working_folder_last()
    warnings_stay_warnings()
    libraries_choose_for_themselves()
    collect_rarely()
    import runpy  # noqa: PLC0415 - see above

    ended_at_once(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))


def _this_package() -> None:
    """Import the package that contains this file, even if ``sys.path`` would find another copy."""
    from importlib import util  # noqa: PLC0415 - see above

    folder = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - see above
    where = os.path.join(folder, "__init__.py")  # noqa: PTH118 - see above
    spec = util.spec_from_file_location("gossip_caffe", where, submodule_search_locations=[folder])
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {where}")
    package = util.module_from_spec(spec)
    sys.modules["gossip_caffe"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    working_folder_last()
    if sys.argv[1] == _PARENT:
        die_with_parent(int(sys.argv[2]), int(sys.argv[3]))
        del sys.argv[1:4]
    _this_package()
    _run(sys.argv.pop(1))
