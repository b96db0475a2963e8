"""A parser of protobuf's text format that keeps every byte: each field knows its position in the text.

Caffe's own parser needs its schema, aborts the process on an error, and drops comments and layout. A job's files are
the user's, so they are parsed with positions (messages name file and line) and changed by replacing spans. Extensions
and Any (``[name]``) are not supported: Caffe has none.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from gossip_caffe.errors import ModelError

_TOKEN = re.compile(
    r"""(?P<space>[\s\ufeff]+|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>-?\s*(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fF]?)(?![\w.]))
      | (?P<word>-?[A-Za-z_][A-Za-z0-9_]*)
      | (?P<mark>[{}<>:;,\[\]])""",
    re.VERBOSE,
)
MOST_DEPTH = 64
"""Limit of nested messages. Caffe's schema nests fewer than ten."""
_ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the text; ``start`` and ``end`` are offsets into the whole text."""

    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value as it was written. Adjacent strings are one value."""

    tokens: tuple[Token, ...]

    @property
    def raw(self) -> str:
        """The text as written."""
        return " ".join(token.text for token in self.tokens)

    @property
    def text(self) -> str:
        """The value as text: a string without its quotes and escapes, any other value as written."""
        if self.kind != "string":
            return self.tokens[0].text
        # Escapes denote bytes, and one character may be written as several of them.
        return b"".join(_unescaped(token.text[1:-1]) for token in self.tokens).decode("utf-8", "replace")

    @property
    def kind(self) -> str:
        """The lexical kind of the value: "string", "number" or "word"."""
        return self.tokens[0].kind


@dataclass(frozen=True, slots=True)
class Field:
    """``name: value`` or ``name { … }``. A list ``name: [a, b]`` is parsed as several fields with one span.

    ``end`` is after the separator, if there is one, so that the field can be cut out.
    """

    name: str
    value: Scalar | TextMessage
    start: int
    end: int
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class TextMessage:
    """A message: its fields in the order of the text."""

    fields: tuple[Field, ...]
    document: Document = field(repr=False, compare=False)

    def all(self, name: str) -> list[Field]:
        """All fields of that name."""
        return [entry for entry in self.fields if entry.name == name]

    def last(self, name: str) -> Field | None:
        """The last field of that name, which is the one that counts unless the field is a repeated one; or None."""
        return next((entry for entry in reversed(self.fields) if entry.name == name), None)

    def messages(self, name: str) -> list[TextMessage]:
        """All fields of that name as messages. Raises ModelError where one is a scalar."""
        return [self.document.message_of(entry) for entry in self.all(name)]

    def message(self, name: str) -> TextMessage | None:
        """The last field of that name as a message, or None."""
        return self.document.message_of(entry) if (entry := self.last(name)) else None

    def texts(self, name: str) -> list[str]:
        """All fields of that name as text."""
        return [self.document.scalar_of(entry).text for entry in self.all(name)]

    def text(self, name: str, default: str = "") -> str:
        """A string or enum field as text; ``default`` without one."""
        return self.document.scalar_of(entry).text if (entry := self.last(name)) else default

    def integer(self, name: str, default: int = 0) -> int:
        """An integer field; ``default`` without one. Raises ModelError with its place for any other value."""
        return self.document.integer_of(entry) if (entry := self.last(name)) else default

    def number(self, name: str, default: float = 0.0) -> float:
        """A float field; ``default`` without one. Raises ModelError with its place for any other value."""
        return self.document.number_of(entry) if (entry := self.last(name)) else default

    def boolean(self, name: str, default: bool = False) -> bool:
        """A bool field; ``default`` without one. Raises ModelError with its place for any other value."""
        return self.document.boolean_of(entry) if (entry := self.last(name)) else default


class Document:
    """A text, its tokens and its root message. ``name`` is the text's name in errors, usually the file's path.

    Raises ModelError "name:line:column: message" where the text cannot be parsed.
    """

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.tokens = tuple(self._split())
        self.root = _Reader(self).read()

    def error(self, at: int, what: str, remedy: str = "") -> ModelError:
        """A ModelError at an offset of the text, with line and column."""
        line, column = self.place(at)
        return ModelError(f"{self.name}:{line}:{column}: {what}", remedy=remedy)

    def place(self, at: int) -> tuple[int, int]:
        """The line and column of an offset, both counted from 1."""
        line = bisect.bisect_right(self._line_starts, at)
        return line, at - self._line_starts[line - 1] + 1

    def message_of(self, entry: Field) -> TextMessage:
        """A field's value as a message. Raises ModelError for a scalar."""
        if isinstance(entry.value, TextMessage):
            return entry.value
        raise self.error(entry.start, f"{entry.name} must be a message", f"write {entry.name} {{ … }}")

    def scalar_of(self, entry: Field) -> Scalar:
        """A field's value as a scalar. Raises ModelError for a message."""
        if isinstance(entry.value, Scalar):
            return entry.value
        raise self.error(entry.start, f"{entry.name} must be a single value", f"write {entry.name}: VALUE")

    def integer_of(self, entry: Field) -> int:
        """A field's value as an integer: decimal, hexadecimal or octal. Raises ModelError for any other value."""
        scalar = self.scalar_of(entry)
        raw = "".join(scalar.raw.split())
        digits = raw.lstrip("-")
        base = 16 if digits[:2].lower() == "0x" else 8 if len(digits) > 1 and digits.startswith("0") else 10
        try:
            if scalar.kind == "number":
                return int(raw, base)
        except ValueError:
            pass  # a fraction, or a digit that is not in the base
        raise self.error(entry.start, f"{entry.name} is {scalar.raw}, not an integer")

    def number_of(self, entry: Field) -> float:
        """A field's value as a float; a trailing f, inf and nan are valid. Raises ModelError for any other value."""
        scalar = self.scalar_of(entry)
        raw = "".join(scalar.raw.split())
        if raw.lstrip("-").lower() in {"inf", "infinity", "nan"}:
            return float(raw)
        if scalar.kind == "number":
            if re.fullmatch(r"-?0([xX][0-9a-fA-F]+|[0-7]+)", raw):
                return float(self.integer_of(entry))
            return float(raw.rstrip("fF"))
        raise self.error(entry.start, f"{entry.name} is {scalar.raw}, not a number")

    def boolean_of(self, entry: Field) -> bool:
        """A field's value as a bool: true, t, 1 or false, f, 0. Raises ModelError for any other value."""
        raw = self.scalar_of(entry).raw
        if raw in {"true", "True", "t", "1"}:
            return True
        if raw in {"false", "False", "f", "0"}:
            return False
        raise self.error(entry.start, f"{entry.name} is {raw}, not true or false")

    def _split(self) -> Iterator[Token]:
        at, text = 0, self.text
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                what = "a string that does not end" if text[at] in "\"'" else f"unexpected {text[at]!r}"
                raise self.error(at, what)
            if match.lastgroup != "space":
                yield Token(str(match.lastgroup), match.group(), at, match.end())
            at = match.end()


