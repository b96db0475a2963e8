"""The newest answers of a peer, kept so that an offer that comes twice is applied once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from gossip_caffe.gossip.codecs.message import Message, Refusal

KEPT_ANSWERS = 4
KEPT_BYTES = 64 << 20
REMEMBERED = 4096


class GivenAnswers:
    """The newest answers by exchange id.

    At most KEPT_ANSWERS answers, of KEPT_BYTES together, are kept with their weights. Of the newest REMEMBERED answers
    only the id and the refusal are kept.
    """

    def __init__(self) -> None:
        self._whole: OrderedDict[str, Message] = OrderedDict()
        self._bytes = 0
        self._ids: OrderedDict[str, Message] = OrderedDict()

    def find(self, exchange_id: str) -> Message | None:
        """The answer to a repeated offer, a REPEATED refusal if its weights are kept no longer; None for a new one."""
        return self._whole.get(exchange_id) or self._ids.get(exchange_id)

    def keep(self, answer: Message, keeps_payload: bool = True) -> None:
        """Keep an answer, with its weights only if ``keeps_payload``; drop the oldest answers beyond the limits."""
        if answer.refusal is Refusal.NONE:
            forgotten = replace(
                answer,
                payload=b"",
                values=0,
                refusal=Refusal.REPEATED,
                reason="this offer was applied already, and its answer is kept no longer",
            )
            self._ids[answer.exchange_id] = forgotten
            if keeps_payload:
                self._whole[answer.exchange_id] = answer
                self._bytes += len(answer.payload)
        else:
            self._ids[answer.exchange_id] = answer
        while len(self._whole) > KEPT_ANSWERS or self._bytes > KEPT_BYTES:
            _, old = self._whole.popitem(last=False)
            self._bytes -= len(old.payload)
        while len(self._ids) > REMEMBERED:
            self._ids.popitem(last=False)
