"""The command lines of Caffe's tools as gflags reads them: ``-solver F``, ``-solver=F`` and ``--solver F`` are one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_FLAG = re.compile(r"--?([A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag that Caffe's tools know. ``value``: None for a flag without one. ``written``: its words as given."""

    name: str
    value: str | None
    written: tuple[str, ...]

    @property
    def is_on(self) -> bool:
        """True unless the flag is a boolean that is turned off."""
        return self.value is None or self.value.lower() not in {"0", "false", "f", "no", "n"}


def split(words: Sequence[str], known: Mapping[str, bool]) -> list[Flag | str]:
    """Find the known flags among the words. All other words, and those after ``--``, stay as they are.

    ``known``: the names, each with True if the flag takes a value. A value may be the next word. A boolean may be
    written ``--noNAME``.
    """
    found: list[Flag | str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            return [*found, *words[at:]]
        flag, used = _flag(words[at : at + 2], known)
        found.append(word if flag is None else flag)
        at += used
    return found


def _flag(words: Sequence[str], known: Mapping[str, bool]) -> tuple[Flag | None, int]:
    """Read the first word, and the second if it is its value. Returns the flag and the number of words."""
    match = _FLAG.fullmatch(words[0])
    if match is None:
        return None, 1
    name, value = match[1].replace("-", "_"), match[2]
    if name not in known and name.startswith("no") and known.get(name[2:]) is False:
        return Flag(name[2:], "false", (words[0],)), 1
    if name not in known:
        return None, 1
    if value is None and known[name] and len(words) == 2:
        return Flag(name, words[1], tuple(words)), 2
    return Flag(name, value, (words[0],)), 1
