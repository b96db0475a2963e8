"""A supervisor says at once, and once, that etcd is away, and that it is back."""

from __future__ import annotations

import pytest

from gossip_caffe.cluster.supervision import trouble_handler
from gossip_caffe.cluster.supervision.trouble_handler import TroubleHandler

REASON = "cannot reach etcd at h:1"


class Seconds:
    """The clock of the module, as a test sets it."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    made = Seconds()
    monkeypatch.setattr(trouble_handler, "time", made)
    return made


def test_an_etcd_that_is_away_is_one_line_and_its_return_another(seconds: Seconds) -> None:
    said: list[str] = []
    handler = TroubleHandler("job", said.append)
    for _ in range(20):
        handler.note_away(REASON)
        seconds.now += 0.5
    away = f"etcd does not answer ({REASON}); peers go on training meanwhile, and settle their chunks later"
    assert said == [away]
    for _ in range(3):
        handler.note_away("")
    assert said == [away, "etcd answers again"]


def test_an_etcd_that_wavers_is_news_once_a_minute(seconds: Seconds) -> None:
    said: list[str] = []
    handler = TroubleHandler("job", said.append)
    for _ in range(240):
        handler.note_away(REASON)
        seconds.now += 0.25
        handler.note_away("")
        seconds.now += 0.25
    assert len(said) == 4


def test_the_end_of_the_clusters_own_etcd_is_said_by_another_line(seconds: Seconds) -> None:
    said: list[str] = []
    handler = TroubleHandler("job", said.append)
    handler._etcd_gone = "killed by SIGKILL"
    for _ in range(20):
        handler.note_away(REASON)
        seconds.now += 0.5
    assert said == []
