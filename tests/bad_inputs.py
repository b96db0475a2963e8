"""Mistakes that users make in solvers, nets and data, for tests: how each is made, and what must be said of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import lmdb
import numpy as np

from gossip_caffe.errors import ExitCode
from gossip_caffe.wire import caffe_wire_pb2 as wire
from tests.tiny_job import TinyJob, write_lmdb

SOURCE_LAYER = re.compile(
    r"(?s)layer \{\n  name: \"data\" type: \"Data\".*?include \{ phase: TRAIN \}.*?\n\}\n"
)


@dataclass(frozen=True, slots=True)
class Bad:
    """One mistake: how it gets into the files of a good job, and what the one line must say.

    ``options``: of the command; HERE in them is the job's folder.
    """

    name: str
    make: Callable[[TinyJob], object]
    says: str
    code: ExitCode = ExitCode.USAGE
    options: str = ""


def solver(old: str, new: str) -> Callable[[TinyJob], None]:
    return lambda job: change(job.solver, old, new)


def net(old: str, new: str) -> Callable[[TinyJob], None]:
    return lambda job: change(job.net, old, new)


def source(kind: str, param: str) -> Callable[[TinyJob], None]:
    """A layer of another type in the place of the one that brings the data of training."""

    def replace(job: TinyJob) -> None:
        layer = f'layer {{ name: "data" type: "{kind}" top: "data" top: "label" {param} }}\n'
        text, count = SOURCE_LAYER.subn(layer.replace("HERE", str(job.folder)), job.net.read_text(), count=1)
        assert count == 1
        job.net.write_text(text)

    return replace


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def records(*values: bytes) -> Callable[[TinyJob], None]:
    """Other records in the LMDB of training."""

    def write(job: TinyJob) -> None:
        with (
            lmdb.open(str(job.train), map_size=1 << 22) as environment,
            environment.begin(write=True) as transaction,
        ):
            transaction.drop(environment.open_db(None, transaction), delete=False)
            for index, value in enumerate(values):
                transaction.put(b"%08d" % index, value)

    return write


def without_source(job: TinyJob) -> None:
    change(job.net, f'source: "{job.train}"', "")


def few_records(job: TinyJob) -> None:
    folder = job.folder / "few"
    write_lmdb(folder, 8, seed=1)
    change(job.net, str(job.train), str(folder))


def garbled_file(job: TinyJob) -> None:
    (job.train / "data.mdb").write_bytes(os.urandom(20_000))


def mean_of(*sizes: int) -> Callable[[TinyJob], None]:
    def write(job: TinyJob) -> None:
        blob = wire.BlobProto(data=[0.0] * int(np.prod(sizes)))
        blob.shape.dim.extend(sizes)
        (job.folder / "mean").write_bytes(blob.SerializeToString())
        change(job.net, "scale: 0.0039", f'mean_file: "{job.folder}/mean"')

    return write


def written(name: str, content: bytes, then: Callable[[TinyJob], object]) -> Callable[[TinyJob], None]:
    def write(job: TinyJob) -> None:
        (job.folder / name).write_bytes(content)
        then(job)

    return write


def nothing(job: TinyJob) -> None:
    """The files are right."""


def both(*makers: Callable[[TinyJob], object]) -> Callable[[TinyJob], None]:
    def make(job: TinyJob) -> None:
        for maker in makers:
            maker(job)

    return make


def weights(layer: str, *shape: int) -> Callable[[TinyJob], None]:
    """A .caffemodel of one layer, which gives the file its name, with a matrix and a bias."""

    def write(job: TinyJob) -> None:
        net = wire.NetParameter()
        blobs = net.layer.add(name=layer).blobs
        for sizes in (shape, shape[:1]):
            blob = blobs.add(data=[0.5] * int(np.prod(sizes)))
            blob.shape.dim.extend(sizes)
        (job.folder / f"{layer}.caffemodel").write_bytes(net.SerializeToString())

    return write


def snapshot(
    iteration: int, sizes: list[int], learned: str = "away/gone.caffemodel"
) -> Callable[[TinyJob], None]:
    """A .solverstate with a history of such blobs."""

    def write(job: TinyJob) -> None:
        state = wire.SolverState(iter=iteration, learned_net=learned)
        for size in sizes:
            state.history.add(data=[0.0] * size)
        (job.folder / "s.solverstate").write_bytes(state.SerializeToString())

    return write


def hdf5(names: bytes, **shapes: tuple[int, ...]) -> Callable[[TinyJob], None]:
    """HDF5Data with a list of files; with ``shapes`` there is one, a.h5, with such datasets."""

    def write(job: TinyJob) -> None:
        (job.folder / "list.txt").write_bytes(names + b"\n")
        source("HDF5Data", 'hdf5_data_param { source: "HERE/list.txt" batch_size: 4 }')(job)
        if shapes:
            with h5py.File(job.folder / "a.h5", "w") as file:
                for name, shape in shapes.items():
                    file[name] = np.zeros(shape, np.float32)

    return write


def pictures(lines: bytes) -> Callable[[TinyJob], None]:
    """ImageData with a list."""
    param = 'image_data_param { source: "HERE/list.txt" batch_size: 4 }'
    return written("list.txt", lines, source("ImageData", param))


def fed() -> Callable[[TinyJob], None]:
    """A layer that a program fills in plain Caffe."""
    shapes = "shape { dim: 4 dim: 1 dim: 6 dim: 6 } shape { dim: 4 }"
    return source("Input", f"input_param {{ {shapes} }}")


def a_folder(job: TinyJob) -> None:
    job.solver.unlink()
    job.solver.mkdir()


def a_net_that_is_a_folder(job: TinyJob) -> None:
    change(job.solver, str(job.net), str(job.train))


def unreadable_net(job: TinyJob) -> None:
    """Not even for root, who may read any file: its first page is not mapped."""
    change(job.solver, str(job.net), "/proc/self/mem")


def a_binary_file(job: TinyJob) -> None:
    job.solver.write_bytes(bytes(range(256)))


BAD = [
    # ── solvers ───────────────────────────────────────────────────────────────────────────────────────────────────────
    Bad(
        "no solver",
        lambda job: job.solver.unlink(),
        r"there is no solver at .*solver\.prototxt; check the path",
    ),
    Bad("a folder for a solver", a_folder, r"cannot read the solver .*solver\.prototxt .*directory"),
    Bad("a binary solver", a_binary_file, r"the solver .*solver\.prototxt is a binary file"),
    Bad(
        "an empty solver",
        lambda job: job.solver.write_text(""),
        r"solver\.prototxt:1:1: the solver names no net",
    ),
    Bad(
        "an unterminated string",
        solver('"inv"', '"inv'),
        r"solver\.prototxt:8:12: a string that does not end",
    ),
    Bad("an unknown field", solver("power", "pwer"), r'solver\.prototxt:10:1: .*no field named "pwer"'),
    Bad(
        "a word for a number",
        solver("0.05", "small"),
        r"solver\.prototxt:5:\d+: .*small",
    ),
    Bad(
        "a field that Caffe does not have, before what is missing",
        both(solver("max_iter", "# max_iter"), net("num_output: 10 ", "pooled_h: 3 num_output: 10 ")),
        r'net\.prototxt:19:\d+: .*no field named "pooled_h"',
    ),
    Bad(
        "a field that Caffe does not have, before data that is not there",
        both(net("/train", "/trainee"), net('type: "ReLU"', 'type: "ReLU" dense_block_param { }')),
        r'net\.prototxt:16:\d+: .*no field named "dense_block_param"',
    ),
    Bad(
        "a layer that Caffe does not have, before what is missing",
        both(solver("max_iter", "# max_iter"), net('"ReLU"', '"DenseBlock"')),
        r"net\.prototxt:16:\d+: layer 'relu1' has the unknown type 'DenseBlock'",
    ),
    Bad(
        "an unknown field of a solver without its net",
        both(solver("net.proto", "nt.proto"), solver("power", "pwer")),
        r'solver\.prototxt:10:1: .*no field named "pwer"',
    ),
    Bad(
        "a source layer that Caffe does not have",
        source("DenseImageData", 'dense_param { source: "HERE/list.txt" batch_size: 8 }'),
        r'net\.prototxt:2:\d+: .*no field named "dense_param"',
    ),
    Bad(
        "a source layer of an unknown type",
        source("BinaryData", ""),
        r"net\.prototxt:2:\d+: layer 'data' has the unknown type 'BinaryData'; did you mean",
    ),
    Bad(
        "a regularisation that no Caffe has",
        solver("power", 'regularization_type: "l2" power'),
        r"solver\.prototxt:10:1: unknown regularization_type 'l2'; use one of L2, L1",
    ),
    Bad(
        "snapshots in a folder that is not there",
        solver('"tiny"', '"nowhere/x"'),
        r"snapshot_prefix 'nowhere/x': there is no folder .*nowhere; make it with 'mkdir -p",
        ExitCode.ENVIRONMENT,
    ),
    Bad("max_iter 0", solver("max_iter: 40", "max_iter: 0"), r"max_iter is 0: there is nothing to train"),
    Bad("no net", solver("net:", "#"), r"solver\.prototxt:1:1: the solver names no net"),
    Bad(
        "two nets",
        solver("net:", 'train_net: "x" net:'),
        r"solver\.prototxt:1:16: the solver names several nets",
    ),
    Bad(
        "a net that is not there",
        solver("net.proto", "nt.proto"),
        r"solver\.prototxt:1:1: there is no net at .*nt\.p",
    ),
    Bad("a folder for a net", a_net_that_is_a_folder, r"cannot read the net .*train .*directory"),
    Bad("a net that cannot be read", unreadable_net, r"cannot read the net /proc/self/mem \("),
    Bad(
        "an empty inline net",
        solver("net: ", "net_param { } # "),
        r"solver\.prototxt:1:1: net_param is empty",
    ),
    Bad(
        "an unknown policy",
        solver('"inv"', '"cosine"'),
        r"solver\.prototxt:8:1: lr_policy is 'cosine'; use one of",
    ),
    Bad("no policy", solver("lr_policy", "# lr_policy"), r"solver\.prototxt:1:1: lr_policy is ''"),
    Bad("no stepsize", solver('"inv"', '"step"'), r"solver\.prototxt:1:1: .*gives no stepsize"),
    Bad(
        "a negative max_iter",
        solver("max_iter: 40", "max_iter: -4"),
        r"solver\.prototxt:11:1: max_iter is -4; give 1",
    ),
    Bad(
        "no max_iter", solver("max_iter", "# max_iter"), r"solver\.prototxt:1:1: the solver gives no max_iter"
    ),
    Bad(
        "iter_size 0",
        solver("power", "iter_size: 0 power"),
        r"solver\.prototxt:10:1: iter_size must be positive",
    ),
    Bad(
        "an unknown solver type",
        solver("power", "type: 'Adm' power"),
        r"solver\.prototxt:10:1: unknown .*'Adm'",
    ),
    Bad(
        "momentum with AdaGrad",
        solver("power", "type: 'AdaGrad' power"),
        r"solver\.prototxt:6:1: Caffe's AdaGrad",
    ),
    Bad("two test_iter too few", solver("test_iter: 4", 'test_net: "a"'), r"solver\.prototxt:2:1: "),
    Bad(
        "no test_interval",
        solver("test_interval", "# test_"),
        r"solver\.prototxt:2:1: test_interval must be given",
    ),
    Bad(
        "two test_state for one net",
        solver("power", 'test_state { stage: "a" } test_state { stage: "b" } power'),
        r"solver\.prototxt:10:1: there are 2 test_state for 1 test nets",
    ),
    # ── nets ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    Bad("an unterminated brace", net("num_output: 10", "num_output: 10 {"), r"net\.prototxt:\d+:\d+: "),
    Bad(
        "a field that is none",
        net("num_output", "num_outputs"),
        r'net\.prototxt:14:25: .*field named "num_outputs"',
    ),
    Bad("a value that is none", net('"xavier"', "xavier"), r"net\.prototxt:14:\d+: "),
    Bad(
        "an unknown type",
        net('"ReLU"', '"Relu6x"'),
        r"net\.prototxt:16:23: .*unknown type 'Relu6x'; did you mean 'R",
    ),
    Bad("no type", net('type: "ReLU"', ""), r"net\.prototxt:16:1: layer 'relu1' has no type"),
    Bad(
        "a bottom from nowhere",
        net('bottom: "ip1" top: "ip2"', 'bottom: "ip" top: "ip2"'),
        r"net\.prototxt:17:1: .*'ip'",
    ),
    Bad(
        "a top that is there",
        net('bottom: "ip1" top: "ip1"', 'bottom: "ip1" top: "data"'),
        r"net\.prototxt:16:1: .*data",
    ),
    Bad("two layers of a name", net('"ip2" type', '"ip1" type'), r"net\.prototxt:17:1: two layers .* 'ip1'"),
    Bad(
        "labels of another shape",
        net('bottom: "label" top: "loss"', 'bottom: "ip1" top: "loss"'),
        r"net\.prototxt:21:1: Caffe refused layer 'loss' of the TRAIN net: Number of labels",
    ),
    Bad("no outputs", net("num_output: 10", ""), r"net\.prototxt:17:1: Caffe refused layer 'ip2'"),
    Bad(
        "no loss",
        net('"SoftmaxWithLoss" bottom: "ip2" bottom: "label"', '"Softmax" bottom: "ip2"'),
        r"net\.prototxt:21:1: the TRAIN net has no loss",
    ),
    Bad(
        "no layer for training",
        net("phase: TRAIN", "phase: TEST"),
        r"net\.prototxt:2:1: the TRAIN phase has no data layer",
    ),
    Bad(
        "a rule that leaves nothing",
        net("phase: TRAIN", 'phase: TRAIN stage: "x"'),
        r"net\.prototxt:2:1: the TRAIN phase has no data layer",
    ),
    Bad(
        "a net that only fails in tests",
        net('"Accuracy" bottom: "ip2"', '"Accuracy" bottom: "ip3"'),
        r"net\.prototxt:22:1: Caffe refused layer 'accuracy' of the TEST net: .*'ip3'",
    ),
    Bad(
        "a Python layer from nowhere",
        net('"ReLU"', '"Python" python_param { module: "no_such_module" layer: "L" }'),
        r"net\.prototxt:16:1: Caffe refused layer 'relu1' .*no_such_module",
    ),
    Bad(
        "an empty net",
        lambda job: job.net.write_text("# nothing"),
        r"net\.prototxt:1:1: the TRAIN phase has no data layer",
    ),
    Bad(
        "layers of two formats",
        net(
            'layer { name: "relu1"',
            'layers { name: "old" type: RELU bottom: "ip1" top: "old" }\nlayer { name: "relu1"',
        ),
        r"net\.prototxt:16:1: ",
    ),
    # ── data ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    Bad(
        "no LMDB",
        lambda job: job.train.rename(job.folder / "away"),
        r"net\.prototxt:5: layer 'data': there is no LMDB at .*train; check",
    ),
    Bad(
        "no LMDB to test",
        lambda job: job.test.rename(job.folder / "away"),
        r"net\.prototxt:10: layer 'data': there is no .*test; check",
    ),
    Bad("an empty LMDB", records(), r"net\.prototxt:5: layer 'data': the LMDB at .*train is empty"),
    Bad(
        "records that are garbage",
        records(*[b"\xff\xfe garbage"] * 64),
        r"net\.prototxt:5: layer 'data': .*train.*key '0+'",
    ),
    Bad("a garbled LMDB", garbled_file, r"net\.prototxt:5: layer 'data': cannot open the LMDB at .*train"),
    Bad(
        "more in a batch than in the data",
        few_records,
        r"net\.prototxt:\d+:\d+: batch_size 16 exceeds the 8 records of .*few",
    ),
    Bad(
        "a batch of 0",
        net("batch_size: 16", "batch_size: 0"),
        r"net\.prototxt:2:1: layer 'data' has no batch_size",
    ),
    Bad("no source", without_source, r"net\.prototxt:2:1: layer 'data' has no data_param.source"),
    Bad(
        "three tops",
        net('top: "label"', 'top: "label" top: "more"'),
        r"net\.prototxt:2:1: layer 'data' has 3 tops",
    ),
    Bad(
        "a crop larger than its image",
        net("scale: 0.0039", "crop_size: 7"),
        r"net\.prototxt:5: layer 'data': .*crop",
    ),
    Bad(
        "no mean file",
        net("scale: 0.0039", 'mean_file: "gone"'),
        r"net\.prototxt:4:21: there is no mean file at .*gone",
    ),
    Bad("a mean of another shape", mean_of(1, 3, 6, 6), r"net\.prototxt:5: layer 'data': .*mean"),
    Bad(
        "a mean that is none",
        written(
            "mean",
            b"\xff\xff garbage",
            lambda job: change(job.net, "scale: 0.0039", f'mean_file: "{job.folder}/mean"'),
        ),
        r"net\.prototxt:5: layer 'data': .*mean",
    ),
    Bad(
        "too many mean values",
        net("scale: 0.0039", "mean_value: [1, 2]"),
        r"net\.prototxt:5: layer 'data': .*mean_value",
    ),
    Bad(
        "window data",
        source("WindowData", 'window_data_param { source: "HERE/w" batch_size: 4 }'),
        r"net\.prototxt:2:1: layer 'data' .*WindowData",
    ),
    Bad(
        "no list of HDF5 files",
        source("HDF5Data", 'hdf5_data_param { source: "HERE/list.txt" batch_size: 4 }'),
        r"net\.prototxt:2: layer 'data': cannot read the list .*list\.txt",
    ),
    Bad(
        "an empty list of images",
        written(
            "list.txt", b"", source("ImageData", 'image_data_param { source: "HERE/list.txt" batch_size: 4 }')
        ),
        r"net\.prototxt:2: layer 'data': the list .*list\.txt is empty",
    ),
    Bad(
        "a list of HDF5 files that are gone",
        hdf5(b"gone.h5"),
        r"net\.prototxt:2: layer 'data': .*list\.txt:1: .*gone\.h5",
    ),
    Bad(
        "an HDF5 file that is none",
        hdf5(b"net.prototxt"),
        r"net\.prototxt:2: layer 'data': .*list\.txt:1: cannot open .*net\.prototxt",
    ),
    Bad(
        "an HDF5 file without its top",
        hdf5(b"a.h5", data=(20, 1, 6, 6)),
        r"net\.prototxt:2: layer 'data': .*a\.h5: no dataset 'label'",
    ),
    Bad(
        "HDF5 tops of unequal length",
        hdf5(b"a.h5", data=(20, 1, 6, 6), label=(19,)),
        r"net\.prototxt:2: .*a\.h5: datasets of unequal length",
    ),
    Bad(
        "a list of pictures that are gone",
        pictures(b"gone.png 3\n"),
        r"net\.prototxt:2: layer 'data': .*list\.txt:1, .*gone\.png",
    ),
    Bad(
        "a picture without a label",
        pictures(b"net.prototxt\n"),
        r"net\.prototxt:2: layer 'data': .*list\.txt:1: 'net\.prototxt' does not end",
    ),
    Bad(
        "a picture that is none",
        pictures(b"net.prototxt 3\n"),
        r"net\.prototxt:2: layer 'data': .*list\.txt:1, .*not a picture",
    ),
    Bad(
        "a LevelDB that is an LMDB",
        net("backend: LMDB", "backend: LEVELDB"),
        r"net\.prototxt:5: layer 'data': .*LevelDB.*train",
    ),
    Bad(
        "an Input that nothing fills",
        fed(),
        r"net\.prototxt:2:1: layer 'data' is an Input layer: no data set is given for it",
    ),
    Bad(
        "a data set whose module is gone",
        fed(),
        r"net\.prototxt:2: layer 'data': .*no_such_module",
        options="--dataset no_such_module:records",
    ),
    Bad(
        "a data set without its name",
        fed(),
        r"net\.prototxt:2: .*--dataset json: not MODULE:CALLABLE",
        options="--dataset json",
    ),
    Bad(
        "a data set that is not in its module",
        fed(),
        r"net\.prototxt:2: layer 'data': .*json:records",
        options="--dataset json:records",
    ),
    # ── what it begins with ───────────────────────────────────────────────────────────────────────────────────────────
    Bad(
        "no weights",
        nothing,
        r"there is no weight file at .*gone\.caffemodel; check",
        options="--weights HERE/gone.caffemodel",
    ),
    Bad(
        "a folder for weights",
        nothing,
        r"cannot read the weight file .*train .*directory",
        options="--weights HERE/train",
    ),
    Bad(
        "weights that are none",
        written("x", b"\xff\xffgarbage", nothing),
        r"cannot load .*/x: .*arse",
        options="--weights HERE/x",
    ),
    Bad(
        "weights of another net",
        weights("other", 6, 10),
        r".*other\.caffemodel does not fit this net",
        options="--weights HERE/other.caffemodel",
    ),
    Bad(
        "weights of another shape",
        weights("ip1", 3, 36),
        r"cannot load .*ip1\.caffemodel: .*'ip1'.*shape",
        options="--weights HERE/ip1.caffemodel",
    ),
    Bad(
        "the second of two weights",
        weights("ip1", 32, 36),
        r"there is no weight file at .*/b; check",
        options="--weights HERE/ip1.caffemodel,HERE/b",
    ),
    Bad(
        "weights and a snapshot",
        nothing,
        r"--weights and --resume exclude each other",
        ExitCode.USAGE,
        "--weights a --resume b",
    ),
    Bad(
        "no snapshot",
        nothing,
        r"there is no solver state at .*gone",
        options="--resume HERE/gone.solverstate",
    ),
    Bad(
        "a snapshot that is none",
        written("x", b"\xff\xffgarbage", nothing),
        r"/x is no \.solverstate",
        options="--resume HERE/x",
    ),
    Bad(
        "an HDF5 snapshot",
        written("s.solverstate.h5", b"\x89HDF garbage", nothing),
        r"s\.solverstate\.h5 is no \.solverstate",
        options="--resume HERE/s.solverstate.h5",
    ),
    Bad(
        "weights for a snapshot",
        weights("ip1", 32, 36),
        r"/ip1\.caffemodel is no \.solverstate",
        options="--resume HERE/ip1.caffemodel",
    ),
    Bad(
        "a snapshot without its weights",
        snapshot(7, [1152]),
        r"there is no weight file of s\.solverstate at .*away",
        options="--resume HERE/s.solverstate",
    ),
    Bad(
        "a snapshot of another net",
        both(weights("ip1", 32, 36), snapshot(7, [9], "ip1.caffemodel")),
        r".*s\.solverstate does not fit this net",
        options="--resume HERE/s.solverstate",
    ),
    Bad(
        "a snapshot at the end",
        both(weights("ip1", 32, 36), snapshot(40, [9], "ip1.caffemodel")),
        r"solver\.prototxt:11:1: max_iter is 40, and the snapshot is of iteration 40",
        options="--resume HERE/s.solverstate",
    ),
]
