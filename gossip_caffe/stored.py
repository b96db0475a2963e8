"""Values of the store as frozen dataclasses: whoever can write to it may have written anything."""

from __future__ import annotations

import functools
import json
import types
import typing
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from gossip_caffe.errors import StoreError

T = TypeVar("T")


def read_object(value: bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError when it is none."""
    try:
        record = json.loads(value)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    return record


def read_record(kind: type[T], value: bytes) -> T:
    """A dataclass of plain values; fields that it has not (of a newer version) are left out.

    Raises ValueError for what is no JSON object, lacks a field, or has one of another type.
    """
    record, values = read_object(value), {}
    for name, hint, needed in _fields(typing.cast("typing.Hashable", kind)):
        if name in record:
            if not _fits(record[name], hint):
                raise ValueError(f"no {kind.__name__}: {name} is a {type(record[name]).__name__}")
            values[name] = record[name]
        elif needed:
            raise ValueError(f"no {kind.__name__}: {name} is missing")
    return kind(**values)


def checked(made: T) -> T:
    """A dataclass whose fields are of the types that they should have. Raises ValueError when they are not."""
    for name, hint, _ in _fields(typing.cast("typing.Hashable", type(made))):
        if not _fits(value := getattr(made, name), hint):
            raise ValueError(f"no {type(made).__name__}: {name} is a {type(value).__name__}")
    return made


def to_object(record: Any) -> dict[str, Any]:
    """The fields of a dataclass of plain values, to be written; unlike ``asdict`` it copies none of them."""
    return {
        name: getattr(record, name) for name, _, _ in _fields(typing.cast("typing.Hashable", type(record)))
    }


def needed(key: str, value: bytes, name: str, kind: type[T]) -> T:
    """One field of what stands under a key, without which nobody can go on. Raises StoreError naming the key."""
    try:
        found = read_object(value)[name]
    except (ValueError, KeyError):
        found = None
    if not isinstance(found, kind) or isinstance(found, bool):
        raise StoreError(
            f"etcd holds under {key} what no gossip-caffe wrote",
            remedy="find out who did, and put back what was there",
        )
    return found


# Worked out once: among a thousand peers a join is a thousand records to read.
@functools.cache
def _fields(kind: Any) -> tuple[tuple[str, Any, bool], ...]:
    hints = typing.get_type_hints(kind)
    return tuple(
        (field.name, hints[field.name], field.default is MISSING and field.default_factory is MISSING)
        for field in fields(kind)
    )


def _fits(value: object, hint: Any) -> bool:
    if hint is Any:
        return True
    if isinstance(hint, types.UnionType):
        return any(_fits(value, one) for one in hint.__args__)
    if typing.get_origin(hint) is dict:
        key, entry = typing.get_args(hint)
        return isinstance(value, dict) and all(_fits(k, key) and _fits(v, entry) for k, v in value.items())
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(entry, typing.get_args(hint)[0]) for entry in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)
