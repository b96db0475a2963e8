"""From a solver file to a job, and the messages for what cannot become one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import lmdb
import pytest

from gossip_caffe.data.sources.source import measure
from gossip_caffe.errors import DataError, GossipCaffeError, ModelError, UsageError
from gossip_caffe.job.prototxts.nets import NetState
from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.reading import job_of, read_job, read_model
from gossip_caffe.job.spec.spec import (
    DataSpec,
    ImageSpec,
    JobSettings,
    JobSpec,
    RateSchedule,
    SourceSpec,
    TopSpec,
    TransformSpec,
)
from gossip_caffe.wire import caffe_wire_pb2 as wire

SOLVER = """# How it learns
net: "net.prototxt"
test_iter: 5
test_interval: 100
base_lr: 0.01  # small
lr_policy: "step"
gamma: 0.1
stepsize: 50
momentum: 0.9
max_iter: 100
iter_size: 2
display: 10
snapshot: 50
snapshot_prefix: "out/net"
solver_mode: GPU
random_seed: 7
"""
NET = """name: "small"
layer {
  name: "data"
  type: "Data"
  top: "data"
  top: "label"
  include { phase: TRAIN }
  transform_param { scale: 0.00390625 mirror: true crop_size: 4 mean_value: 33 }
  data_param { source: "train" batch_size: 8 backend: LMDB }
}
layer {
  name: "data" type: "Data" top: "data" top: "label"
  include { phase: TEST }
  data_param { source: "test" batch_size: 10 backend: LMDB }
}
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 10 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, records in (("train", 64), ("test", 20)):
        value = wire.Datum(channels=3, height=6, width=5, data=bytes(90), label=1).SerializeToString()
        with (
            lmdb.open(str(tmp_path / name), map_size=1 << 22) as environment,
            environment.begin(write=True) as transaction,
        ):
            for index in range(records):
                transaction.put(f"{index:05d}".encode(), value)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    (tmp_path / "net.prototxt").write_text(NET)
    return tmp_path


def read(folder: Path, settings: JobSettings | None = None, working: Path | None = None) -> JobSpec:
    path = folder / "solver.prototxt"
    return read_job("small", path, settings or JobSettings(), measure, working or folder)


