"""Rows like those of ``tests/environments.py`` whose oddity is in the data files that people have."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import lmdb
import numpy as np

from gossip_caffe.wire import caffe_wire_pb2 as wire
from tests.environments import Row

RECORDS, CLASSES = 96, 10
VALID = "job validate solver.prototxt"
TRAIN = "train solver.prototxt"
CAN_BE = "can be trained"
TRAINED = "trained: m_iter_40.caffemodel"
TAIL = f"""
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: {CLASSES} weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""

Write = Callable[[Path], None]


def _write(folder: Path, layers: str, base_lr: str = "0.01") -> None:
    (folder / "net.prototxt").write_text(layers + TAIL)
    solver = f'net: "net.prototxt" base_lr: {base_lr} lr_policy: "fixed" max_iter: 40 snapshot_prefix: "m"\n'
    (folder / "solver.prototxt").write_text(solver)


def _lmdb(path: Path, labels: Iterable[int]) -> None:
    rng = np.random.default_rng(0)
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as writing:
        for index, label in enumerate(labels):
            pixels = rng.integers(0, 256, 36, dtype=np.uint8).tobytes()
            datum = wire.Datum(channels=1, height=6, width=6, data=pixels, label=label)
            writing.put(b"%08d" % index, datum.SerializeToString())


def _layer(source: str = "l", suffix: str = "", batch: int = 8, scale: float = 0.004) -> str:
    return f"""layer {{ name: "data{suffix}" type: "Data" top: "data{suffix}" top: "label{suffix}"
  transform_param {{ scale: {scale} }} data_param {{ source: "{source}" backend: LMDB batch_size: {batch} }} }}
"""


def labels(wrong: int | None = None, *, source: str = "l", more: str = "", base_lr: str = "0.01") -> Write:
    """An LMDB of which record 33 has that label."""

    def write(folder: Path) -> None:
        _lmdb(folder / "l", (wrong if i == 33 and wrong is not None else i % CLASSES for i in range(RECORDS)))
        _write(folder, _layer(source, scale=1.0 if base_lr != "0.01" else 0.004) + more, base_lr)

    return write


def pictures(encoding: str, mark: bytes = b"") -> Write:
    """A list of pictures whose names have an umlaut, in that encoding."""

    def write(folder: Path) -> None:
        import cv2  # noqa: PLC0415 - optional: only rows with pictures need it

        lines = []
        for index in range(24):
            name = f"F\xf6to {index}.png".encode(encoding)
            pixels = np.random.default_rng(index).integers(0, 256, (6, 6, 3), dtype=np.uint8)
            (folder / os.fsdecode(name)).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
            lines.append(b"%s %d\n" % (name, index % CLASSES))
        (folder / "list.txt").write_bytes(mark + b"".join(lines))
        _write(
            folder,
            'layer { name: "data" type: "ImageData" top: "data" top: "label" '
            'image_data_param { source: "list.txt" batch_size: 8 } transform_param { scale: 0.004 } }\n',
        )

    return write


def hdf5(label: float) -> Write:
    """HDF5 of which record 7 has that label."""

    def write(folder: Path) -> None:
        import h5py  # noqa: PLC0415 - optional: only rows with HDF5 need it

        with h5py.File(folder / "a.h5", "w") as file:
            file["data"] = np.random.default_rng(0).random((RECORDS, 4)).astype(np.float32)
            file["label"] = (np.arange(RECORDS) % CLASSES).astype(np.float32)
            file["label"][7] = label
        (folder / "list.txt").write_text("a.h5\n")
        _write(
            folder,
            'layer { name: "data" type: "HDF5Data" top: "data" top: "label" '
            'hdf5_data_param { source: "list.txt" batch_size: 8 } }\n',
        )

    return write


