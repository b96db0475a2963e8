"""A worker's lead of a trial: its job, the reports of its tests, its end. Each step may be repeated after an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.ending import read_end
from gossip_caffe.errors import LeaseLost, ModelError, NotFound, UsageError
from gossip_caffe.membership.etcd.store import CreatedAt, Delete, Operation, Put
from gossip_caffe.membership.jobs import create_job, load_job
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.leave_requests import ask_to_leave
from gossip_caffe.membership.members import list_members
from gossip_caffe.membership.stops import stop_of
from gossip_caffe.tune.board.keys import StudyKeys
from gossip_caffe.tune.board.trial import MOST_CAUSE, Results, TrialRecord, TrialState
from gossip_caffe.tune.work.decisions import After, after_end
from gossip_caffe.tune.work.post import Post, TestsOf, result_of
from gossip_caffe.tune.work.presence import Presence
from gossip_caffe.tune.work.world import WorkerWorld

AGAIN_S = 1.0
LAST_TEST_S = 30.0
"""A finished job's last test may still be made by another peer for so long."""


class Leading:
    """The steps of a lead. ``wake`` is called when there is something to do."""

    def __init__(self, world: WorkerWorld, keys: StudyKeys, wake: Callable[[], None]) -> None:
        self._world = world
        self._keys = keys
        self._wake = wake

    async def step(self, post: Post, presence: Presence) -> bool:
        """Do what is due. Returns True when the trial has ended, and this worker is free. Raises StoreError."""
        presence.check()
        if post.ended is None:
            await self._go_on(post, presence)
        if post.ended is None:
            return False
        await self._after(post, post.ended, presence)
        return True

    async def _go_on(self, post: Post, presence: Presence) -> None:
        if post.spec is None and not await self._open_job(post, presence):
            return
        await self._take_tests(post, presence)
        if post.ended is None and (post.peer is None or post.peer.end is not None):
            await self._peer_is_gone(post, presence)

    async def _open_job(self, post: Post, presence: Presence) -> bool:
        """Create the trial's job, unless it is there. Returns False when that fails the trial."""
        world, trial = self._world, post.trial
        try:
            post.spec = await load_job(world.store, trial.job)
        except NotFound:
            try:
                spec = await world.make_job(trial)
            except (ModelError, UsageError) as error:
                await self._end(post, TrialState.FAILED, error.message, presence)
                return False
            await create_job(world.store, spec)
            post.spec = spec
        item = await world.store.get(self._keys.result(trial.number))
        if item is not None:
            try:
                found = Results.from_json(item.value)
                post.results = found if found.attempt == trial.attempt else Results(trial.attempt)
            except ValueError as error:
                world.ignored(item.key, item.mod_revision, f"{error}")
        post.tests = TestsOf(world.store, trial.job, world.clock, self._wake)
        post.tests.begin()
        # A worker that died may have written a result that it has not reported.
        for test in post.results.tests:
            if test.value is not None:
                await world.search.report(trial.number, test.mark, test.value)
        if 0 < post.results.last_mark < world.study.tests:
            await self._judge(post, presence)
        return post.ended is None

    async def _take_tests(self, post: Post, presence: Presence) -> None:
        """Report the new tests, and end the trial if the search prunes it."""
        if post.tests is None or post.spec is None:
            return
        while post.tests.new and post.ended is None:
            result = result_of(post.tests.new[0], post.spec, self._world.study.objective)
            if result is not None and result.mark > post.results.last_mark:
                post.failures = 0
                results = post.results.with_test(result)
                await self._write(
                    post, presence, [Put(self._keys.result(post.trial.number), results.to_json())]
                )
                post.results = results
            if post.results.last_mark > post.judged:
                await self._judge(post, presence)
            post.tests.new.popleft()

    async def _judge(self, post: Post, presence: Presence) -> None:
        """Report the newest result to the search, and end the trial if it is pruned. Raises StoreError: try again."""
        world, number, result = self._world, post.trial.number, post.results.tests[-1]
        shown = f"trial {number}: test {result.mark} of {world.study.tests}: {world.study.objective.output}"
        if result.value is None:
            world.say(f"{shown} is not finite")
            await self._end(post, TrialState.PRUNED, f"test {result.mark} is not finite", presence)
            return
        await world.search.report(number, result.mark, result.value)
        if result.mark >= world.study.tests:
            world.say(f"{shown} {result.value:.4g}")
            post.judged = result.mark
            return
        verdict = await world.search.verdict(number)
        world.say(f"{shown} {result.value:.4g}; {verdict.reason}")
        if verdict.prune:
            await self._end(post, TrialState.PRUNED, verdict.reason, presence)
        post.judged = result.mark

    async def _peer_is_gone(self, post: Post, presence: Presence) -> None:
        """Start this worker's peer, or the next one after its end, or end the trial."""
        world, now = self._world, self._world.clock.monotonic()
        if post.peer is not None and post.peer.end is not None and post.start_at == 0.0:
            post.failures += 1
            finished = await self._is_finished(post)
            after, why = after_end(post.peer.end, post.trial, post.failures, finished=finished)
            match after:
                case After.COMPLETE:
                    await self._complete(post, presence)
                    return
                case After.PRUNED | After.FAILED:
                    await self._end(post, TrialState(after.value), why, presence)
                    return
                case After.START_OVER:
                    await self._start_over(post, why, presence)
                    return
                case After.START_AGAIN:
                    world.say(f"trial {post.trial.number}: {why}; another one starts")
                    post.start_at = now + (AGAIN_S if post.failures > 1 else 0.0)
        if post.peer is None or (post.start_at and now >= post.start_at):
            post.start_at = 0.0
            post.peer = world.start_peer(post.trial.job, self._wake)

    async def _is_finished(self, post: Post) -> bool:
        if post.spec is None:
            return False
        end = await read_end(self._world.store, JobKeys(post.spec.name), post.spec, self._world.ignored)
        return end is not None and end.believed

    async def _complete(self, post: Post, presence: Presence) -> None:
        """End a trial whose job is finished, once its last test is known."""
        world, spec = self._world, post.spec
        if post.tests is None or spec is None:
            return
        await post.tests.read()
        await self._take_tests(post, presence)
        if post.ended is not None:
            return
        now = world.clock.monotonic()
        post.finished_at = post.finished_at if post.finished_at is not None else now
        post.failures -= 1  # this end is looked at again until the last test is known
        lacks = post.results.last_mark < world.study.tests
        if (
            lacks
            and now < post.finished_at + LAST_TEST_S
            and await list_members(world.store, JobKeys(spec.name))
        ):
            return
        if post.results.newest is None:
            await self._end(
                post, TrialState.FAILED, "its job is finished, and no test of it is known", presence
            )
            return
        cause = (
            f"its last test is missing: this is the value of test {post.results.last_mark}" if lacks else ""
        )
        await self._end(post, TrialState.COMPLETE, cause, presence)

    async def _start_over(self, post: Post, why: str, presence: Presence) -> None:
        """Give the trial another job: its checkpoints are gone."""
        trial = post.trial
        attempt = trial.attempt + 1
        other = dataclasses.replace(
            trial, attempt=attempt, job=self._world.study.job_name(trial.number, attempt), cause=""
        )
        self._world.say(f"trial {trial.number}: {why}; it starts over")
        operations: list[Operation] = [
            Put(self._keys.trial(trial.number), other.to_json()),
            Put(self._keys.result(trial.number), Results(attempt).to_json()),
            stop_of(JobKeys(trial.job), f"study {self._world.study.name}: trial started over: {why}"),
        ]
        await self._write(post, presence, operations)
        if post.tests is not None:
            await post.tests.end()
        post.trial, post.spec, post.peer, post.tests = other, None, None, None
        post.results, post.failures, post.judged = Results(attempt), 0, 0

    async def _end(self, post: Post, state: TrialState, cause: str, presence: Presence) -> None:
        """Write the trial's end, and in its job's record that the study stopped it. Raises StoreError."""
        trial, keys = post.trial, self._keys
        last = post.results.tests[-1] if post.results.tests else None
        ended = dataclasses.replace(
            trial,
            state=state,
            value=post.results.newest,
            samples=last.samples if last is not None else 0,
            cause=" ".join(cause.split())[:MOST_CAUSE],
            ended_at=self._world.clock.wall(),
        )
        if state is TrialState.COMPLETE:
            ended = await self._with_checkpoint(ended, post)
        operations: list[Operation] = [Put(keys.trial(trial.number), ended.to_json())]
        if state is not TrialState.COMPLETE:
            why = f"study {self._world.study.name}: trial {trial.number} {state.value}: {ended.cause}"
            operations.append(stop_of(JobKeys(trial.job), why))
        await self._write(post, presence, operations)
        post.ended = ended
        self._world.say(f"trial {trial.number}: {state.value}" + (f": {ended.cause}" if ended.cause else ""))

    async def _write(self, post: Post, presence: Presence, operations: list[Operation]) -> None:
        """Write, as the worker that has claimed the trial. Raises LeaseLost when the claim is gone."""
        number = post.trial.number
        guards = [CreatedAt(self._keys.claim(number), post.claimed_at)]
        if not (await presence.transact(guards, operations)).succeeded:
            raise LeaseLost(f"the claim on trial {number} is gone", remedy="claim it again")

    async def _with_checkpoint(self, ended: TrialRecord, post: Post) -> TrialRecord:
        spec, store = post.spec, self._world.store
        if spec is None:
            return ended
        keys = JobKeys(spec.name)
        end = await read_end(store, keys, spec, self._world.ignored)
        item = await store.get(keys.checkpoint(end.checkpoint)) if end is not None else None
        if end is None or item is None:
            return ended
        try:
            digest = Announcement.from_json(item.value).digest
        except ValueError:
            return ended
        folder = f"{spec.name}-{spec.identity}"
        return dataclasses.replace(
            ended, checkpoint=end.checkpoint, digest=digest, folder=folder, samples=spec.budget_samples
        )

    async def _after(self, post: Post, ended: TrialRecord, presence: Presence) -> None:
        """Free all machines of the trial, tell the search, and give up the claim."""
        store, keys = self._world.store, JobKeys(ended.job)
        for record in await list_members(store, keys):
            if ended.state is not TrialState.COMPLETE:
                await ask_to_leave(store, keys, record.peer, f"trial {ended.number} {ended.state.value}")
        await self.leave(post)
        await self._world.search.tell(ended)
        claim = self._keys.claim(ended.number)
        await presence.transact([CreatedAt(claim, post.claimed_at)], [Delete(claim)])

    async def leave(self, post: Post) -> None:
        """Let the post's peer leave, and watch its tests no more."""
        if post.tests is not None:
            await post.tests.end()
        if post.peer is not None and post.peer.end is None:
            await post.peer.leave()
