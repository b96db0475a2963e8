"""The entries of a source, in the order in which they become records: a list of pictures, folders, or arrays."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gossip_caffe.data.making.arrays import Arrays, is_arrays, open_arrays
from gossip_caffe.data.making.recipe import Recipe
from gossip_caffe.data.sources.listed import find, labelled, read_list
from gossip_caffe.errors import DataError

PICTURES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""The endings of the files that are taken from folders."""
_LABELS = 1 << 31


class Entry(NamedTuple):
    """One record to be. ``name``: its part of the key; ``path``: the picture, "" for the row ``row`` of arrays.

    A tuple goes from one process to another four times as fast as a dataclass does.
    """

    name: str
    label: int
    where: str
    path: str = ""
    row: int = 0


@dataclass(frozen=True, slots=True)
class Entries:
    """All entries of a source. ``digest``: of their content; ``labels``: the name of each label, for folders.

    ``arrays``: the arrays whose rows the entries are; None for pictures.
    """

    entries: Sequence[Entry]
    digest: str
    labels: tuple[str, ...] = ()
    arrays: Arrays | None = None


def read_entries(recipe: Recipe) -> Entries:
    """Read the source of a recipe, and shuffle its entries if the recipe says so. Raises DataError."""
    source = Path(recipe.source)
    if source.is_dir():
        found = _of_folder(source)
    elif is_arrays(source):
        found = _of_arrays(source)
    else:
        found = _of_list(source, recipe.root)
    if wrong := next((entry for entry in found.entries if not -_LABELS <= entry.label < _LABELS), None):
        raise DataError(f"{wrong.where}: the label {wrong.label} needs more than 32 bits", remedy="change it")
    if recipe.shuffle_seed is None:
        return found
    mixed = list(found.entries)
    random.Random(recipe.shuffle_seed).shuffle(mixed)
    return Entries(mixed, found.digest, found.labels, found.arrays)


def _of_list(source: Path, root: str) -> Entries:
    listed = read_list(str(source))
    entries = []
    for number, line in listed.lines:
        name, label = labelled(listed, number, line)
        # convert_imageset puts the root before the name without a slash of its own.
        path = root + name if root else str(find(name, os.curdir, listed))
        entries.append(Entry(name, label, f"{source}:{number}", path))
    return Entries(entries, listed.digest)


def _of_folder(source: Path) -> Entries:
    """The pictures of a folder's folders: each folder is a class, numbered in the order of their names."""
    classes = sorted(entry.name for entry in source.iterdir() if entry.is_dir())
    if not classes:
        raise DataError(
            f"the folder {source} has no folders: each class is a folder of pictures",
            remedy="make them, or give a list of names and labels",
        )
    entries = [
        Entry(name, label, str(source / name), str(source / name))
        for label, folder in enumerate(classes)
        for name in sorted(_pictures_below(source, folder))
    ]
    if not entries:
        raise DataError(f"no folder in {source} has pictures", remedy=f"known endings: {', '.join(PICTURES)}")
    content = hashlib.sha256("\n".join(f"{entry.name} {entry.label}" for entry in entries).encode())
    return Entries(entries, content.hexdigest(), tuple(classes))


def _pictures_below(source: Path, folder: str) -> list[str]:
    return [
        str(path.relative_to(source))
        for path in (source / folder).rglob("*")
        if path.suffix.lower() in PICTURES and path.is_file()
    ]


def _of_arrays(source: Path) -> Entries:
    arrays = open_arrays(source)
    entries = [
        Entry(f"{source.stem}", label, f"{source}, row {row}", row=row)
        for row, label in enumerate(arrays.labels)
    ]
    return Entries(entries, arrays.digest, arrays=arrays)
