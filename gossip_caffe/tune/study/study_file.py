"""The study file: TOML, read whole and checked before anything is started. Each error names the file and the line."""

from __future__ import annotations

import functools
import secrets
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from gossip_caffe.errors import ModelError, UsageError
from gossip_caffe.job.prototxts.paths import Paths
from gossip_caffe.job.prototxts.sources import Measure
from gossip_caffe.job.reading import Model, read_model
from gossip_caffe.job.spec.settings import JobSettings, with_overrides
from gossip_caffe.job.spec.store_url import checked_store_url
from gossip_caffe.membership.keys import is_name
from gossip_caffe.tune.study.fields import NoSuchField
from gossip_caffe.tune.study.parameters import Parameter, Value, flattened, read_parameter
from gossip_caffe.tune.study.spec import (
    GOALS,
    LOSS,
    MOST_NAME,
    MOST_TRIALS,
    PRUNERS,
    SAMPLERS,
    NetFile,
    Objective,
    Pruner,
    Sampler,
    StudySpec,
)
from gossip_caffe.tune.study.toml_lines import lines_of_keys
from gossip_caffe.tune.study.trial_job import (
    OWN_FIELDS,
    TrialJob,
    nets_of,
    test_outputs,
    trial_job,
    with_values,
)

T = TypeVar("T")
_KNOWN = (
    *("name", "solver", "trials", "samples", "tests", "seed", "weights", "storage", "store", "peers"),
    *("objective", "sampler", "pruner", "space"),
)
_TESTS = 10
"""The tests of a trial, where the solver's own interval gives none."""
_MOST_PROBES = 6


@dataclass(frozen=True, slots=True)
class StudyFile:
    """A study that was read, and the jobs of a few trials, with which it was checked.

    ``where``: path of a parameter → "file:line".
    """

    spec: StudySpec
    probes: tuple[TrialJob, ...]
    where: Mapping[str, str]


class _Lines:
    """The file's name and lines, for messages."""

    def __init__(self, shown: str, text: str) -> None:
        self._shown = shown
        self._lines = lines_of_keys(text)

    def at(self, *keys: str) -> str:
        """The place of a key, or of the nearest table around it, as "file:line"."""
        path = ".".join(keys)
        while path and path not in self._lines:
            path = path.rpartition(".")[0]
        return f"{self._shown}:{self._lines.get(path, 1)}"


def read_study(
    path: Path, measure: Measure, *, default_store: Callable[[str], str], working: Path | None = None
) -> StudyFile:
    """Read and check a study file, its prototxts and the data; Caffe is not asked.

    ``default_store``: the store of a study of that name whose file gives none; it may raise UsageError. Relative paths
    begin at ``working``, by default the current folder, or else at the study file's folder. Raises UsageError.
    """
    working = (working or Path.cwd()).absolute()
    shown = Paths(path.absolute().parent, working).shown(path.absolute())
    text, record = _parsed(path, shown)
    lines = _Lines(shown, text)
    if unknown := sorted(set(record) - set(_KNOWN)):
        raise UsageError(
            f"{lines.at(unknown[0])}: {unknown[0]!r} is unknown", remedy=f"known: {', '.join(sorted(_KNOWN))}"
        )
    name = _name(record, path, lines)
    space = _space(record, lines)
    where = {parameter.path: lines.at("space", parameter.path) for parameter in space}
    model = _model(record, path, working, lines)
    paths = Paths(model.paths.folder, working)
    spec = StudySpec(
        name=name,
        solver=NetFile(str(_solver_path(record, path, working)), model.solver.text),
        working=str(working),
        nets=nets_of(model.solver, paths),
        space=space,
        objective=_objective(record, model, lines),
        samples=1,
        tests=1,
        trials=_count(record, "trials", lines, most=MOST_TRIALS),
        sampler=_sampler(record, lines),
        pruner=_part(Pruner, record, "pruner", PRUNERS, lines),
        seed=_count(record, "seed", lines, default=1, least=0),
        store=_store(record, lines) or default_store(name),
        storage=_text(record, "storage", lines),
        weights=_text(record, "weights", lines),
        creation=secrets.token_hex(8),
        peers=_count(record, "peers", lines, default=4, most=1000),
        file_text=text,
    )
    return _with_budget(spec, model, record, functools.cache(measure), lines, where)


def _parsed(path: Path, shown: str) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"cannot read {shown} ({error.strerror})", remedy="name a study file") from None
    except UnicodeDecodeError:
        raise UsageError(f"{shown}:1: it is no text in UTF-8", remedy="write a study file in TOML") from None
    except tomllib.TOMLDecodeError as error:
        what, _, place = str(error).rpartition(" (at line ")
        line = place.partition(",")[0] if what else str(text.count("\n") + 1)
        line = line if line.isdecimal() else str(text.count("\n") + 1)
        raise UsageError(f"{shown}:{line}: no TOML: {what or error}", remedy="correct the line") from None


