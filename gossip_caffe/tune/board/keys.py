"""The names of all keys of a study in the store."""

from __future__ import annotations

from dataclasses import dataclass

from gossip_caffe.membership.keys import checked_name, is_name

STUDIES = "/gossip-caffe/studies/"
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class StudyKeys:
    """The keys of one study. All workers watch those under ``board``, which change a few times in a trial's life."""

    study: str

    def __post_init__(self) -> None:
        checked_name(self.study, "study")

    @property
    def root(self) -> str:
        """Prefix of all keys of the study."""
        return f"{STUDIES}{self.study}/"

    @property
    def spec(self) -> str:
        """The key of the study itself."""
        return f"{self.root}spec"

    @property
    def board(self) -> str:
        """Prefix of all keys that every worker watches."""
        return f"{self.root}board/"

    @property
    def trials(self) -> str:
        """Prefix of the trials' records."""
        return f"{self.board}trials/"

    def trial(self, number: int) -> str:
        """The key of one trial's record."""
        return f"{self.trials}{number:0{_DIGITS}d}"

    @property
    def claims(self) -> str:
        """Prefix of the claims. A claim names the worker that leads a trial, and is attached to its lease."""
        return f"{self.board}claims/"

    def claim(self, number: int) -> str:
        """The key of one trial's claim."""
        return f"{self.claims}{number:0{_DIGITS}d}"

    @property
    def helpers(self) -> str:
        """Prefix of the keys of the workers whose peers help in another worker's trial, each on its worker's lease."""
        return f"{self.board}helpers/"

    def helper(self, worker: str) -> str:
        """The key that says which trial a worker helps in."""
        return f"{self.helpers}{worker}"

    @property
    def stopped(self) -> str:
        """The key that exists once the study was stopped; its value is the reason."""
        return f"{self.board}stopped"

    @property
    def results(self) -> str:
        """Prefix of the trials' test results. They change with each test, so no worker watches them."""
        return f"{self.root}results/"

    def result(self, number: int) -> str:
        """The key of one trial's test results."""
        return f"{self.results}{number:0{_DIGITS}d}"

    @property
    def asking(self) -> str:
        """The key of the worker that asks for the next trial, on its lease: one at a time."""
        return f"{self.root}asking"

    @property
    def workers(self) -> str:
        """Prefix of the workers' own records, each on its lease."""
        return f"{self.root}workers/"

    def worker(self, worker: str) -> str:
        """The key of one worker's record."""
        return f"{self.workers}{worker}"

    def fence(self, worker: str) -> str:
        """The key that every transaction of a worker rewrites."""
        return f"{self.root}fence/{worker}"

    @property
    def journal(self) -> str:
        """Prefix of the journal of the search."""
        return f"{self.root}journal/"

    def number_of(self, key: str, prefix: str) -> int | None:
        """The number at the end of a key under ``prefix``; None for a key that no worker writes."""
        number = key.removeprefix(prefix)
        return int(number) if len(number) == _DIGITS and number.isascii() and number.isdigit() else None


def study_names(keys: tuple[str, ...]) -> list[str]:
    """The names of the studies among all keys of studies, sorted."""
    names = (key.removeprefix(STUDIES).removesuffix("/spec") for key in keys if key.endswith("/spec"))
    return sorted(filter(is_name, names))
