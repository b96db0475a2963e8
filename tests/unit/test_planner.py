"""A plan made from the one before it is the plan that is made from nothing."""

from __future__ import annotations

import random

import pytest

from gossip_caffe.shards.plan import shard
from gossip_caffe.shards.planner import Planner

CHUNKS = 300


@pytest.mark.parametrize("seed", range(3))
def test_whoever_comes_goes_or_is_weighed_anew_the_plan_is_the_one_made_from_nothing(seed: int) -> None:
    rng, planner = random.Random(seed), Planner()
    weights = {f"p{number:02d}": rng.choice([0.9, 1.0, 1.2]) for number in range(20)}
    for _ in range(60):
        match rng.randrange(3):
            case 0 if len(weights) > 2:
                del weights[rng.choice(sorted(weights))]
            case 1:
                weights[f"p{rng.randrange(40):02d}"] = rng.choice([0.9, 1.0, 1.2])
            case _:
                weights[rng.choice(sorted(weights))] = rng.choice([0.5, 1.0, 2.0])
        for member in rng.sample(sorted(weights), 2):
            assert (
                planner.shard(member, weights, CHUNKS, 7).tolist()
                == shard(member, weights, CHUNKS, 7).tolist()
            )


def test_jobs_of_one_process_have_plans_of_their_own() -> None:
    planner, weights = Planner(), {"a": 1.0, "b": 2.0}
    for chunks, seed in ((30, 1), (40, 1), (30, 2), (30, 1)):
        assert (
            planner.shard("a", weights, chunks, seed).tolist() == shard("a", weights, chunks, seed).tolist()
        )


def test_a_stranger_has_no_shard_and_neither_has_anybody_of_an_empty_job() -> None:
    planner = Planner()
    assert planner.shard("x", {"a": 1.0}, 10, 1).size == 0
    assert planner.shard("x", {}, 10, 1).size == 0
