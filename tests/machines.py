"""Rows like those of ``tests/environments.py`` whose oddity is the machine: its disks, its kernel and its limits."""

from __future__ import annotations

from tests.environments import CAFFE, QUICK, STATE, TRAINED, VALID, Row

ON = "${ODD:-/mnt}"
"""Where a row's own disk is: in the working folder, or, while it is tried whether there can be one, elsewhere."""


def disk(options: str = "size=1m", first: str = "true", at: str = ON) -> str:
    """A disk of its own at ``at``, in which ``first`` is done."""
    mount = f'mkdir -p "{at}"; mount -t tmpfs -o mode=700,{options} none "{at}" && {{ {first}; }}'
    return f'unshare --mount -- bash -c \'{mount} && cd "$PWD" && exec "$@"\' -'


FULL = f'head -c 1G /dev/zero > "{ON}/full" 2> /dev/null; true'
READ_ONLY = f'mount -o remount,ro "{ON}"'
ONLY_READ = (
    f'unshare --mount -- bash -c \'mkdir -p "{ON}"; mount --bind "{ON}" "{ON}" && mount -o remount,ro,bind "{ON}"'
    ' && cd "$PWD" && exec "$@"\' -'
)
"""What is there already, and cannot be written."""
NOWHERE = "unshare --mount -- bash -c 'umount -l {}; exec \"$@\"' -"
EMPTY = "unshare --mount -- bash -c 'mount --bind /dev/null {}; exec \"$@\"' -"
BLOCKED = (
    "python3 -c 'import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); "
    "os.execvp(sys.argv[1], sys.argv[1:])'"
)
CHILDREN_UNSEEN = (
    "python3 -c 'import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
    "os.execvp(sys.argv[1], sys.argv[1:])'"
)
ODD_NAME = (
    'unshare --uts -- python3 -c \'import os, socket, sys; socket.sethostname(b"M\\xfcller\\x01 box"); '
    "os.execvp(sys.argv[1], sys.argv[1:])'"
)
TMP: dict[str, str | None] = {"ODD": "WORK/t", "TMPDIR": "WORK/t"}
STATE_THERE: dict[str, str | None] = {"ODD": "WORK/s", STATE: "WORK/s"}
LONG = "sed -i 's/max_iter: 60/max_iter: 60000000/' solver.prototxt"
IN_OUT = 'mkdir -p out; sed -i \'s|"tiny"|"out/tiny"|\' solver.prototxt'


def without(calls: str) -> dict[str, str | None]:
    """A machine on which these calls fail, each with an error."""
    return {"LD_PRELOAD": "ODDLIBRARY", "ODD_CALLS": calls}


