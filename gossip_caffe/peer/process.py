"""The process of a peer: its name, the requests to leave, and what it waits for before it runs."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from gossip_caffe.background import DetachedTasks
from gossip_caffe.begin import collect_as_usual
from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import Conflict, ExitCode
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.keys import checked_name
from gossip_caffe.peer.core.certificates import names_by_certificate
from gossip_caffe.peer.core.options import PeerOptions
from gossip_caffe.peer.joining.waiting import Patience, wait_for_job
from gossip_caffe.peer.leaving import Leaving
from gossip_caffe.peer.metadata import HttpMetadata
from gossip_caffe.peer.preemption import leave_at_notice
from gossip_caffe.peer.registration.own_name import own_name
from gossip_caffe.peer.run import run_alone
from gossip_caffe.system.kernel import refuse_without_kernel
from gossip_caffe.system.ordering import refuse_without_order

Say = Callable[[str], None]


def run_peer(options: PeerOptions, say: Say) -> ExitCode:
    """Run one peer until its job is finished, or until it is asked to leave: the exit code tells both apart.

    Raises GossipCaffeError for an error that the user can mend.
    """
    refuse_without_order()
    refuse_without_kernel()
    collect_as_usual()
    return asyncio.run(_run(options, say))


async def _run(options: PeerOptions, say: Say) -> ExitCode:
    clock, rng = SystemClock(), random.Random(secrets.randbits(64))
    names: tuple[str, ...] = (options.peer,) if options.peer else ()
    names = names or names_by_certificate(options.security, options.listen, options.endpoints)
    names = names or (f"p-{rng.getrandbits(24):06x}",)
    with ExitStack() as held:
        peer = _taken(held, options.run_dir, names)  # before anything in the folder is written or removed
        # The supervisor that collects snapshots also decides how long it waits for this peer's end.
        leaving = Leaving(peer, None if options.snapshots else options.grace_s, say)
        return await leaving.carry_out(_run_when_told(options, peer, say, clock, rng, leaving))


def _taken(held: ExitStack, run_dir: Path, names: Sequence[str]) -> str:
    """Take the first of these names that no other process of the run folder has, and hold it.

    A certificate may have several names, for several peers of one machine. Raises Conflict when all are taken.
    """
    for name in names[:-1]:
        try:
            held.enter_context(own_name(run_dir, checked_name(name, "peer"), patience_s=0.0))
        except Conflict:
            continue
        return name
    held.enter_context(own_name(run_dir, checked_name(names[-1], "peer")))
    return names[-1]


async def _run_when_told(
    options: PeerOptions, peer: str, say: Say, clock: SystemClock, rng: random.Random, leaving: Leaving
) -> ExitCode:
    """Run the peer once etcd and its job are there, and let it leave at a notice of this machine's end."""
    beside = DetachedTasks()
    if options.preemption_url:
        metadata = HttpMetadata(options.preemption_url)
        beside.begin(leave_at_notice(metadata, peer, clock, say, leaving.ask), "the notice of preemption")
    try:
        if options.wait_for_etcd_s or options.wait_for_job_s:
            await _wait(options, peer, say, clock, rng)
        return await run_alone(options, peer, say, clock, rng, leaving)
    finally:
        beside.cancel()
        await beside.ended()


async def _wait(options: PeerOptions, peer: str, say: Say, clock: SystemClock, rng: random.Random) -> None:
    store = EtcdStore(options.endpoints, clock, rng, security=options.security)
    try:
        patience = Patience(options.wait_for_etcd_s, options.wait_for_job_s)
        await wait_for_job(
            store, options.job, patience, clock, lambda line: say(f"{peer}: {line}"), options.endpoints
        )
    finally:
        await store.close()
