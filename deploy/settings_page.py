"""Makes docs/settings.md from the code: each setting of a job, its default, its values, and its description."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from pathlib import Path

from gossip_caffe.job.spec.settings import CHOICES, RANGES, JobSettings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
HEAD = """# Settings of a job

A job has settings, which say how its peers train together. `--set NAME=VALUE` gives one where the job is made: with
`job create`, `train`, or `cluster up --solver`. The settings belong to the job and never change; `job show` prints
them.

This page is generated from `gossip_caffe/job/spec/settings.py` by `make docs`.

| setting | default | values | meaning |
|---|---|---|---|
"""


def descriptions() -> dict[str, str]:
    """The text below each setting of the class, in the order of the class."""
    body = ast.parse(inspect.getsource(JobSettings)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            described = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            found[field.target.id] = str(text.value.value) if described else ""  # type: ignore[attr-defined]
    return found


def linked(text: str) -> str:
    """A description in one line, whose pages are links from docs/."""
    return re.sub(r"docs/((?:internals/)?([a-z-]+)\.md(?:#[\w-]+)?)", r"[\2](\1)", " ".join(text.split()))


def shown(value: object) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def values_of(name: str, default: object) -> str:
    """The values that a setting takes."""
    if name in CHOICES:
        return ", ".join(f"`{choice}`" for choice in CHOICES[name])
    if name in RANGES:
        low, high = RANGES[name]
        end = f"to {shown(high)}" if high < 2**62 else "or more"
        return f"{shown(low)} {end}"
    return "`true`, `false`" if isinstance(default, bool) else "text"


def page() -> str:
    """The whole page."""
    texts = descriptions()
    rows = []
    for field in dataclasses.fields(JobSettings):
        default = f"`{shown(field.default)}`" if shown(field.default) else "none"
        values = values_of(field.name, field.default)
        rows.append(f"| `{field.name}` | {default} | {values} | {linked(texts[field.name])} |\n")
    return HEAD + "".join(rows)
