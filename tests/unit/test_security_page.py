"""docs/security.md names a test for each thing that it promises, and each of them is there."""

from __future__ import annotations

import re

from tests.cluster_run import ROOT

PAGE = ROOT / "docs" / "security.md"
HEADING = "## What holds, and the test of it"


def test_every_test_that_the_page_names_is_there() -> None:
    rows = [line for line in PAGE.read_text().partition(HEADING)[2].splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        named, path = re.findall(r"`([\w/.]*)::(test_\w+)`", row), ""
        assert named, row
        for where, test in named:
            path = where or path
            text = (ROOT / path).read_text()
            assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), f"{path}::{test}"
