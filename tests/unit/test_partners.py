"""With whom to exchange, and when."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.gossip.partners import LONGEST_BACK_OFF_S, Suspects, choose, next_exchange


def test_partners_are_drawn_uniformly() -> None:
    rng = random.Random(1)
    drawn = Counter(choose(["a", "b", "c", "d"], Suspects(), 0.0, rng).partner for _ in range(4000))
    assert set(drawn) == {"a", "b", "c", "d"}
    assert all(900 < count < 1100 for count in drawn.values())


def test_without_candidates_there_is_a_reason() -> None:
    assert choose([], Suspects(), 0.0, random.Random(1)).reason == "no other peer is training"


def test_a_partner_that_failed_is_avoided_twice_as_long_each_time_but_never_for_ever() -> None:
    suspects = Suspects()
    now = 0.0
    waits = []
    for _ in range(12):
        suspects.failed("a", now)
        waits.append(suspects.until["a"] - now)
        assert choose(["a"], suspects, now, random.Random(1)).partner is None
        now = suspects.until["a"]
        assert choose(["a"], suspects, now, random.Random(1)).partner == "a"
    assert waits[:3] == [1.0, 2.0, 4.0]
    assert max(waits) == LONGEST_BACK_OFF_S


def test_success_clears_suspicion() -> None:
    suspects = Suspects()
    suspects.failed("a", 0.0)
    suspects.succeeded("a")
    assert choose(["a"], suspects, 0.0, random.Random(1)).partner == "a"


@given(st.integers(0, 10**6), st.integers(1, 64), st.floats(0, 0.9), st.integers(0, 1000))
def test_the_next_exchange_is_about_every_h_iterations(
    now: int, every: int, jitter: float, seed: int
) -> None:
    due = next_exchange(now, every, jitter, random.Random(seed))
    assert due - now >= 1
    assert every * (1 - jitter) - 0.5 <= due - now <= max(1, every * (1 + jitter) + 0.5)
