"""Studies: what pruning saves, what joining saves, and how fast the journal in etcd is beside SQLite.

    python benchmarks/tune.py [--seeds 5] [--trials 2000]

Pruning and joining: whole studies with the product's workers and Optuna, on virtual time, over simulated jobs whose
accuracy follows from their settings; each peer brings its own speed to a trial, as machines of their own would. The
journal: asks, reports and ends through a real etcd, and through SQLite in a file, by turns in blocks of a hundred, so
that both meet the same machine. docs/internals/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from gossip_caffe.background import thread
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.sim.virtual_time import run
from gossip_caffe.tune.board.trial import TrialRecord, TrialState
from gossip_caffe.tune.search.optuna_import import require_optuna
from gossip_caffe.tune.study.parameters import Parameter, Value
from gossip_caffe.tune.study.spec import NetFile, Objective, Pruner, Sampler, StudySpec

BLOCK = 100
NOISE = 0.004
SPACE = (
    Parameter("solver.base_lr", "float", 1e-4, 1.0, log=True),
    Parameter("solver.momentum", "choices", choices=("0.8", "0.9", "0.95")),
    Parameter("net.conv.num_output", "int", 8.0, 64.0),
    Parameter("net.data.batch_size", "choices", choices=("16", "32", "64")),
)
STUDY = StudySpec(
    name="bench",
    solver=NetFile("/solver.prototxt", ""),
    working="/",
    nets=(),
    space=SPACE,
    objective=Objective("accuracy", "max"),
    samples=9000,
    tests=9,
    trials=60,
    sampler=Sampler(),
    pruner=Pruner(),
    seed=1,
    store="file:///store",
    creation="bench",
)


def learn(values: Mapping[str, Value], share: float) -> float:
    """An accuracy after a share of the budget: settings differ in their best accuracy and in their speed."""
    off = abs(math.log10(float(values["solver.base_lr"])) + 1.7)
    best = 0.97 - 0.12 * off - 0.002 * abs(float(values["net.conv.num_output"]) - 48) / 8
    best -= {0.8: 0.02, 0.9: 0.0, 0.95: 0.01}[float(values["solver.momentum"])]
    speed = 3.0 + 32 / float(values["net.data.batch_size"]) - off / 2
    noise = NOISE * math.sin(1000 * (off + share))
    return max(0.1, best) * (1 - math.exp(-speed * share)) + noise


@dataclass(frozen=True, slots=True)
class Outcome:
    """The samples that a simulated study trained, its best accuracy, and the seconds of its tail (virtual)."""

    samples: float
    best: float
    tail_s: float


async def study(
    spec: StudySpec, seed: int, workers: int, *, may_help: bool, until: float = math.inf
) -> Outcome:
    """Run a simulated study to its end, or until a complete trial is at least as good as ``until``."""
    from gossip_caffe.tune.simulated.faults import faults_of  # noqa: PLC0415 - needs Optuna
    from gossip_caffe.tune.simulated.study import SimulatedStudy  # noqa: PLC0415

    simulated = SimulatedStudy(spec, learn, seed=seed, may_help=may_help)
    await simulated.begin()
    best = 0.0
    try:
        for _ in range(workers):
            simulated.start_worker()
        while simulated.living and best < until:
            await simulated.clock.sleep(1.0)
            trials = list((await simulated.board()).trials.values())
            complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
            best = max((trial.value or 0.0 for trial in complete), default=0.0)
        samples = simulated.jobs.trained
        if best >= until:
            return Outcome(samples, best, 0.0)
        await simulated.clock.sleep(10.0)
        if wrong := await faults_of(simulated):
            raise SystemExit(f"the study is wrong: {wrong}")
        trials = list((await simulated.board()).trials.values())
        begun = max(trial.began_at for trial in trials)
        ends = sorted(trial.ended_at for trial in trials if trial.ended_at > begun)
        return Outcome(samples, best, ends[-1] - ends[0])
    finally:
        await simulated.close()


def pruning(seeds: int) -> dict[str, float]:
    """The samples with ASHA until it is as good as a whole study without pruning, over those of that study.

    As good: within NOISE, by which a test of a trial may be off. A study with ASHA has three times the trials, and is
    cut off when it is as good; one that never is counts whole.
    """
    found = []
    for seed in range(1, seeds + 1):
        spec = replace(STUDY, seed=seed)
        whole = run(study(replace(spec, pruner=Pruner("none")), seed, 4, may_help=False))
        asha = run(
            study(replace(spec, trials=3 * spec.trials), seed, 4, may_help=False, until=whole.best - NOISE)
        )
        found.append((asha, whole))
        print(
            f"seed {seed}: none {whole.samples:,.0f} samples, best {whole.best:.4f}; "
            f"asha {asha.samples:,.0f} samples, best {asha.best:.4f}",
            flush=True,
        )
    return {
        "asha_samples_share": sum(one.samples for one, _ in found) / sum(other.samples for _, other in found),
        "asha_best": mean(one.best for one, _ in found),
        "none_best": mean(other.best for _, other in found),
    }


def joining(seeds: int) -> dict[str, float]:
    """The seconds of a study's tail with --join and without: means over seeds; four workers."""
    found = []
    for seed in range(1, seeds + 1):
        # One trial more than the workers take evenly: three of four are idle while the last ones train.
        spec = replace(STUDY, seed=seed, trials=9, pruner=Pruner("none"), samples=12_000)
        found.append(
            (
                run(study(spec, seed, 4, may_help=True)).tail_s,
                run(study(spec, seed, 4, may_help=False)).tail_s,
            )
        )
        print(f"seed {seed}: tail {found[-1][0]:.0f} s with --join, {found[-1][1]:.0f} s without", flush=True)
    with_join, without = mean(one for one, _ in found), mean(other for _, other in found)
    return {"tail_join_s": with_join, "tail_alone_s": without, "tail_share": with_join / without}


