"""Checkpoints on a disk: whole and verified, or refused."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.duty import due
from gossip_caffe.checkpoint.export import export
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.formats.caffemodel import _pieces, read_caffemodel
from gossip_caffe.checkpoint.manifest import MANIFEST, MODEL, STATE, Manifest, numbers_of, ranges_of
from gossip_caffe.checkpoint.pull import pull
from gossip_caffe.checkpoint.solverstate import current_step, learned_net_field, write_solverstate
from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, NotFound
from gossip_caffe.job.spec.spec import RateSchedule
from gossip_caffe.solver.engines.layout import WeightLayout, view
from gossip_caffe.wire import caffe_wire_pb2 as wire

LAYOUT = WeightLayout.of(
    [("conv1", 0, (4, 1, 3, 3)), ("conv1", 1, (4,)), ("ip", 0, (10, 16)), ("ip", 1, (10,))]
)
OTHER = WeightLayout.of([("ip", 0, (10, 16)), ("ip", 1, (10,))])
SHARED = WeightLayout.of([*LAYOUT.entries, ("conv2", 0, (4, 1, 3, 3), 0), ("conv2", 1, (4,), 1)])
"""The same weights, of which another layer has some as well."""
WEIGHTS = np.random.default_rng(1).standard_normal(LAYOUT.size).astype(np.float32)


def write_state(file: BinaryIO, values: np.ndarray = WEIGHTS) -> None:
    write_solverstate(file, iteration=7, learned_net=MODEL, history=[values], step=0)


def manifest_of(name: str, layout: WeightLayout = LAYOUT) -> Manifest:
    return Manifest(
        checkpoint=name,
        job="job",
        job_fingerprint="fingerprint",
        layout=layout.entries,
        progress_samples=7,
        folded=2,
        done=((2, ((0, 3), (5, 6))), (3, ())),
        maker="p0",
        contributors=("p0", "p1"),
        made_at=1.5,
    )


def load(folder: CheckpointFolder, name: str, layout: WeightLayout = LAYOUT) -> tuple[Manifest, np.ndarray]:
    return folder.load(name, job_fingerprint="fingerprint", layout_fingerprint=layout.fingerprint)


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    made = CheckpointFolder(tmp_path / "checkpoints")
    made.write(manifest_of("c1"), WEIGHTS)
    return made


NET = wire.NetParameter(
    name="net",
    layer=[
        wire.LayerParameter(name="data", type="Data"),
        wire.LayerParameter(name="conv1", type="Convolution"),
        wire.LayerParameter(name="ip", type="InnerProduct"),
        wire.LayerParameter(name="loss", type="SoftmaxWithLoss"),
    ],
)


def test_a_model_says_of_its_net_what_caffe_said_and_is_loaded_all_the_same(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    # Caffe writes bottoms (3) before the blobs, and the phase (10) after them: the reader knows neither.
    with_more = NET.SerializeToString().replace(b"Convolution", b"Convolution\x1a\x04data\x50\x00")
    at = with_more.index(b"\x0a\x05conv1") - 1
    structure = with_more[:at] + bytes([with_more[at] + 8]) + with_more[at + 1 :]
    manifest = folder.write(replace(manifest_of("c1"), structure=structure), WEIGHTS)
    assert Manifest.from_json(manifest.to_json()) == manifest
    loaded, weights = load(folder, "c1")
    assert loaded.structure == structure
    assert np.array_equal(weights, WEIGHTS)
    content = folder.path("c1", MODEL).read_bytes()
    net = wire.NetParameter.FromString(content)
    assert (net.name, [layer.type for layer in net.layer]) == ("net", [layer.type for layer in NET.layer])
    assert [len(layer.blobs) for layer in net.layer] == [0, 2, 2, 0]
    assert content.index(b"\x1a\x04data") < content.index(WEIGHTS[:4].tobytes()) < content.index(b"\x50\x00")
    assert np.array_equal(read_caffemodel(content, LAYOUT), WEIGHTS)


@pytest.mark.parametrize("structure", ["no base64", "////", "oA=="])
def test_a_structure_that_is_none_is_a_manifest_that_is_none(structure: str) -> None:
    record = {**json.loads(manifest_of("c1").to_json()), "structure": structure}
    with pytest.raises(CheckpointRefused, match="cannot be read"):
        Manifest.from_json(json.dumps(record).encode())


def test_a_checkpoint_that_an_older_version_wrote_is_loaded(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)

    def as_before(file: BinaryIO) -> None:
        for piece in _pieces(LAYOUT, shape_first=True):
            file.write(piece if isinstance(piece, bytes) else view(WEIGHTS, piece).tobytes())

    folder.write_files(manifest_of("c1"), {MODEL: as_before})
    assert np.array_equal(load(folder, "c1")[1], WEIGHTS)


def test_what_was_written_is_loaded_bit_for_bit(folder: CheckpointFolder) -> None:
    manifest, weights = load(folder, "c1")
    assert np.array_equal(weights, WEIGHTS)
    assert manifest.done == ((2, ((0, 3), (5, 6))), (3, ()))
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_model_is_a_caffemodel_as_protobuf_reads_it(folder: CheckpointFolder) -> None:
    net = wire.NetParameter.FromString(folder.path("c1", MODEL).read_bytes())
    assert [layer.name for layer in net.layer] == ["conv1", "ip"]
    assert list(net.layer[0].blobs[0].shape.dim) == [4, 1, 3, 3]
    flat = np.concatenate([np.array(blob.data, np.float32) for layer in net.layer for blob in layer.blobs])
    assert np.array_equal(flat, WEIGHTS)
    again = read_caffemodel(net.SerializeToString(), LAYOUT)
    assert np.array_equal(again, WEIGHTS)


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def append(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 9)))


def vanish(path: Path, rng: random.Random) -> None:
    path.unlink()


def foreign(path: Path, rng: random.Random) -> None:
    stranger = CheckpointFolder(path.parent.parent / "stranger")
    zeros = np.zeros(OTHER.size, np.float32)
    stranger.write(manifest_of("c1", OTHER), zeros, lambda file: write_state(file, zeros))
    shutil.copy(stranger.path("c1", path.name), path)


def a_folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def of_another_kind(path: Path, rng: random.Random) -> None:
    """The manifest, with something in one of its places that no version wrote there."""
    manifest = path.with_name(MANIFEST)
    record = json.loads(manifest.read_text())
    places: list[tuple[Any, Any]] = []
    inner: list[Any] = [record]
    while inner:
        entry = inner.pop()
        if isinstance(entry, dict | list):
            keys = list(entry) if isinstance(entry, dict) else range(len(entry))
            places += [(entry, key) for key in keys]
            inner += [entry[key] for key in keys]
    entry, key = rng.choice(places)
    entry[key] = "PLACE"
    text = json.dumps(record, sort_keys=True, indent=1)
    manifest.write_text(text.replace('"PLACE"', rng.choice(OF_ANOTHER_KIND)))


OF_ANOTHER_KIND = (
    *("1e999", "-1e999", "NaN", "-1", "99", "1.5", "10" * 40, "1" * 5000, "true", "null", '""', '"7"', "{}"),
    *("[]", "[" * 100_000, "[" * 500 + "]" * 500, '"\\ud800"', '"a\\u0000b"', '"..", "x"', "[1, 2, 3, 4, 5]"),
)


DAMAGES: list[Callable[[Path, random.Random], None]] = [flip, truncate, append, vanish, foreign]


@pytest.mark.parametrize("layout", [LAYOUT, SHARED], ids=["plain", "shared"])
def test_a_damaged_copy_on_the_own_disk_is_refused_or_not_the_one_that_was_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: WeightLayout
) -> None:
    monkeypatch.setattr("os.fsync", lambda fd: None)
    whole = CheckpointFolder(tmp_path / "whole")
    whole.write(manifest_of("c1", layout), WEIGHTS, write_state)
    digest = whole.manifest("c1").digest
    assert whole.damage("c1", digest) == ""
    damages = [*DAMAGES, a_folder, of_another_kind, of_another_kind, of_another_kind]
    refused = 0
    for seed in range(400):
        rng = random.Random(seed)
        folder = CheckpointFolder(tmp_path / f"damaged{seed}")
        shutil.copytree(whole.path("c1"), folder.path("c1"))
        name = rng.choice([MODEL, MODEL, STATE, MANIFEST])
        damage = rng.choice(damages)
        damage(folder.path("c1", name), rng)
        if folder.damage("c1", digest) == "":
            # A number of another type, perhaps, which is the same number.
            assert damage is of_another_kind, seed
            assert folder.manifest("c1") == whole.manifest("c1"), seed
        try:
            # As a peer does before its net stands: it takes the layout that the manifest names.
            found = folder.manifest("c1").weight_layout() if seed % 2 else layout
            manifest, weights = load(folder, "c1", found)
        except (CheckpointRefused, NotFound):
            refused += 1
        else:
            # It may be the manifest, in a place that describes nothing of the files: it does not fit the announcement.
            assert manifest.digest != digest or np.array_equal(weights, WEIGHTS), seed
        shutil.rmtree(folder.root)
    assert refused > 300


def test_a_disk_that_cannot_be_read_is_a_reason_too(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = folder.manifest("c1").digest

    def broken(path: Path, *words: object, **more: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as later:
        later.setattr(Path, "read_bytes", broken)
        with pytest.raises(CheckpointRefused, match=r"manifest\.json cannot be read \(Input/output error\)"):
            folder.load("c1", job_fingerprint="fingerprint", layout_fingerprint=LAYOUT.fingerprint)
    monkeypatch.setattr(Path, "open", broken)
    assert "Input/output error" in folder.damage("c1", digest)
    monkeypatch.setattr(Path, "iterdir", broken)
    assert folder.ids() == []
    assert folder.prune("", ()) == []
    assert not folder.adopt("c2", digest)


def swap(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.with_name(MODEL if path.name != MODEL else STATE).read_bytes())


def edit(path: Path, rng: random.Random) -> None:
    manifest = path.with_name(MANIFEST)
    record = json.loads(manifest.read_text())
    record[rng.choice(["progress_samples", "folded", "made_at"])] += rng.randint(1, 9)
    manifest.write_text(json.dumps(record, sort_keys=True, indent=1))


class FoldersOfHolders:
    """Serves to a joiner what lies in the folder of each address."""

    def __init__(self, *folders: CheckpointFolder) -> None:
        self.by_address = {str(folder.root): folder for folder in folders}

    async def pull(
        self, address: str, job: str, checkpoint: str, file: str, offset: int
    ) -> AsyncIterator[bytes]:
        _, pieces = self.by_address[address].open_file(checkpoint, file, offset)
        async for piece in pieces:
            yield piece


class InOrder(random.Random):
    """Asks the holders in the order of their names."""

    def shuffle(self, x: object) -> None:
        del x


async def test_five_hundred_damaged_holders_are_refused_with_a_reason_and_the_next_one_serves_the_joiner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda fd: None)  # what a power cut leaves is not what this is about
    whole = CheckpointFolder(tmp_path / "whole")
    digest = whole.write(manifest_of("c1"), WEIGHTS, write_state).digest
    reasons: dict[str, int] = {}
    for seed in range(500):
        rng = random.Random(seed)
        damaged, joiner = CheckpointFolder(tmp_path / f"d{seed}"), CheckpointFolder(tmp_path / f"j{seed}")
        shutil.copytree(whole.path("c1"), damaged.path("c1"))
        damage = rng.choice([*DAMAGES, swap, edit])
        damage(damaged.path("c1", rng.choice([MODEL, STATE, MANIFEST])), rng)
        client = FoldersOfHolders(damaged, whole)

        async def ask(
            *holders: CheckpointFolder,
            client: FoldersOfHolders = client,
            joiner: CheckpointFolder = joiner,
        ) -> Manifest:
            addresses = {f"p{number}": str(holder.root) for number, holder in enumerate(holders)}
            announcement = Announcement("c1", digest, 7, 1.5, addresses)
            return await pull(announcement, job="job", client=client, folder=joiner, rng=InOrder())

        with pytest.raises(CheckpointRefused, match=r"p0: .") as refusal:
            await ask(damaged)
        assert joiner.ids() == [], seed
        reasons[damage.__name__] = reasons.get(damage.__name__, 0) + ("p0: " in refusal.value.message)
        assert (await ask(damaged, whole)).digest == digest, seed
        assert np.array_equal(load(joiner, "c1")[1], WEIGHTS), seed
        shutil.rmtree(damaged.root)
        shutil.rmtree(joiner.root)
    assert sum(reasons.values()) == 500
    assert len(reasons) == 7, reasons


def test_weights_that_are_not_finite_are_refused_whatever_their_hash(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    spoilt = WEIGHTS.copy()
    spoilt[5] = np.nan
    folder.write(manifest_of("c1"), spoilt)
    with pytest.raises(CheckpointRefused, match="NaN"):
        load(folder, "c1")


@pytest.mark.parametrize(
    ("job", "layout", "why"), [("another", LAYOUT, "another job"), ("fingerprint", OTHER, "another net")]
)
def test_a_checkpoint_of_another_job_or_net_is_refused(
    folder: CheckpointFolder, job: str, layout: WeightLayout, why: str
) -> None:
    with pytest.raises(CheckpointRefused, match=why):
        folder.load("c1", job_fingerprint=job, layout_fingerprint=layout.fingerprint)


def test_a_file_name_cannot_lead_out_of_the_folder(folder: CheckpointFolder) -> None:
    for checkpoint, file in (("..", "x"), ("c1", "../../x"), (".unfinished-c2", MODEL), ("c1", "..")):
        with pytest.raises(NotFound):
            folder.open_file(checkpoint, file, 0)
    record = json.loads(folder.manifest("c1").to_json())
    record["files"][0]["name"] = "../evil"
    with pytest.raises(CheckpointRefused, match="evil"):
        Manifest.from_json(json.dumps(record).encode())


def test_what_a_crash_left_is_swept_away_and_never_listed(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    (folder.unfinished("c9") / MANIFEST).write_text("{}")
    assert folder.ids() == []
    again = CheckpointFolder(tmp_path)
    assert list(tmp_path.iterdir())  # whoever only looks takes nothing from the process that is writing
    again.sweep()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        folder.write(manifest_of("c1"), WEIGHTS)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_in_a_folder_beside_this_one_is_adopted_when_it_is_just_that(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    other, mine = CheckpointFolder(tmp_path / "p0"), CheckpointFolder(tmp_path / "p1")
    manifest = other.write(manifest_of("c1"), WEIGHTS)
    assert not mine.adopt("c1", "another digest")
    assert not mine.adopt("c2", manifest.digest)
    assert mine.adopt("c1", manifest.digest)
    assert np.array_equal(load(mine, "c1")[1], WEIGHTS)
    assert other.ids() == ["c1"]


async def test_what_was_made_here_is_on_the_disk_and_what_came_from_elsewhere_before_others_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[int] = set()
    flush = os.fsync

    def noted(fd: int) -> None:
        flushed.add(os.fstat(fd).st_ino)
        flush(fd)

    monkeypatch.setattr("os.fsync", noted)
    there = CheckpointFolder(tmp_path / "here" / "p0")
    digest = there.write(manifest_of("c1"), WEIGHTS, write_state).digest
    adopting, pulling = CheckpointFolder(tmp_path / "here" / "p1"), CheckpointFolder(tmp_path / "p2")
    assert adopting.adopt("c1", digest)
    announcement = Announcement("c1", digest, 7, 1.5, {"p0": str(there.root)})
    await pull(announcement, job="job", client=FoldersOfHolders(there), folder=pulling, rng=InOrder())
    adopting.flush("c1")
    pulling.flush("c1")
    for folder in (there, adopting, pulling):
        for name in (MODEL, STATE, MANIFEST):
            assert folder.path("c1", name).stat().st_ino in flushed, (folder.root, name)


def test_of_one_jobs_copies_those_are_kept_that_are_said_and_of_other_jobs_all(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for number in range(5):
        manifest = replace(manifest_of(f"c{number}"), job_identity="other" if number == 2 else "mine")
        folder.write(manifest, WEIGHTS)
    folder.write(manifest_of("c5"), WEIGHTS)  # of an older version, which did not say whose it is
    flip(folder.path("c4", MODEL), random.Random(1))  # damaged, and still its job's own
    folder.path("c3", MANIFEST).write_text("{}")  # nobody can say whose it is
    assert folder.prune("mine", {"c1"}) == ["c0", "c4"]
    assert folder.ids() == ["c1", "c2", "c3", "c5"]
    assert not list(tmp_path.glob(".*"))


def test_a_manifest_that_does_not_say_whose_job_it_is_of_has_the_digest_that_it_always_had() -> None:
    assert b"identity" not in manifest_of("c1").to_json()
    mine = replace(manifest_of("c1"), job_identity="mine")
    assert Manifest.from_json(mine.to_json()) == mine


async def test_a_disk_that_takes_nothing_at_all_is_one_line_for_who_pulls(
    folder: CheckpointFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joiner = CheckpointFolder(tmp_path / "joiner")

    def full(path: Path, *words: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    announcement = Announcement("c1", folder.manifest("c1").digest, 7, 1.5, {"p0": str(folder.root)})
    client = FoldersOfHolders(folder)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        await pull(announcement, job="job", client=client, folder=joiner, rng=InOrder())


@given(st.sets(st.integers(0, 200)))
def test_done_sets_survive_as_ranges(numbers: set[int]) -> None:
    ranges = ranges_of(numbers)
    assert numbers_of(ranges) == numbers
    assert all(before[1] < after[0] for before, after in zip(ranges, ranges[1:], strict=False))  # noqa: RUF007


@given(st.text(max_size=30) | st.binary(max_size=30).map(lambda raw: raw.decode("latin-1")))
def test_any_text_that_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(CheckpointRefused):
        Manifest.from_json(text.encode())


def test_a_checkpoint_is_due_by_progress_by_need_and_at_the_end() -> None:
    quiet = {"finished": False, "alone_unsettled": False}
    assert not due(99, 0, 100, **quiet).now
    assert due(100, 0, 100, **quiet).now
    assert due(5, 0, 100, finished=True, alone_unsettled=False).reason == "the budget is trained"
    assert due(5, 0, 100, finished=False, alone_unsettled=True).now


def test_a_state_is_a_solverstate_as_protobuf_reads_it_and_may_be_told_other_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.solverstate"
    history = [WEIGHTS[:36].reshape(4, 1, 3, 3), WEIGHTS[36:40]]
    with path.open("wb") as file:
        write_solverstate(file, iteration=300, learned_net=MODEL, history=history, step=2)
    state = wire.SolverState.FromString(path.read_bytes())
    assert (state.iter, state.learned_net, state.current_step) == (300, MODEL, 2)
    assert [list(blob.shape.dim) for blob in state.history] == [[4, 1, 3, 3], [4]]
    assert np.array_equal(np.array(state.history[0].data, np.float32), WEIGHTS[:36])
    told = wire.SolverState.FromString(path.read_bytes() + learned_net_field("/a/b.caffemodel"))
    assert (told.learned_net, len(told.history)) == ("/a/b.caffemodel", 2)


def test_an_export_without_momentum_leaves_no_older_state_beside_the_new_model(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.write(manifest_of("c1"), WEIGHTS, write_state)
    folder.write(manifest_of("c2"), WEIGHTS)
    assert [path.name for path in export(folder.path("c1"), tmp_path / "x")] == [
        "x.caffemodel",
        "x.solverstate",
    ]
    assert export(folder.path("c2"), tmp_path / "x") == [tmp_path / "x.caffemodel"]
    assert not (tmp_path / "x.solverstate").exists()


def test_steps_of_the_rate_are_counted_as_caffe_does_before_each_iteration() -> None:
    step = RateSchedule("step", 0.1, gamma=0.1, stepsize=5)
    assert [current_step(step, iteration) for iteration in (0, 5, 6, 11)] == [0, 0, 1, 2]
    multistep = RateSchedule("multistep", 0.1, gamma=0.1, stepvalues=(5, 8))
    assert [current_step(multistep, iteration) for iteration in (0, 5, 6, 8, 9)] == [0, 0, 1, 1, 2]
    assert current_step(RateSchedule("inv", 0.1), 9) == 0


@pytest.mark.parametrize("torn", range(1, 60, 7))
def test_a_torn_model_is_refused_by_its_reader_too(folder: CheckpointFolder, torn: int) -> None:
    content = folder.path("c1", MODEL).read_bytes()
    with pytest.raises(CheckpointRefused):
        read_caffemodel(content[:-torn], LAYOUT)


def test_a_folder_is_judged_and_not_the_one_it_is_in(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)  # as /tmp is, where commands that only read put what they fetch
    mine = CheckpointFolder(shared / "mine")
    assert mine.root.stat().st_mode & 0o777 == 0o700
    (shared / "others").mkdir()
    (shared / "others").chmod(0o777)
    with pytest.raises(EnvironmentProblem, match="can be written by other users"):
        CheckpointFolder(shared / "others")
    (shared / "link").symlink_to(mine.root)
    with pytest.raises(EnvironmentProblem, match="it is a link"):
        CheckpointFolder(shared / "link")
