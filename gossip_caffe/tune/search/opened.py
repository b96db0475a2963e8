"""The search of a worker: Optuna in a thread, over the journal in the store or over an RDB."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from gossip_caffe.clock import Clock
from gossip_caffe.errors import EnvironmentProblem, StoreUnavailable
from gossip_caffe.membership.etcd.store import Guard, Store
from gossip_caffe.tune.board.keys import StudyKeys
from gossip_caffe.tune.board.trial import TrialRecord
from gossip_caffe.tune.search.journal import Journal, JournalTrimmed
from gossip_caffe.tune.search.optuna_import import require_optuna
from gossip_caffe.tune.search.search import Asked, Verdict
from gossip_caffe.tune.study.spec import StudySpec

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from gossip_caffe.tune.search.optuna_search import OptunaSearch

T = TypeVar("T")


class OpenedSearch:
    """The ``Search`` of a real worker. Optuna is loaded, and its storage read, at the first call."""

    def __init__(self, spec: StudySpec, store: Store, clock: Clock) -> None:
        """Raise NotInstalled when there is no Optuna here."""
        require_optuna()
        self._spec = spec
        self._journal = Journal(store, StudyKeys(spec.name).journal, clock, lambda: secrets.token_hex(8))
        self._search: OptunaSearch | None = None
        self._lock = asyncio.Lock()

    def guard(self, guards: tuple[Guard, ...]) -> None:
        """Let entries be written only while these guards hold: a worker whose lease is over writes no more."""
        self._journal.guards = guards

    async def ask(self, recorded: Collection[int]) -> Asked:
        """See ``Search``."""
        return await self._do(lambda search: search.ask(recorded))

    async def report(self, number: int, mark: int, value: float) -> None:
        """See ``Search``."""
        await self._do(lambda search: search.report(number, mark, value))

    async def verdict(self, number: int) -> Verdict:
        """See ``Search``."""
        return await self._do(lambda search: search.verdict(number))

    async def tell(self, trial: TrialRecord) -> None:
        """See ``Search``."""
        await self._do(lambda search: search.tell(trial))

    async def unfinished(self) -> frozenset[int]:
        """See ``Search``."""
        return await self._do(lambda search: search.unfinished())

    async def _do(self, call: Callable[[OptunaSearch], T]) -> T:
        """Make one call in a thread. A search that has fallen behind begins again from the snapshot."""
        loop = asyncio.get_running_loop()

        def wait(work: Coroutine[Any, Any, Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(work, loop).result()

        async with self._lock:
            for _ in range(2):
                try:
                    return await asyncio.to_thread(self._called, call, wait)
                except JournalTrimmed:
                    self._search = None
            raise EnvironmentProblem(
                "the journal of the search is shortened faster than this worker reads it",
                remedy="start fewer workers, or use a faster etcd",
            )

    def _called(
        self, call: Callable[[OptunaSearch], T], wait: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> T:
        from optuna.exceptions import StorageInternalError  # noqa: PLC0415 - an extra

        from gossip_caffe.tune.search.optuna_search import OptunaSearch  # noqa: PLC0415 - loads Optuna

        try:
            if self._search is None:
                self._search = OptunaSearch(self._spec, self._storage(wait))
            return call(self._search)
        except StorageInternalError:
            raise StoreUnavailable(
                "the study's storage does not answer", remedy="check the database, and its connections"
            ) from None

    def _storage(self, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> BaseStorage:
        from optuna.storages import JournalStorage, RDBStorage  # noqa: PLC0415 - an extra

        from gossip_caffe.tune.search.optuna_journal import StoreBackend  # noqa: PLC0415

        if not self._spec.storage:
            return JournalStorage(StoreBackend(self._journal, wait))
        try:
            return RDBStorage(self._spec.storage)
        except Exception as error:  # the drivers behind SQLAlchemy raise errors of their own
            raise EnvironmentProblem(
                f"the study's storage cannot be opened ({type(error).__name__})",
                remedy="check its URL, and install its driver on this machine",
            ) from None
