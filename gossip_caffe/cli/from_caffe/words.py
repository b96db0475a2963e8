"""Caffe's command lines in the words of ``gossip-caffe``: a pure function of the words.

Scripts and READMEs call ``caffe train -solver F -gpu 0``. With ``gossip-caffe`` in place of ``caffe`` the same words
do the same. A flag that Caffe itself does not use in a command is left out with a notice; a word that only Caffe has is
answered with its counterpart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gossip_caffe.cli.from_caffe.flags import Flag, split
from gossip_caffe.errors import UsageError

COMMANDS = ("train", "test", "time", "device_query")

_TAKEN: Mapping[str, frozenset[str]] = {
    "train": frozenset({"solver", "snapshot", "weights", "sigint_effect", "sighup_effect"}),
    "test": frozenset({"model", "weights", "iterations"}),
    "time": frozenset({"model", "iterations", "phase"}),
    "device_query": frozenset(),
}
"""The flags that each command has under Caffe's name, besides those in _TAKEN_BY_ALL."""
_OF_A_NET = frozenset({"gpu", "level", "stage"})
_LOG_FILE = "caffe.INFO"
"""The name under which glog links to the newest log in ``-log_dir``."""

_SILENT = {
    **dict.fromkeys(("logtostderr", "alsologtostderr", "colorlogtostderr", "log_prefix"), False),
    **dict.fromkeys(("stop_logging_if_full_disk", "drop_log_memory"), False),
    **dict.fromkeys(("v", "vmodule", "minloglevel", "stderrthreshold", "alsologtoemail"), True),
    **dict.fromkeys(("logbuflevel", "logbufsecs", "logemaillevel", "logmailer", "log_link"), True),
    **dict.fromkeys(("log_backtrace_at", "max_log_size", "logfile_mode"), True),
}
"""glog's flags, True for those with a value. Caffe's lines go to stderr in any case, as with ``caffe`` itself."""
_HELP = {"help": False, "helpfull": False, "helpshort": False}
_FLAGS = {
    **dict.fromkeys(
        ("solver", "model", "phase", "level", "stage", "snapshot", "weights", "iterations"), True
    ),
    **dict.fromkeys(("gpu", "sigint_effect", "sighup_effect", "log_dir"), True),
}
_OF_FORKS = {"engine": True, "param_server": True, "forward_only": False}
_OTHERS = {"version": False, "flagfile": True}
_KNOWN = {**_SILENT, **_HELP, **_FLAGS, **_OF_FORKS, **_OTHERS}

_UNUSED = {
    ("train", "model"): "the solver file names the nets",
    ("train", "iterations"): "max_iter in the solver file is the number of iterations",
    ("train", "phase"): "the TRAIN phase is trained",
    ("test", "phase"): "the TEST phase is tested",
    ("test", "solver"): "--model names the net; 'gossip-caffe evaluate' tests the nets of a solver file",
    ("test", "snapshot"): "--weights names the .caffemodel file",
    ("time", "solver"): "--model names the net",
    ("time", "weights"): "the times do not depend on the weights",
    ("time", "snapshot"): "the times do not depend on the weights",
    ("", "sigint_effect"): "only train writes snapshots",
    ("", "sighup_effect"): "only train writes snapshots",
    ("device_query", ""): "only --gpu says which GPUs are shown",
}
"""(Command, flag) → the reason why the flag has no effect, in Caffe neither; "" stands for every one."""
_ANSWERS = {
    "engine": "a layer's own 'engine' field in the net chooses between Caffe and cuDNN",
    "param_server": "peers need no parameter server; --peers N trains with several of them",
    "forward_only": "the table has a column for the forward pass alone",
}
"""Flags of Caffe's forks → the counterpart."""
_CONVERT = {
    **dict.fromkeys(("gray", "shuffle", "check_size", "encoded"), False),
    **dict.fromkeys(("backend", "resize_width", "resize_height", "encode_type"), True),
}
"""The flags of convert_imageset; ``data create`` has all of them."""
_TOOLS = {
    "train_net": ("gossip-caffe train SOLVER", "trains a solver file"),
    "train_net.bin": ("gossip-caffe train SOLVER", "trains a solver file"),
    "finetune_net": ("gossip-caffe train SOLVER --weights FILE", "starts from the weights of a file"),
    "finetune_net.bin": ("gossip-caffe train SOLVER --weights FILE", "starts from the weights of a file"),
    "test_net": ("gossip-caffe test --model NET --weights FILE", "tests a net"),
    "test_net.bin": ("gossip-caffe test --model NET --weights FILE", "tests a net"),
    "net_speed_benchmark": ("gossip-caffe time --model NET", "times each layer"),
    "net_speed_benchmark.bin": ("gossip-caffe time --model NET", "times each layer"),
    "parse_log.py": ("gossip-caffe train --log FILE", "writes the log that Caffe's parse_log.py reads"),
    "upgrade_net_proto_text": ("gossip-caffe train SOLVER", "reads nets in the old formats as they are"),
    "upgrade_net_proto_binary": (
        "gossip-caffe train --weights FILE",
        "reads old .caffemodel files as they are",
    ),
    "upgrade_solver_proto_text": ("gossip-caffe train SOLVER", "reads solvers in the old format as they are"),
    "extract_features": (
        "gossip-caffe checkpoint export",
        "writes the .caffemodel for pycaffe, which reads the values of any blob",
    ),
}
"""Caffe's other tools → the command that has their work, and its effect."""


