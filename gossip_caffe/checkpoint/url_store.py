"""Checkpoints at a URL (a folder that all machines have, S3, GCS …), beside those that peers hold.

fsspec does the talking; names and keys come from where its file systems look for them, never from the job. A checkpoint
is there once its manifest is, which is written last; whoever pulls one verifies it as if it came from a peer.

What stands behind fsspec is other people's: a driver raises what its own libraries raise (botocore's NoCredentialsError
is no OSError), and none of that may end a peer. So here, and only here, every Exception of a call becomes one line.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

from gossip_caffe.checkpoint.manifest import MANIFEST, Manifest
from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, NotFound, UsageError
from gossip_caffe.job.spec import JobSpec

PIECE_BYTES = 4 << 20
MOST_WORDS = 200
_SECRETS = re.compile(r"(?<=/)[^/\s@]+@|(?<=\?)[^\s'\")]+")


class UrlStore:
    """The checkpoints of one job at a URL, in a folder of its own: nothing else there is ever touched."""

    def __init__(self, url: str, job: str) -> None:
        """``job``: the folder's name, which no other job has."""
        self.url = f"{url}/{job}"
        self._there: tuple[Any, str] | None = None

    def connect(self) -> tuple[Any, str]:
        """The file system there, and the folder in it; made when it is first needed.

        Whoever finds a holder needs no driver. Raises UsageError when nothing here reads such URLs.
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
        """Copy a checkpoint's folder there. Raises EnvironmentProblem."""
        await asyncio.to_thread(self._put, folder, manifest)

    async def names(self) -> list[str]:
        """The checkpoints there, also those that are not whole yet. Raises EnvironmentProblem."""
        return await asyncio.to_thread(self._names)

    async def remove(self, checkpoints: Collection[str]) -> None:
        """Remove some. Raises EnvironmentProblem."""
        await asyncio.to_thread(self._remove, checkpoints)

    async def pull(
        self, address: str, job: str, checkpoint: str, file: str, offset: int
    ) -> AsyncIterator[bytes]:
        """A file's bytes from an offset on, as from a peer (FileClient); ``address`` and ``job`` are not needed.

        Raises NotFound, or CheckpointRefused when it cannot be read.
        """
        del address, job
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
                pass  # all of it was read, or it was said why not

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
                remedy="peers hold it, and the next one is tried again; look at the store and its rights",
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
            for checkpoint in checkpoints:
                files.rm(f"{root}/{checkpoint}", recursive=True)
        except Exception as error:
            raise EnvironmentProblem(
                f"cannot remove old checkpoints at {self.url} ({_words(error)})",
                remedy="remove them by hand, or give the peers the right to",
            ) from None


def elsewhere_of(spec: JobSpec) -> UrlStore | None:
    """The store of a job, None when it has none."""
    url = spec.settings.checkpoint_store
    return UrlStore(url, f"{spec.name}-{spec.identity}") if url else None


def _words(error: Exception) -> str:
    """The driver's words in short, without what a URL in them may hold before its @ or after its ?."""
    said = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    line = " ".join(said.split())
    return _SECRETS.sub("…", line)[:MOST_WORDS]
