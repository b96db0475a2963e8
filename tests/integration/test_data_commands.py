"""``data``: a database that Caffe reads, and a run that ``kill -9`` ends half-way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gossip_caffe.data.making.databases import records_of
from gossip_caffe.data.sources.pictures import open_cv
from tests.cluster_run import ClusterRun, cluster_run, wait_for

pytestmark = pytest.mark.needs("cv2")

_READ = """
import sys
import caffe

layer = 'layer { name: "data" type: "Data" top: "data" top: "label" data_param { %s } }'
with open(sys.argv[2], "w") as file:
    file.write(layer % ('source: "%s" backend: LMDB batch_size: 4' % sys.argv[1]))
net = caffe.Net(sys.argv[2], caffe.TEST)
net.forward()
print([int(value) for value in net.blobs["label"].data], float(net.blobs["data"].data.sum(dtype="float64")))
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as made:
        yield made


def write_pictures(folder: Path, count: int) -> list[np.ndarray]:
    cv2, rng = open_cv(), np.random.default_rng(2)
    pictures = [rng.integers(0, 256, (5, 7, 3), dtype=np.uint8) for _ in range(min(count, 8))]
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    lines = [f"{number % 8}.png {number % 8}" for number in range(count)]
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return pictures


@pytest.mark.needs("caffe")
def test_caffe_reads_the_database_that_convert_imageset_would_make(run: ClusterRun, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path, 4)
    words = ("convert_imageset", "-logtostderr=1", "--backend=lmdb", f"{tmp_path}/", "list.txt", "db")
    done = run.run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "db: 4 records of 4 entries\n"
    read = subprocess.run(
        [sys.executable, "-c", _READ, str(tmp_path / "db"), str(tmp_path / "net.prototxt")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    labels, _, total = read.stdout.strip().rpartition(" ")
    assert json.loads(labels) == [0, 1, 2, 3]
    assert float(total) == sum(int(picture.sum()) for picture in pictures)
    told = json.loads(run.run("data", "mean", "db", "mean.binaryproto", "--json", cwd=tmp_path).stdout)
    assert told["mean_values"] == pytest.approx(np.mean(pictures, axis=(0, 1, 2)).tolist(), rel=1e-6)
    assert (tmp_path / "mean.binaryproto").is_file()


def test_a_run_that_is_killed_leaves_no_process_and_goes_on(run: ClusterRun, tmp_path: Path) -> None:
    write_pictures(tmp_path, 12_000)
    words = ("data", "create", "db", "list.txt", "--jobs", "2")
    process = run.start(*words, cwd=tmp_path)
    part = tmp_path / "db.part" / "data.mdb"
    wait_for("a transaction is written", lambda: part.exists() and part.stat().st_size > 300_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run.assert_nothing_is_left()
    assert not (tmp_path / "db").exists()
    done = run.run(*words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["records"] == 12_000
    assert told["went_on_at"] >= 1000
    keys = [key for key, _ in records_of(str(tmp_path / "db"))]
    assert keys == [b"%08d_%d.png" % (number, number % 8) for number in range(12_000)]
