"""The search by Optuna: over the journal it is the same as in memory, and a dead worker's trial is given out again."""

from __future__ import annotations

import asyncio
import itertools
import math
import pickle
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage

from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import EnvironmentProblem, StoreError
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Put
from gossip_caffe.tune.board.trial import TrialState
from gossip_caffe.tune.search.journal import Journal
from gossip_caffe.tune.search.opened import OpenedSearch
from gossip_caffe.tune.search.optuna_import import require_optuna
from gossip_caffe.tune.search.optuna_journal import StoreBackend
from gossip_caffe.tune.search.optuna_search import OptunaSearch, grid_size
from gossip_caffe.tune.study.spec import Pruner, Sampler, StudySpec
from tests.tuning import bare_study, learn, trial

require_optuna()


class Journals:
    """Storages of Optuna over one etcd in memory."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._etcd = MemoryEtcd(SystemClock())
        self.store = MemoryStore(self._etcd)
        self._nonces = itertools.count()

    def storage(self) -> JournalStorage:
        journal = Journal(MemoryStore(self._etcd), "/j/", SystemClock(), lambda: f"n{next(self._nonces)}")
        return JournalStorage(StoreBackend(journal, self._loop.run_until_complete))

    def wait(self, work: object) -> object:
        return self._loop.run_until_complete(work)  # type: ignore[arg-type]

    def close(self) -> None:
        self._loop.close()


@pytest.fixture
def journals() -> Iterator[Journals]:
    made = Journals()
    yield made
    made.close()


def train(search: OptunaSearch, study: StudySpec, numbers: set[int]) -> None:
    """One trial from its beginning to its end."""
    asked = search.ask(numbers)
    numbers.add(asked.number)
    value, state = 0.0, TrialState.COMPLETE
    for mark in range(1, study.tests + 1):
        value = learn(asked.values, mark / study.tests)
        search.report(asked.number, mark, value)
        if mark < study.tests and search.verdict(asked.number).prune:
            state = TrialState.PRUNED
            break
    search.tell(trial(asked.number, study, state=state, value=value, values=dict(asked.values)))


def told(storage: BaseStorage, study: StudySpec) -> list[tuple[object, ...]]:
    return [
        (one.number, one.state, one.params, one.value, one.intermediate_values)
        for one in OptunaSearch(study, storage).trials()
    ]


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [("tpe", "asha"), ("random", "hyperband"), ("grid", "median"), ("cmaes", "none")],
)
def test_the_journal_searches_as_memory_does(journals: Journals, sampler: str, pruner: str) -> None:
    study = bare_study(sampler=Sampler(sampler, startup=3), pruner=Pruner(pruner, startup=2))
    memory = InMemoryStorage()
    numbers: list[set[int]] = [set(), set()]
    for _ in range(7):  # each trial by another worker, over a storage of its own
        train(OptunaSearch(study, memory), study, numbers[0])
        train(OptunaSearch(study, journals.storage()), study, numbers[1])
    assert told(journals.storage(), study) == told(memory, study)
    assert not OptunaSearch(study, journals.storage()).unfinished()


def test_a_trial_of_a_dead_worker_without_a_record_is_given_out_again(journals: Journals) -> None:
    study = bare_study()
    dead = OptunaSearch(study, journals.storage()).ask(())
    again = OptunaSearch(study, journals.storage()).ask(())
    assert again == dead
    other = OptunaSearch(study, journals.storage()).ask({dead.number})
    assert other.number == dead.number + 1


def test_a_trial_that_was_begun_and_has_half_of_its_values_gets_the_rest(journals: Journals) -> None:
    study = bare_study()
    search = OptunaSearch(study, journals.storage())
    half = search._study.ask()
    half.suggest_float("solver.base_lr", 1e-4, 1.0, log=True)
    asked = OptunaSearch(study, journals.storage()).ask(())
    assert asked.number == 0
    assert asked.values["solver.base_lr"] == half.params["solver.base_lr"]
    assert study.checked_values(dict(asked.values)) is not None


def test_reports_and_ends_that_are_repeated_change_nothing(journals: Journals) -> None:
    study = bare_study()
    search = OptunaSearch(study, journals.storage())
    number = search.ask(()).number
    search.report(number, 1, 0.5)
    search.report(number, 1, 0.9)
    ended = trial(number, study, state=TrialState.COMPLETE, value=0.7)
    search.tell(ended)
    OptunaSearch(study, journals.storage()).tell(ended)
    search.report(number, 2, 0.1)
    (found,) = search.trials()
    assert (found.intermediate_values, found.value) == ({1: 0.5}, 0.7)


def test_the_search_keeps_away_from_values_that_diverged() -> None:
    study = bare_study(sampler=Sampler("tpe", startup=4), pruner=Pruner("none"), tests=1)
    (rate,) = (one for one in study.searched if one.path == "solver.base_lr")
    edge = math.sqrt(rate.low * rate.high)
    rates: dict[TrialState, list[float]] = {TrialState.PRUNED: [], TrialState.FAILED: []}
    for state, suggested in rates.items():
        search = OptunaSearch(study, InMemoryStorage())
        for number in range(40):
            asked = search.ask(range(number))
            suggested.append(float(asked.values["solver.base_lr"]))
            if suggested[-1] > edge:  # training diverges before the first test; the best rates lie just below
                search.tell(trial(number, study, state=state, values=dict(asked.values)))
                continue
            value = suggested[-1] / edge
            search.report(number, 1, value)
            search.tell(trial(number, study, state=TrialState.COMPLETE, value=value))
    diverged = {state: sum(rate > edge for rate in rates[state][20:]) for state in rates}
    assert diverged[TrialState.PRUNED] < diverged[TrialState.FAILED]
    assert diverged[TrialState.PRUNED] <= 8


def test_a_study_with_a_database_of_its_own_goes_on_in_another_worker(tmp_path: Path) -> None:
    study = bare_study(storage=f"sqlite:///{tmp_path}/study.db", tests=2)

    async def worked() -> None:
        for number in range(6):  # each trial by another worker
            search = OpenedSearch(study, MemoryStore(MemoryEtcd(SystemClock())), SystemClock())
            asked = await search.ask(range(number))
            assert asked.number == number
            assert await search.unfinished() == {number}
            await search.report(number, 1, 0.1 * number)
            await search.verdict(number)
            await search.tell(trial(number, study, state=TrialState.COMPLETE, value=0.1 * number))
        assert not await OpenedSearch(
            study, MemoryStore(MemoryEtcd(SystemClock())), SystemClock()
        ).unfinished()

    asyncio.run(worked())


def test_a_database_that_cannot_be_opened_is_named_without_its_password() -> None:
    study = bare_study(storage="postgresql://me:secret@127.0.0.1:1/none")
    with pytest.raises(EnvironmentProblem) as caught:
        asyncio.run(OpenedSearch(study, MemoryStore(MemoryEtcd(SystemClock())), SystemClock()).unfinished())
    assert "cannot be opened" in caught.value.message
    assert "secret" not in f"{caught.value} {caught.value.remedy}"


def test_two_hundred_trials_leave_few_keys_and_a_snapshot_holds_them(journals: Journals) -> None:
    study = bare_study(sampler=Sampler("random"), pruner=Pruner("none"), tests=2)
    search = OptunaSearch(study, journals.storage())
    for number in range(310):
        asked = search.ask(range(number))
        search.report(asked.number, 1, 0.5)
        search.tell(trial(asked.number, study, state=TrialState.COMPLETE, value=number / 310))
    fresh = OptunaSearch(study, journals.storage())
    assert told(journals.storage(), study) == [
        (one.number, one.state, one.params, one.value, one.intermediate_values) for one in search.trials()
    ]
    assert fresh.ask(range(310)).number == 310
    count = journals.wait(journals.store.count("/j/log/"))
    assert isinstance(count, int)
    assert count < 2200


def test_no_pickle_is_stored_and_none_is_loaded(journals: Journals, monkeypatch: pytest.MonkeyPatch) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (pytest.fail, ("a pickle of the store was run",))

    study = bare_study()
    OptunaSearch(study, journals.storage())
    part = pickle.dumps(Evil())
    described = b'{"name": "evil", "parts": 1, "count": 1, "trimmed": 0}'
    journals.wait(
        journals.store.transact([], [Put("/j/parts/evil/000000", part), Put("/j/snapshot", described)])
    )
    with pytest.raises(StoreError, match="snapshot of the journal in etcd cannot be read"):
        journals.storage()


def test_garbage_in_the_journal_is_no_entry(journals: Journals) -> None:
    study = bare_study()
    number = OptunaSearch(study, journals.storage()).ask(()).number
    keys = journals.wait(journals.store.keys("/j/log/"))
    assert isinstance(keys, tuple)
    journals.wait(journals.store.transact([], [Put(keys[-1], b'{"by": "x", "entry": {"op_code": 99}}')]))
    assert OptunaSearch(study, journals.storage()).unfinished() == {number}


def test_a_grid_tries_each_point_once() -> None:
    study = bare_study(sampler=Sampler("grid", points=3), pruner=Pruner("none"))
    search = OptunaSearch(study, InMemoryStorage())
    found = [tuple(search.ask(range(number)).values.values()) for number in range(grid_size(study))]
    assert len(set(found)) == grid_size(study) == 3 * 3 * 2


def test_a_seed_decides_the_values_and_not_the_worker_that_asks() -> None:
    study = bare_study(sampler=Sampler("random"))
    one, two = InMemoryStorage(), InMemoryStorage()
    single = OptunaSearch(study, one)
    first = [single.ask(range(number)).values for number in range(5)]
    assert first == [OptunaSearch(study, two).ask(range(number)).values for number in range(5)]
    other = OptunaSearch(bare_study(seed=2, sampler=Sampler("random")), InMemoryStorage())
    assert other.ask(()).values != first[0]


def test_optuna_says_nothing_by_itself() -> None:
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR
