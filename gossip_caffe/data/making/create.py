"""A database is made from a recipe: in transactions, on several cores, and a run that was broken off goes on.

The records are written into the folder NAME.part, which gets its own name when it is whole: a database of that name is
never a part of one. Each transaction is whole, and keys begin with the entry's number: the last key tells the place at
which a later run goes on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gossip_caffe.data.making.cores import batches, in_order
from gossip_caffe.data.making.databases import MOST_KEY_BYTES, Item, Writer, open_writer
from gossip_caffe.data.making.encoding import Shape, datum_of_file, datum_of_row
from gossip_caffe.data.making.entries import Entries, Entry, read_entries
from gossip_caffe.data.making.recipe import Pictures, Recipe
from gossip_caffe.data.making.side_file import SideFile, read_side_file
from gossip_caffe.data.sources.pictures import open_cv
from gossip_caffe.errors import Conflict, CorruptRecord, DataError, EnvironmentProblem
from gossip_caffe.system.folders import flush, lock

TRANSACTION_RECORDS = 1000
TRANSACTION_BYTES = 1 << 27
TASK_BYTES = 1 << 21
TASK_RECORDS = 50
"""Of pictures whose size is their own. Where all have one size a task has records of about TASK_BYTES."""
MOST_TASK_RECORDS = 200
MOST_ENTRIES = 100_000_000
"""Keys have eight digits."""
_LOCK = "making.lock"


class One(NamedTuple):
    """One record that a core has made. ``problem`` and ``remedy``: the reason why there is none; "": there is one."""

    value: bytes = b""
    shape: Shape = (0, 0, 0)
    problem: str = ""
    remedy: str = ""


@dataclass(slots=True)
class Made:
    """The result. ``was_there``: the database was whole before; ``went_on_at``: the first entry of this run."""

    folder: Path
    records: int
    entries: int
    labels: tuple[str, ...] = ()
    went_on_at: int = 0
    was_there: bool = False
    skipped: list[str] = field(default_factory=list)


def create(
    recipe: Recipe,
    folder: Path,
    processes: int,
    on_progress: Callable[[int, int], None],
) -> Made:
    """Make the database ``folder``, or go on with it. ``on_progress`` is called with (entries done, entries in all).

    Raises DataError for a wrong source, Conflict for a folder that holds other records or is being made.
    """
    found = read_entries(recipe)
    count = len(found.entries)
    if not 0 < count <= MOST_ENTRIES:
        raise DataError(f"{recipe.source} has {count:,} entries", remedy="give 1 to 100,000,000")
    side = SideFile(recipe.fingerprint(found.digest), count, found.labels, recipe.to_record())
    if os.path.lexists(folder):
        return _whole(folder, side)
    part = folder.with_name(f"{folder.name}.part")
    with _being_made(part):
        _check_part(part, side)
        writer = open_writer(part, recipe.backend)
        try:
            made = Made(folder, 0, count, found.labels, _next_entry(writer, found.entries, part))
            _write(recipe, found, writer, made, processes, on_progress)
            made.records = writer.count()
        finally:
            empty = not writer.last_key()
            writer.close()
            if empty:
                shutil.rmtree(part, ignore_errors=True)
        if empty:
            raise DataError(
                f"no picture of {recipe.source} can be read", remedy="check the paths, and --root"
            )
        _finish(part, folder)
    return made


def key_of(number: int, entry: Entry) -> bytes:
    """Return the key of a record, as convert_imageset makes it."""
    return os.fsencode(f"{number:08d}_{entry.name}")[:MOST_KEY_BYTES]


def made_of(how: Pictures, entries: Sequence[Entry]) -> list[One]:
    """Make the records of pictures. This is the work of a core."""
    open_cv().setNumThreads(1)  # each core has a process of its own
    return [_one(partial(datum_of_file, entry.path, entry.label, entry.where, how)) for entry in entries]


def _one(make: Callable[[], tuple[bytes, Shape]]) -> One:
    try:
        return One(*make())
    except CorruptRecord as error:
        return One(problem=error.message, remedy=error.remedy)


def _write(
    recipe: Recipe,
    found: Entries,
    writer: Writer,
    made: Made,
    processes: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Write the records from the entry on at which this run begins."""
    pending: list[Item] = []
    size, shape, number = 0, _first_shape(recipe, found, made.went_on_at), made.went_on_at
    try:
        # An error ends the processes at once, not when its traceback is dropped.
        with closing(_records(recipe, found, made.went_on_at, processes)) as records:
            for one in records:
                entry = found.entries[number]
                if one.problem and not recipe.skip_unreadable:
                    raise CorruptRecord(one.problem, remedy=f"{one.remedy}, or give --skip-unreadable")
                if one.problem:
                    made.skipped.append(one.problem)
                else:
                    if recipe.check_size and shape is not None and one.shape != shape:
                        raise DataError(
                            f"{entry.where}: {_words(one.shape)}, and the records before it are {_words(shape)}",
                            remedy="give --resize-height and --resize-width, or leave --check-size out",
                        )
                    shape = shape or one.shape
                    pending.append((key_of(number, entry), one.value))
                    size += len(one.value)
                number += 1
                if len(pending) == TRANSACTION_RECORDS or size >= TRANSACTION_BYTES:
                    batch, pending, size = pending, [], 0
                    writer.put(batch)
                    on_progress(number, len(found.entries))
    finally:
        if pending:
            writer.put(pending)
        on_progress(number, len(found.entries))


