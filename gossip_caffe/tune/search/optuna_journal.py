"""Optuna's JournalStorage over the journal in the store.

Optuna's snapshots are pickles, and a pickle from the store could run any code here. So the store holds the state as
plain JSON, and the pickle that Optuna wants is made on this machine, from checked entries.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from optuna.distributions import distribution_to_json
from optuna.storages.journal._base import BaseJournalBackend, BaseJournalSnapshot
from optuna.storages.journal._storage import JournalOperation, JournalStorageReplayResult
from optuna.trial import FrozenTrial

from gossip_caffe.errors import LeaseLost, StoreError
from gossip_caffe.tune.search.journal import Entry, Journal

T = TypeVar("T")
_NOTHING: Entry = {"op_code": int(JournalOperation.DISCARD_TRIALS), "worker_id": ""}
"""An entry that changes nothing: it takes the place of one that no worker has written."""
_OPERATIONS = frozenset(int(operation) for operation in JournalOperation)


class StoreBackend(BaseJournalBackend, BaseJournalSnapshot):
    """The journal for Optuna's calls. ``wait`` runs a coroutine to its end, and returns its result."""

    def __init__(self, journal: Journal, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._journal = journal
        self._wait = wait

    def read_logs(self, log_number_from: int) -> list[Entry]:
        """The entries from that number on. Raises JournalTrimmed or StoreError."""
        found: list[Entry] = self._wait(self._journal.read(log_number_from))
        return [entry if _is_entry(entry) else _NOTHING for entry in found]

    def append_logs(self, logs: list[Entry]) -> None:
        """Append entries. Raises LeaseLost or StoreError."""
        self._wait(self._journal.append(logs))

    def save_snapshot(self, snapshot: bytes) -> None:
        """Keep the state, which this process has pickled itself. A store that does not take it now gets a later one."""
        state: JournalStorageReplayResult = pickle.loads(snapshot)
        try:
            self._wait(self._journal.save(_as_entries(state), state.log_number_read))
        except LeaseLost:
            raise
        except StoreError:
            pass

    def load_snapshot(self) -> bytes | None:
        """The newest state, pickled here; None when there is none. Raises StoreError."""
        found: tuple[Entry, int] | None = self._wait(self._journal.load())
        if found is None:
            return None
        entries, count = found
        state = JournalStorageReplayResult("")
        try:
            state.apply_logs(entry for entry in entries["entries"] if _is_entry(entry))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                f"the snapshot of the journal in etcd cannot be read ({error!r})",
                remedy="find the program that wrote it, and restore the old value",
            ) from None
        state.log_number_read = count
        return pickle.dumps(state)


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and entry.get("op_code") in _OPERATIONS
        and isinstance(entry.get("worker_id"), str)
    )


def _as_entries(state: JournalStorageReplayResult) -> Entry:
    """The fewest entries that make this state."""
    entries: list[Entry] = []
    for study in state.get_all_studies():
        about = {"worker_id": "", "study_id": study._study_id}
        directions = [int(direction) for direction in study.directions]
        entries.append(
            {"op_code": 0, "worker_id": "", "study_name": study.study_name, "directions": directions}
        )
        for name, value in study.user_attrs.items():
            entries.append({"op_code": 2, **about, "user_attr": {name: value}})
        for name, value in study.system_attrs.items():
            entries.append({"op_code": 3, **about, "system_attr": {name: value}})
        entries += [
            _of_trial(trial, study._study_id) for trial in state.get_all_trials(study._study_id, None)
        ]
    return {"entries": entries}


def _of_trial(trial: FrozenTrial, study_id: int) -> Entry:
    distributions = trial.distributions
    entry: Entry = {
        "op_code": int(JournalOperation.CREATE_TRIAL),
        "worker_id": "",
        "study_id": study_id,
        "datetime_start": trial.datetime_start.isoformat() if trial.datetime_start else None,
        "state": int(trial.state),
        "value": trial.values[0] if trial.values else None,
        "distributions": {name: distribution_to_json(one) for name, one in distributions.items()},
        "params": {name: distributions[name].to_internal_repr(value) for name, value in trial.params.items()},
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "intermediate_values": trial.intermediate_values,
    }
    if trial.datetime_complete:
        entry["datetime_complete"] = trial.datetime_complete.isoformat()
    return entry
