"""The words of rounds on the wire, and a stream whose other side has gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import FramesCorrupt, Refusal
from gossip_caffe.gossip.rounds.grpc_words import MOST_WORD_BYTES, ServedLink, wire_of, word_of
from gossip_caffe.gossip.rounds.words import Figure, Member, Word, WordKind
from gossip_caffe.grpc_runtime import grpc
from gossip_caffe.wire import gossip_pb2 as wire

FULL = Word(
    WordKind.FORMED,
    peer="p",
    job="j",
    fingerprint="f",
    round="r",
    last="l",
    stepped=True,
    wants=True,
    guest=True,
    started=True,
    everyone=True,
    lost=("a",),
    members=(Member("p", "h:1"),),
    confirmed=("r0",),
    checksums=(1, 2**32 - 1),
    figures=(Figure("p", True, 0.5),),
    square=2.0,
    reason="why",
    refusal=Refusal.TOO_FAR,
)


@pytest.mark.parametrize("word", [FULL, *(Word(kind) for kind in WordKind)])
def test_a_word_is_the_same_after_the_wire(word: Word) -> None:
    assert word_of(wire.RoundWord.FromString(wire_of(word).SerializeToString())) == word


@pytest.mark.parametrize(
    "message",
    [
        wire.RoundWord(),
        wire.RoundWord(kind=cast("Any", 99)),
        wire.RoundWord(kind=cast("Any", 1), reason="x" * MOST_WORD_BYTES),
    ],
    ids=["nothing", "a newer kind", "too long"],
)
def test_no_other_message_is_a_word(message: Any) -> None:
    with pytest.raises(FramesCorrupt):
        word_of(message)


async def no_words() -> AsyncIterator[Any]:
    return
    yield


class Gone:
    """The context of a call whose caller has hung up."""

    async def write(self, message: Any) -> None:
        raise grpc.aio.InternalError("the caller is gone")


async def test_a_member_that_has_gone_is_no_defect() -> None:
    link = ServedLink(no_words(), Gone())
    with pytest.raises(ExchangeFailed):
        await link.send(FULL)
    with pytest.raises(ExchangeFailed):
        await link.receive()