def _records(recipe: Recipe, found: Entries, start: int, processes: int) -> Generator[One]:
    """Yield what becomes of each entry from ``start`` on."""
    rest = found.entries[start:]
    if found.arrays is not None:
        rows, how = found.arrays, recipe.pictures
        for entry in rest:
            yield _one(partial(datum_of_row, rows.row(entry.row), entry.label, entry.where, how))
        return
    open_cv()  # the one line about a lack of it comes from here, not from a core
    size = _task_records(recipe.pictures)
    tasks = batches(rest, size)
    enough = max(1, min(processes, len(rest) // size))
    with closing(in_order(partial(made_of, recipe.pictures), tasks, enough)) as results:
        for part in results:
            yield from part


def _task_records(how: Pictures) -> int:
    """Return the number of records that a core makes at once: few large ones, for they wait in memory."""
    record_bytes = 3 * how.height * how.width
    return max(1, min(MOST_TASK_RECORDS, TASK_BYTES // record_bytes)) if record_bytes else TASK_RECORDS


def _first_shape(recipe: Recipe, found: Entries, start: int) -> Shape | None:
    """Return the shape with which the records of this run are compared: that of the last one before it."""
    if not recipe.check_size or not start:
        return None
    before = found.entries[start - 1]
    if found.arrays is not None:
        return datum_of_row(found.arrays.row(before.row), before.label, before.where, recipe.pictures)[1]
    return made_of(recipe.pictures, [before])[0].shape


def _words(shape: Shape) -> str:
    return "×".join(map(str, shape))


def _next_entry(writer: Writer, entries: Sequence[Entry], part: Path) -> int:
    """Return the number of the entry behind the last record. Raises Conflict when that is of other entries."""
    last = writer.last_key()
    if not last:
        return 0
    number = int(last[:8]) if last[:8].isdigit() else len(entries)
    if number >= len(entries) or key_of(number, entries[number]) != last:
        raise Conflict(f"{part} holds records of another source", remedy="remove that folder")
    return number + 1


def _whole(folder: Path, side: SideFile) -> Made:
    """Return the result for a database that is there. Raises Conflict unless it was made by this recipe."""
    before = read_side_file(folder)
    if before is None or before.fingerprint != side.fingerprint:
        how = (
            "was not made by this command"
            if before is None
            else "was made from another source or with other options"
        )
        raise Conflict(f"{folder} exists, and {how}", remedy="remove it, or give another name")
    return Made(folder, 0, before.entries, before.labels, before.entries, was_there=True)


@contextmanager
def _being_made(part: Path) -> Iterator[None]:
    """Hold the lock of the folder in which a database is made."""
    instead = "make it on another file system"
    try:
        part.mkdir(exist_ok=True)
        with (part / _LOCK).open("w") as file:
            lock(file, part / _LOCK, instead)
            yield
    except BlockingIOError:
        raise Conflict(f"another command makes {part}", remedy="wait for its end") from None
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise EnvironmentProblem(
            f"cannot write {part} ({error.strerror})", remedy="make its folder, or name another place"
        ) from None


def _check_part(part: Path, side: SideFile) -> None:
    """Write the side file of a new run. Raises Conflict when the folder is of another recipe."""
    before = read_side_file(part)
    if before is None:
        side.write(part)
    elif before.fingerprint != side.fingerprint:
        raise Conflict(
            f"{part} was begun from another source or with other options",
            remedy="give the same again to go on with it, or remove that folder",
        )


def _finish(part: Path, folder: Path) -> None:
    """Give a whole database its name, durably."""
    (part / _LOCK).unlink()
    for path in (*part.iterdir(), part):
        _flush(path)
    part.rename(folder)
    _flush(folder.absolute().parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)
