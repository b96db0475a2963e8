"""A card for all tests of this folder; where there is none they are skipped, with the reason that a user would get."""

from __future__ import annotations

import asyncio
import os

import pytest

from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.solver.card_trial import look_at_cards
from gossip_caffe.solver.cards import Card, chosen


@pytest.fixture(scope="session")
def card() -> Card:
    """The card with the most free memory, or the one that $GOSSIP_CAFFE_TEST_CARD names."""
    named = os.environ.get("GOSSIP_CAFFE_TEST_CARD")
    try:
        return chosen(asyncio.run(look_at_cards()), int(named) if named else None)
    except GossipCaffeError as error:
        pytest.skip(error.message)
