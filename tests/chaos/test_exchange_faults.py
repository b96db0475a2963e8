"""Every phase of an exchange, met by every fault: who survives has its old weights or its new ones, and says which.

Two real processes exchange through TCP proxies. A phase is reached when the proxy holds the stream after so many bytes,
or when a peer says that it stands at a point of the exchange; then the fault strikes. Nothing here waits for a time to
pass but a frozen partner's deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gossip_caffe.gossip.averaging.average import halve
from gossip_caffe.observe.log.events import Event, read_events
from tests.cluster_run import wait_for
from tests.tcp_proxy import Proxy, Way, flipped, repeated

Flat = NDArray[np.float32]

WAIT_S = 60.0
PATIENCE_S = 60.0
"""Of deadlines that must not pass."""
SHORT_S = (1.0, 4.0, 16.0)
"""Of deadlines that must pass; the longer ones where the machine is too busy to reach the phase in time."""
SPOILT_S = (2.0, 8.0, 32.0)
"""Of deadlines that pass should a spoilt stream come to nothing."""
MIDDLE_BYTES = 600_000
HTTP2_PREFACE_BYTES = 24
HTTP2_HEAD_BYTES = 9
RST_STREAM = b"\x03"

PHASES = (
    "offer connecting",
    "offer streaming",
    "offer checked",
    "applied there",
    "answer streaming",
    "answer checked",
    "applied",
)
FAULTS = (
    "offerer killed",
    "answerer killed",
    "offerer stopped",
    "answerer stopped",
    "cut",
    "corrupted",
    "duplicated",
    "replayed",
)
HELD_AT = {
    "offer checked": ("", "checked"),
    "applied there": ("", "answered"),
    "answer checked": ("checked", ""),
}


class Peer:
    """A process of ``tests/exchanging_peer.py``."""

    def __init__(self, name: str, patience_s: float, certificates: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.exchanging_peer", name, str(patience_s), certificates],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.told: list[dict[str, Any]] = []
        self._news: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        ports = self.hear("port")
        self.port, self.weights_port = ports["port"], ports["weights_port"]

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._news.put(json.loads(line))
        self._news.put(None)

    def do(self, what: str, **command: object) -> None:
        assert self.process.stdin is not None
        print(json.dumps({"do": what, **command}), file=self.process.stdin, flush=True)

    def hear(self, kind: str) -> dict[str, Any]:
        """The first that it tells of this kind since ``begin``."""
        while not (found := [news for news in self.told if kind in news]):
            news = self._news.get(timeout=WAIT_S)
            assert news is not None, f"{self.name} has ended; it said {self.told}"
            self.told.append(news)
        return found[0]

    def count(self, kind: str) -> int:
        """How often it has told this since ``begin``."""
        while not self._news.empty():
            if (news := self._news.get()) is not None:
                self.told.append(news)
        return sum(kind in news for news in self.told)

    def told_of(self, kind: str) -> set[str]:
        """The exchanges of which it has told this since ``begin``."""
        self.count(kind)
        return {news[kind] for news in self.told if kind in news}

    def has_told(self, kind: str) -> bool:
        return self.count(kind) > 0

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        if self.lives:
            self.process.kill()
        self.process.wait(WAIT_S)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Pair:
    """An offerer ``a`` and an answerer ``b``, begun anew for each case, replaced when they were killed.

    ``certificates``: the folder of their certificates; "": they have none.
    """

    def __init__(self, patience_s: float, certificates: str) -> None:
        self._patience_s = patience_s
        self.certificates = certificates
        self._peers: dict[str, Peer] = {}

    def peer(self, name: str) -> Peer:
        if name not in self._peers or not self._peers[name].lives:
            if name in self._peers:
                self._peers[name].end()
            self._peers[name] = Peer(name, self._patience_s, self.certificates)
        return self._peers[name]

    def end(self) -> None:
        for peer in self._peers.values():
            peer.end()


@pytest.fixture(scope="module", params=["plain", "tls"])
def certificates(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the peers' certificates; "" where they have none."""
    if request.param == "plain":
        return ""
    from tests.tls_files import Authority  # noqa: PLC0415 - it needs cryptography, and plain connections do not

    folder, authority = tmp_path_factory.mktemp("certificates"), Authority.make()
    for name in ("a", "b"):
        authority.issue(folder / name, name)
    return str(folder)


@pytest.fixture(scope="module")
def patient(certificates: str) -> Iterator[Pair]:
    pair = Pair(PATIENCE_S, certificates)
    yield pair
    pair.end()


@pytest.fixture(scope="module")
def impatient(certificates: str) -> Iterator[Pair]:
    pair = Pair(SHORT_S[0], certificates)
    yield pair
    pair.end()


