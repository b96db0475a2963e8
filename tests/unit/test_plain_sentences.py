"""Sentences of docstrings and docs name their subject: a reader of another first language understands them at once.

A sentence that begins with "What …" or "Whoever …" hides its subject in a clause, and "theirs" or "anew" are words that
few readers know. The limits are a tenth of the former counts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import gossip_caffe

PACKAGE = Path(gossip_caffe.__file__).parent
REPOSITORY = PACKAGE.parent
HIDDEN_SUBJECT = re.compile(
    r"(?:^|[.!?:;]\s+|\n\s*\n\s*|[-*|]\s+)(What|Whatever|Who|Whoever|Whom|Nobody|Somebody)\b"
)
RARE_WORD = re.compile(r"\b(whoever|whomever|theirs|anew)\b", re.IGNORECASE)
BEGINNINGS_BEFORE, RARE_WORDS_BEFORE = 290, 94
"""Counted in November 2026, before the sentences were rewritten."""


def docstrings() -> Iterator[tuple[Path, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stem.endswith("_pb2"):
            continue
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            value = node.value if isinstance(node, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield path, value.value


def pages() -> Iterator[tuple[Path, str]]:
    for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]:
        if path.is_file():
            yield path, re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)


def found(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(REPOSITORY)}: {text[max(0, match.start() - 20) : match.end() + 40]!r}"
        for path, text in [*docstrings(), *pages()]
        for match in pattern.finditer(text)
    ]


def test_sentences_begin_with_their_subject() -> None:
    hidden = found(HIDDEN_SUBJECT)
    assert len(hidden) <= BEGINNINGS_BEFORE // 10, "\n".join(hidden)


def test_rare_words_are_rare() -> None:
    rare = found(RARE_WORD)
    assert len(rare) <= RARE_WORDS_BEFORE // 10, "\n".join(rare)
