"""Nets tested on data that the Caffe at hand cannot read: the outputs are those of the same records in a raw LMDB."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from gossip_caffe.data.sources.source import measure
from gossip_caffe.errors import ModelError
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.log.tested import Output
from gossip_caffe.solver.evaluation.evaluation import CaffeEvaluator
from gossip_caffe.wire import caffe_wire_pb2 as wire
from tests.hdf5_data import write_hdf5
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.integration

BATCH, PASSES = 24, 5  # of 64 records: around more than once, and not in whole batches
TRANSFORMS = {
    "scale": "scale: 0.0039",
    "crop and mean value": "crop_size: 3 mean_value: 100 scale: 0.01",
    "crop and mean file": 'crop_size: 4 mean_file: "MEAN"',
}


def records(job: TinyJob) -> list[wire.Datum]:
    with (
        lmdb.open(str(job.test), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        return [wire.Datum.FromString(value) for _, value in transaction.cursor()]


def raw_lmdb(job: TinyJob) -> str:
    return f'type: "Data" data_param {{ source: "{job.test}" backend: LMDB batch_size: {BATCH} }}'


def encoded_lmdb(job: TinyJob) -> str:
    folder = job.folder / "encoded"
    with (
        lmdb.open(str(folder), map_size=1 << 24) as environment,
        environment.begin(write=True) as transaction,
    ):
        for index, datum in enumerate(records(job)):
            picture = wire.Datum(encoded=True, label=datum.label, data=png(datum))
            transaction.put(b"%05d" % index, picture.SerializeToString())
    return f'type: "Data" data_param {{ source: "{folder}" backend: LMDB batch_size: {BATCH} }}'


def leveldb(job: TinyJob) -> str:
    import plyvel  # noqa: PLC0415 - optional: only the test that writes one is skipped without it

    folder = job.folder / "level"
    with plyvel.DB(str(folder), create_if_missing=True) as database:
        for index, datum in enumerate(records(job)):
            database.put(b"%05d" % index, datum.SerializeToString())
    return f'type: "Data" data_param {{ source: "{folder}" backend: LEVELDB batch_size: {BATCH} }}'


def pictures(job: TinyJob) -> str:
    lines = []
    for index, datum in enumerate(records(job)):
        (job.folder / f"{index}.png").write_bytes(png(datum))
        lines.append(f"{index}.png {datum.label}\n")
    (job.folder / "list.txt").write_text("".join(lines))
    param = f'source: "list.txt" root_folder: "{job.folder}/" batch_size: {BATCH} is_color: false'
    return f'type: "ImageData" image_data_param {{ {param} }}'


def png(datum: wire.Datum) -> bytes:
    pixels = np.frombuffer(datum.data, np.uint8).reshape(datum.height, datum.width)
    return bytes(cv2.imencode(".png", pixels)[1])


async def outputs_of(job: TinyJob, layer: str, transform: str) -> tuple[Output, ...]:
    """Test the net on fresh weights, which a random_seed makes alike."""
    text = job.net.read_text()
    transform = transform.replace("MEAN", str(job.folder / "mean"))
    for phase, body in (("TRAIN", raw_lmdb(job)), ("TEST", layer)):
        old = rf'(?s)layer \{{\n  name: "data" type: "Data"[^\n]*phase: {phase} \}}.*?\n\}}\n'
        start, end = next((match.start(), match.end()) for match in re.finditer(old, text))
        new = f'layer {{ name: "data" {body} top: "data" top: "label" include {{ phase: {phase} }}'
        param = f"transform_param {{ {transform} }}" if transform else ""
        text = f"{text[:start]}{new} {param} }}\n{text[end:]}"
    net = job.folder / "tested.prototxt"
    net.write_text(text)
    solver = job.folder / "tested_solver.prototxt"
    solver.write_text(
        job.solver.read_text().replace(str(job.net), str(net)).replace("test_iter: 4", f"test_iter: {PASSES}")
    )
    (test,) = read_job("tested", solver, JobSettings(), measure).tests
    model = job.folder / "model.caffemodel"
    if not model.exists():
        import caffe  # noqa: PLC0415 - optional, and only nets that it makes itself need it

        caffe.set_random_seed(3)
        caffe.Net(str(net), caffe.TEST).save(str(model))
    return await CaffeEvaluator().evaluate([test], model)


@pytest.mark.parametrize("written", [encoded_lmdb, leveldb, pictures])
@pytest.mark.parametrize("transform", TRANSFORMS)
async def test_what_is_read_here_is_tested_as_caffe_tests_the_same_records(
    tmp_path: Path, written: Callable[[TinyJob], str], transform: str
) -> None:
    job = write_job(tmp_path / "job")
    mean = wire.BlobProto(num=1, channels=1, height=6, width=6, data=np.arange(36) * 3.0)
    (job.folder / "mean").write_bytes(mean.SerializeToString())
    caffes = await outputs_of(job, raw_lmdb(job), TRANSFORMS[transform])
    ours = await outputs_of(job, written(job), TRANSFORMS[transform])
    assert {output.name for output in ours} == {"accuracy", "loss"}
    assert ours == caffes


async def test_hdf5_files_that_a_list_names_relative_to_itself_are_tested(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job")
    caffes = await outputs_of(job, raw_lmdb(job), "scale: 0.0039")
    datums = records(job)
    pixels = np.stack([np.frombuffer(datum.data, np.uint8).reshape(1, 6, 6) for datum in datums])
    labels = np.array([datum.label for datum in datums], np.float32)
    data = pixels.astype(np.float32) * np.float32(0.0039)
    (job.folder / "h5").mkdir()
    write_hdf5(job.folder / "h5", "test", [30, 34], data=data, label=labels)
    listed = job.folder / "h5" / "test.txt"
    listed.write_text("".join(f"{Path(line).name}\n" for line in listed.read_text().splitlines()))
    layer = f'type: "HDF5Data" hdf5_data_param {{ source: "{listed}" batch_size: {BATCH} }}'
    assert await outputs_of(job, layer, "") == caffes


@pytest.mark.parametrize("written", [raw_lmdb, encoded_lmdb, leveldb])
async def test_a_test_goes_on_with_the_data_where_the_one_before_ended_also_in_another_process(
    tmp_path: Path, written: Callable[[TinyJob], str]
) -> None:
    job = write_job(tmp_path / "job")
    await outputs_of(job, raw_lmdb(job), "scale: 0.0039")  # makes the model
    await outputs_of(job, written(job), "scale: 0.0039")
    (test,) = read_job("tested", job.folder / "tested_solver.prototxt", JobSettings(), measure).tests
    model, kept = job.folder / "model.caffemodel", CaffeEvaluator()
    try:
        going_on = [await kept.evaluate([test], model, number, keep=True) for number in (1, 2, 3, 4)]
    finally:
        await kept.close()
    assert len(set(going_on)) == 4
    for number, outputs in enumerate(going_on, 1):
        assert await CaffeEvaluator().evaluate([test], model, number) == outputs
    whole = await CaffeEvaluator().evaluate_all([test], [model, model])
    assert whole == [going_on[0]] * 2


@pytest.mark.parametrize("written", [raw_lmdb, encoded_lmdb])
async def test_a_label_beyond_the_nets_outputs_ends_the_test_by_name(
    tmp_path: Path, written: Callable[[TinyJob], str]
) -> None:
    job = write_job(tmp_path / "job")
    await outputs_of(job, raw_lmdb(job), "")  # makes the model
    with lmdb.open(str(job.test)) as environment, environment.begin(write=True) as writing:
        datum = wire.Datum.FromString(writing.get(b"%08d" % 50) or b"")
        datum.label = 5_000_000
        writing.put(b"%08d" % 50, datum.SerializeToString())
    layer = written(job)
    key = "00000050" if written is raw_lmdb else "00050"
    with pytest.raises(ModelError, match=rf"key '{key}': label 5000000, but layer '\w+' takes 0 to 9"):
        await outputs_of(job, layer, "")