@dataclass
class Case:
    """One exchange of ``a`` with ``b`` that is struck by a fault in a phase."""

    folder: Path
    form: str
    phase: str
    a: Peer
    b: Peer
    proxy: Proxy
    weights_proxy: Proxy
    secured: bool = False
    old: dict[str, Flat] = field(default_factory=dict)
    new: dict[str, Flat] = field(default_factory=dict)

    @classmethod
    def begin(cls, folder: Path, form: str, phase: str, pair: Pair) -> Case:
        a, b = pair.peer("a"), pair.peer("b")
        case = cls(folder, form, phase, a, b, Proxy(b.port), Proxy(b.weights_port), bool(pair.certificates))
        for seed, peer, hold in zip((1, 2), (a, b), HELD_AT.get(phase, ("", "")), strict=True):
            peer.told.clear()
            peer.do(
                "begin",
                seed=seed,
                hold=hold,
                log=str(case.log_of(peer)),
                swaps=form == "swapped",
                weights_port=case.weights_proxy.port if peer is b else 0,
            )
            peer.told = [peer.hear("begun")]  # what was still said of the case before is no news of this one
            case.old[peer.name] = case.weights_of(peer)
        half = np.empty_like(case.old["a"])
        halve(case.old["a"], case.old["b"], half)
        case.new = {"a": case.old["a"] + half, "b": case.old["b"] - half}
        return case

    def log_of(self, peer: Peer) -> Path:
        return self.folder / f"{peer.name}.jsonl"

    def events(self, peer: Peer, event: Event, **wanted: object) -> list[dict[str, Any]]:
        return [
            line
            for line in read_events(self.log_of(peer))
            if line["event"] == event and wanted.items() <= line.items()
        ]

    def weights_of(self, peer: Peer) -> Flat:
        path = self.folder / f"{peer.name}-{len(list(self.folder.iterdir()))}.npy"
        peer.do("weights", path=str(path))
        while peer.hear("weights")["weights"] != str(path):
            peer.told = [news for news in peer.told if "weights" not in news]
        weights: Flat = np.load(path)
        return weights

    def state_of(self, peer: Peer) -> str:
        """Whether its weights are the old or the new ones, to the bit."""
        weights = self.weights_of(peer)
        for state, vectors in (("old", self.old), ("new", self.new)):
            if np.array_equal(weights, vectors[peer.name]):
                return state
        return "torn"

    # ── to a phase ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def carrier(self) -> Proxy:
        """What the weights go through."""
        return self.weights_proxy if self.form == "swapped" else self.proxy

    def reach(self, deadline_s: float) -> bool:
        """Offer, and come to the phase; False when the deadline passed on the way."""
        match self.phase:
            case "offer connecting":
                # Both ways: a client that has heard the server's SETTINGS acknowledges them and sends its offer, which
                # might wait with its first bytes, and be let go with them after it has hung up.
                self.proxy.up.hold_after = self.proxy.down.hold_after = 0
            case "offer streaming":
                self.carrier.up.hold_after = MIDDLE_BYTES
            case "answer streaming":
                self.carrier.down.hold_after = MIDDLE_BYTES
        self.a.do("offer", port=self.proxy.port, deadline_s=deadline_s)
        match self.phase:
            case "offer connecting":
                self.until(self.proxy.up.held.is_set)
            case "offer streaming":
                self.until(lambda: self.carrier.up.held.is_set() and self.b.has_told("receiving"))
            case "answer streaming":
                self.until(self.carrier.down.held.is_set)
            case "offer checked" | "applied there":
                self.until(lambda: self.b.has_told("at"))
            case "answer checked":
                self.until(lambda: self.a.has_told("at"))
            case _:
                return bool(self.a.hear("outcome")["outcome"] == "applied")
        return not self.a.has_told("outcome")

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait for a phase, or for the end of an exchange that will not come there."""
        wait_for("the phase is reached", lambda: reached() or self.a.has_told("outcome"), WAIT_S, 0.002)

    # ── the faults ────────────────────────────────────────────────────────────────────────────────────────────────

    def strike(self, fault: str) -> None:
        """Let a fault happen, and the exchange come to its end on every side that lives."""
        match fault:
            case "offerer killed" | "answerer killed":
                dies, survives = (self.a, self.b) if fault.startswith("offerer") else (self.b, self.a)
                dies.signal(signal.SIGKILL)
                dies.process.wait(WAIT_S)
                for proxy in (self.proxy, self.weights_proxy):
                    proxy.up.lose()
                    proxy.down.lose()
                if self.phase == "answer checked" and survives is self.a:
                    self.let_go()
                self.conclude(survives)
            case "offerer stopped" | "answerer stopped":
                stops, goes_on = (self.a, self.b) if fault.startswith("offerer") else (self.b, self.a)
                stops.signal(signal.SIGSTOP)
                try:
                    if self.phase == "answer checked":
                        self.let_go()
                    self.conclude(goes_on)
                finally:
                    stops.signal(signal.SIGCONT)
                self.conclude(self.a)
                if self.phase in {"offer streaming", "offer checked", "applied there", "answer streaming"}:
                    # Of itself: the call is over. What is held is let go only then, or b could have the whole of a
                    # streamed offer, and rightly apply it, before it sees that a has hung up.
                    self.conclude(self.b)
            case "cut":
                for proxy in self.cuttable():
                    proxy.cut()
                if self.phase == "answer checked":
                    self.let_go()
                self.conclude(self.a)
                self.conclude(self.b)
            case "corrupted" | "duplicated":
                for way in self.next_ways():
                    way.spoil = flipped if fault == "corrupted" else repeated
                self.let_go()
                self.conclude(self.a)
            case _:
                said = bytes(self.proxy.up.recorded)
                connections = [
                    replay(self.b.port, said if self.secured else without_resets(said)),
                    replay(self.b.weights_port, bytes(self.weights_proxy.up.recorded)),
                ]
                if (
                    self.phase != "offer connecting" and not self.secured
                ):  # of TLS nothing can be played again
                    self.b.hear("receiving")
                    wait_for(
                        "the replayed offer has come", lambda: self.b.count("receiving") == 2, WAIT_S, 0.002
                    )
                if self.phase == "offer streaming":
                    connections.pop(0).close()
                self.let_go()
                self.conclude(self.a)
                for connection in connections:
                    connection.close()
        self.let_go()
        if self.b.lives:
            self.conclude(self.b)

    def cuttable(self) -> list[Proxy]:
        """The connection that the exchange hangs on in this phase; all of them when on none."""
        match self.phase:
            case "offer connecting" | "offer checked" | "applied there":
                return [self.proxy]
            case "offer streaming" | "answer streaming":
                return [self.carrier]
        return [self.proxy, self.weights_proxy]

    def next_ways(self) -> list[Way]:
        """Where the next bytes of the exchange go; everywhere when there are none."""
        match self.phase:
            case "offer connecting":
                return [self.proxy.up]
            case "offer streaming":
                return [self.carrier.up]
            case "offer checked" | "applied there":
                return [self.proxy.down]
            case "answer streaming":
                return [self.carrier.down]
        return [way for proxy in (self.proxy, self.weights_proxy) for way in (proxy.up, proxy.down)]

    def conclude(self, peer: Peer) -> None:
        """Wait until the exchange is over there."""
        if peer is self.a:
            peer.hear("outcome")
        else:
            wait_for(
                "the answerer is through",
                lambda: not peer.told_of("receiving") - peer.told_of("over"),
                WAIT_S,
                0.002,
            )

    def let_go(self) -> None:
        """Hold nothing any more."""
        for proxy in (self.proxy, self.weights_proxy):
            proxy.up.let_go()
            proxy.down.let_go()
        for peer in (self.a, self.b):
            if peer.lives:
                peer.do("go")

    def close(self) -> None:
        self.proxy.close()
        self.weights_proxy.close()

    # ── what is left ──────────────────────────────────────────────────────────────────────────────────────────────

    def check(self, expected: set[tuple[str, str]]) -> None:
        """The survivors' weights, and what their logs say of them."""
        states = tuple(self.state_of(peer) if peer.lives else "dead" for peer in (self.a, self.b))
        assert states in expected, [self.log_of(peer).read_text() for peer in (self.a, self.b)]
        if self.a.lives:
            (ended,) = self.events(self.a, Event.EXCHANGED, side="offered")
            assert (ended["outcome"] == "applied") == (states[0] == "new"), ended
            assert ended["outcome"] == "applied" or ended["reason"], ended
        if self.b.lives:
            applied = self.events(self.b, Event.EXCHANGED, side="answered", outcome="applied")
            assert len(applied) == (states[1] == "new")
            if states[1] == "old" and self.b.has_told("receiving"):
                refused = wait_for(
                    "the answerer says why",
                    lambda: self.events(self.b, Event.EXCHANGED, side="answered", outcome="refused"),
                    WAIT_S,
                    0.002,
                )
                assert all(line["reason"] for line in refused)

    def go_on(self) -> None:
        """The two exchange again; a half that only the answerer has is counted, with what it moved the sum by."""
        first = self.a.hear("outcome")
        for peer in (self.a, self.b):
            peer.do("straight")
        self.a.told.clear()
        self.a.do("offer", port=self.b.port, deadline_s=PATIENCE_S)
        assert self.a.hear("outcome")["outcome"] == "applied"
        applied = self.events(self.b, Event.EXCHANGED, exchange=first["exchange"], outcome="applied")
        counted = self.events(self.b, Event.HALF_APPLIED)
        assert len(applied) == (first["outcome"] == "applied") + len(counted)
        for line in counted:
            half = np.empty_like(self.old["b"])
            halve(self.old["b"], self.old["a"], half)
            assert line["half_sum"] == pytest.approx(half.sum(dtype=np.float64), rel=1e-9)
        before = self.old["a"] + (self.new if counted else self.old)["b"]
        for peer in (self.a, self.b):
            np.testing.assert_allclose(self.weights_of(peer), before / 2, atol=1e-7)


