"""The loader as a real process over a real LMDB: what it fills the ring with, and every way in which it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest

from gossip_caffe.data import loader_port
from gossip_caffe.data.loader_port import LoaderProcess, PlannedBatch
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.data.sources.leveldb_source import LevelDbDataSet
from gossip_caffe.data.sources.lmdb_source import LmdbDataSet, LmdbSource
from gossip_caffe.data.sources.transform import Transformer
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec.spec import DataSpec, SourceSpec, TopSpec, TransformSpec
from gossip_caffe.wire import caffe_wire_pb2 as wire
from tests.descriptors import open_descriptors

pytestmark = pytest.mark.integration

RECORDS, CHUNK, BATCH, SLOTS, SEED = 70, 16, 8, 3, 5
DEADLINE_S = 60.0
AS_IT_IS = TransformSpec()


def write(path: Path, corrupt: int | None = None) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (RECORDS, 2, 6, 6), dtype=np.uint8)
    with (
        lmdb.open(str(path), map_size=1 << 22) as environment,
        environment.begin(write=True) as transaction,
    ):
        for index, pixel in enumerate(pixels):
            datum = wire.Datum(channels=2, height=6, width=6, data=pixel.tobytes(), label=index)
            value = b"\xff" if index == corrupt else datum.SerializeToString()
            transaction.put(f"{index:05d}".encode(), value)


def spec_of(path: Path, transform: TransformSpec = AS_IT_IS, size: int = 6) -> DataSpec:
    tops = (TopSpec("data", (2, size, size)), TopSpec("label", ()))
    source = SourceSpec("data", "lmdb", str(path), tops, records=RECORDS, transform=transform)
    source = dataclasses.replace(source, chunk_keys=LmdbDataSet(source).chunk_keys(CHUNK))
    return DataSpec((source,), RECORDS, CHUNK, BATCH)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take its time to end a loader that was asked kindly."""
    monkeypatch.setattr(loader_port, "STOP_DEADLINE_S", DEADLINE_S)


@pytest.fixture
def spec(tmp_path: Path) -> DataSpec:
    write(tmp_path / "train")
    return spec_of(tmp_path / "train")


@pytest.fixture
def ring(spec: DataSpec) -> Iterator[BatchRing]:
    made = BatchRing.create(spec.tops, BATCH, SLOTS)
    yield made
    made.close()


def plan(first: int, count: int) -> list[PlannedBatch]:
    """Whole batches through epochs without end, in the order of the records."""
    batches = []
    for sequence in range(first, first + count):
        parts, at, left = [], sequence * BATCH, BATCH
        while left:
            epoch, start = divmod(at, RECORDS)
            taken = min(left, RECORDS - start)
            parts.append((epoch, start, start + taken))
            at, left = at + taken, left - taken
        batches.append(PlannedBatch(sequence, tuple(parts)))
    return batches