def cut(wrong: int) -> Write:
    """HDF5 with two labels a record, which the net cuts apart; the second one of record 7 is that."""

    def write(folder: Path) -> None:
        import h5py  # noqa: PLC0415 - optional: only rows with HDF5 need it

        pairs = np.stack([np.arange(RECORDS) % CLASSES, np.arange(RECORDS) % 3], axis=1)
        pairs[7, 1] = wrong
        with h5py.File(folder / "a.h5", "w") as file:
            file["data"] = np.random.default_rng(0).random((RECORDS, 4)).astype(np.float32)
            file["both"] = pairs.astype(np.float32)
        (folder / "list.txt").write_text("a.h5\n")
        _write(
            folder,
            'layer { name: "data" type: "HDF5Data" top: "data" top: "both" '
            'hdf5_data_param { source: "list.txt" batch_size: 8 } }\n'
            'layer { name: "cut" type: "Slice" bottom: "both" top: "label" top: "kind" }\n'
            'layer { name: "few" type: "InnerProduct" bottom: "data" top: "few" '
            'inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }\n'
            'layer { name: "kinds" type: "SoftmaxWithLoss" bottom: "few" bottom: "kind" top: "kinds" }\n',
        )

    return write


def unlike(folder: Path) -> None:
    """Two layers of eight and of three records."""
    _lmdb(folder / "l", (i % CLASSES for i in range(RECORDS)))
    _lmdb(folder / "l2", (i % CLASSES for i in range(40)))
    joined = "".join(
        f'layer {{ name: "{top}" type: "Concat" bottom: "{top}1" bottom: "{top}2" top: "{top}" '
        "concat_param { axis: 0 } }\n"
        for top in ("data", "label")
    )
    _write(folder, _layer("l", "1", 8) + _layer("l2", "2", 3) + joined)


_TWICE = _layer("l", "2") + 'layer { name: "s" type: "Silence" bottom: "data2" bottom: "label2" }\n'
_TAKES = "but layer 'loss' takes 0 to 9"
_SKIP = f"{TRAIN} --set corrupt_records=skip"

DATA_ROWS = (
    *(
        Row(
            f"label {wrong}",
            VALID,
            data=labels(wrong),
            codes=(2,),
            says=f"'00000033': label {wrong}, {_TAKES}",
        )
        for wrong in (10, 5_000_000, -1)
    ),
    Row("a label far beyond, left out", _SKIP, data=labels(5_000_000), says=TRAINED),
    Row(
        "a label that is NaN",
        VALID,
        data=hdf5(float("nan")),
        codes=(2,),
        says=f"record 7: label nan, {_TAKES}",
    ),
    Row(
        "a label without end",
        VALID,
        data=hdf5(float("inf")),
        codes=(2,),
        says=f"record 7: label inf, {_TAKES}",
    ),
    Row("a label that is NaN, left out", _SKIP, data=hdf5(float("nan")), says=TRAINED),
    Row("two labels that the net cuts apart", TRAIN, data=cut(2), says=TRAINED),
    Row(
        "the second of two labels",
        VALID,
        data=cut(7),
        codes=(2,),
        says="record 7: value 1 of both 7, but layer 'kinds' takes 0 to 2",
    ),
    Row("the second of two labels, left out", _SKIP, data=cut(7_000_000), says=TRAINED),
    Row(
        "data.mdb",
        VALID,
        data=labels(source="l/data.mdb"),
        codes=(2,),
        says="name the LMDB's folder: source: '.*/l'",
    ),
    Row(
        "lock.mdb",
        VALID,
        data=labels(source="l/lock.mdb"),
        codes=(2,),
        says="name the LMDB's folder: source: '.*/l'",
    ),
    Row("two layers of one LMDB", TRAIN, data=labels(more=_TWICE), says=TRAINED),
    Row("a lock file of nonsense", TRAIN, data=labels(), before="echo no lock > l/lock.mdb", says=TRAINED),
    Row(
        "a lock file that is a folder",
        TRAIN,
        data=labels(),
        before="rm l/lock.mdb; mkdir l/lock.mdb",
        says=TRAINED,
    ),
    Row("unlike batch sizes", f"{TRAIN} --peers 2", data=unlike, says=TRAINED),
    Row("a list in Latin-1", TRAIN, data=pictures("latin-1"), says=TRAINED),
    Row("a list in GB 18030", VALID, data=pictures("gb18030"), says=CAN_BE),
    Row("a list with a mark", VALID, data=pictures("utf-8", b"\xef\xbb\xbf"), says=CAN_BE),
    Row("a list in UTF-16", VALID, data=pictures("utf-8", b"\xff\xfe"), codes=(2,), says="is in UTF-16"),
    Row("a rate far too high", TRAIN, data=labels(base_lr="1e4"), says=r"loss stays at 87\.34.*has diverged"),
)
