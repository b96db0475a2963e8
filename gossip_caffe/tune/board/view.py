"""A worker's view of its study: the records, the claims and the helpers, from one watch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gossip_caffe.json_records import read_object
from gossip_caffe.membership.etcd.store import Changed, KeyValue, Reset, Store, WatchItem
from gossip_caffe.membership.keys import is_name
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.tune.board.keys import StudyKeys
from gossip_caffe.tune.board.trial import Results, TrialRecord
from gossip_caffe.tune.study.spec import StudySpec


@dataclass(frozen=True, slots=True)
class Board:
    """A study at one moment.

    ``claims``: number of a trial → the worker that leads it. ``helpers``: worker → the trial that it helps in.
    ``stopped``: the reason why the study was stopped; "": it was not.
    """

    trials: Mapping[int, TrialRecord] = field(default_factory=dict)
    claims: Mapping[int, str] = field(default_factory=dict)
    helpers: Mapping[str, int] = field(default_factory=dict)
    stopped: str = ""

    @property
    def running(self) -> dict[int, TrialRecord]:
        """The trials that have not ended."""
        return {number: trial for number, trial in self.trials.items() if not trial.state.is_end}

    def helpers_of(self, number: int) -> list[str]:
        """The workers that help in a trial, by name."""
        return sorted(worker for worker, trial in self.helpers.items() if trial == number)


class BoardView:
    """The board as a watch tells it. A key that no worker writes is left out, and told to ``ignored``."""

    def __init__(self, keys: StudyKeys, study: StudySpec, ignored: Note = discard_note) -> None:
        self._keys = keys
        self._study = study
        self._ignored = ignored
        self._items: dict[str, KeyValue] = {}
        self._parsed: dict[str, tuple[int, TrialRecord | None]] = {}
        self._board: Board | None = None
        self.seen = False
        """True once the watch has listed all keys."""

    def take(self, item: WatchItem) -> None:
        """Apply one item of the watch."""
        self.seen, self._board = True, None
        match item:
            case Reset(listing):
                self._items = {entry.key: entry for entry in listing.items}
            case Changed(key, None, _):
                self._items.pop(key, None)
            case Changed(key, value, _) if value is not None:
                self._items[key] = value

    @property
    def board(self) -> Board:
        """The board now."""
        if self._board is None:
            self._board = self._read()
        return self._board

    def _read(self) -> Board:
        keys = self._keys
        trials: dict[int, TrialRecord] = {}
        claims: dict[int, str] = {}
        helpers: dict[str, int] = {}
        stopped = ""
        for key, item in sorted(self._items.items()):
            try:
                if (number := keys.number_of(key, keys.trials)) is not None:
                    if (trial := self._trial(item, number)) is not None:
                        trials[number] = trial
                elif (number := keys.number_of(key, keys.claims)) is not None:
                    claims[number] = _worker(item)
                elif key.startswith(keys.helpers):
                    helpers[_named(key.removeprefix(keys.helpers))] = _helped(item)
                elif key == keys.stopped:
                    stopped = str(read_object(item.value)["by"])[:200]
                else:
                    raise ValueError("no key of a study")
            except (ValueError, KeyError) as error:
                self._ignored(key, item.mod_revision, f"{error}")
        return Board(trials, claims, helpers, stopped)

    def _trial(self, item: KeyValue, number: int) -> TrialRecord | None:
        """A record, which is parsed once; None for a value that no worker writes."""
        revision, trial = self._parsed.get(item.key, (0, None))
        if revision != item.mod_revision:
            try:
                trial = TrialRecord.from_json(item.value, number, self._study)
            except ValueError as error:
                trial = None
                self._ignored(item.key, item.mod_revision, f"{error}")
            self._parsed[item.key] = item.mod_revision, trial
        return trial


def _worker(item: KeyValue) -> str:
    if not item.lease:
        raise ValueError("a claim on no lease")
    return _named(item.value.decode(errors="replace"))


def _named(name: str) -> str:
    if not is_name(name):
        raise ValueError("no worker's name")
    return name


def _helped(item: KeyValue) -> int:
    number = item.value.decode(errors="replace")
    if not item.lease or not (number.isascii() and number.isdecimal() and len(number) < 9):
        raise ValueError("no helper's record")
    return int(number)


async def read_board(store: Store, keys: StudyKeys, study: StudySpec, ignored: Note = discard_note) -> Board:
    """Read the board now. Raises StoreError."""
    view = BoardView(keys, study, ignored)
    view.take(Reset(await store.list(keys.board)))
    return view.board


async def read_results(store: Store, keys: StudyKeys, ignored: Note = discard_note) -> dict[int, Results]:
    """Read the test results of all trials. Raises StoreError."""
    found: dict[int, Results] = {}
    for item in (await store.list(keys.results)).items:
        number = keys.number_of(item.key, keys.results)
        if number is None:
            continue
        try:
            found[number] = Results.from_json(item.value)
        except ValueError as error:
            ignored(item.key, item.mod_revision, f"{error}")
    return found