def change(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / f"{name}.prototxt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_solver_becomes_a_job(folder: Path) -> None:
    job = read(folder)
    source = SourceSpec(
        layer="data",
        kind="lmdb",
        path=str(folder / "train"),
        tops=(TopSpec("data", (3, 4, 4)), TopSpec("label", ())),
        records=64,
        chunk_keys=tuple(f"{index:05d}".encode().hex() for index in (0, 16, 32, 48)),
        transform=TransformSpec(scale=0.00390625, mirror=True, crop_size=4, mean_values=(33.0,)),
    )
    assert job.data == DataSpec((source,), records=64, chunk_records=16, batch_records=8)
    assert job.schedule == RateSchedule("step", 0.01, gamma=0.1, stepsize=50, max_iter=100)
    assert (job.solver_type, job.iter_size, job.budget_samples) == ("SGD", 2, 100 * 8 * 2)
    assert (job.name, job.solver_text, job.tests[0].iterations) == ("small", SOLVER, 5)
    assert job.settings == JobSettings(seed=7)
    assert JobSpec.from_json(job.to_json()) == job


def test_a_seed_that_was_set_goes_before_the_solvers(folder: Path) -> None:
    assert read(folder, JobSettings(seed=3)).settings.seed == 3
    change(folder, "solver", "random_seed: 7", "random_seed: -1")
    assert read(folder).settings.seed == JobSettings().seed


def test_paths_begin_at_the_working_folder_and_else_beside_the_solver(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert read(folder, working=elsewhere).data.sources[0].path == str(folder / "train")
    (folder / "train").rename(elsewhere / "train")
    assert read(folder, working=elsewhere).data.sources[0].path == str(elsewhere / "train")


def test_the_texts_to_test_and_to_compare_with_can_be_read_from_any_folder(folder: Path) -> None:
    job = read(folder)
    expected = NET.replace('source: "train"', f'source: "{folder / "train"}"')
    expected = expected.replace('source: "test"', f'source: "{folder / "test"}"')
    assert job.train_net_text == job.tests[0].text == expected


@pytest.mark.parametrize("form", ["train_net", "net_param", "train_net_param"])
def test_a_net_may_be_named_or_inline(folder: Path, form: str) -> None:
    named = read(folder)
    written = f"{form} {{\n{NET}}}" if form.endswith("param") else f'{form}: "net.prototxt"'
    change(folder, "solver", 'net: "net.prototxt"', written)
    if not form.startswith("net"):
        change(folder, "solver", "test_iter: 5\n", "")
    job = read(folder)
    assert job.data == named.data
    assert bool(job.tests) == form.startswith("net")


def test_an_error_in_an_inline_net_names_the_solvers_line(folder: Path) -> None:
    inline = "net_param {\n" + NET.replace("backend: LMDB", "backend: TAPE", 1) + "}"
    change(folder, "solver", 'net: "net.prototxt"', inline)
    with pytest.raises(ModelError, match=r"^solver.prototxt:4:1: layer 'data' reads TAPE"):
        read(folder)


def test_a_test_net_of_its_own_goes_before_the_common_one(folder: Path) -> None:
    own = NET[NET.index('layer {\n  name: "data" type') :]
    (folder / "own.prototxt").write_text(own)
    change(folder, "solver", "test_iter: 5", 'test_net: "own.prototxt" test_iter: 9 test_iter: 5')
    job = read(folder)
    assert [test.iterations for test in job.tests] == [9, 5]
    assert job.tests[0].text == own.replace('"test"', f'"{folder / "test"}"')
    assert job.tests[1].text == job.train_net_text


def test_test_nets_come_in_caffes_order_each_with_its_state(folder: Path) -> None:
    own = NET[NET.index('layer {\n  name: "data" type') :]
    (folder / "own.prototxt").write_text(own)
    change(
        folder,
        "solver",
        "test_iter: 5",
        'test_net: "own.prototxt" test_iter: 9 test_iter: 5 test_iter: 2 test_iter: 1 test_net_param { name: "p" }'
        ' test_state { stage: "a" } test_state { level: 2 } test_state { stage: "c" } test_state { }',
    )
    model = read_model(folder / "solver.prototxt", folder)
    assert [net.document.name for net in model.tests] == [
        "solver.prototxt",
        "own.prototxt",
        "net.prototxt",
        "net.prototxt",
    ]
    assert [(net.state.level, sorted(net.state.stages)) for net in model.tests] == [
        (0, ["a"]),
        (2, []),
        (0, ["c"]),
        (0, []),
    ]
    assert [len(net.layers) for net in model.tests] == [0, 3, 3, 3]


def test_a_net_may_set_its_own_phase_and_stages(folder: Path) -> None:
    change(folder, "net", 'name: "small"', 'name: "small" state { stage: "n" level: 3 }')
    change(folder, "solver", "max_iter", 'train_state { stage: "s" } test_state { stage: "t" } max_iter')
    model = read_model(folder / "solver.prototxt", folder)
    assert model.train.state == NetState("TRAIN", 3, frozenset({"n", "s"}))
    assert model.tests[0].state == NetState("TEST", 3, frozenset({"n", "t"}))
    (tested,) = read(folder).tests
    assert (tested.level, tested.stages) == (3, ("n", "t"))


def test_an_old_net_may_be_inline(folder: Path) -> None:
    """Caffe upgrades only nets that it reads from files; a job's are upgraded wherever they stand."""
    old = NET.replace("layer {", "layers {").replace('"InnerProduct"', "INNER_PRODUCT")
    old = old.replace('"SoftmaxWithLoss"', "SOFTMAX_LOSS").replace('type: "Data"', "type: DATA")
    named = read(folder)
    change(folder, "solver", 'net: "net.prototxt"', f"net_param {{\n{old}}}")
    assert read(folder).data == named.data


def test_a_solver_that_tests_nothing_has_no_test_net(folder: Path) -> None:
    change(folder, "solver", "test_iter: 5\n", "")
    job = read(folder)
    assert job.tests == ()


def test_stages_and_levels_choose_layers_as_in_caffe(folder: Path) -> None:
    second = NET[NET.index("layer {") : NET.index('layer {\n  name: "data" type')]
    first = second.replace("phase: TRAIN", 'phase: TRAIN not_stage: "big"')
    second = second.replace("phase: TRAIN", 'stage: "big" min_level: 2').replace(
        "batch_size: 8", "batch_size: 32"
    )
    (folder / "net.prototxt").write_text(first + second + NET[NET.index('layer { name: "ip"') :])
    change(folder, "solver", "test_iter: 5\n", "")
    assert read(folder).data.batch_records == 8
    change(folder, "solver", "max_iter", 'train_state { stage: "big" level: 2 } max_iter')
    job = read(folder)
    assert job.data.batch_records == 32
    assert 'train_state { stage: "big" level: 2 }' in job.solver_for_peer


def test_a_test_state_of_the_solver_goes_with_the_test_net(folder: Path) -> None:
    change(folder, "net", "phase: TEST", 'phase: TEST stage: "short"')
    assert read(folder).tests == ()
    change(folder, "solver", "max_iter", 'test_state { stage: "short" } max_iter')
    assert [(test.level, test.stages) for test in read(folder).tests] == [(0, ("short",))]


def test_a_layer_that_may_be_learned_is_no_source(folder: Path) -> None:
    change(
        folder,
        "net",
        'layer { name: "ip"',
        'layer { name: "p" type: "Parameter" top: "p" }\nlayer { name: "ip"',
    )
    assert read(folder).data.sources[0].layer == "data"


@pytest.mark.parametrize(
    ("written", "kind"), [("type: 'Adam'", "Adam"), ("solver_type: NESTEROV", "Nesterov")]
)
def test_a_solvers_type_has_two_spellings(folder: Path, written: str, kind: str) -> None:
    change(folder, "solver", "max_iter", f"{written} max_iter")
    assert read(folder).solver_type == kind


def test_records_beyond_the_budget_and_small_sets_are_cut_all_the_same(folder: Path) -> None:
    change(folder, "net", "batch_size: 8", "batch_size: 64")
    data = read(folder).data
    assert (data.chunk_records, len(data.sources[0].chunk_keys)) == (128, 1)


SOLVER_MISTAKES = [
    (
        "max_iter: 100",
        "",
        "solver.prototxt:1:1: the solver gives no max_iter: nothing says how long to train; add",
    ),
    (
        "max_iter: 100",
        "max_iter: 0",
        "solver.prototxt:10:1: max_iter is 0: there is nothing to train; raise it; 'goss",
    ),
    ("max_iter: 100", "max_iter: -1", "solver.prototxt:10:1: max_iter is -1; give 1 or more"),
    ("base_lr: 0.01", "", "solver.prototxt:1:1: the solver gives no base_lr; add base_lr: VALUE"),
    (
        "base_lr: 0.01",
        "base_lr: -0.01",
        "solver.prototxt:5:1: base_lr is -0.01: the loss would be raised; give 0 or",
    ),
    (
        "base_lr: 0.01",
        "base_lr: nan",
        "solver.prototxt:5:1: base_lr is nan: the loss would be raised; give 0 or",
    ),
    (
        "stepsize: 50",
        "",
        'solver.prototxt:1:1: lr_policy is "step", and the solver gives no stepsize; add stepsize',
    ),
    ("stepsize: 50", "stepsize: 0", "solver.prototxt:8:1: stepsize is 0; give 1 or more"),
    (
        "momentum: 0.9",
        'weight_decay: 0.1 regularization_type: "l2"',
        "solver.prototxt:9:19: unknown regularization_type 'l2'; use one of L2, L1",
    ),
    ('"step"', '"cosine"', "solver.prototxt:6:1: lr_policy is 'cosine'; use one of fixed, step"),
    ("net.prototxt", "gone.prototxt", "solver.prototxt:2:1: there is no net at"),
    (
        'net: "net.prototxt"',
        "",
        "solver.prototxt:1:1: the solver names no net; give exactly one of net, net_param",
    ),
    ("test_iter", 'train_net: "a" test_iter', "solver.prototxt:3:1: the solver names several nets"),
    ("momentum: 0.9", "type: 'Adm'", "solver.prototxt:9:1: unknown solver type 'Adm'; use one of SGD"),
    ("momentum", "type: 'AdaGrad' momentum", "solver.prototxt:9:17: Caffe's AdaGrad takes no momentum"),
    ("max_iter: 100", "max_iter: lots", "solver.prototxt:10:1: max_iter is lots, not an integer"),
    ("net: ", "net_param { } #", "solver.prototxt:2:1: net_param is empty"),
]
NET_MISTAKES = [
    (
        'layer {\n  name: "data"\n',
        "layers {\n  name: 'data'\n",
        "net.prototxt:2:1: the net has both 'layer' and 'layers'",
    ),
    (
        'type: "Data"\n  top',
        'type: "WindowData"\n  top',
        "net.prototxt:2:1: layer 'data' brings data as WindowData, which cannot be shared out among peers; cut the",
    ),
    (
        'type: "Data"\n  top',
        'type: "BinaryData"\n  top',
        "net.prototxt:2:1: layer 'data' has no bottom, and 'BinaryData' is no type of Caffe's that brings data; corr",
    ),
    (
        'type: "Data"\n  top',
        'type: "MemoryData"\n  top',
        "net.prototxt:2:1: layer 'data' is a MemoryData layer: no data set is given for it; give --dataset",
    ),
    (
        'type: "Data"\n  top',
        'type: "HDF5Data"\n  top',
        "net.prototxt:2:1: layer 'data' has no hdf5_data_param.source",
    ),
    (
        'type: "Data"\n  top',
        'type: "Input"\n  top',
        "net.prototxt:2:1: layer 'data' is an Input layer: no data set is given for it; give --dataset",
    ),
    ("phase: TRAIN", "phase: TEST", "net.prototxt:2:1: the TRAIN phase has no data layer"),
    ("backend: LMDB", "backend: TAPE", "net.prototxt:2:1: layer 'data' reads TAPE; use backend: LMDB"),
    ('source: "train"', 'source: "gone"', "net.prototxt:9: layer 'data': there is no LMDB at"),
    ("batch_size: 8", "batch_size: 65", "net.prototxt:9:16: batch_size 65 exceeds the 64 records of"),
    ("batch_size: 8", "", "net.prototxt:2:1: layer 'data' has no batch_size"),
    ("crop_size: 4", "crop_size: 6", "net.prototxt:9: layer 'data':"),
    ("mean_value: 33", "mean_value: [1, 2]", "net.prototxt:9: layer 'data':"),
    ("mean_value: 33", 'mean_file: "gone"', "net.prototxt:8:65: there is no mean file at"),
    (
        "mean_value",
        'mean_file: "a" mean_value',
        "net.prototxt:8:65: mean_file and mean_value exclude each other",
    ),
    ("mirror: true", "crop_h: 3", "net.prototxt:8:39: crop_h is not BVLC Caffe's"),
    (
        "mirror: true",
        "force_color: true force_gray: true",
        "net.prototxt:8:57: force_color and force_gray exclude",
    ),
    ('source: "test"', 'source: "gone"', "net.prototxt:14: layer 'data': there is no LMDB at"),
    ('name: "small"', 'name: "small', "net.prototxt:1:7: a string that does not end"),
]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [("solver", *mistake) for mistake in SOLVER_MISTAKES] + [("net", *mistake) for mistake in NET_MISTAKES],
)
def test_a_mistake_is_one_line_with_file_line_and_remedy(
    folder: Path, name: str, old: str, new: str, message: str
) -> None:
    path = folder / f"{name}.prototxt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ModelError) as caught:
        read(folder)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_data_set_of_the_users_own_must_have_something_to_fill(folder: Path) -> None:
    def fed() -> None:
        model = read_model(folder / "solver.prototxt", folder)
        job_of("fed", model, JobSettings(), measure, dataset="mine:train")

    with pytest.raises(
        UsageError, match=r"--dataset mine:train: .* has no Input or MemoryData layer in TRAIN"
    ):
        fed()


def test_missing_files_and_records_that_are_not_read_are_named(folder: Path) -> None:
    with pytest.raises(ModelError, match="there is no solver at"):
        read_job("small", folder / "gone.prototxt", JobSettings(), measure)
    with (
        lmdb.open(str(folder / "train")) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"00000", wire.Datum(encoded=True, data=b"jpeg").SerializeToString())
    with pytest.raises(DataError, match=r"^net.prototxt:9: layer 'data': .*key '00000': not a picture"):
        read(folder)


def test_every_error_is_of_the_one_tree(folder: Path) -> None:
    (folder / "net.prototxt").write_bytes(b"layer \xff\xfe")
    with pytest.raises(GossipCaffeError, match=r"^net.prototxt:1:7: unexpected 'ÿ'"):
        read(folder)


def test_comments_of_other_encodings_do_no_harm(folder: Path) -> None:
    expected = read(folder)
    for name in ("solver", "net"):
        path = folder / f"{name}.prototxt"
        path.write_bytes("# 训练\r\n".encode("gbk") + path.read_bytes().replace(b"\n", b"\r\n"))
    found = read(folder)
    assert (found.data, found.schedule) == (expected.data, expected.schedule)
    assert JobSpec.from_json(found.to_json()) == found


def test_what_a_peer_builds_reads_the_ring_and_nothing_else(folder: Path) -> None:
    job = read(folder)
    solver = Document(job.solver_for_peer, "peer").root
    net = solver.message("train_net_param")
    assert net is not None
    source = net.messages("layer")[0]
    assert (source.text("type"), source.text("name"), source.texts("top")) == (
        "Python",
        "data",
        ["data", "label"],
    )
    assert not {"net", "test_iter", "snapshot", "display"} & {entry.name for entry in solver.fields}


def test_jobs_of_one_solver_agree(folder: Path) -> None:
    first, second = read(folder), read(folder)
    assert dataclasses.replace(second, name="other").fingerprint == first.fingerprint


def test_a_source_is_behind_a_protocol(folder: Path) -> None:
    """The job room does not know LMDB; anything that can be counted and cut will do."""

    class Ones:
        records, shapes, digest = 640, ((1, 4, 4), ()), ""

        def chunk_keys(self, chunk_records: int) -> tuple[str, ...]:
            return tuple(f"{at:02x}" for at in range(0, 640, chunk_records))

    opened: list[tuple[str, str]] = []

    def measure_ones(spec: SourceSpec) -> Ones:
        opened.append((spec.kind, spec.path))
        return Ones()

    job = read_job("ones", folder / "solver.prototxt", JobSettings(), measure_ones, folder)
    assert opened == [("lmdb", str(folder / "train")), ("lmdb", str(folder / "test"))]
    assert job.data.tops[0].shape == (1, 4, 4)


def test_several_sources_advance_together_and_the_longest_gives_the_records(folder: Path) -> None:
    sizes = iter([64, 24])

    class Some:
        digest = ""

        def __init__(self, spec: SourceSpec) -> None:
            self.records = next(sizes)
            self.shapes = ((1, 4, 4), ())[: len(spec.tops)]

        def chunk_keys(self, chunk_records: int) -> tuple[str, ...]:
            return tuple(f"{at:02x}" for at in range(0, self.records, chunk_records))

    second = (
        'layer { name: "b" type: "Data" top: "b" data_param { source: "test" batch_size: 8 backend: LMDB } }'
    )
    (folder / "net.prototxt").write_text(f"{NET}\n{second}")
    change(folder, "solver", "test_iter: 5\n", "")
    data = read_job("two", folder / "solver.prototxt", JobSettings(), Some, folder).data
    assert [(source.layer, source.records) for source in data.sources] == [("data", 64), ("b", 24)]
    assert (data.records, [top.name for top in data.tops]) == (64, ["data", "label", "b"])


def test_a_net_that_makes_its_own_data_has_a_budget_in_passes(folder: Path) -> None:
    (folder / "net.prototxt").write_text(
        'layer { name: "noise" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 } } }'
    )
    job = read(folder)
    assert (job.data.sources, job.data.tops, job.data.batch_records) == ((), (), 1)
    assert (job.data.records, job.budget_samples) == (100 * 2, 100 * 2)


DATA_LAYERS = {
    "hdf5": """layer {{ name: "d" type: "HDF5Data" top: "x" top: "y" top: "z"
      hdf5_data_param {{ source: "list.txt" batch_size: {batch} }} }}""",
    "images": """layer {{ name: "d" type: "ImageData" top: "x" top: "y" transform_param {{ mirror: true }}
      image_data_param {{ source: "list.txt" batch_size: {batch} new_height: 5 new_width: 6 is_color: false
        root_folder: "pictures/" }} }}""",
}


class Counted:
    """A data set that is not there: 64 records, shapes by the number of tops."""

    def __init__(self, spec: SourceSpec) -> None:
        self.records, self.digest = 64, "d1"
        self.shapes = ((1, 4, 4), (), (2,))[: len(spec.tops)]

    def chunk_keys(self, chunk_records: int) -> tuple[str, ...]:
        return ()


@pytest.mark.parametrize("kind", sorted(DATA_LAYERS))
def test_lists_of_files_become_sources(folder: Path, kind: str) -> None:
    (folder / "net.prototxt").write_text(DATA_LAYERS[kind].format(batch=8))
    (source,) = read_job("listed", folder / "solver.prototxt", JobSettings(), Counted, folder).data.sources
    assert (source.kind, source.path, source.folder) == (kind, str(folder / "list.txt"), str(folder))
    assert (source.records, source.digest, source.chunk_keys) == (64, "d1", ())
    if kind == "images":
        assert source.image == ImageSpec("pictures/", 5, 6, color=False)
        assert source.transform.mirror


def test_layers_that_a_program_fills_share_one_data_set(folder: Path) -> None:
    (folder / "net.prototxt").write_text(
        """layer { name: "a" type: "Input" top: "x" top: "w" input_param { shape { dim: 8 dim: 3 } } }
        layer { name: "m" type: "MemoryData" top: "p" top: "q"
          memory_data_param { batch_size: 8 channels: 1 height: 2 width: 2 } }"""
    )
    job = job_of(
        "fed", read_model(folder / "solver.prototxt", folder), JobSettings(), Counted, dataset="mine:train"
    )
    first, second = job.data.sources
    assert (first.kind, first.path, first.first, second.first) == ("dataset", "mine:train", 0, 2)
    assert [top.name for top in job.data.tops] == ["x", "w", "p", "q"]
