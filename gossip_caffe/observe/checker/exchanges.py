"""Checks of ``whole-half``, ``same-model`` and ``finite-weights``: the contents of exchanges."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gossip_caffe.observe.checker.corrections import APART, corrections
from gossip_caffe.observe.checker.finding import Finding, Violation, concluded
from gossip_caffe.observe.history.run import Life, Line, Run
from gossip_caffe.observe.log.events import Event

"""Tolerance relative to a half's length: both sides compute their halves in float32."""


@dataclass(slots=True)
class _Exchange:
    """All events about one exchange."""

    offered: list[tuple[Life, Line]] = field(default_factory=list)
    answered: list[tuple[Life, Line]] = field(default_factory=list)
    given_up: list[Line] = field(default_factory=list)


def _exchanges(run: Run) -> Mapping[str, _Exchange]:
    found: dict[str, _Exchange] = defaultdict(_Exchange)
    for life in run.lives:
        for event in life.of(Event.EXCHANGED, Event.HALF_APPLIED):
            if "exchange" not in event:
                continue
            exchange = found[event["exchange"]]
            if event["event"] == Event.HALF_APPLIED:
                exchange.given_up.append(event)
            elif event["outcome"] == "applied":
                sides = exchange.answered if event.get("side") == "answered" else exchange.offered
                sides.append((life, event))
    return found


def _applied(run: Run) -> bool:
    return any(
        event["outcome"] == "applied"
        for life in run.lives
        for event in life.of(Event.EXCHANGED, Event.ROUND)
        if "exchange" in event or "round" in event
    )


# ── whole-half ────────────────────────────────────────────────────────────────────────────────────────────────────────


def whole_half(run: Run) -> Finding:
    """Check that each side applies its half once, and that nothing else changes a peer's weights.

    The two halves must cancel, except where a fault injection spoilt a message of the exchange.
    """
    exchanges = _exchanges(run)
    both = sum(bool(exchange.offered and exchange.answered) for exchange in exchanges.values())
    return concluded(
        "whole-half",
        _half_violations(run, exchanges),
        seen=lambda: any(exchange.offered or exchange.answered for exchange in exchanges.values()),
        holds=f"{both:,} exchanges were applied once by each side",
        unseen="no peer applied an exchange",
    )


def _half_violations(run: Run, exchanges: Mapping[str, _Exchange]) -> Iterator[Violation]:
    spoilt = {line.get("exchange") for line in run.seen if line["event"] == "spoilt"}
    for number, exchange in exchanges.items():
        for sides in (exchange.offered, exchange.answered):
            if len(sides) > 1:
                yield Violation(
                    f"exchange {number} was applied {len(sides)} times by {sides[0][0].peer}",
                    tuple(line for _, line in sides[:2]),
                )
        if exchange.offered and exchange.given_up:
            lines = (exchange.offered[0][1], exchange.given_up[0])
            yield Violation(f"exchange {number} was given up and applied by its offerer", lines)
        if exchange.offered and not exchange.answered:
            line = exchange.offered[0][1]
            partners = run.of_peer.get(line["partner"], ())
            if partners and not any(life.torn for life in partners):
                yield Violation(
                    f"{line['partner']} never answered exchange {number}, which was applied", (line,)
                )
        if exchange.offered and exchange.answered and number not in spoilt:
            yield from _uneven(number, exchange.offered[0][1], exchange.answered[0][1])
    for life in run.lives:
        yield from corrections(life, Event.EXCHANGED)


def _uneven(number: str, offered: Line, answered: Line) -> Iterator[Violation]:
    if "half_norm" not in offered or "half_norm" not in answered:
        return
    norm = max(offered["half_norm"], answered["half_norm"])
    shift = offered["half_sum"] + answered["half_sum"]
    longer = abs(offered["half_norm"] - answered["half_norm"])
    if shift > APART * norm or shift < -APART * norm or longer > APART * norm:
        yield Violation(
            f"the halves of exchange {number} do not cancel: sums {offered['half_sum']:g} and "
            f"{answered['half_sum']:g}, lengths {offered['half_norm']:g} and {answered['half_norm']:g}",
            (offered, answered),
        )


# ── same-model ────────────────────────────────────────────────────────────────────────────────────────────────────────


def same_model(run: Run) -> Finding:
    """Check that both sides of an exchange have the job's weights and the same layout."""
    layouts = {event["layout"] for life in run.lives for event in _begun(life) if "layout" in event}
    return concluded(
        "same-model",
        _model_violations(run),
        seen=lambda: bool(layouts) and _applied(run),
        holds="all peers that exchanged had the job's weights, in the same layout",
        unseen="no peer applied an exchange, or no peer logged its layout",
    )


def _begun(life: Life) -> Iterator[Line]:
    return life.of(Event.JOINED, Event.FOUNDED)


def _model_violations(run: Run) -> Iterator[Violation]:
    for life in run.lives:
        began = False
        for event in life.of(Event.JOINED, Event.FOUNDED, Event.EXCHANGED, Event.ROUND):
            began = began or event["event"] in {Event.JOINED, Event.FOUNDED}
            if not began and event.get("outcome") == "applied":
                yield Violation(f"{life.peer} exchanged before it had the job's weights", (event,))
                break
    for number, exchange in _exchanges(run).items():
        if not (exchange.offered and exchange.answered):
            continue
        (one, offered), (other, answered) = exchange.offered[0], exchange.answered[0]
        here, there = next(_begun(one), {}), next(_begun(other), {})
        if "layout" in here and "layout" in there and here["layout"] != there["layout"]:
            yield Violation(
                f"{one.peer} and {other.peer} are of different nets, and applied exchange {number}",
                (here, there, offered, answered),
            )


# ── finite-weights ────────────────────────────────────────────────────────────────────────────────────────────────────


def finite_weights(run: Run) -> Finding:
    """Check that no applied half contained NaN or Inf."""
    return concluded(
        "finite-weights",
        _infinite(run),
        seen=lambda: _applied(run),
        holds="all applied halves were finite",
        unseen="no peer applied an exchange",
    )


def _infinite(run: Run) -> Iterator[Violation]:
    for life in run.lives:
        for event in life.of(Event.EXCHANGED, Event.HALF_APPLIED, Event.CORRECTED, Event.ROUND):
            named = ("distance", "half_sum", "half_norm", "step_sum", "step_norm")
            figures = [event.get(name) or 0.0 for name in named]
            if event.get("outcome", "applied") == "applied" and not all(map(math.isfinite, figures)):
                yield Violation(f"{life.peer} applied a half with NaN or Inf in it", (event,))
