"""Frozen dataclasses from their JSON form. An error names the path of the wrong field."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from gossip_caffe.errors import UsageError
from gossip_caffe.json_records import read_json

T = TypeVar("T")
MOST_FLOAT = 1e300
"""Limit of a float: it excludes NaN, infinities, and values that overflow in the first multiplication."""


def read_stored(kind: type[T], value: bytes, form: int, what: str) -> T:
    """Parse the JSON of a stored dataclass; ``what`` names it for errors, ``form`` is the number of its format.

    Raises UsageError for JSON of another form, and with the name of the field that is missing or of another type.
    """
    try:
        record = read_json(value)
    except ValueError as error:
        raise UsageError(
            f"the {what}'s record is no JSON ({error})", remedy=f"create the {what} again"
        ) from None
    if not isinstance(record, dict) or record.get("format") != form:
        raise UsageError(
            f"the {what} was made by another version of gossip-caffe",
            remedy="use that version, or create it again",
        )
    return read_fields(kind, record, what)


def read_fields(kind: type[T], record: object, where: str) -> T:
    """A frozen dataclass from its JSON form, including nested dataclasses and tuples.

    Raises UsageError with the path of the wrong field. A field that this version does not know is refused: a peer that
    left it out would train in another way than the others.
    """
    if not isinstance(record, dict):
        raise UsageError(f"{where} is no object", remedy="create the job again")
    known = {field.name for field in dataclasses.fields(kind)} | {"format"}  # type: ignore[arg-type]
    if strange := sorted(name for name in record if name not in known):
        raise UsageError(
            f"{where}.{strange[0]:.80} is unknown to this version of gossip-caffe",
            remedy="install here the version that created it (docs/deploy/upgrade.md)",
        )
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in record:
            values[field.name] = _read(hints[field.name], record[field.name], f"{where}.{field.name}")
        elif field.default is dataclasses.MISSING:
            raise UsageError(f"{where}.{field.name} is missing", remedy="create the job again")
    return kind(**values)


def _is_text(value: str) -> bool:
    """True if the text can be encoded as UTF-8 and contains no NUL, at which C would end it."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _read(hint: Any, value: object, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return read_fields(typing.cast(type[Any], hint), value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise UsageError(f"{where} is no list", remedy="create the job again")
        element = typing.get_args(hint)[0]
        return tuple(_read(element, entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not abs(value) <= MOST_FLOAT:
            raise UsageError(f"{where} is {value!r:.40}", remedy="create the job again")
        return float(value)
    if hint is str and isinstance(value, str) and not _is_text(value):
        raise UsageError(f"{where} holds what is no text", remedy="create the job again")
    if (
        isinstance(hint, types.GenericAlias)
        or not isinstance(value, hint)
        or (hint is int and isinstance(value, bool))
    ):
        raise UsageError(
            f"{where} is a {type(value).__name__}, not a {hint.__name__}", remedy="create the job again"
        )
    return value
