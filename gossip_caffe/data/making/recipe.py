"""The recipe of a database: the source, and the way from a picture to its record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from gossip_caffe.errors import UsageError

BACKENDS = ("lmdb", "leveldb")


@dataclass(frozen=True, slots=True)
class Pictures:
    """The way from a picture to a record, as convert_imageset's flags say it.

    ``height``, ``width``: the new size; 0: the picture's own. ``encoded``: records keep the picture's file form.
    ``encode_type``: that form ("jpg", "png", …); "": that of the file's name.
    """

    height: int = 0
    width: int = 0
    gray: bool = False
    encoded: bool = False
    encode_type: str = ""

    def __post_init__(self) -> None:
        """Refuse half of a size. Caffe ignores it in silence."""
        if min(self.height, self.width) < 0 or (self.height > 0) != (self.width > 0):
            raise UsageError(
                "only one of --resize-height and --resize-width is given", remedy="give both, or none"
            )


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides about the records of a database.

    ``source``: the path as given; ``root``: put before each name of a list; ``shuffle_seed``: None keeps the order.
    ``check_size``: all records must have one shape. ``skip_unreadable``: leave out pictures that cannot be read.
    """

    source: str
    pictures: Pictures = Pictures()
    root: str = ""
    shuffle_seed: int | None = None
    check_size: bool = False
    skip_unreadable: bool = False
    backend: str = "lmdb"

    def to_record(self) -> dict[str, Any]:
        """Return a JSON object."""
        return dataclasses.asdict(self)

    def fingerprint(self, digest: str) -> str:
        """Return a digest of the recipe and the source's content: records of equal ones are equal.

        ``digest``: that of the source's content. The options that decide only about a refusal do not count.
        """
        said = {**self.to_record(), "check_size": False, "skip_unreadable": False, "content": digest}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
