"""The pieces that the examples share: made-up pictures and their databases, and figures from event logs."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from gossip_caffe.demo.databases import write_database
from gossip_caffe.demo.patterns import KINDS, pictures
from gossip_caffe.demo.told import accuracy_over_samples, records_over_time
from gossip_caffe.wire import caffe_wire_pb2 as wire
from tests.cluster_run import ROOT

SHAPE = (1, 28, 28)
LOG = """I1130 19:08:27.757906  2465 solver.cpp:231] Iteration 0, loss = 2.5
I1130 19:08:28.408654  2465 solver.cpp:231] Iteration 200 (307.339 iter/s, 0.650748s/200 iters), loss = 0.5
I1130 19:08:29.420773  2465 solver.cpp:346] Iteration 101, Testing net (#0)
I1130 19:08:29.420773  2465 solver.cpp:413]     Test net output #0: accuracy = 0.75
"""


def test_made_up_pictures_are_alike_for_a_seed_and_tell_their_kind() -> None:
    first, again = pictures(50, SHAPE, seed=1), pictures(50, SHAPE, seed=1)
    assert first[0].shape == (50, *SHAPE)
    assert first[0].dtype == np.uint8
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    images, labels = pictures(2000, SHAPE, seed=2)
    means = np.array([images[labels == kind].mean(axis=0).ravel() for kind in range(KINDS)])
    tested, truth = pictures(500, SHAPE, seed=3)
    centred = means - means.mean(axis=1, keepdims=True)
    found = ((tested.reshape(500, -1) - 128.0) @ centred.T).argmax(axis=1)
    assert 3 / KINDS < (found == truth).mean() < 1, "they can be learned, and not all of them be told"


def test_a_database_of_an_example_replaces_one_that_is_there(tmp_path: Path) -> None:
    for seed in (1, 2):
        images, labels = pictures(7, SHAPE, seed)
        write_database(tmp_path / "train_lmdb", images, labels)
    with lmdb.open(str(tmp_path / "train_lmdb"), readonly=True) as database, database.begin() as reading:
        found = [wire.Datum.FromString(value) for _, value in reading.cursor()]
    assert [datum.label for datum in found] == labels.tolist()
    assert found[3].data == images[3].tobytes()
    assert {path.name for path in tmp_path.iterdir()} == {"train_lmdb"}


def test_figures_are_read_from_events() -> None:
    trained: list[Mapping[str, Any]] = [
        {"event": "trained", "t": 10.5, "parts": [[0, 0, 16]]},
        {"event": "offered", "t": 10.6},
        {"event": "trained", "t": 11.0, "parts": [[0, 40, 44], [1, 0, 8]]},
    ]
    assert records_over_time(trained, 10.0) == [(0.5, 16), (1.0, 28)]
    outputs = [{"name": "loss", "means": [0.1]}, {"name": "accuracy", "means": [0.9]}]
    tested = {"event": "tested", "progress_samples": 640, "outputs": outputs}
    assert accuracy_over_samples({"p0": trained, "p1": [tested]}, "consensus").points == ((640, 0.9),)


def test_losses_and_accuracies_are_read_from_a_log(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("draw", ROOT / "examples" / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    (tmp_path / "train.log").write_text(LOG)
    assert draw.points_of(tmp_path / "train.log") == ([(0, 2.5), (200, 0.5)], [(101, 0.75)])
