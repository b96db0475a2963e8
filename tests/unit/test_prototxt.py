"""The reader of protobuf's text format, held against protobuf's own."""

from __future__ import annotations

import re

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.errors import ModelError
from gossip_caffe.job.prototxts.prototxt import Document, edited
from gossip_caffe.wire import caffe_wire_pb2 as wire

NET = """# A net
name: "two" 'parts';
layer {  # first
  name: "conv" type: "Convolution",
  blobs < data: [1, -2.5e1, .5f]; shape { dim: [0x10, 017] } >
}
"""

TRIVIA = re.compile(r"(\s|#[^\n]*)*")


def texts() -> st.SearchStrategy[str]:
    """Messages as protobuf writes them, with what a person may add in between."""
    floats = st.floats(width=32)
    blobs = st.builds(
        wire.BlobProto,
        num=st.integers(-(2**31), 2**31 - 1),
        data=st.lists(floats, max_size=4),
        double_data=st.lists(st.floats(), max_size=2),
    )
    layers = st.builds(wire.LayerParameter, name=st.text(max_size=9), blobs=st.lists(blobs, max_size=2))
    nets = st.builds(wire.NetParameter, name=st.text(max_size=9), layer=st.lists(layers, max_size=3))
    return st.builds(
        lambda net, style, comment: comment + text_format.MessageToString(net, **style),
        nets,
        st.fixed_dictionaries(
            {
                "as_one_line": st.booleans(),
                "as_utf8": st.booleans(),
                "pointy_brackets": st.booleans(),
                "use_short_repeated_primitives": st.booleans(),
            }
        ),
        st.sampled_from(["", "# a comment\n", "\t \r\n"]),
    )


@settings(deadline=None)
@given(texts())
def test_values_read_as_protobuf_reads_them(text: str) -> None:
    expected = wire.NetParameter()
    text_format.Parse(text, expected)
    net = Document(text, "net").root
    assert net.text("name") == expected.name
    assert len(net.all("layer")) == len(expected.layer)
    for layer, wanted in zip(net.messages("layer"), expected.layer, strict=True):
        assert layer.text("name") == wanted.name
        for blob, wanted_blob in zip(layer.messages("blobs"), wanted.blobs, strict=True):
            assert blob.integer("num") == wanted_blob.num
            numbers = [blob.document.number_of(entry) for entry in blob.all("double_data")]
            assert numbers == pytest.approx(list(wanted_blob.double_data), rel=0, nan_ok=True)
            numbers = [blob.document.number_of(entry) for entry in blob.all("data")]
            assert numbers == pytest.approx(list(wanted_blob.data), nan_ok=True)


@settings(deadline=None)
@given(texts())
def test_tokens_and_what_lies_between_them_are_the_whole_text(text: str) -> None:
    document, at, rebuilt = Document(text, "net"), 0, ""
    for token in document.tokens:
        assert TRIVIA.fullmatch(text[at : token.start])
        assert text[token.start : token.end] == token.text
        rebuilt += text[at : token.start] + token.text
        at = token.end
    assert TRIVIA.fullmatch(text[at:])
    assert rebuilt + text[at:] == text
    assert edited(text, []) == text


@settings(deadline=None)
@given(texts(), st.data())
def test_a_field_can_be_cut_out_and_the_rest_is_still_what_protobuf_reads(
    text: str, data: st.DataObject
) -> None:
    document = Document(text, "net")
    if not document.root.fields:
        return
    chosen = data.draw(st.sampled_from(document.root.fields))
    left = edited(text, [(chosen.start, chosen.end, "")])
    expected = wire.NetParameter()
    text_format.Parse(text, expected)
    if chosen.name == "name":
        expected.ClearField("name")
    else:
        del expected.layer[document.root.all("layer").index(chosen)]
    found = wire.NetParameter()
    text_format.Parse(left, found)
    assert text_format.MessageToString(found) == text_format.MessageToString(expected)


@settings(deadline=None)
@given(st.from_regex(r"-?(0[xX][0-9a-fA-F]{1,6}|0[0-7]{0,5}|[1-9][0-9]{0,8})", fullmatch=True))
def test_integers_are_decimal_hexadecimal_or_octal(written: str) -> None:
    expected = text_format.Parse(f"dim: {written}", wire.BlobShape()).dim[0]
    assert Document(f"dim: {written}", "net").root.integer("dim") == expected


