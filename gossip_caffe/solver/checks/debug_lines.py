"""The lines that Caffe prints because of a solver's debug_info."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LINE = re.compile(r"^\w\S* [\d:.]+\s+\d+ [\w./]+:\d+\] (\s*\[(?:Forward|Backward|Update)\] .*)$")


def debug_lines(lines: Sequence[str]) -> list[str]:
    """Return those of ``lines`` that debug_info causes, without the prefix of glog."""
    return [match[1] for line in lines if (match := _LINE.search(line))]