def labels_of(sequence: int) -> list[int]:
    return [index % RECORDS for index in range(sequence * BATCH, (sequence + 1) * BATCH)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def take(ring: BatchRing) -> tuple[int, list[int], bytes]:
    """The next batch as the solver would take it: number, labels, pixels."""
    await until(lambda: ring.ready > 0)
    batch = ring.take(0.0)
    assert batch is not None
    taken = batch.sequence, [int(label) for label in batch.arrays[1]], batch.arrays[0].tobytes()
    ring.release()
    return taken


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_planned_batches_come_in_order_across_chunks_and_epochs(
    spec: DataSpec, ring: BatchRing
) -> None:
    loader = LoaderProcess(spec, SEED, ring)
    await loader.start()
    loader.plan(plan(0, 5))
    loader.plan([])
    loader.plan(plan(5, 20))
    for sequence in range(25):
        number, labels, _ = await take(ring)
        assert (number, labels) == (sequence, labels_of(sequence))
    await loader.stop()
    assert gone(loader.pid)
    assert (await loader.wait()).code == 0


async def test_a_batch_holds_what_the_transformation_makes_of_its_records(tmp_path: Path) -> None:
    write(tmp_path / "train")
    transform = TransformSpec(scale=0.5, mirror=True, crop_size=4, mean_values=(10.0, 20.0))
    spec = spec_of(tmp_path / "train", transform, size=4)
    ring = BatchRing.create(spec.tops, BATCH, SLOTS)
    loader = LoaderProcess(spec, SEED, ring)
    await loader.start()
    loader.plan([PlannedBatch(0, ((3, 15, 18), (4, 2, 5)))])
    await until(lambda: ring.ready > 0)
    batch = ring.take(0.0)
    assert batch is not None
    assert (batch.records, batch.arrays[1].tolist()) == (6, [15, 16, 17, 2, 3, 4])
    expected = np.empty((6, 2, 4, 4), dtype=np.float32)
    source, transformer = LmdbSource(spec.sources[0], CHUNK, SEED), Transformer(transform, SEED)
    transformer.apply(list(source.read(15, 18)), 3, 15, expected[:3])
    transformer.apply(list(source.read(2, 5)), 4, 2, expected[3:])
    source.close()
    assert np.array_equal(batch.arrays[0], expected)
    await loader.stop()


async def test_a_plan_larger_than_any_socket_buffer_is_taken_whole(spec: DataSpec, ring: BatchRing) -> None:
    loader = LoaderProcess(spec, SEED, ring)
    await loader.start()
    count = 20_000
    loader.plan(plan(0, count))
    loader.plan(plan(count, 1))
    ring_head = 40
    for sequence in range(ring_head):
        assert (await take(ring))[:2] == (sequence, labels_of(sequence))
    await loader.stop()


async def test_a_killed_loader_is_replaced_and_no_batch_is_lost_or_doubled(
    spec: DataSpec, ring: BatchRing
) -> None:
    taken = []
    for round_ in range(4):
        loader = LoaderProcess(spec, SEED, ring)
        await loader.start()
        loader.plan(plan(ring.head, 100))
        for _ in range(5):
            taken.append(await take(ring))
        os.kill(loader.pid, signal.SIGKILL)
        end = await loader.wait()
        assert (end.code, end.final) == (-signal.SIGKILL, False), round_
        assert end.cause == "the loader ended (killed by SIGKILL)"
    assert [(number, labels) for number, labels, _ in taken] == [(n, labels_of(n)) for n in range(20)]
    assert ring.ready <= SLOTS


async def test_after_a_rewind_the_same_batches_come_again(spec: DataSpec, ring: BatchRing) -> None:
    first = LoaderProcess(spec, SEED, ring)
    await first.start()
    first.plan(plan(0, 12))
    before = [await take(ring) for _ in range(9)]
    await first.stop()
    ring.rewind(4)
    second = LoaderProcess(spec, SEED, ring)
    await second.start()
    second.plan(plan(4, 8))
    assert [await take(ring) for _ in range(5)] == before[4:]
    await second.stop()


async def test_a_corrupt_record_ends_the_loader_with_one_line_that_names_it(tmp_path: Path) -> None:
    write(tmp_path / "train", corrupt=37)
    spec = spec_of(tmp_path / "train")
    ring = BatchRing.create(spec.tops, BATCH, 16)
    loader = LoaderProcess(spec, SEED, ring)
    await loader.start()
    loader.plan(plan(0, 8))
    async with asyncio.timeout(DEADLINE_S):
        end = await loader.wait()
    assert end.cause == f"{tmp_path / 'train'}, key '00037': not a Datum"
    assert (end.code, end.final, bool(end.remedy)) == (7, True, True)
    assert ring.head == 4


async def test_corrupt_records_are_left_out_and_named_when_the_job_says_so(tmp_path: Path) -> None:
    """One within a batch, and a whole batch of them, which becomes an empty one."""
    bad = {11, *range(16, 24), 69}
    write(tmp_path / "train")
    with lmdb.open(str(tmp_path / "train")) as environment, environment.begin(write=True) as writing:
        for index in bad:
            writing.put(f"{index:05d}".encode(), b"\xff")
    spec = spec_of(tmp_path / "train")
    ring = BatchRing.create(spec.tops, BATCH, 16)
    skipped: list[tuple[int, int, str]] = []
    loader = LoaderProcess(spec, SEED, ring, lambda *record: skipped.append(record))
    await loader.start()
    loader.plan(plan(0, 9))
    for sequence in range(9):
        number, labels, _ = await take(ring)
        wanted = [label for label in labels_of(sequence) if label not in bad]
        assert (number, labels) == (sequence, wanted)
    await until(lambda: len(skipped) == len(bad))
    assert [(epoch, record) for epoch, record, _ in skipped] == [(0, record) for record in sorted(bad)]
    assert skipped[0][2] == f"{tmp_path / 'train'}, key '00011': not a Datum"
    await loader.stop()
    ring.close()


@pytest.mark.parametrize("change", ["missing", "other"])
async def test_a_data_set_that_is_not_the_jobs_is_an_error_of_the_start(
    spec: DataSpec, ring: BatchRing, tmp_path: Path, change: str
) -> None:
    if change == "missing":
        (tmp_path / "train").rename(tmp_path / "moved")
        message = "there is no LMDB at"
    else:
        with (
            lmdb.open(spec.sources[0].path) as environment,
            environment.begin(write=True) as transaction,
        ):
            transaction.delete(b"00003")
        message = "has 69 records, the job was made for 70"
    loader = LoaderProcess(spec, SEED, ring)
    with pytest.raises(DataError, match=message):
        await loader.start()
    await loader.stop()
    assert gone(loader.pid)


async def test_a_loader_stops_while_the_ring_is_full_and_ignores_ctrl_c(
    spec: DataSpec, ring: BatchRing
) -> None:
    loader = LoaderProcess(spec, SEED, ring)
    await loader.start()
    loader.plan(plan(0, 100))
    await until(lambda: ring.ready == SLOTS)
    os.kill(loader.pid, signal.SIGINT)
    assert (await take(ring))[0] == 0
    await until(lambda: ring.ready == SLOTS)
    await loader.stop()
    assert (await loader.wait()).code == 0


async def test_sigterm_ends_a_loader(spec: DataSpec, ring: BatchRing) -> None:
    loader = LoaderProcess(spec, SEED, ring)
    await loader.start()
    os.kill(loader.pid, signal.SIGTERM)
    async with asyncio.timeout(DEADLINE_S):
        assert (await loader.wait()).cause == "the loader ended (killed by SIGTERM)"


async def test_a_loader_that_was_never_started_can_be_stopped(spec: DataSpec, ring: BatchRing) -> None:
    loader = LoaderProcess(spec, SEED, ring)
    assert loader.pid == 0
    await loader.stop()


async def test_starting_and_stopping_many_loaders_leaks_no_descriptor(
    spec: DataSpec, ring: BatchRing
) -> None:
    async def start_and_stop() -> None:
        loader = LoaderProcess(spec, SEED, ring)
        await loader.start()
        loader.plan(plan(ring.head, 1))
        await loader.stop()
        loader.plan(plan(0, 1))

    await start_and_stop()  # the first one of a process opens what stays
    before = open_descriptors()
    for _ in range(3):
        await start_and_stop()
    assert open_descriptors() <= before


async def test_a_loader_that_is_stopped_leaves_no_shadow_of_its_leveldb(
    tmp_path: Path, ring: BatchRing
) -> None:
    import plyvel  # noqa: PLC0415 - optional: only this test is skipped without it

    with plyvel.DB(str(tmp_path / "leveldb"), create_if_missing=True) as database:
        for index in range(RECORDS):
            datum = wire.Datum(channels=2, height=6, width=6, data=bytes(72), label=index)
            database.put(b"%05d" % index, datum.SerializeToString())
    tops = (TopSpec("data", (2, 6, 6)), TopSpec("label", ()))
    source = SourceSpec("data", "leveldb", str(tmp_path / "leveldb"), tops, records=RECORDS)
    source = dataclasses.replace(source, chunk_keys=LevelDbDataSet(source).chunk_keys(CHUNK))
    loader = LoaderProcess(DataSpec((source,), RECORDS, CHUNK, BATCH), SEED, ring)
    await loader.start()
    pattern = f"gossip-caffe-leveldb-{loader.pid}-*"
    assert len([*Path(tempfile.gettempdir()).glob(pattern)]) == 1
    await loader.stop()
    assert [*Path(tempfile.gettempdir()).glob(pattern)] == []
