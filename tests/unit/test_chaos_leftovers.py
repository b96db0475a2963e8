"""What is left of a round is asked of an etcd that may take its time to come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossip_caffe.chaos import leftovers
from gossip_caffe.chaos.leftovers import leases_left
from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.errors import StoreError


class SlowStore:
    """Does not answer the first time; then a lease is still there, and then none."""

    answers: list[list[str] | None]

    def __init__(self, *_: object) -> None:
        SlowStore.answers = [None, ["/fence/p0"], []]

    async def keys(self, _: str) -> list[str]:
        if (answer := self.answers.pop(0)) is None:
            raise StoreError("away", remedy="wait")
        return answer

    async def close(self) -> None:
        """Nothing to close."""


class NoServer:
    """Stands for etcd."""

    endpoint = "127.0.0.1:1"

    def start(self) -> None:
        """It is there."""

    def stop(self) -> None:
        """It is gone."""


async def test_an_etcd_that_does_not_answer_yet_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "own_etcd", lambda _: NoServer())
    monkeypatch.setattr(leftovers, "EtcdStore", SlowStore)
    assert await leases_left(ClusterState("some", tmp_path), "job") == []
    assert SlowStore.answers == []
