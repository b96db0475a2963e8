"""Environments that people really have, and what must happen in each: one row is one command in one of them.

Whatever the row says, no traceback may be printed, no "defect", and a command that fails says why in one line with a
remedy. Rows of other kinds (data files, solvers) are added to ``ROWS`` in the same form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HELP = "train --help"
VALID = "job validate solver.prototxt"
NO_FILE = "job validate nowhere.prototxt"
LIST = "job list --etcd ETCD"
QUICK = "train solver.prototxt --engine numpy"
CAFFE = "train solver.prototxt"
TRAINED = "trained: tiny_iter_60.caffemodel"
SHADOW = "raise SystemExit('{name} of the working folder was imported')\n"
USER = "unshare --user --map-user=54321 --map-group=54321 --"
WITHOUT_SHARED_MEMORY = "unshare --mount -- bash -c 'umount -l /dev/shm; exec \"$@\"' -"
STATE = "GOSSIP_CAFFE_STATE"


@dataclass(frozen=True, slots=True)
class Row:
    """A command in an environment, and what must happen.

    ``words``: the command; ETCD stands for the address of one that runs. ``sets``: variables, None: not set; WORK
    stands for the working folder, ROOT for this repository, ODDLIBRARY for ``tests.odd_calls``.
    ``before``: lines of bash before the command, ``within``: words before the command itself, ``after``: what follows
    it, such as a redirection. ``files``: what lies in the working folder. ``codes``: exit codes that are right;
    ``says``: a pattern in what it prints; ``hides``: what may not be in it. ``leaves``: a file that is there then.
    ``data``: writes data, net and solver into the working folder.
    """

    name: str
    words: str
    sets: dict[str, str | None] = field(default_factory=dict)
    before: str = ""
    within: str = ""
    after: str = ""
    files: dict[str, str] = field(default_factory=dict)
    codes: tuple[int, ...] = (0,)
    says: str = ""
    hides: str = ""
    leaves: str = ""
    data: Callable[[Path], None] | None = None


def _shadows(*names: str) -> dict[str, str]:
    """Modules, or packages where the name ends with a slash, that nobody may import."""
    return {
        f"{name}__init__.py" if name.endswith("/") else f"{name}.py": SHADOW.format(name=name)
        for name in names
    }


_SCREENS = (
    Row("one column", HELP, {"COLUMNS": "1"}, says="exit"),
    Row("no column", HELP, {"COLUMNS": "0"}, says="Train the net"),
    Row("columns that are no number", HELP, {"COLUMNS": "many", "LINES": "x"}, says="Train the net"),
    Row("no terminal type", NO_FILE, {"TERM": None}, codes=(2,), says="there is no solver"),
    Row("a dumb terminal", LIST, {"TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": "1"}, says="JOB"),
    Row("a pager that fails", HELP, {"PAGER": "false", "MANPAGER": "false"}, says="Train the net"),
)
_ALPHABETS = (
    Row("Latin-1", HELP, {"PYTHONIOENCODING": "iso-8859-1"}, says=r"sqrt N, N or 1", hides="√"),
    Row("ASCII", HELP, {"PYTHONIOENCODING": "ascii"}, says="Train the net"),
    Row("Windows-1252", "cluster up --help", {"PYTHONIOENCODING": "cp1252"}, says="Start etcd"),
    Row("Latin-1, job create", "job create --help", {"PYTHONIOENCODING": "latin-1"}, says="Store a job"),
    Row("Latin-1, peer start", "peer start --help", {"PYTHONIOENCODING": "latin-1"}, says="Join a job"),
    Row("Latin-1, shards show", "shards show --help", {"PYTHONIOENCODING": "latin-1"}, says="Usage"),
    Row("Latin-1, checkpoints", "checkpoint list --help", {"PYTHONIOENCODING": "latin-1"}, says="Usage"),
    Row(
        "the C locale without coercion",
        HELP,
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        says="Train the net",
    ),
    Row("a locale that is not there", NO_FILE, {"LC_ALL": "xx_XX.UTF-8"}, codes=(2,), says="no solver"),
    Row("Latin-1 while it trains", QUICK, {"PYTHONIOENCODING": "latin-1"}, says=TRAINED),
)
_STREAMS = (
    Row("a reader that has gone", HELP, after="| true", codes=(0, 1)),
    Row("output to a full disk", "version", after="> /dev/full", codes=(1,), says="cannot write the output"),
    Row(
        "a list to a full disk",
        f"{LIST} --json",
        after="> /dev/full",
        codes=(1,),
        says="free some disk space",
    ),
    Row("errors to a full disk", NO_FILE, after="2> /dev/full", codes=(2,)),
    Row("no standard input", LIST, after="<&-", says="JOB"),
    Row("no standard output", LIST, after=">&-"),
    Row("no standard error", NO_FILE, after="2>&-", codes=(2,)),
    Row("no stream at all", QUICK, after="<&- >&- 2>&-", leaves="tiny_iter_60.caffemodel"),
)
_PYTHONS = (
    Row("optimised", QUICK, {"PYTHONOPTIMIZE": "1"}, says=TRAINED),
    Row("without docstrings", HELP, {"PYTHONOPTIMIZE": "2"}, says="Usage"),
    Row("warnings are errors", CAFFE, {"PYTHONWARNINGS": "error"}, says=TRAINED),
    Row("interactive afterwards", NO_FILE, {"PYTHONINSPECT": "1"}, codes=(2,), says="no solver"),
    Row("development mode", LIST, {"PYTHONDEVMODE": "1"}, says="JOB"),
    Row(
        "other variables of Python",
        QUICK,
        {
            "PYTHONSTARTUP": "/nowhere.py",
            "PYTHONSAFEPATH": "1",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
            "PYTHONNOUSERSITE": "1",
        },
        says=TRAINED,
    ),
    Row("a library to preload that is missing", QUICK, {"LD_PRELOAD": "/nowhere.so"}, says=TRAINED),
    Row(
        "more threads than cores",
        CAFFE,
        {"OMP_NUM_THREADS": "64", "OPENBLAS_NUM_THREADS": "64"},
        says=TRAINED,
    ),
    Row(
        "variables of glog",
        CAFFE,
        {"GLOG_v": "3", "GLOG_logtostderr": "1", "GLOG_minloglevel": "0", "GLOG_log_dir": "/nowhere"},
        says=TRAINED,
    ),
    Row("glog is silent", VALID, {"GLOG_minloglevel": "3"}, says="can be trained"),
)
_SHADOWS = (
    Row(
        "converters in the working folder",
        CAFFE,
        files=_shadows("lmdb", "queue", "random", "numpy/"),
        says=TRAINED,
    ),
    Row(
        "a Caffe checkout as working folder", CAFFE, files=_shadows("caffe/", "google/", "grpc"), says=TRAINED
    ),
    Row(
        "the working folder on PYTHONPATH",
        QUICK,
        {"PYTHONPATH": "ROOT:"},
        files=_shadows("lmdb", "click", "signal", "socket", "blake3/"),
        says=TRAINED,
    ),
    Row(
        "a dot on PYTHONPATH",
        QUICK,
        {"PYTHONPATH": ".:ROOT"},
        files=_shadows("queue", "select/"),
        says=TRAINED,
    ),
    Row("doctor, in a Caffe checkout", "doctor", files=_shadows("caffe/", "json"), says="pycaffe +ok"),
)
_NETWORKS = (
    *(
        Row(f"${name}", LIST, {name: "http://127.0.0.1:9"}, says="JOB")
        for name in ("http_proxy", "https_proxy", "grpc_proxy")
    ),
    Row("a proxy for all", LIST, {"all_proxy": "socks5://127.0.0.1:9", "NO_PROXY": ""}, says="JOB"),
    Row(
        "a proxy while two peers train",
        f"{QUICK} --peers 2",
        {"http_proxy": "http://127.0.0.1:9"},
        says=TRAINED,
    ),
    Row("IPv6 without brackets", "job list --etcd ::1:2379", codes=(2,), says=r"give \[::1\]:2379"),
    Row("a scheme of TLS", "job list --etcd https://h:2379", codes=(2,), says="give --tls-dir DIR"),
    Row("a path", "job list --etcd h:2379/v3", codes=(2,), says="give h:2379 alone"),
    Row("a password", "job list --etcd root:hunter2@h:2379", codes=(2,), says="h:2379", hides="hunter2"),
    Row(
        "a password in the environment",
        "job list",
        {"GOSSIP_CAFFE_ETCD": "https://root:hunter2@h:1"},
        codes=(2,),
        says="h:1",
        hides="hunter2",
    ),
)
_ETCDS = (
    Row(
        "variables of another etcd",
        QUICK,
        {
            "ETCD_NAME": "infra1",
            "ETCD_DATA_DIR": "/var/lib/etcd",
            "ETCD_LISTEN_CLIENT_URLS": "http://0.0.0.0:2379",
            "ETCD_INITIAL_CLUSTER_STATE": "existing",
            "ETCD_QUOTA_BACKEND_BYTES": "no number",
            "NOTIFY_SOCKET": "/run/nowhere",
            "GOMAXPROCS": "1",
        },
        says=TRAINED,
    ),
    Row("no such etcd", QUICK, {"ETCD_BIN": "/nowhere/etcd"}, codes=(6,), says="ETCD_BIN"),
    Row(
        "an etcd that says nothing",
        QUICK,
        {"ETCD_BIN": "/bin/false"},
        codes=(6,),
        says="etcd did not start: exit 1",
    ),
)
_PLACES = (
    Row(
        "no home of its own",
        "cluster status",
        {"HOME": None, "GOSSIP_CAFFE_STATE": None},
        within=USER,
        codes=(6,),
        says="user 54321 has no home folder here; set .GOSSIP_CAFFE_STATE",
    ),
    Row("no home, but a state folder", LIST, {"HOME": None}, within=USER, says="JOB"),
    Row(
        "a home that takes nothing",
        QUICK,
        {"HOME": "/proc", "GOSSIP_CAFFE_STATE": None},
        codes=(6,),
        says="GOSSIP_CAFFE_STATE",
    ),
    Row(
        "a state folder that is a file",
        QUICK,
        {"GOSSIP_CAFFE_STATE": "solver.prototxt"},
        codes=(6,),
        says="GOSSIP_CAFFE_STATE",
    ),
    Row("a state folder like /tmp", QUICK, {STATE: "t"}, before="mkdir t; chmod 1777 t", says=TRAINED),
    Row("a working folder that was removed", LIST, before="mkdir gone; cd gone; rmdir ../gone", says="JOB"),
    Row(
        "and a solver there",
        VALID,
        before="mkdir gone; cd gone; rmdir ../gone",
        codes=(2, 6),
        says="solver|folder",
    ),
    Row("no folder for temporary files", CAFFE, {"TMPDIR": "/nowhere"}, says=TRAINED),
    Row("one that takes nothing", VALID, {"TMPDIR": "/proc/sys"}, says="can be trained"),
    Row(
        "no shared memory to mount",
        CAFFE,
        within=WITHOUT_SHARED_MEMORY,
        says=TRAINED,
    ),
)
_LIMITS = (
    Row("few open files", f"{QUICK} --peers 2", before="ulimit -n 64", codes=(6,), says=r"file.*ulimit -n"),
    Row("few that can be made more", QUICK, before="ulimit -S -n 64", says=TRAINED),
    Row("few open files, doctor", "doctor", before="ulimit -n 64", says="open files +note"),
    Row("little memory", QUICK, before="ulimit -v 900000", codes=(6,), says="ulimit -v"),
    Row("no core files", VALID, before="ulimit -c 0", says="can be trained"),
    Row("a closed umask", QUICK, before="umask 077", says=TRAINED),
    Row("nohup", QUICK, within="nohup", says=TRAINED),
    Row("one core", CAFFE, within="taskset -c 0", says=TRAINED),
)
ROWS = (*_SCREENS, *_ALPHABETS, *_STREAMS, *_PYTHONS, *_SHADOWS, *_NETWORKS, *_ETCDS, *_PLACES, *_LIMITS)
