"""The target of an injection: a peer is stopped in the phase that the injection names, and no wait is in vain."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from gossip_caffe.chaos import targeting
from gossip_caffe.chaos.phases import Phase, PhaseWatch
from gossip_caffe.chaos.scenario import Act, Injection
from gossip_caffe.chaos.targeting import Targeting
from gossip_caffe.cluster.fleet.fleet import Fleet, PeerProcess

DEADLINE_S = 60.0


class Sleepers:
    """Stands for a fleet: its peers are processes that sleep."""

    def __init__(self) -> None:
        self.peers: dict[str, PeerProcess] = {}

    @property
    def running(self) -> list[PeerProcess]:
        return list(self.peers.values())

    def start(self, name: str) -> PeerProcess:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
        self.peers[name] = PeerProcess(name, process)
        return self.peers[name]

    def parts(self, peer: PeerProcess) -> dict[str, int]:
        return {"agent": peer.pid}

    def signal(self, pids: list[int], number: signal.Signals) -> None:
        for peer in self.running:
            if peer.pid in pids:
                peer.process.send_signal(number)


class Room:
    """Some peers, their event logs, and the choice of targets among them."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Sleepers()
        self.folder = folder
        self.targeting = Targeting(cast(Fleet, self.fleet), PhaseWatch(folder, {}))

    def says(self, peer: str, *events: dict[str, Any]) -> None:
        with (self.folder / f"{peer}.jsonl").open("a") as file:
            file.writelines(json.dumps({"t": time.time(), **event}) + "\n" for event in events)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    for peer in made.fleet.running:
        peer.process.kill()
        peer.process.wait()


STARTED = {"event": "started"}
TRAINS = ({"event": "state", "new": "training"}, {"event": "trained"})


def kill(when: Phase) -> Injection:
    return Injection(0, Act.KILL, "agent", when, wait_s=0.0, pick=0.0, for_s=0.0, amount=0.0)


def test_a_peer_is_stopped_in_the_phase_of_an_injection(room: Room) -> None:
    for name in ("p0", "p1"):
        room.fleet.start(name)
        room.says(name, STARTED)
    room.says("p0", *TRAINS)
    caught = asyncio.run(room.targeting.target_in_phase(kill(Phase.REGISTERING)))
    assert caught is not None
    assert (caught.peer.name, caught.phase, caught.held) == ("p1", Phase.REGISTERING, True)
    assert Path(f"/proc/{caught.peer.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_no_peer_is_waited_for_once_the_last_joiner_trains(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targeting, "PATIENCE_S", 1e6)
    for name in ("p0", "p1"):
        room.fleet.start(name)
        room.says(name, STARTED, *TRAINS)
    missed = asyncio.wait_for(room.targeting.target_in_phase(kill(Phase.LOADING)), DEADLINE_S)
    assert asyncio.run(missed) is None
