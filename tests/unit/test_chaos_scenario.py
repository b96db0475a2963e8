"""A scenario file says what is done to a cluster, and its seed decides the rest."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gossip_caffe.cluster.chaos_phases import EXCHANGING, JOINING
from gossip_caffe.cluster.chaos_scenario import Act, Network, Scenario, read_scenario, schedule, struck
from gossip_caffe.errors import UsageError

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "chaos").glob("*.toml"))
WHOLE = """seed = 3
peers = 5
every_s = [1, 2.5]
[[fault]]
act = "kill"
times = 7
what = ["agent", "solver", "loader"]
[[fault]]
act = "delay"
amount = 0.5
"""


def read(folder: Path, text: str) -> Scenario:
    path = folder / "mine.toml"
    path.write_text(text)
    return read_scenario(path)


def test_a_scenario_is_read_whole(tmp_path: Path) -> None:
    scenario = read(tmp_path, WHOLE)
    assert (scenario.name, scenario.seed, scenario.peers, scenario.every_s) == ("mine", 3, 5, (1, 2.5))
    assert [fault.act for fault in scenario.faults] == [Act.KILL, Act.DELAY]
    assert scenario.strokes == 8
    assert scenario.needs_links


def test_one_seed_gives_one_schedule_and_another_seed_another(tmp_path: Path) -> None:
    scenario = read(tmp_path, WHOLE)
    assert schedule(scenario) == schedule(read(tmp_path, WHOLE))
    assert schedule(scenario) != schedule(read(tmp_path, WHOLE.replace("seed = 3", "seed = 4")))


def test_every_stroke_is_dealt_once_and_the_parts_take_turns(tmp_path: Path) -> None:
    strokes = schedule(read(tmp_path, WHOLE))
    assert [stroke.number for stroke in strokes] == list(range(8))
    kills = Counter(stroke.what for stroke in strokes if stroke.act is Act.KILL)
    assert kills == {"agent": 3, "solver": 2, "loader": 2}
    assert all(1 <= stroke.wait_s <= 2.5 and 0 <= stroke.pick < 1 for stroke in strokes)


def test_what_is_struck_and_when_take_turns_of_their_own(tmp_path: Path) -> None:
    text = "[[fault]]\nact = 'kill'\ntimes = 6\nwhat = ['agent', 'solver']\nwhen = ['offering', 'answering', 'syncing']"
    aimed = Counter((stroke.what, stroke.when) for stroke in schedule(read(tmp_path, text)))
    assert len(aimed) == 6
    assert {stroke.when for stroke in schedule(read(tmp_path, WHOLE))} == {None}


def test_the_short_scenario_aims_at_every_phase() -> None:
    (short,) = [path for path in EXAMPLES if path.stem == "short"]
    aimed = {stroke.when for stroke in schedule(read_scenario(short))}
    assert aimed == {*JOINING, *EXCHANGING, None}


def test_whoever_was_struck_least_is_next() -> None:
    assert struck(["p1", "p2", "p0"], {"p0": 2, "p1": 1}, 0.99) == "p2"
    assert {struck(["p0", "p1", "p2"], {}, pick) for pick in (0.0, 0.4, 0.99)} == {"p0", "p1", "p2"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("peers = 3", "nothing to do"),
        ("fault = 3", "nothing to do"),
        ("[[fault]]\nact = 'sing'", "'sing' is unknown"),
        ("[[fault]]\nact = 'kill'\nwhat = 'brain'", "no part of a peer"),
        ("[[fault]]\nact = 'kill'\ntimes = 0", "times"),
        ("[[fault]]\nact = 'kill'\ntimes = 'many'", "times = 'many'"),
        ("[[fault]]\nact = 'delay'", "needs an amount"),
        ("[[fault]]\nact = 'cut'", "needs an amount"),
        ("[[fault]]\nact = 'disk-full'", "needs an amount"),
        ("[[fault]]\nact = 'kill'\nwhen = 'sleeping'", "no phase of a peer"),
        ("[[fault]]\nact = 'freeze'\nwhen = 'syncing'", "no phase of a peer"),
        ("accuracy_points = -1.0\n[[fault]]\nact = 'kill'", "accuracy_points"),
        ("speed = 3\n[[fault]]\nact = 'kill'", "'speed' is unknown"),
        ("peers = 1\nat_least = 2\n[[fault]]\nact = 'kill'", "at_least"),
        ("every_s = [3, 1]\n[[fault]]\nact = 'kill'", "every_s"),
        ("every_s = [3]\n[[fault]]\nact = 'kill'", "every_s"),
        ("network = 'wifi'\n[[fault]]\nact = 'kill'", "network = 'wifi' is unknown"),
        ("network = 3\n[[fault]]\nact = 'kill'", "network = 3 is unknown"),
        ("[[fault", "no TOML"),
    ],
)
def test_what_is_wrong_in_a_scenario_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(UsageError, match=r"mine\.toml") as refused:
        read(tmp_path, text)
    assert named in refused.value.message
    assert refused.value.remedy


@pytest.mark.parametrize("act", [Act.DELAY, Act.CAP, Act.RESET, Act.CUT])
def test_what_only_a_proxy_can_do_is_refused_among_namespaces(tmp_path: Path, act: Act) -> None:
    text = f"network = 'namespaces'\n[[fault]]\nact = 'partition'\n[[fault]]\nact = '{act}'\namount = 9.0"
    with pytest.raises(UsageError, match=f'fault 2: act "{act}" needs network = "loopback"'):
        read(tmp_path, text)
    assert read(tmp_path, text.replace("namespaces", "loopback")).needs_links


def test_a_network_of_namespaces_needs_no_proxies_and_has_an_act_of_its_own(tmp_path: Path) -> None:
    text = "network = 'namespaces'\n[[fault]]\nact = 'partition'\n[[fault]]\nact = 'half-open'\nfor_s = 3.0"
    scenario = read(tmp_path, text)
    assert (scenario.network, scenario.needs_links) == (Network.NAMESPACES, False)
    assert "half-open for 3 s" in {stroke.words for stroke in schedule(scenario)}
    with pytest.raises(UsageError, match='act "half-open" needs network = "namespaces"'):
        read(tmp_path, text.replace("namespaces", "loopback"))


def test_the_scenario_for_namespaces_does_both_that_a_link_can_do_there() -> None:
    (path,) = [path for path in EXAMPLES if path.stem == "namespaces"]
    scenario = read_scenario(path)
    assert scenario.network is Network.NAMESPACES
    assert {Act.PARTITION, Act.HALF_OPEN, Act.KILL} <= {stroke.act for stroke in schedule(scenario)}


@pytest.mark.parametrize(
    "path", [path for path in EXAMPLES if path.stem != "namespaces"], ids=lambda path: path.stem
)
def test_the_scenarios_that_come_with_this_repository_are_whole(path: Path) -> None:
    scenario = read_scenario(path)
    strokes = schedule(scenario)
    kills = Counter(stroke.what for stroke in strokes if stroke.act is Act.KILL)
    assert sum(kills.values()) >= 30
    assert set(kills) >= {"agent", "solver", "loader"}
    assert {Act.ETCD_RESTART, Act.FREEZE, Act.PARTITION} <= {stroke.act for stroke in strokes}
