"""An interactive view of a job: what is seen, the state of the screen, and the wishes of its keys."""

from __future__ import annotations

import asyncio
import getpass
from dataclasses import replace

from gossip_caffe.cli.top.watching import Watching
from gossip_caffe.cluster.local_processes import PeerOfCluster, find_process, kill_process
from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.cluster.supervision.control import ask
from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.leave_requests import ask_to_leave
from gossip_caffe.observe.views.rows import SORTED_BY, Order
from gossip_caffe.observe.views.screen import Pressed, Question, ScreenState, Wish, press, selecting
from gossip_caffe.system.host import host_name

ASK_WITHIN_S = 5.0
NOTE_S = 4.0
"""The time for which the last line says what a key has done; then it names the keys again."""
NOT_LOCAL = "k kills processes of a local cluster of this machine; d drains any peer"


class Session:
    """A view with keys. ``cluster``: the local cluster whose job is shown; None: the job may be anywhere.

    Both renderers send their keys to ``press`` and draw ``watching.watched`` with ``state``.
    """

    def __init__(self, watching: Watching, cluster: ClusterState | None) -> None:
        self.watching = watching
        self.state = ScreenState()
        self._cluster = cluster
        self._found: PeerOfCluster | None = None
        self._noted_at = float("-inf")

    @property
    def peers(self) -> tuple[str, ...]:
        """The living peers, in the order of the rows."""
        return tuple(peer.peer for peer in self.state.order.arrange(self.watching.watched.snapshot.peers))

    async def look(self) -> None:
        """Look at the job once more."""
        await self.watching.look()
        self.state = selecting(self.state, self.peers)
        if self.state.note and self.watching.clock.monotonic() > self._noted_at + NOTE_S:
            self.state = replace(self.state, note="")

    def select(self, peer: str) -> None:
        """Select a peer, as by a mouse."""
        if peer in self.peers and self.state.question is None:
            self.state = replace(self.state, selected=peer)

    def sort_by(self, heading: str) -> None:
        """Sort by a column, as by a mouse; the other way round if it is that column already."""
        order = self.state.order
        if heading in SORTED_BY:
            self.state = replace(
                self.state, order=order.reversed() if order.by == heading else Order(heading)
            )

    async def press(self, key: str) -> bool:
        """Carry out a key. Returns False when it ends the view."""
        pressed = press(self.state, key, self.peers)
        self.state = pressed.state
        self._noted_at = self.watching.clock.monotonic()
        if pressed.wish is Wish.QUIT:
            return False
        if pressed.wish is not None:
            try:
                await self._carry_out(pressed)
            except GossipCaffeError as error:
                self._note(str(error), alarming=True)
        return True

    async def _carry_out(self, pressed: Pressed) -> None:
        peer = pressed.peer
        if pressed.wish is Wish.FIND:
            await self._find(peer)
        elif pressed.wish is Wish.KILL and self._found is not None and self._found.peer == peer:
            found, self._found = self._found, None
            kill_process(found)
            self._note(f"SIGKILL sent to {peer} (pid {found.pid})")
        elif pressed.wish is Wish.DRAIN:
            keys = JobKeys(self.watching.spec.name)
            by = f"top of {_user()} on {host_name()}"[:200]
            asked = await ask_to_leave(self.watching.store, keys, peer, by)
            gone = asked is None
            self._note(f"no peer {peer!r} is alive" if gone else f"{peer} is asked to leave")

    async def _find(self, peer: str) -> None:
        """Find the process that a later "y" kills, and ask."""
        if self._cluster is None:
            self._note(NOT_LOCAL, remember=False)
            return
        pids = {view.peer: view.pid for view in self.watching.watched.snapshot.peers}
        status = await asyncio.to_thread(ask, self._cluster, {"do": "status"}, ASK_WITHIN_S)
        self._found = find_process(status, self.watching.spec.name, peer, pids.get(peer, 0))
        words = f"kill {peer} (pid {self._found.pid})? Its data goes to the others (y/n)"
        self.state = replace(self.state, question=Question(Wish.KILL, peer, words))

    def _note(self, words: str, *, alarming: bool = False, remember: bool = True) -> None:
        self.state = replace(self.state, note=words)
        self._noted_at = self.watching.clock.monotonic()
        if remember:
            self.watching.note(words, alarming=alarming)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "a user"  # this machine has no name for the number