def replay(port: int, recorded: bytes) -> socket.socket:
    """Send what was recorded once more, over a new connection; who listens may not want to hear all of it."""
    connection = socket.create_connection(("127.0.0.1", port), WAIT_S)
    with contextlib.suppress(ConnectionError):
        connection.sendall(recorded)
    return connection


def without_resets(recorded: bytes) -> bytes:
    """A client's side of HTTP/2 without RST_STREAM, by which gRPC may end a call that has its answer.

    Coming together with the call it would take it back before anybody has seen it (RFC 9113, 4.1 and 6.4).
    """
    kept, at = bytearray(recorded[:HTTP2_PREFACE_BYTES]), HTTP2_PREFACE_BYTES
    while at < len(recorded):
        end = at + HTTP2_HEAD_BYTES + int.from_bytes(recorded[at : at + 3], "big")
        if recorded[at + 3 : at + 4] != RST_STREAM:
            kept += recorded[at:end]
        at = end
    return bytes(kept)


def expected(form: str, phase: str, fault: str) -> set[tuple[str, str]]:
    """Weights of offerer and answerer that a fault in a phase may leave."""
    place = PHASES.index(phase)
    if place <= PHASES.index("offer checked"):
        either = {("old", "old")}
    elif place <= PHASES.index("answer streaming"):
        either = {("old", "new")}
        if form == "swapped" and phase == "answer streaming":
            either.add(("old", "old"))  # both ways at once: the answerer may not have all of the offer yet
    else:
        either = {("new", "new")}
    match fault:
        case "offerer killed":
            return {("dead", there) for _, there in either}
        case "answerer killed":
            return {(here, "dead") for here, _ in either}
        case "corrupted" | "duplicated":
            if phase in {"offer checked", "applied there"}:
                either = {("old", "new")}
            if phase in {"offer connecting", "offer checked", "applied there"}:
                either.add(("new", "new"))  # not all that gRPC says matters
        case "replayed":
            either = {("new", "new")}
            if phase == "offer streaming":
                either.add(("old", "old"))  # the torn copy spoils the offer of its name
    return either


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("form", ["carried", "swapped"])
def test_a_survivor_has_its_old_weights_or_its_new_ones_and_says_which_and_why(
    tmp_path: Path, patient: Pair, impatient: Pair, form: str, phase: str, fault: str
) -> None:
    stops = fault.endswith("stopped")
    for deadline_s in deadlines(fault):
        folder = tmp_path / str(deadline_s)
        folder.mkdir()
        case = Case.begin(folder, form, phase, impatient if stops else patient)
        try:
            if not case.reach(deadline_s):
                continue
            case.strike(fault)
            case.check(expected(form, phase, fault))
            if case.a.lives and case.b.lives:
                case.go_on()
            return
        finally:
            case.close()
    pytest.fail(f"{phase} was never reached")