class Loop:
    """An event loop in a thread of its own, for Optuna's synchronous calls."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = thread(self.loop.run_forever, "the loop of the journal")

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        """End the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def suggesting(trials: int) -> dict[str, float]:
    """Suggestions a second (ask, one report, end) through the journal in etcd and through SQLite, by turns."""
    from optuna.storages import JournalStorage, RDBStorage  # noqa: PLC0415 - an extra

    from gossip_caffe.tune.search.journal import Journal  # noqa: PLC0415
    from gossip_caffe.tune.search.optuna_journal import StoreBackend  # noqa: PLC0415
    from gossip_caffe.tune.search.optuna_search import OptunaSearch  # noqa: PLC0415

    spec = replace(STUDY, trials=trials, sampler=Sampler("random"), pruner=Pruner("none"))
    rng = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-tune-") as place:
        folder = Path(place)
        (folder / "sockets").mkdir(mode=0o700)
        server, loop = EtcdServer(folder / "etcd", sockets=folder / "sockets"), Loop()
        server.start()

        async def opened() -> EtcdStore:
            return EtcdStore((server.endpoint,), SystemClock(), random.Random(1))

        store = loop.wait(opened())
        try:
            journal = Journal(store, "/bench/", SystemClock(), lambda: f"{rng.getrandbits(64):x}")
            searches = {
                "etcd": OptunaSearch(spec, JournalStorage(StoreBackend(journal, loop.wait))),
                "sqlite": OptunaSearch(spec, RDBStorage(f"sqlite:///{folder / 'study.db'}")),
            }
            seconds: dict[str, list[float]] = {name: [] for name in searches}
            for first in range(0, trials, BLOCK):
                for name, search in searches.items():
                    began = time.perf_counter()
                    for number in range(first, first + BLOCK):
                        asked = search.ask(range(number))
                        search.report(asked.number, 1, 0.5)
                        search.tell(
                            TrialRecord(number, dict(asked.values), "", state=TrialState.COMPLETE, value=0.5)
                        )
                    seconds[name].append(time.perf_counter() - began)
                print(
                    f"trials {first + BLOCK}: "
                    + ", ".join(f"{name} {BLOCK / taken[-1]:.1f}/s" for name, taken in seconds.items()),
                    flush=True,
                )
            keys = loop.wait(store.count("/bench/"))
        finally:
            loop.wait(store.close())
            server.stop()
            loop.close()
    rates = {name: [BLOCK / one for one in taken] for name, taken in seconds.items()}
    third = max(1, len(rates["etcd"]) // 3)
    shares = [one / other for one, other in zip(rates["etcd"], rates["sqlite"], strict=True)]
    return {
        "etcd_per_s": trials / sum(seconds["etcd"]),
        "sqlite_per_s": trials / sum(seconds["sqlite"]),
        "etcd_over_sqlite": sum(seconds["sqlite"]) / sum(seconds["etcd"]),
        "etcd_over_sqlite_last_third": mean(shares[-third:]),
        "etcd_last_third_over_first": mean(rates["etcd"][-third:]) / mean(rates["etcd"][:third]),
        "etcd_keys": float(keys),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="of the simulated studies")
    parser.add_argument("--trials", type=int, default=2000, help="of the journal, in hundreds")
    arguments = parser.parse_args()
    try:
        require_optuna()
    except GossipCaffeError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    figures = {**pruning(arguments.seeds), **joining(arguments.seeds), **suggesting(arguments.trials)}
    print(f"RESULT {json.dumps({name: round(figure, 4) for name, figure in figures.items()})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