def _name(record: Mapping[str, Any], path: Path, lines: _Lines) -> str:
    name = record.get("name", path.stem.lower().replace(" ", "-"))
    if not isinstance(name, str) or not is_name(name) or len(name) > MOST_NAME:
        raise UsageError(
            f"{lines.at('name')}: {name!r} cannot be the name of a study",
            remedy=f"use up to {MOST_NAME} lower-case letters, digits, '.', '_' and '-'",
        )
    return name


def _count(
    record: Mapping[str, Any], key: str, lines: _Lines, *, default: int = 0, least: int = 1, most: int = 2**62
) -> int:
    value = record.get(key, default)
    if key not in record and default >= least:
        return default
    if key not in record:
        raise UsageError(f"{lines.at(key)}: {key} is missing", remedy=f"write {key} = 24")
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(
            f"{lines.at(key)}: {key} is {value!r}", remedy=f"give a whole number of at least {least}"
        )
    return value


def _text(record: Mapping[str, Any], key: str, lines: _Lines) -> str:
    value = record.get(key, "")
    if not isinstance(value, str):
        raise UsageError(f"{lines.at(key)}: {key} is {value!r}", remedy=f'write {key} = "…"')
    return value


def _store(record: Mapping[str, Any], lines: _Lines) -> str:
    try:
        return checked_store_url(_text(record, "store", lines))
    except UsageError as error:
        what = error.message.removeprefix("checkpoint_store: ")
        raise UsageError(f"{lines.at('store')}: store: {what}", remedy=error.remedy) from None


def _space(record: Mapping[str, Any], lines: _Lines) -> tuple[Parameter, ...]:
    given = record.get("space")
    if not isinstance(given, dict) or not given:
        raise UsageError(
            f"{lines.at('space')}: there is no [space], so there is nothing to search",
            remedy='write [space] and "solver.base_lr" = { float = [1e-4, 1e-1], log = true }',
        )
    space = tuple(read_parameter(path, entry, lines.at("space", path)) for path, entry in flattened(given))
    if not any(parameter.is_searched for parameter in space):
        raise UsageError(f"{lines.at('space')}: every value is fixed", remedy="give at least one a range")
    for parameter in space:
        root, _, field = parameter.path.partition(".")
        if root == "solver" and field in OWN_FIELDS:
            raise UsageError(
                f"{lines.at('space', parameter.path)}: {parameter.path} follows from samples and tests",
                remedy="set those",
            )
        if root == "settings":
            _check_setting(parameter, field, lines)
    return space


def _check_setting(parameter: Parameter, name: str, lines: _Lines) -> None:
    where = lines.at("space", parameter.path)
    for value in parameter.probes:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        try:
            with_overrides(JobSettings(), {name: text})
        except UsageError as error:
            what = error.message.removeprefix("--set ")
            raise UsageError(f"{where}: {parameter.path}: {what}", remedy=error.remedy) from None


def _solver_path(record: Mapping[str, Any], path: Path, working: Path) -> Path:
    return Paths(path.absolute().parent, working).resolve(str(record["solver"]))


def _model(record: Mapping[str, Any], path: Path, working: Path, lines: _Lines) -> Model:
    if not isinstance(record.get("solver"), str):
        raise UsageError(
            f"{lines.at('solver')}: solver is missing", remedy='write solver = "solver.prototxt"'
        )
    try:
        return read_model(_solver_path(record, path, working), working)
    except ModelError as error:
        raise UsageError(f"{lines.at('solver')}: {error.message}", remedy=error.remedy) from None


def _objective(record: Mapping[str, Any], model: Model, lines: _Lines) -> Objective:
    given = record.get("objective", {})
    given = {"output": given} if isinstance(given, str) else given
    given = {"output": LOSS, **given} if isinstance(given, dict) else given
    objective = _fields_of(Objective, given, "objective", lines)
    outputs = test_outputs(model)
    if "goal" not in given:
        is_loss = objective.output == LOSS or outputs.get(objective.output, False)
        objective = Objective(objective.output, "min" if is_loss else "max")
    if objective.goal not in GOALS:
        raise UsageError(
            f"{lines.at('objective', 'goal')}: goal is {objective.goal!r}",
            remedy='write goal = "max" or "min"',
        )
    if not model.tests:
        raise UsageError(
            f"{lines.at('solver')}: the solver tests nothing, so trials cannot be compared",
            remedy="add test_iter and test_interval to the solver, and a TEST phase to its net",
        )
    known = [*outputs, *([LOSS] if any(outputs.values()) else [])]
    if objective.output not in known:
        raise UsageError(
            f"{lines.at('objective', 'output')}: no test net has an output {objective.output!r}",
            remedy=f"use one of {', '.join(dict.fromkeys(known)) or 'none: the net has no output'}",
        )
    return objective