@dataclass(frozen=True, slots=True)
class Translation:
    """The words for ``gossip-caffe``, and the notices about words that have no effect."""

    words: tuple[str, ...]
    notices: tuple[str, ...] = ()


def translated(words: Sequence[str]) -> Translation:
    """Translate the words of a Caffe command; any other command's words stay as they are.

    Raises UsageError for a word that only Caffe has; the remedy names its counterpart.
    """
    if not words:
        return Translation(())
    if words[0] in {"convert_imageset", "compute_image_mean"}:
        return _of_a_data_tool(words[0], words[1:])
    if words[0] in _TOOLS:
        command, effect = _TOOLS[words[0]]
        raise UsageError(f"{words[0]} is a tool of Caffe", remedy=f"'{command}' {effect}")
    parts = split(words, _KNOWN)
    command = next((part for part in parts if isinstance(part, str)), "")
    if command not in COMMANDS or (isinstance(parts[0], Flag) and parts[0].name not in _FLAGS | _SILENT):
        return Translation(tuple(words))
    parts.remove(command)
    if any(isinstance(part, Flag) and part.name == "version" for part in parts):
        return Translation(("version",))
    _refuse(command, parts)
    said: list[str] = []
    notices: list[str] = []
    for part in parts:
        if isinstance(part, str):
            said.append(part)
        elif (reason := _unused(command, part)) is not None:
            notices.append(f"--{part.name} has no effect in '{command}': {reason}")
        else:
            said += _said(part)
    return Translation((command, *said), tuple(dict.fromkeys(notices)))


def _of_a_data_tool(tool: str, words: Sequence[str]) -> Translation:
    """Translate the words of convert_imageset or compute_image_mean. Raises UsageError for too few of them."""
    parts = split(words, {**_SILENT, **_HELP, **_CONVERT})
    files = [part for part in parts if isinstance(part, str)]
    flags = [part for part in parts if isinstance(part, Flag)]
    command = ("data", "create") if tool == "convert_imageset" else ("data", "mean")
    if any(flag.name in _HELP and flag.is_on for flag in flags):
        return Translation((*command, "--help"))
    if tool == "compute_image_mean":
        return Translation((*command, *files))  # the kind of a database is seen
    if len(files) != 3:
        raise UsageError(
            "convert_imageset takes ROOTFOLDER/ LISTFILE DB_NAME",
            remedy="or write: gossip-caffe data create DB LIST --root ROOTFOLDER/",
        )
    root, listed, database = files
    said = [word for flag in flags if flag.name in _CONVERT for word in _said_of_a_data_tool(flag)]
    return Translation((*command, database, listed, "--root", root, "--skip-unreadable", *said))


def _said_of_a_data_tool(flag: Flag) -> list[str]:
    name = "--" + flag.name.replace("_", "-")
    if _CONVERT[flag.name]:
        return [name, flag.value or ""]
    return [name] if flag.is_on else []


def _refuse(command: str, parts: Sequence[Flag | str]) -> None:
    """Raise UsageError for a command that cannot work as Caffe's."""
    given = {part.name for part in parts if isinstance(part, Flag)}
    if "flagfile" in given:
        raise UsageError(
            "--flagfile is not read", remedy="write the flags of that file on the command line: $(cat FILE)"
        )
    if command == "test" and "solver" in given and "model" not in given:
        raise UsageError(
            "test takes the net itself, not a solver file",
            remedy="give --model NET, or test the solver's nets with 'gossip-caffe evaluate --solver FILE "
            "--weights FILE'",
        )
    if command == "time" and "solver" in given and "model" not in given:
        raise UsageError("time takes the net itself, not a solver file", remedy="give --model NET")


def _unused(command: str, flag: Flag) -> str | None:
    """Return the reason why a flag has no effect in this command; None: it has one, or needs no notice."""
    if flag.name in _OF_FORKS:
        ours = flag.name == "engine" and flag.value in {"pycaffe", "numpy"}
        return None if ours else _ANSWERS[flag.name]
    taken = _TAKEN[command] | ({"gpu"} if command == "device_query" else _OF_A_NET)
    if (
        flag.name not in _FLAGS
        or flag.name in taken
        or (flag.name == "log_dir" and command != "device_query")
    ):
        return None
    places = ((command, flag.name), ("", flag.name), (command, ""))
    return next((_UNUSED[place] for place in places if place in _UNUSED), "")


def _said(flag: Flag) -> list[str]:
    """Return the words for a flag."""
    if flag.name in _SILENT:
        return []
    if flag.name in _HELP:
        return ["--help"] if flag.is_on else []
    if flag.name == "log_dir":
        return [] if not flag.value else ["--log", f"{flag.value.rstrip('/') or '/'}/{_LOG_FILE}"]
    return [f"--{flag.name}"] if flag.value is None else [f"--{flag.name}", flag.value]
