"""Which tests may run at the same time with ``pytest -n``: all, except those of a file that is marked ``xdist_group``.

A file whose tests share an expensive fixture has ``pytestmark = pytest.mark.xdist_group(NAME)``: one process runs all
of its tests, so that the fixture is made once. pytest-xdist 3.8 hands the mark over in an attribute that pytest 9.2 no
longer reads, and says nothing: this scheduler reads the mark in the file.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

_MARK = "pytest.mark.xdist_group("


class FilesTogether(LoadScopeScheduling):  # type: ignore[misc]
    """Schedules each test by itself, and a marked file as a whole. The file with the most tests comes first."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if _is_marked(self.config.rootpath / file) else nodeid


@cache
def _is_marked(file: Path) -> bool:
    return _MARK in file.read_text(encoding="utf-8")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesTogether | None:
    """Take the place of xdist's own ``--dist loadgroup``."""
    return FilesTogether(config, log) if config.getvalue("dist") == "loadgroup" else None
