"""Checkpoints at a URL: in memory and in a folder, by the same code as in a cloud's store."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import MODEL, Manifest
from gossip_caffe.checkpoint.pull import pull
from gossip_caffe.checkpoint.url_store import UrlStore
from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, NotFound, UsageError
from gossip_caffe.job.spec.spec import JobSettings, with_overrides
from tests.unit.test_checkpoint_files import WEIGHTS, FoldersOfHolders, load, manifest_of, write_state


class Nobody:
    """All holders are gone."""

    async def pull(
        self, address: str, job: str, checkpoint: str, file: str, offset: int
    ) -> AsyncIterator[bytes]:
        raise NotFound(f"nobody is at {address}")
        yield b""


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> UrlStore:
    url = f"file://{tmp_path}/store" if request.param == "folder" else f"memory://{tmp_path.name}"
    return UrlStore(url, "job")


def files_of(store: UrlStore) -> Any:
    return store.connect()[0]


def root_of(store: UrlStore) -> str:
    return store.connect()[1]


async def put(store: UrlStore, tmp_path: Path, name: str = "c1") -> Manifest:
    folder = CheckpointFolder(tmp_path / "maker")
    manifest = folder.write(manifest_of(name), WEIGHTS, write_state)
    await store.put(folder.path(name), manifest)
    return manifest


async def pulled(store: UrlStore, manifest: Manifest, folder: CheckpointFolder) -> Manifest:
    announcement = Announcement(manifest.checkpoint, manifest.digest, 7, 0.0, {"p0": "dead:1"})
    rng = random.Random(1)
    return await pull(announcement, job="job", client=Nobody(), folder=folder, rng=rng, remote_store=store)


async def test_what_no_holder_has_any_more_comes_from_the_store(store: UrlStore, tmp_path: Path) -> None:
    manifest = await put(store, tmp_path)
    joiner = CheckpointFolder(tmp_path / "joiner")
    assert await pulled(store, manifest, joiner) == manifest
    np.testing.assert_array_equal(load(joiner, "c1")[1], WEIGHTS)


async def test_a_file_is_read_from_an_offset_on(store: UrlStore, tmp_path: Path) -> None:
    await put(store, tmp_path)
    whole = (tmp_path / "maker" / "c1" / MODEL).read_bytes()
    assert b"".join([piece async for piece in store.pull("", "job", "c1", MODEL, 100)]) == whole[100:]


async def test_what_was_damaged_there_is_refused(store: UrlStore, tmp_path: Path) -> None:
    manifest = await put(store, tmp_path)
    path = f"{root_of(store)}/c1/{MODEL}"
    content = bytearray(files_of(store).cat_file(path))
    content[len(content) // 2] ^= 1
    files_of(store).pipe_file(path, bytes(content))
    joiner = CheckpointFolder(tmp_path / "joiner")
    with pytest.raises(
        CheckpointRefused, match=r"the job.s store: model\.caffemodel is not what was announced"
    ):
        await pulled(store, manifest, joiner)
    assert joiner.ids() == []


async def test_a_checkpoint_without_its_manifest_is_not_there(store: UrlStore, tmp_path: Path) -> None:
    manifest = await put(store, tmp_path)
    files_of(store).rm(f"{root_of(store)}/c1/manifest.json")
    with pytest.raises(CheckpointRefused, match=r"no manifest\.json of checkpoint c1"):
        await pulled(store, manifest, CheckpointFolder(tmp_path / "joiner"))


async def test_old_ones_are_removed(store: UrlStore, tmp_path: Path) -> None:
    for name in ("c1", "c2", "c3"):
        await put(store, tmp_path, name)
    assert await store.names() == ["c1", "c2", "c3"]
    await store.remove(["c1", "c3"])
    assert await store.names() == ["c2"]


async def test_a_store_that_takes_nothing_is_one_line(store: UrlStore, tmp_path: Path) -> None:
    with (
        patch.object(type(files_of(store)), "put_file", side_effect=OSError(28, "No space left on device")),
        pytest.raises(EnvironmentProblem, match=r"cannot keep checkpoint c1 at .*No space left"),
    ):
        await put(store, tmp_path)


def test_a_store_that_nothing_here_can_read_is_refused() -> None:
    with pytest.raises(UsageError, match="nosuch"):
        UrlStore("nosuch://bucket", "job").connect()


async def test_a_store_that_nothing_here_can_read_is_no_matter_where_a_holder_has_it(tmp_path: Path) -> None:
    store, holder = UrlStore("nosuch://bucket", "job"), CheckpointFolder(tmp_path / "holder")
    manifest = holder.write(manifest_of("c1"), WEIGHTS, write_state)
    announcement = Announcement("c1", manifest.digest, 7, 0.0, {"p0": str(holder.root)})
    joiner, rng = CheckpointFolder(tmp_path / "joiner"), random.Random(1)
    client = FoldersOfHolders(holder)
    assert (
        await pull(announcement, job="job", client=client, folder=joiner, rng=rng, remote_store=store)
        == manifest
    )
    with pytest.raises(CheckpointRefused, match=r"the job.s store: .*nosuch.* install what fsspec needs"):
        await pulled(store, manifest, CheckpointFolder(tmp_path / "another"))


class NoCredentialsError(Exception):
    """As botocore's: no OSError."""


async def test_whatever_a_driver_raises_is_one_line_that_holds_no_secret(
    store: UrlStore, tmp_path: Path
) -> None:
    manifest = await put(store, tmp_path)
    odd = NoCredentialsError("no key\nfor s3://me:secret@bucket/x?token=secret")
    says = r"no key for s3://…bucket/x\?…"
    with (
        patch.object(type(files_of(store)), "put_file", side_effect=odd),
        pytest.raises(EnvironmentProblem, match=rf"cannot keep checkpoint c1 at .*{says}"),
    ):
        await put(store, tmp_path)
    with (
        patch.object(type(files_of(store)), "ls", side_effect=odd),
        pytest.raises(EnvironmentProblem, match=says),
    ):
        await store.names()
    with (
        patch.object(type(files_of(store)), "rm", side_effect=odd),
        pytest.raises(EnvironmentProblem, match=says),
    ):
        await store.remove(["c1"])
    with (
        patch.object(type(files_of(store)), "open", side_effect=odd),
        pytest.raises(CheckpointRefused, match=says),
    ):
        await pulled(store, manifest, CheckpointFolder(tmp_path / "joiner"))
    with patch("fsspec.core.url_to_fs", side_effect=odd), pytest.raises(UsageError, match=says):
        UrlStore("s3://bucket", "job").connect()


@pytest.mark.parametrize(
    "url",
    [
        "bucket/path",
        "s3://key:secret@bucket/path",
        "s3:/key:secret@bucket/path",
        "key:secret@bucket/path",
        "s3://key:secret@[bucket/path",
        "gcs://bucket?token=secret",
        "gcs://bucket#secret",
    ],
)
def test_a_url_that_is_none_or_holds_a_secret_is_refused_without_repeating_the_secret(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        with_overrides(JobSettings(), {"checkpoint_store": url})
    assert "secret" not in str(refused.value)
