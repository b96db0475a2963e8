"""Values of the store as frozen dataclasses, checked: any program with access to the store may have written them."""

from __future__ import annotations

import functools
import json
import types
import typing
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from gossip_caffe.errors import StoreError

T = TypeVar("T")


MOST_DIGITS = 20
"""Limit of an integer's digits. No count has more, and Python cannot convert an integer of hundreds to a float."""


def read_json(value: bytes) -> Any:
    """Parse JSON from an untrusted writer.

    Raises ValueError for any other value, and for an integer with too many digits.
    """
    try:
        return json.loads(value, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def read_object(value: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises ValueError for any other value."""
    record = read_json(value)
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    return record


def is_count(value: object) -> typing.TypeGuard[int]:
    """True for an integer of at least 0; False for true and false."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def read_record(kind: type[T], value: bytes) -> T:
    """Parse a dataclass of plain values. Unknown fields, of a newer version, are ignored.

    Raises ValueError for a value that is no JSON object, lacks a field, or has a field of another type.
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
    """The dataclass, if all of its fields have their declared types. Raises ValueError otherwise."""
    for name, hint, _ in _fields(typing.cast("typing.Hashable", type(made))):
        if not _fits(value := getattr(made, name), hint):
            raise ValueError(f"no {type(made).__name__}: {name} is a {type(value).__name__}")
    return made


def to_object(record: Any) -> dict[str, Any]:
    """The fields of a dataclass of plain values, for serialisation. Unlike ``asdict`` it copies no value."""
    return {
        name: getattr(record, name) for name, _, _ in _fields(typing.cast("typing.Hashable", type(record)))
    }


def needed(key: str, value: bytes, name: str, kind: type[T]) -> T:
    """One required field of a stored value. Raises StoreError, which names the key, for an invalid one."""
    try:
        found = read_object(value)[name]
    except (ValueError, KeyError):
        found = None
    if not isinstance(found, kind) or isinstance(found, bool):
        raise StoreError(
            f"etcd holds under {key} a value that gossip-caffe did not write",
            remedy="find the program that wrote it, and restore the old value",
        )
    return found


# Computed once per class: with a thousand peers, a joiner parses a thousand records.
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
    return isinstance(value, (int, float) if hint is float else hint) and _can_be_written(value)


def _can_be_written(value: object) -> bool:
    """True if the text can be encoded: half of a surrogate pair cannot."""
    try:
        return not isinstance(value, str) or value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False