_DISKS = (
    Row("temporary files on a full disk", CAFFE, TMP, within=disk("size=64k", FULL), says=TRAINED),
    Row("temporary files on a read-only disk", CAFFE, TMP, within=disk(first=READ_ONLY), says=TRAINED),
    Row("temporary files where nothing can be run", CAFFE, TMP, within=disk("size=1m,noexec"), says=TRAINED),
    Row(
        "shared memory that is full",
        CAFFE,
        within=disk("size=64k", "head -c 1G /dev/zero > /dev/shm/full 2> /dev/null; true", "/dev/shm"),
        says=TRAINED,
    ),
    Row("next to no shared memory", CAFFE, within=disk("size=4k", at="/dev/shm"), says=TRAINED),
    Row(
        "a state folder on a read-only disk",
        QUICK,
        STATE_THERE,
        within=disk(first=READ_ONLY),
        codes=(6,),
        says="Read-only file system.*GOSSIP_CAFFE_STATE",
    ),
    Row("a state folder where nothing can be run", CAFFE, STATE_THERE, within=disk("noexec"), says=TRAINED),
    Row(
        "a state folder on a disk without room for more files",
        QUICK,
        STATE_THERE,
        within=disk("nr_inodes=20"),
        codes=(6,),
        says="No space left on device.*GOSSIP_CAFFE_STATE",
    ),
    Row(
        "a state folder on a disk without room for etcd",
        QUICK,
        STATE_THERE,
        within=disk("size=60m"),
        codes=(6,),
        says="etcd did not start: .*no space left on device; free some disk space",
    ),
    Row(
        "a snapshot folder on a read-only disk",
        QUICK,
        {"ODD": "WORK/out"},
        before=IN_OUT,
        within=ONLY_READ,
        codes=(6,),
        says="the folder out cannot be written",
    ),
    Row(
        "a working folder on a read-only disk",
        QUICK,
        {"ODD": "WORK"},
        within=ONLY_READ,
        codes=(6,),
        says=r"the folder \. cannot be written",
    ),
    Row(
        "a run folder on a read-only disk",
        "peer start --job x --etcd ETCD --run-dir r",
        {"ODD": "WORK/r"},
        within=disk(first=READ_ONLY),
        codes=(6,),
        says="Read-only file system.*--run-dir",
    ),
    Row(
        "a run folder that is a file",
        "peer start --job x --etcd ETCD --run-dir solver.prototxt",
        codes=(6,),
        says="solver.prototxt.*--run-dir",
    ),
    Row(
        "a folder of the model's name",
        QUICK,
        before="mkdir -p tiny_iter_60.caffemodel/x",
        says="(?s)cannot write tiny_iter_60.caffemodel.*: the weights are in .*trained: ",
    ),
    Row("a link of the model's name", QUICK, before="ln -s /dev/null tiny_iter_60.caffemodel", says=TRAINED),
    Row(
        "a name too long for a file",
        QUICK,
        before="sed -i \"s/tiny/$(printf 'x%.0s' {1..230})/\" solver.prototxt",
        codes=(6,),
        says="a file there would have a name of 2.. bytes, and 255 are the most; give a shorter one",
    ),
)
_FILE_SYSTEMS = (
    Row(
        "a file system without locks",
        QUICK,
        without("flock=37"),
        codes=(6,),
        says="cannot lock .* \\(No locks available\\); set .GOSSIP_CAFFE_STATE",
    ),
    Row(
        "a run folder without locks",
        "peer start --job x --etcd ETCD --run-dir r",
        without("flock=95"),
        codes=(6,),
        says="cannot lock .*; give a --run-dir on a disk of this machine",
    ),
    Row(
        "a file system that holds no sockets",
        QUICK,
        without("bind=1"),
        codes=(6,),
        says="cannot make the socket .* \\(Operation not permitted\\); set .GOSSIP_CAFFE_STATE",
    ),
    Row("one without second names of files", QUICK, without("link=1,linkat=1"), says=TRAINED),
    Row("one that cannot flush", QUICK, without("fsync=22"), says=TRAINED),
    Row(
        "a disk that is broken",
        QUICK,
        without("fsync=5"),
        codes=(6,),
        says="cannot write checkpoint .* \\(Input/output error\\); .*GOSSIP_CAFFE_STATE",
    ),
)
_KERNELS = (
    Row(
        "no memory without a name",
        VALID,
        without("memfd_create=38"),
        codes=(6,),
        says="the kernel refuses memfd_create .*; use Linux 5.4 or newer; in a container",
    ),
    Row("no /proc", QUICK, within=NOWHERE.format("/proc"), codes=(6,), says="there is no /proc; mount it"),
    Row("no /sys", CAFFE, within=NOWHERE.format("/sys"), says=TRAINED),
    Row("no network", f"{QUICK} --peers 2", within="unshare --net --", says=TRAINED),
    Row("no names of hosts", f"{QUICK} --peers 2", within=EMPTY.format("/etc/hosts"), says=TRAINED),
    Row("no names of users", QUICK, within=EMPTY.format("/etc/passwd"), says=TRAINED),
    Row("a host's name that is no text", f"{QUICK} --peers 2", within=ODD_NAME, says=TRAINED),
    Row(
        "children of which nobody hears",
        QUICK,
        {"ETCD_BIN": "/bin/false"},
        within=CHILDREN_UNSEEN,
        codes=(6,),
        says="etcd did not start: exit 1",
    ),
    Row(
        "signals that the parent has blocked",
        QUICK,
        before=LONG,
        within=f"timeout --preserve-status --kill-after 100 --signal INT 20 {BLOCKED}",
        codes=(130,),
    ),
)
_LIMITS = (
    Row("small files", QUICK, before="ulimit -f 2000", codes=(6,), says="ulimit -f unlimited"),
    Row("a small stack", CAFFE, before="ulimit -s 256", says=TRAINED),
    Row("a stack without end", CAFFE, before="ulimit -s unlimited", says=TRAINED),
    Row(
        "little time of the processor",
        QUICK,
        before=f"{LONG}; ulimit -S -t 4",
        codes=(1,),
        says="CPU time is used up; raise the limit with 'ulimit -t unlimited'",
    ),
)
_VARIABLES = (
    Row(
        "variants of libraries that are not there",
        CAFFE,
        {
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "cpp",
            "GRPC_POLL_STRATEGY": "bogus",
            "OPENBLAS_CORETYPE": "nothing",
            "OMP_NUM_THREADS": "many",
            "GOGC": "many",
            "TZ": "Nowhere/None",
            "LD_BIND_NOW": "1",
        },
        says=TRAINED,
    ),
    Row(
        "libraries that look for faults",
        CAFFE,
        {
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",
            "GRPC_POLL_STRATEGY": "poll",
            "MALLOC_PERTURB_": "165",
            "MALLOC_CHECK_": "3",
            "PYTHONMALLOC": "debug",
            "PYTHONWARNDEFAULTENCODING": "1",
            "PYTHONWARNINGS": "error",
            "GODEBUG": "bogus=1",
        },
        says=TRAINED,
    ),
    Row("next to no variables", QUICK, before="unset HOME USER LANG; export PATH=", says=TRAINED),
)
_NAMES = (
    Row("a state folder with marks of addresses", QUICK, {STATE: "WORK/a,b c:d=ü"}, says=TRAINED),
    Row("a state folder far down", QUICK, {STATE: f"WORK/{'/'.join(['x' * 60] * 5)}"}, says=TRAINED),
    Row("a state folder below ~", QUICK, {STATE: "~/x", "HOME": "WORK/h"}, says=TRAINED, leaves="h/x"),
    Row(
        "a home that is a link to itself",
        "cluster status",
        {STATE: None, "HOME": "WORK/loop"},
        before="ln -s loop loop",
        codes=(6,),
        says="Too many levels of symbolic links.*GOSSIP_CAFFE_STATE",
    ),
    Row(
        "a working folder whose name is no text",
        CAFFE,
        before="mkdir $'a\\nb \\xff\"q\\'%s'; cp solver.prototxt a*/; cd a*",
        says="trained: tiny_iter_60.caffemodel",
    ),
    Row(
        "an etcd's socket that is not there",
        "job list --etcd unix:/nowhere/etcd",
        codes=(4,),
        says="check --etcd",
    ),
)
MACHINE_ROWS = (
    *_DISKS,
    *_FILE_SYSTEMS,
    *_KERNELS,
    *_LIMITS,
    *_VARIABLES,
    *_NAMES,
)