class _Reader:
    """A recursive-descent parser over the tokens."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._tokens = document.tokens
        self._at = 0
        self._depth = 0

    def read(self) -> TextMessage:
        fields = self._fields(None)
        return TextMessage(tuple(fields), self._document)

    def _peek(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self, wanted: str) -> Token:
        token = self._peek()
        if token is None:
            raise self._document.error(len(self._document.text), f"the file ends where {wanted} should be")
        self._at += 1
        return token

    def _fields(self, closing: str | None) -> list[Field]:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise self._document.error(
                self._tokens[self._at - 1].start, f"messages are nested more than {MOST_DEPTH} deep"
            )
        try:
            return self._fields_here(closing)
        finally:
            self._depth -= 1

    def _fields_here(self, closing: str | None) -> list[Field]:
        fields: list[Field] = []
        while True:
            token = self._peek()
            if token is None:
                if closing:
                    raise self._document.error(
                        len(self._document.text), f"the file ends where {closing!r} should be"
                    )
                return fields
            if closing and token.text == closing and token.kind == "mark":
                return fields
            found = self._field()
            token = self._peek()
            if token is not None and token.text in {";", ","}:
                self._at += 1
                found = [dataclasses.replace(entry, end=token.end) for entry in found]
            fields += found

    def _field(self) -> list[Field]:
        name = self._next("a field")
        if name.kind != "word" or name.text.startswith("-"):
            raise self._document.error(name.start, f"unexpected {name.text!r} where a field's name should be")
        token = self._peek()
        if token is not None and token.text == ":":
            self._at += 1
            token = self._peek()
        elif token is None or token.text not in {"{", "<"}:
            raise self._document.error(name.end, f"{name.text} needs ':' or '{{' after it")
        if token is not None and token.text == "[" and token.kind == "mark":
            values, end = self._list()
        else:
            value, end = self._value()
            values = [value]
        line, column = self._document.place(name.start)
        return [Field(name.text, value, name.start, end, line, column) for value in values]

    def _list(self) -> tuple[list[Scalar | TextMessage], int]:
        self._next("'['")
        token = self._peek()
        if token is not None and token.text == "]":
            return [], self._next("']'").end
        values = [self._value()[0]]
        while (after := self._next("',' or ']'")).text == ",":
            values.append(self._value()[0])
        if after.text != "]":
            raise self._document.error(after.start, f"unexpected {after.text!r} in a list")
        return values, after.end

    def _value(self) -> tuple[Scalar | TextMessage, int]:
        token = self._next("a value")
        if token.kind == "mark":
            closing = {"{": "}", "<": ">"}.get(token.text)
            if closing is None:
                raise self._document.error(token.start, f"unexpected {token.text!r} where a value should be")
            fields = self._fields(closing)
            return TextMessage(tuple(fields), self._document), self._next(closing).end
        tokens = [token]
        while token.kind == "string" and (more := self._peek()) is not None and more.kind == "string":
            tokens.append(self._next("a string"))
        return Scalar(tuple(tokens)), tokens[-1].end


def _unescaped(text: str) -> bytes:
    def replace(match: re.Match[bytes]) -> bytes:
        code = match.group(1)
        if code[:1] in b"xX" and len(code) > 1:
            return bytes([int(code[1:], 16)])
        if code[:1].isdigit():
            return bytes([int(code, 8) & 0xFF])
        return _ESCAPES.get(code, code)

    return re.sub(rb"\\([0-7]{1,3}|[xX][0-9a-fA-F]{1,2}|.)", replace, text.encode(), flags=re.DOTALL)


def edited(text: str, edits: list[tuple[int, int, str]]) -> str:
    """The text with the spans [start, end) replaced, which must not overlap. All other text stays byte for byte."""
    result, at = [], 0
    for start, end, replacement in sorted(edits):
        result += [text[at:start], replacement]
        at = end
    return "".join([*result, text[at:]])
