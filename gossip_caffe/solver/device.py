"""Where a solver computes, in words: "cpu", or "gpu:0" for the card that CUDA numbers 0."""

from __future__ import annotations

from gossip_caffe.errors import UsageError

CPU = "cpu"
AUTO = "auto"
"""What is written for the card with the most free memory."""
_CARD = "gpu:"


def on_card(index: int) -> str:
    """The name of a card."""
    return f"{_CARD}{index}"


def card_index(device: str) -> int | None:
    """The number of the card that a device's name means; None for the CPU. Raises ValueError for other words."""
    if device == CPU:
        return None
    number = device.removeprefix(_CARD)
    if not device.startswith(_CARD) or not number.isdecimal():
        raise ValueError(f"{device!r} names no device")
    return int(number)


def parse_card(text: str, option: str) -> int | None:
    """What ``--gpu`` is given: a card's number, or None for "auto". Raises UsageError for other words."""
    if text.strip().lower() == AUTO:
        return None
    if not text.strip().isdecimal():
        raise UsageError(
            f"{option} {text}: {text.strip()!r} is no card",
            remedy=f"give the number that 'gossip-caffe doctor' shows, or {AUTO}",
        )
    return int(text)


def parse_cards(text: str, option: str) -> tuple[int, ...]:
    """What ``--gpus`` is given: numbers with commas between them, one for each peer. Raises UsageError."""
    found = [parse_card(word, option) for word in text.split(",") if word.strip()]
    cards = tuple(index for index in found if index is not None)
    if not cards or len(cards) < len(found):
        raise UsageError(
            f"{option} {text}: it takes numbers of cards",
            remedy=f"write {option} 0,1, one number for each peer",
        )
    return cards
