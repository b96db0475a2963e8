"""A scenario file says what is done to a cluster, and its seed decides the rest."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gossip_caffe.chaos.phases import EXCHANGING, JOINING
from gossip_caffe.chaos.scenario import Act, NetworkKind, Scenario, choose_target, read_scenario, schedule
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
    assert scenario.injections == 8
    assert scenario.needs_links


def test_one_seed_gives_one_schedule_and_another_seed_another(tmp_path: Path) -> None:
    scenario = read(tmp_path, WHOLE)
    assert schedule(scenario) == schedule(read(tmp_path, WHOLE))
    assert schedule(scenario) != schedule(read(tmp_path, WHOLE.replace("seed = 3", "seed = 4")))


def test_every_injection_is_scheduled_once_and_the_processes_take_turns(tmp_path: Path) -> None:
    injections = schedule(read(tmp_path, WHOLE))
    assert [injection.number for injection in injections] == list(range(8))
    kills = Counter(injection.what for injection in injections if injection.act is Act.KILL)
    assert kills == {"agent": 3, "solver": 2, "loader": 2}
    assert all(1 <= injection.wait_s <= 2.5 and 0 <= injection.pick < 1 for injection in injections)


def test_processes_and_phases_take_turns_of_their_own(tmp_path: Path) -> None:
    text = "[[fault]]\nact = 'kill'\ntimes = 6\nwhat = ['agent', 'solver']\nwhen = ['offering', 'answering', 'syncing']"
    aimed = Counter((injection.what, injection.when) for injection in schedule(read(tmp_path, text)))
    assert len(aimed) == 6
    assert {injection.when for injection in schedule(read(tmp_path, WHOLE))} == {None}


def test_the_short_scenario_aims_at_every_phase() -> None:
    (short,) = [path for path in EXAMPLES if path.stem == "short"]
    aimed = {injection.when for injection in schedule(read_scenario(short))}
    assert aimed == {*JOINING, *EXCHANGING, None}


def test_the_target_is_one_with_the_fewest_injections() -> None:
    assert choose_target(["p1", "p2", "p0"], {"p0": 2, "p1": 1}, 0.99) == "p2"
    assert {choose_target(["p0", "p1", "p2"], {}, pick) for pick in (0.0, 0.4, 0.99)} == {"p0", "p1", "p2"}


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
    assert (scenario.network, scenario.needs_links) == (NetworkKind.NAMESPACES, False)
    assert "half-open for 3 s" in {injection.description for injection in schedule(scenario)}
    with pytest.raises(UsageError, match='act "half-open" needs network = "namespaces"'):
        read(tmp_path, text.replace("namespaces", "loopback"))


def test_the_scenario_for_namespaces_does_both_that_a_link_can_do_there() -> None:
    (path,) = [path for path in EXAMPLES if path.stem == "namespaces"]
    scenario = read_scenario(path)
    assert scenario.network is NetworkKind.NAMESPACES
    assert {Act.PARTITION, Act.HALF_OPEN, Act.KILL} <= {injection.act for injection in schedule(scenario)}


@pytest.mark.parametrize(
    "path", [path for path in EXAMPLES if path.stem != "namespaces"], ids=lambda path: path.stem
)
def test_the_scenarios_that_come_with_this_repository_are_whole(path: Path) -> None:
    scenario = read_scenario(path)
    injections = schedule(scenario)
    kills = Counter(injection.what for injection in injections if injection.act is Act.KILL)
    assert sum(kills.values()) >= 30
    assert set(kills) >= {"agent", "solver", "loader"}
    assert {Act.ETCD_RESTART, Act.FREEZE, Act.PARTITION} <= {injection.act for injection in injections}
