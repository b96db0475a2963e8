"""The fenced blocks of the pages, and the mark that says what becomes of each shell block.

A mark is an HTML comment on the line before a fence, so that no reader of the page sees it:

``<!-- run -->``
    A test runs the block, in order with the others of its page, and expects exit code 0. Options, with semicolons
    between: ``exit N`` (another exit code), ``on NAME`` (on one of several machines), ``first COMMAND`` (the last one:
    commands that make the state which the page describes).
``<!-- not run: REASON -->``
    No test runs the block.
``<!-- same as PAGE -->``
    Each command of the block stands in a block of PAGE that is run.
``<!-- file: NAME -->``
    The block is a file, which the commands of the page find under this name.
``<!-- output -->``
    The block is what the last block before it that was run printed: its lines, in this order, among others;
    ``…`` stands for any text.

Shell blocks are those of the languages ``sh`` and ``console``. In ``console`` a command begins with ``$``, and the
other lines are its output.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHELL = ("sh", "console")
LANGUAGES = (*SHELL, "text", "python", "toml", "json", "prototxt", "ini")
_FENCE = re.compile(r"^( *)```(\w*)\s*$")
_OPTION = re.compile(r"\s*(first|exit|on) ((?<=first ).+|[^;]+);?")
_MARK = re.compile(r"^ *<!-- (.*?) -->\s*$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; ``mark`` is "" where there is none, ``line`` that of the fence, from 1."""

    page: Path
    line: int
    language: str
    mark: str
    lines: tuple[str, ...]

    @property
    def place(self) -> str:
        """The page and the line, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines) + "\n"

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands of a shell block, without comments; a line that ends with a backslash goes on in the next."""
        lines = self.lines
        if self.language == "console":
            lines = tuple(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
        joined = "\n".join(lines).replace("\\\n", " ").split("\n")
        bare = (" ".join(re.sub(r"(^|\s)#.*", "", line).split()) for line in joined)
        return tuple(line for line in bare if line)

    @property
    def script(self) -> str:
        """A shell block as bash takes it."""
        return "\n".join(self.commands) if self.language == "console" else self.text

    @property
    def output(self) -> tuple[str, ...]:
        """The lines that a ``console`` block shows, or an ``output`` block."""
        return tuple(line for line in self.lines if line and not line.startswith("$ "))

    @property
    def runs(self) -> bool:
        """Whether a test runs it."""
        return self.mark == "run" or self.mark.startswith("run:")

    def option(self, name: str) -> str:
        """An option of the mark ``run``; "" where it is not given."""
        found = _OPTION.finditer(self.mark.partition(":")[2]) if self.runs else ()
        return next((option[2].strip() for option in found if option[1] == name), "")


def pages() -> list[Path]:
    """All pages: README, docs, and those of the examples and of the pycaffe recipe."""
    patterns = ("README.md", "docs/**/*.md", "examples/**/*.md", "deploy/**/*.md")
    return sorted({page for pattern in patterns for page in ROOT.glob(pattern)})


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order. Raises ValueError for a fence that does not end."""
    found: list[Block] = []
    mark, start, indent, language = "", 0, "", ""
    content: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), 1):
        fence = _FENCE.match(line)
        if start:
            if fence and fence[1] == indent and not fence[2]:
                found.append(Block(page, start, language, mark, tuple(content)))
                start, mark, content = 0, "", []
            else:
                content.append(line.removeprefix(indent))
        elif fence:
            start, indent, language = number, fence[1], fence[2]
        else:
            comment = _MARK.match(line)
            mark = comment[1] if comment else ""
    if start:
        raise ValueError(f"{page}:{start}: the fence does not end")
    return found
