"""The reason why an etcd ended, read from its log: JSON lines, and a Go stack after a panic."""

from __future__ import annotations

import json
import re
from typing import Any

_LAST_WORDS, _OTHERS = ("fatal", "panic", "dpanic"), ("error", "warn")
"""Levels of etcd's log: a line of the first kind ends etcd."""
_NOT_A_CAUSE = frozenset({"level", "ts", "caller", "msg", "error", "stacktrace", "args"})
_PANIC = re.compile(r"^(?:panic|fatal error): (?P<what>.+?)(?: \[recovered\])?$")
_MOST_LETTERS = 300

_REMEDIES = (
    ("no space left", "free some disk space"),
    ("disk quota exceeded", "free some disk space, or raise the quota"),
    ("file too large", "raise the limit on the size of files with 'ulimit -f unlimited'"),
    ("file descriptor limit", "raise it with 'ulimit -n 1024'"),
    ("too many open files", "raise the limit with 'ulimit -n 1024'"),
    ("failed to reserve", "raise or lift the limit on memory ('ulimit -v unlimited')"),
    ("cannot allocate memory", "raise or lift the limit on memory ('ulimit -v unlimited')"),
    ("out of memory", "raise or lift the limit on memory ('ulimit -v unlimited')"),
    ("newosproc", "raise the limit on processes with 'ulimit -u'"),
    ("cannot assign requested address", "give an address of this machine"),
    ("permission denied", "check who owns that folder"),
    ("read-only file system", "set $GOSSIP_CAFFE_STATE to a folder that can be written"),
)


def why_etcd_ended(log: str, *, was_killed: bool = False) -> tuple[str, str]:
    """Return (cause, remedy) from an etcd's output; each is "" when the output does not tell.

    The cause is the log line that ended etcd, else its panic, else its line of the worst level, else its last line. An
    etcd that a signal ended (``was_killed``) has only the first two: its other lines do not tell why it was killed.
    """
    cause = _logged(log, _LAST_WORDS) or _panic(log)
    if not was_killed:
        cause = cause or _logged(log, _OTHERS) or _last_line(log)
    cause = " ".join(cause.split())[:_MOST_LETTERS]
    lower = cause.lower()
    return cause, next((remedy for sign, remedy in _REMEDIES if sign in lower), "")


def _panic(log: str) -> str:
    found = [match["what"] for line in log.splitlines() if (match := _PANIC.match(line))]
    return found[0] if found else ""


def _logged(log: str, levels: tuple[str, ...]) -> str:
    entries = [entry for line in log.splitlines() if (entry := _entry(line)) is not None]
    for level in levels:
        of_level = [entry for entry in entries if entry.get("level") == level]
        if of_level:
            return _words(of_level[-1])
    return ""


def _entry(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _words(entry: dict[str, Any]) -> str:
    """Return a log entry as text: "message: error (name: value, …)"."""
    said = [str(entry[key]).strip() for key in ("msg", "error") if entry.get(key)]
    more = ", ".join(f"{key}: {value}" for key, value in entry.items() if key not in _NOT_A_CAUSE)
    return ": ".join(said) + (f" ({more})" if more else "")


def _last_line(log: str) -> str:
    """Return the last line that is not part of a stack."""
    lines = [
        line.strip() for line in log.splitlines() if line.strip() and not line.startswith(("\t", "goroutine"))
    ]
    return lines[-1] if lines else ""
