"""The checks of what a job needs on this machine: its data, its code, memory, and a store of checkpoints."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path

from gossip_caffe.checkpoint.url_store import remote_store_of
from gossip_caffe.data.ring import ring_bytes
from gossip_caffe.data.sources.source import measure
from gossip_caffe.doctor.check_result import CheckResult
from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.job.code import check_code
from gossip_caffe.job.prototxts.sources import Measure
from gossip_caffe.job.spec.data_spec import SourceSpec
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.solver.checks.net_size import NetSize, net_size

_MEMORY = Path("/proc/meminfo")
_MB = 1 << 20
_FULL = 0.9


def job_checks(
    spec: JobSpec, *, allow_code: bool, is_local: bool, size_of: Callable[[JobSpec], NetSize] = net_size
) -> list[CheckResult]:
    """Check what a job needs here; ``spec``: the job, with the paths of this machine.

    ``allow_code``: this machine may run the code that the job names. ``is_local``: its etcd is that of a local cluster,
    so all peers are on this machine. ``size_of``: the real one builds the net once.
    """
    results = []
    try:
        check_code(spec, allowed=allow_code)
        runs_code = True
    except GossipCaffeError as error:
        results.append(CheckResult.of_error("job: code", error))
        runs_code = False
    results += [
        source_check(source, spec.data.chunk_records, measure)
        for source in spec.data.sources
        if runs_code or source.kind != "dataset"
    ]
    results.append(store_check(spec, is_local=is_local))
    if runs_code:
        try:
            ring = ring_bytes(spec.data.tops, spec.data.batch_records, spec.ring_slots)
            results.append(memory_check(size_of(spec), ring, available_bytes()))
        except GossipCaffeError as error:
            results.append(CheckResult.of_error("job: memory", error))
    return results


def source_check(source: SourceSpec, chunk_records: int, look: Measure) -> CheckResult:
    """Check that a source is here, and that its records are the job's: their number, order and shape."""
    what = f"job: data of layer {source.layer}"
    try:
        found = look(source)
        shapes = tuple(top.shape for top in source.tops)
        differs = [
            words
            for words, differ in (
                (f"{found.records:,} records instead of {source.records:,}", found.records != source.records),
                (f"shape {found.shapes} instead of {shapes}", tuple(found.shapes) != shapes),
                ("another order or other files", found.digest != source.digest),
                ("other keys", found.chunk_keys(chunk_records) != source.chunk_keys),
            )
            if differ
        ]
    except GossipCaffeError as error:
        return CheckResult.of_error(what, error)
    if differs:
        remedy = "copy the data of the machine that made the job, or give --data-root OLD=NEW"
        return CheckResult(what, False, True, f"{source.path}: {', '.join(differs)}", remedy)
    return CheckResult(what, True, True, f"{source.path}: {source.records:,} records, the job's")


def store_check(spec: JobSpec, *, is_local: bool) -> CheckResult:
    """Check that the job has a store of checkpoints, and that this machine may write there."""
    what = "job: checkpoint_store"
    store = remote_store_of(spec)
    if store is None:
        if is_local:
            return CheckResult(
                what, True, False, "none: all peers are on this machine, and keep their checkpoints here"
            )
        found = "none: checkpoints are in the run folders of the peers alone"
        remedy = (
            "create the job with --set checkpoint_store=URL, or put --run-dir on a shared disk: otherwise a job whose "
            "machines all go at once cannot go on"
        )
        return CheckResult(what, False, False, found, remedy)
    try:
        asyncio.run(store.try_writing(f"doctor-{uuid.uuid4().hex}"))
    except GossipCaffeError as error:
        return CheckResult.of_error(what, error)
    return CheckResult(what, True, True, f"{store.url} can be written")


def memory_check(size: NetSize, ring: int, available: int | None) -> CheckResult:
    """Compare the memory of one peer with the memory that is available here; ``ring``, ``available``: in bytes."""
    needed = size.peer_bytes(ring)
    found = (
        f"a peer needs about {needed / _MB:,.0f} MB ({size.values:,} weights, board {size.board_bytes / _MB:,.0f} MB, "
        f"batches {ring / _MB:,.0f} MB)"
    )
    if available is None:
        return CheckResult("job: memory", True, False, found)
    found += f", {available / _MB:,.0f} MB are available"
    good = needed < _FULL * available
    return CheckResult(
        "job: memory", good, False, found, "use a smaller batch_size, or a machine with more memory"
    )


def available_bytes(path: Path = _MEMORY) -> int | None:
    """The memory that new processes can have, in bytes; None if the kernel does not tell it."""
    try:
        for line in path.read_text("ascii", "replace").splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