def _sampler(record: Mapping[str, Any], lines: _Lines) -> Sampler:
    return _part(Sampler, record, "sampler", SAMPLERS, lines)


def _part(kind: type[T], record: Mapping[str, Any], key: str, kinds: tuple[str, ...], lines: _Lines) -> T:
    given = record.get(key, {})
    made = _fields_of(kind, {"kind": given} if isinstance(given, str) else given, key, lines)
    name = getattr(made, "kind")  # noqa: B009 - both kinds of parts have it
    if name not in kinds:
        raise UsageError(
            f"{lines.at(key, 'kind')}: there is no {key} {name!r}", remedy=f"use one of {', '.join(kinds)}"
        )
    for name, least in (("min_tests", 1), ("reduction", 2), ("startup", 0), ("points", 2)):
        if getattr(made, name, least) < least:
            raise UsageError(f"{lines.at(key, name)}: {name} is too small", remedy=f"give at least {least}")
    return made


def _fields_of(kind: type[T], given: object, key: str, lines: _Lines) -> T:
    known = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(given, dict):
        raise UsageError(f"{lines.at(key)}: {key} is {given!r}", remedy=f"write [{key}]")
    for name, value in given.items():
        if name not in known:
            raise UsageError(
                f"{lines.at(key, name)}: {name!r} is unknown in [{key}]",
                remedy=f"known: {', '.join(sorted(known))}",
            )
        wanted = int if isinstance(known[name], int) else str
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise UsageError(
                f"{lines.at(key, name)}: {name} is {value!r}", remedy=f"give a {wanted.__name__}"
            )
    return kind(**given)


def probes_of(space: tuple[Parameter, ...]) -> list[dict[str, Value]]:
    """The values of a few trials that together try each range's middle and ends, and its first choices."""
    count = min(_MOST_PROBES, max(len(parameter.probes) for parameter in space))
    searched = [parameter for parameter in space if parameter.is_searched]
    return [
        {parameter.path: parameter.probes[number % len(parameter.probes)] for parameter in searched}
        for number in range(count)
    ]


def _with_budget(
    spec: StudySpec,
    model: Model,
    record: Mapping[str, Any],
    measure: Measure,
    lines: _Lines,
    where: Mapping[str, str],
) -> StudyFile:
    """The study with its budget, after the jobs of a few trials were made. Raises UsageError."""
    root = model.solver.root
    iterations, interval = root.integer("max_iter"), root.integer("test_interval")
    try:
        with_values(spec, probes_of(spec.space)[0])
        base = trial_job(_bare(spec), 0, 0, {}, measure).spec
        samples = _count(record, "samples", lines, default=iterations * base.samples_per_iteration)
        default = iterations // interval if 0 < interval <= iterations else _TESTS
        tests = _count(record, "tests", lines, default=default)
        spec = replace(spec, samples=samples, tests=tests)
        if samples < tests * base.samples_per_iteration:
            raise UsageError(
                f"{lines.at('samples')}: {samples:,} samples are too few for {tests} tests",
                remedy="raise samples, or lower tests",
            )
        made = [trial_job(spec, 0, 0, values, measure) for values in probes_of(spec.space)]
    except NoSuchField as error:
        path = error.message.partition(": ")[0]
        raise UsageError(
            f"{where.get(path, lines.at('space'))}: {error.message}", remedy=error.remedy
        ) from None
    except ModelError as error:
        raise UsageError(f"{lines.at('solver')}: {error.message}", remedy=error.remedy) from None
    return StudyFile(spec, tuple(made), where)


def _bare(spec: StudySpec) -> StudySpec:
    """The study without a space: its only job is the user's own."""
    return replace(spec, space=())


def blamed(study: StudyFile, error: ModelError) -> UsageError:
    """The error for a trial that Caffe refused: it names the parameter, if the message does, or the solver's line."""
    for path, where in study.where.items():
        field = path.rpartition(".")[2]
        if f"{field!r}" in error.message or f'"{field}"' in error.message or f" {field} " in error.message:
            return UsageError(f"{where}: {path}: {error.message}", remedy=error.remedy)
    first = next(iter(study.where.values()), "")
    return UsageError(
        f"{first}: a trial of this space cannot be trained: {error.message}", remedy=error.remedy
    )
