"""A worker of a study: one after another it leads trials, and between them its peer helps in those of others.

The worker may die at any moment: everything that others must know is in the store, and what hangs on its lease goes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

from gossip_caffe.background import DetachedTasks, unending
from gossip_caffe.errors import EnvironmentProblem, LeaseLost, StoreError
from gossip_caffe.membership.etcd.store import Absent, CreatedAt, Delete, Put
from gossip_caffe.tune.board.keys import StudyKeys
from gossip_caffe.tune.board.trial import Results, TrialRecord, TrialState
from gossip_caffe.tune.board.view import Board, BoardView, read_board, read_results
from gossip_caffe.tune.work.decisions import Do, Me, Move, next_move
from gossip_caffe.tune.work.leading import Leading
from gossip_caffe.tune.work.post import Post
from gossip_caffe.tune.work.presence import Presence
from gossip_caffe.tune.work.world import WorkerWorld

LOOK_EVERY_S = 0.5
AGAIN_S = 0.5
MOST_HELP_FAILURES = 3


class Worker:
    """One worker. ``name``: of no other living worker of the study."""

    def __init__(self, world: WorkerWorld, name: str) -> None:
        self._world = world
        self._name = name
        self._keys = StudyKeys(world.study.name)
        self._view = BoardView(self._keys, world.study, world.ignored)
        self._wake = asyncio.Event()
        self._asked = ""
        self._post: Post | None = None
        self._unclaimed_since: dict[int, float] = {}
        self._help_failures: dict[int, int] = {}
        self._said = ""
        self._leading = Leading(world, self._keys, self._wake.set)

    def leave(self, reason: str) -> None:
        """Ask the worker to leave: its trial goes on at another worker."""
        self._asked = self._asked or reason
        self._wake.set()

    async def run(self) -> str:
        """Work until the study has ended, or until ``leave``. Returns the reason of the end."""
        watching = DetachedTasks()
        name = f"the watch of study {self._world.study.name}"
        watching.begin(unending(self._watch, name, self._world.clock.sleep), name)
        try:
            while not self._asked:
                presence = Presence(
                    self._world.store, self._keys, self._name, self._world.clock, self._world.lease_ttl_s
                )
                try:
                    await presence.open(os.getpid())
                    self._world.guard((presence.guard,))
                    if reason := await self._registered(presence):
                        return reason
                except StoreError as error:
                    self._say_once(f"{self._name}: {error}")
                    await self._pause(AGAIN_S)
                finally:
                    await presence.close()
            return self._asked
        finally:
            watching.cancel()
            await watching.ended()
            if self._post is not None:
                await self._leading.leave(self._post)

    async def _watch(self) -> None:
        async for item in self._world.store.watch(self._keys.board):
            self._view.take(item)
            self._wake.set()

    # ── registered ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _registered(self, presence: Presence) -> str:
        """Work while the lease lives. Returns the reason of the end; "" to register again. Raises StoreError."""
        returned = False
        while not self._asked:
            try:
                presence.check()
                if not returned:
                    await self._return(presence)
                    returned = True
                if reason := await self._step(presence):
                    return reason
                self._said = ""
            except LeaseLost:
                raise
            except StoreError as error:
                self._say_once(f"{self._name}: {error}")
                await self._pause(AGAIN_S)
                continue
            await self._wait()
        await self._give_up(presence)
        return self._asked

    async def _step(self, presence: Presence) -> str:
        """Do what is due now. Returns the reason of the end, or ""."""
        post = self._post
        if post is not None and post.leads:
            if self._board().stopped and post.ended is None:
                await self._give_up(presence)
                return ""
            if await self._leading.step(post, presence):
                self._post = None
                self._wake.set()
            return ""
        if not self._view.seen:
            return ""  # the board has not been listed yet
        board = self._board()
        move = await self._next(board)
        match move.do:
            case Do.END:
                await self._drop(presence)
                return await self._close(presence, move)
            case Do.TAKE_OVER:
                await self._take_over(board.trials[move.trial], presence)
            case Do.BEGIN:
                await self._begin(presence)
            case Do.HELP:
                await self._help(board.trials[move.trial], move, presence)
            case Do.WAIT:
                await self._drop(presence)
        return ""

    def _board(self) -> Board:
        """The board as the watch tells it."""
        board = self._view.board
        now = self._world.clock.monotonic()
        self._unclaimed_since = {
            number: self._unclaimed_since.get(number, now)
            for number in board.running
            if number not in board.claims
        }
        return board

    async def _next(self, board: Board) -> Move:
        now = self._world.clock.monotonic()
        unclaimed_for_s = {number: now - since for number, since in self._unclaimed_since.items()}
        helps = self._post.trial.number if self._post is not None else None
        tired = {number for number, count in self._help_failures.items() if count >= MOST_HELP_FAILURES}
        me = Me(self._name, helps, self._world.may_help, frozenset(tired))
        results: Mapping[int, Results] = {}
        move = next_move(board, self._world.study, me, unclaimed_for_s, results)
        if move.do is Do.HELP and helps is None:
            results = await read_results(self._world.store, self._keys, self._world.ignored)
            move = next_move(board, self._world.study, me, unclaimed_for_s, results)
        return move

    async def _return(self, presence: Presence) -> None:
        """After a lost lease: claim this worker's trial again, if no other worker has it; else help there."""
        post = self._post
        if post is None:
            return
        number = post.trial.number
        board = await read_board(self._world.store, self._keys, self._world.study, self._world.ignored)
        current = board.trials.get(number)
        if post.ended is not None and (current is None or current.state.is_end):
            claim = self._keys.claim(number)
            taken = await presence.transact(
                [Absent(claim)], [Put(claim, self._name.encode(), presence.lease)]
            )
            post.claimed_at = taken.revision if taken.succeeded else post.claimed_at
            return
        same = current is not None and current.job == post.trial.job and not current.state.is_end
        if same and post.leads and await self._claimed(post, presence):
            self._world.say(f"{self._name}: goes on with trial {number}")
            return
        await self._leading.leave(post)
        self._post = None

    async def _claimed(self, post: Post, presence: Presence) -> bool:
        """Claim a running trial. Returns False when another worker was faster."""
        number = post.trial.number
        claim = self._keys.claim(number)
        taken = await presence.transact([Absent(claim)], [Put(claim, self._name.encode(), presence.lease)])
        if not taken.succeeded:
            return False
        item = await self._world.store.get(self._keys.trial(number))
        try:
            current = (
                TrialRecord.from_json(item.value, number, self._world.study) if item is not None else None
            )
        except ValueError:
            current = None
        if current is None or current.state.is_end or current.job != post.trial.job:
            await presence.transact([CreatedAt(claim, taken.revision)], [Delete(claim)])
            return False
        post.claimed_at = taken.revision
        return True

    async def _take_over(self, trial: TrialRecord, presence: Presence) -> None:
        helping = self._post
        if helping is not None and helping.trial.number != trial.number:
            await self._drop(presence)
            helping = None
        post = helping if helping is not None else Post(trial)
        if not await self._claimed(post, presence):
            return
        if helping is not None:
            post.spec = None  # its results are read, and its peer stays
            helper = self._keys.helper(self._name)
            await presence.transact([], [Delete(helper)])
        self._world.say(f"{self._name}: takes over trial {trial.number}")
        self._post = post
        self._wake.set()

    async def _begin(self, presence: Presence) -> None:
        """Ask the search for the next trial, as the only worker that asks, and write its record."""
        await self._drop(presence)
        right = await self._right_to_ask(presence)
        if not right:
            return
        world, keys = self._world, self._keys
        board = await read_board(world.store, keys, world.study, world.ignored)
        await self._reconcile(board)
        if len(board.trials) >= world.study.trials or board.stopped:
            await presence.transact([CreatedAt(keys.asking, right)], [Delete(keys.asking)])
            return
        asked = await world.search.ask(frozenset(board.trials))
        if asked.number >= world.study.trials or asked.number in board.trials:
            raise EnvironmentProblem(
                f"the search gave out trial {asked.number}, which is none of this study",
                remedy="find the program that writes to its storage",
            )
        trial = TrialRecord(
            asked.number, dict(asked.values), world.study.job_name(asked.number), began_at=world.clock.wall()
        )
        key, claim = keys.trial(trial.number), keys.claim(trial.number)
        begun = await presence.transact(
            [CreatedAt(keys.asking, right), Absent(key)],
            [
                Put(key, trial.to_json()),
                Put(claim, self._name.encode(), presence.lease),
                Delete(keys.asking),
            ],
        )
        if begun.succeeded:
            world.say(f"{self._name}: trial {trial.number} begins: {shown_values(trial)}")
            self._post = Post(trial, claimed_at=begun.revision)
            self._wake.set()

    async def _right_to_ask(self, presence: Presence) -> int:
        """The revision of this worker's right to ask; 0 while another worker has it."""
        key = self._keys.asking
        item = await self._world.store.get(key)
        if item is not None:
            ours = item.lease == presence.lease and item.value == self._name.encode()
            return item.create_revision if ours else 0
        taken = await presence.transact([Absent(key)], [Put(key, self._name.encode(), presence.lease)])
        return taken.revision if taken.succeeded else 0

    async def _reconcile(self, board: Board) -> None:
        """Tell the search the ends that dead workers have written and not told."""
        for number in sorted(await self._world.search.unfinished()):
            trial = board.trials.get(number)
            if trial is not None and trial.state.is_end:
                await self._world.search.tell(trial)

    async def _help(self, trial: TrialRecord, move: Move, presence: Presence) -> None:
        """Join a trial of another worker, or go on helping there."""
        if self._post is not None and self._post.trial.job != trial.job:
            await self._drop(presence)
        if self._post is None:
            key = self._keys.helper(self._name)
            await presence.transact([], [Put(key, str(trial.number).encode(), presence.lease)])
            self._world.say(f"{self._name}: helps in trial {trial.number}: {move.reason}")
            self._post = Post(trial, peer=self._world.start_peer(trial.job, self._wake.set))
            return
        peer = self._post.peer
        if peer is not None and peer.end is not None:
            failures = self._help_failures.get(trial.number, 0) + 1
            self._help_failures[trial.number] = failures
            self._world.say(
                f"{self._name}: its peer in trial {trial.number} ended (exit {peer.end.code}): {peer.end.cause}"
            )
            await self._drop(presence)

    async def _drop(self, presence: Presence) -> None:
        """Help no more: the peer leaves in good order."""
        if self._post is None:
            return
        await self._leading.leave(self._post)
        self._post = None
        await presence.transact([], [Delete(self._keys.helper(self._name))])

    async def _give_up(self, presence: Presence) -> None:
        """Leave the trial to other workers: the peer leaves first, so that its checkpoint is there."""
        post = self._post
        if post is None:
            return
        await self._leading.leave(post)
        self._post = None
        key = self._keys.claim(post.trial.number) if post.leads else self._keys.helper(self._name)
        try:
            await presence.transact([], [Delete(key)])
        except StoreError:
            pass  # the end of the lease removes it

    async def _close(self, presence: Presence, move: Move) -> str:
        """Before this worker ends: tell the search all ends, as the only worker that asks."""
        right = await self._right_to_ask(presence)
        if not right:
            return ""
        board = await read_board(self._world.store, self._keys, self._world.study, self._world.ignored)
        await self._reconcile(board)
        if not board.running and len(board.trials) >= self._world.study.trials:
            for number in sorted(await self._world.search.unfinished() - set(board.trials)):
                # A worker without a lease began it in a storage that takes its writes all the same.
                await self._world.search.tell(TrialRecord(number, {}, "", state=TrialState.FAILED))
        await presence.transact([CreatedAt(self._keys.asking, right)], [Delete(self._keys.asking)])
        return move.reason

    # ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _wait(self) -> None:
        """Wait until something happens, at most LOOK_EVERY_S."""
        try:
            async with self._world.clock.timeout(LOOK_EVERY_S):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _pause(self, seconds: float) -> None:
        if not self._asked:
            await self._world.clock.sleep(seconds)

    def _say_once(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._world.say(line)


def shown_values(trial: TrialRecord) -> str:
    """A trial's values for people."""
    return ", ".join(
        f"{path} {value:.4g}" if isinstance(value, float) else f"{path} {value}"
        for path, value in sorted(trial.values.items())
    )
