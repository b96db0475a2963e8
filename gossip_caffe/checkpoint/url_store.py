"""The remote store of a job's checkpoints: a URL (a shared folder, S3, GCS …), in addition to the peers that hold them.

The transfers use fsspec. Credentials come from the places where its file systems look for them, never from the job.
The manifest is written last: a checkpoint exists in the store once its manifest does. A peer that pulls one verifies
it as if it came from a peer.

The drivers behind fsspec are other projects' code: a driver raises the errors of its own libraries (botocore's
NoCredentialsError is no OSError), and none of them may end a peer. So here, and only here, every Exception of a call
is turned into one line.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

from gossip_caffe.checkpoint.manifest import MANIFEST, Manifest
from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, NotFound, UsageError
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.plain import is_plain, shown

PIECE_BYTES = 4 << 20
MOST_WORDS = 200
_SECRETS = re.compile(r"(?<=/)[^/\s@]+@|(?<=\?)[^\s'\")]+")


class UrlStore:
    """The checkpoints of one job at a URL, in a folder of its own. No other folder there is ever changed."""

    def __init__(self, url: str, job: str) -> None:
        """``job``: the name of the folder, which no other job uses."""
        self.url = f"{url}/{job}"
        self._there: tuple[Any, str] | None = None

    def connect(self) -> tuple[Any, str]:
        """The file system, and the job's folder in it; created on the first call.

        A peer that finds a holder never calls it, and needs no driver. Raises UsageError when no driver here reads
        such URLs.
        """
        if self._there is None:
            import fsspec  # noqa: PLC0415 - only for jobs that have such a store

            try:
                files, root = fsspec.core.url_to_fs(self.url)
            except Exception as error:
                raise UsageError(
                    f"the checkpoints' store {self.url} cannot be reached from here ({_words(error)})",
                    remedy="install what fsspec needs for it, for example s3fs or gcsfs",
                ) from None
            self._there = files, str(root)
        return self._there

    async def put(self, folder: Path, manifest: Manifest) -> None:
        """Copy a checkpoint's folder to the store. Raises EnvironmentProblem."""
        await asyncio.to_thread(self._put, folder, manifest)

    async def try_writing(self, name: str) -> None:
        """Write a small file of this name beside the checkpoints, and remove it.

        Raises UsageError or EnvironmentProblem.
        """
        await asyncio.to_thread(self._try_writing, name)

    async def names(self) -> list[str]:
        """The checkpoints in the store, including those that are not complete yet. Raises EnvironmentProblem."""
        return await asyncio.to_thread(self._names)

    async def remove(self, checkpoints: Collection[str]) -> None:
        """Remove checkpoints from the store. Raises EnvironmentProblem."""
        await asyncio.to_thread(self._remove, checkpoints)

    async def pull(
        self, address: str, job: str, checkpoint: str, file: str, offset: int
    ) -> AsyncIterator[bytes]:
        """A file's bytes from an offset on, in pieces (FileClient). ``address`` and ``job`` are ignored.

        Raises NotFound, or CheckpointRefused when the file cannot be read.
        """
        del address, job
        if not (is_plain(checkpoint) and is_plain(file)):
            raise NotFound(f"no {shown(file)} of checkpoint {shown(checkpoint)} at {self.url}")
        try:
            files, root = await asyncio.to_thread(self.connect)
            opened = await asyncio.to_thread(files.open, f"{root}/{checkpoint}/{file}", "rb")
        except UsageError as error:
            raise CheckpointRefused(str(error)) from None
        except FileNotFoundError:
            raise NotFound(f"no {file} of checkpoint {checkpoint} at {self.url}") from None
        except Exception as error:
            raise CheckpointRefused(f"{self.url} cannot be read ({_words(error)})") from None
        try:
            await asyncio.to_thread(opened.seek, offset)
            while piece := await asyncio.to_thread(opened.read, PIECE_BYTES):
                yield piece
        except Exception as error:
            raise CheckpointRefused(f"{self.url}: {file} broke off ({_words(error)})") from None
        finally:
            try:
                await asyncio.to_thread(opened.close)
            except Exception:
                pass  # the whole file was read, or the error was raised already

    def _put(self, folder: Path, manifest: Manifest) -> None:
        try:
            files, root = self.connect()
            there = f"{root}/{manifest.checkpoint}"
            files.makedirs(there, exist_ok=True)
            for name in (*(entry.name for entry in manifest.files), MANIFEST):
                files.put_file(str(folder / name), f"{there}/{name}")
        except Exception as error:
            raise EnvironmentProblem(
                f"cannot keep checkpoint {manifest.checkpoint} at {self.url} ({_words(error)})",
                remedy="peers hold it, and the next checkpoint is tried again; check the store and its permissions",
            ) from None

    def _try_writing(self, name: str) -> None:
        files, root = self.connect()
        try:
            files.makedirs(root, exist_ok=True)
            files.pipe_file(f"{root}/{name}", b"a check of gossip-caffe doctor\n")
            files.rm_file(f"{root}/{name}")
        except Exception as error:
            raise EnvironmentProblem(
                f"cannot write to {self.url} ({_words(error)})",
                remedy="look at the store and its rights: every peer may have to write checkpoints there",
            ) from None

    def _names(self) -> list[str]:
        try:
            files, root = self.connect()
            found: list[Any] = files.ls(root, detail=False)
        except Exception as error:
            raise EnvironmentProblem(
                f"cannot list the checkpoints at {self.url} ({_words(error)})",
                remedy="look at the store and its rights",
            ) from None
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def _remove(self, checkpoints: Collection[str]) -> None:
        try:
            files, root = self.connect()
            for checkpoint in filter(is_plain, checkpoints):
                files.rm(f"{root}/{checkpoint}", recursive=True)
        except Exception as error:
            raise EnvironmentProblem(
                f"cannot remove old checkpoints at {self.url} ({_words(error)})",
                remedy="remove them by hand, or give the peers the right to",
            ) from None


def remote_store_of(spec: JobSpec) -> UrlStore | None:
    """The remote store of a job; None when it has none."""
    url = spec.settings.checkpoint_store
    return UrlStore(url, f"{spec.name}-{spec.identity}") if url else None


def _words(error: Exception) -> str:
    """The driver's message, shortened, without the parts of a URL in it before an @ and after a ?."""
    said = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    line = " ".join(said.split())
    return _SECRETS.sub("…", line)[:MOST_WORDS]
