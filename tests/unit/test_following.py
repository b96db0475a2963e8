"""Logs that are read while others write them."""

from __future__ import annotations

from pathlib import Path

from gossip_caffe.observe.log.following import LogFollower


def test_each_event_that_is_wanted_comes_once_in_the_order_of_its_time_and_whole(tmp_path: Path) -> None:
    following = LogFollower(tmp_path, {"tested"})
    assert following.new() == []
    one, two = tmp_path / "p0.jsonl", tmp_path / "p1.jsonl"
    one.write_text(
        '{"t": 3, "event": "tested", "n": 1}\n{"t": 4, "event": "trained"}\n{"t": 5, "event": "tes'
    )
    two.write_text('{"t": 2, "event": "tested", "n": 2}\n')
    assert [event["n"] for event in following.new()] == [2, 1]
    assert following.new() == []
    with one.open("a") as file:
        file.write('ted", "n": 3}\nno json\n[]\n')
    assert [event["n"] for event in following.new()] == [3]
    assert following.new() == []