@settings(deadline=None)
@given(
    st.from_regex(
        r"-?((0|[1-9][0-9]{0,3})\.[0-9]{0,4}|\.[0-9]{1,4}|[1-9][0-9]{0,4})([eE][+-]?[0-9])?[fF]?",
        fullmatch=True,
    )
)
def test_floats_have_all_the_forms_of_the_format(written: str) -> None:
    expected = text_format.Parse(f"double_data: {written}", wire.BlobProto()).double_data[0]
    assert Document(f"double_data: {written}", "net").root.number("double_data") == expected


@settings(deadline=None)
@given(st.binary(max_size=12), st.sampled_from("'\""))
def test_strings_lose_their_quotes_and_escapes(value: bytes, quote: str) -> None:
    written = quote + "".join(f"\\{byte:03o}" for byte in value) + quote
    assert Document(f"name: {written}", "net").root.text("name") == value.decode("utf-8", "replace")
    assert Document("name: 'é' \"\\303\\251\\x41\\n\"", "net").root.text("name") == "ééA\n"


def test_every_form_of_a_message_a_list_and_a_separator_is_read() -> None:
    net = Document(NET, "net").root
    assert net.text("name") == "twoparts"
    blob = net.messages("layer")[0].messages("blobs")[0]
    assert [blob.document.number_of(entry) for entry in blob.all("data")] == [1, -25, 0.5]
    shape = blob.message("shape")
    assert shape is not None
    assert [blob.document.integer_of(entry) for entry in shape.all("dim")] == [16, 15]


def test_fields_know_their_line_and_column() -> None:
    layer = Document(NET, "net").root.messages("layer")[0]
    assert [(entry.name, entry.line, entry.column) for entry in layer.fields] == [
        ("name", 4, 3),
        ("type", 4, 16),
        ("blobs", 5, 3),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer {\n  name: 'a'\n", "net:3:1: the file ends where '}' should be"),
        ("name: 'a\nlayer {}", "net:1:7: a string that does not end"),
        ("layer {\n  name 'a'\n}", "net:2:7: name needs ':' or '{' after it"),
        ("layer }", "net:1:6: layer needs ':' or '{' after it"),
        ("dim: }", "net:1:6: unexpected '}' where a value should be"),
        ("dim: [1 2]", "net:1:9: unexpected '2' in a list"),
        ("dim: [1,]", "net:1:9: unexpected ']' where a value should be"),
        ("dim: 1 ;; dim: 2", "net:1:9: unexpected ';' where a field's name should be"),
        ("dim:", "net:1:5: the file ends where a value should be"),
        ("dim: 12abc", "net:1:6: unexpected '1'"),
        ("\n@", "net:2:1: unexpected '@'"),
        ("layer < name: 'a' }", "net:1:19: unexpected '}' where a field's name should be"),
    ],
)
def test_errors_name_file_line_and_column(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"^{re.escape(message)}"):
        Document(text, "net")


@pytest.mark.parametrize(
    ("text", "read", "message"),
    [
        ("dim: 1.5", "integer", "net:1:1: dim is 1.5, not an integer"),
        ("dim: '1'", "integer", "net:1:1: dim is '1', not an integer"),
        ("dim: 08", "integer", "net:1:1: dim is 08, not an integer"),
        ("dim: true", "number", "net:1:1: dim is true, not a number"),
        ("dim: 2", "boolean", "net:1:1: dim is 2, not true or false"),
        ("dim { }", "integer", "net:1:1: dim must be a single value"),
        ("dim: 1", "message", "net:1:1: dim must be a message"),
    ],
)
def test_a_value_of_a_wrong_kind_is_an_error_at_its_place(text: str, read: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"^{re.escape(message)}"):
        getattr(Document(text, "net").root, read)("dim")


@pytest.mark.parametrize(("written", "value"), [("true", True), ("f", False), ("1", True), ("False", False)])
def test_booleans_have_several_spellings(written: str, value: bool) -> None:
    assert Document(f"mirror: {written}", "net").root.boolean("mirror", not value) is value


def test_what_is_not_there_has_its_default() -> None:
    root = Document("", "net").root
    assert (root.integer("a", 3), root.number("a", 0.5), root.text("a", "x"), root.boolean("a", True)) == (
        *(3, 0.5, "x", True),
    )
    assert root.message("a") is None
