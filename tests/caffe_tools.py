"""parse_log.py of the Caffe source from which pycaffe is built: the tool that Caffe's users have for its logs."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy" / "pycaffe"))

from pinned import CAFFE

Rows = list[dict[str, float]]
TOOLS = ("parse_log.py", "extract_seconds.py")


def source() -> Path:
    """The archive with Caffe's source, as ``make pycaffe`` keeps it."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("GOSSIP_CAFFE_CACHE") or Path(cache) / "gossip-caffe")
    return root / "sources" / CAFFE.file


def parsed(log: Path, folder: Path) -> tuple[Rows, Rows]:
    """The rows that parse_log.py finds in a log: of training and of tests. Skips the test where there is no source."""
    archive = source()
    if not archive.is_file():
        pytest.skip(f"Caffe's source is not in the cache ({archive}); make pycaffe")
    folder.mkdir()
    with tarfile.open(archive) as whole:
        for name in TOOLS:
            file = whole.extractfile(f"brocolli-caffe-{CAFFE.version}/tools/extra/{name}")
            assert file is not None
            # The script is written for Python 2: its only print that takes a tuple is a statement.
            text = file.read().decode().replace("print 'Wrote %s' % output_filename", "pass")
            (folder / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "parse_log.py", str(log), str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    train, test = (_rows(folder / f"{log.name}.{phase}") for phase in ("train", "test"))
    return train, test


def _rows(path: Path) -> Rows:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