def deadlines(fault: str) -> Sequence[float]:
    """For the offer that a fault strikes, until one of them lets it come to its phase."""
    if fault.endswith("stopped"):
        return SHORT_S
    return SPOILT_S if fault in {"corrupted", "duplicated"} else (PATIENCE_S,)


@pytest.mark.parametrize("fault", ["cut", "corrupted"])
@pytest.mark.parametrize("after_bytes", [10, 60, 200, 1_000, 70_000, 1_100_000])
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("form", ["carried", "swapped"])
def test_wherever_a_connection_is_cut_or_a_bit_is_flipped_the_offerer_has_its_old_weights_or_its_new_ones(
    tmp_path: Path, patient: Pair, form: str, way: str, after_bytes: int, fault: str
) -> None:
    case = Case.begin(tmp_path, form, "anywhere", patient)
    try:
        struck = getattr(case.carrier, way)
        struck.hold_after = after_bytes
        case.a.do("offer", port=case.proxy.port, deadline_s=SPOILT_S[0])
        case.until(struck.held.is_set)
        if fault == "cut":
            case.carrier.cut()
        else:
            struck.spoil = flipped
        case.let_go()
        state = {"applied": "new"}.get(case.a.hear("outcome")["outcome"], "old")
        assert case.state_of(case.a) == state
        case.go_on()
    finally:
        case.close()
