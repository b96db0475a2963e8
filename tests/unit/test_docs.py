"""The pages: each shell block has a mark, each link leads somewhere, and the page of the settings is current."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gossip_caffe.membership.keys import JobKeys
from tests.doc_blocks import LANGUAGES, ROOT, SHELL, Block, blocks_of, pages
from tests.known_words import unknown

sys.path.insert(0, str(ROOT / "deploy"))

import etcd_keys_page
import metrics_page
import settings_page

PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()]
OPTIONS = re.compile(r"((exit \d+|on \w+)(; |$))*(first .+)?")


def fault(block: Block) -> str:
    """What is wrong with a block's language or mark; "" for nothing."""
    if block.language not in LANGUAGES:
        return f"the language {block.language!r} is none of {', '.join(LANGUAGES)}"
    kind, _, rest = block.mark.partition(":")
    if block.language not in SHELL:
        return "" if kind in {"", "output", "file"} else f"{block.mark!r} is a mark for shell blocks"
    if kind == "run":
        return "" if OPTIONS.fullmatch(rest.strip()) else f"unknown options {rest!r}"
    if kind == "not run":
        return "" if rest.strip() else "the mark gives no reason"
    if block.mark.startswith("same as "):
        return without_twin(block)
    return "the block has no mark: run, not run: REASON, or same as PAGE (tests/doc_blocks.py)"


def without_twin(block: Block) -> str:
    """The commands of a block ``same as PAGE`` that no block of that page runs."""
    other = ROOT / block.mark.removeprefix("same as ")
    if not other.is_file():
        return f"there is no {other}"
    run = {command for twin in blocks_of(other) if twin.runs for command in twin.commands}
    missing = [command for command in block.commands if command not in run]
    return f"{other.name} does not run {missing}" if missing else ""


@pytest.mark.parametrize("page", PAGES)
def test_each_shell_block_is_run_or_says_why_not(page: Path) -> None:
    wrong = [f"{block.place}: {said}" for block in blocks_of(page) if (said := fault(block))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES)
def test_no_block_is_indented_where_a_fence_would_be_seen(page: Path) -> None:
    inside, before, found = False, "", []
    for number, line in enumerate(page.read_text().split("\n"), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside and before == "" and re.match(r" {4,}(gossip-caffe|make|python|\$|etcd) ", line):
            found.append(number)
        before = line
    assert not found, f"{page}: indented commands at lines {found}; use a fence with a mark"


def test_a_block_is_read_with_its_mark_its_commands_and_its_output(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "a\n\n<!-- run: exit 2; first touch x -->\n```console\n$ make x \\\n$   y  # why\nsaid\n```\n\n"
        "1. b\n\n   <!-- not run: minutes -->\n   ```sh\n   ls\n   ```\n\n```text\n<!-- run -->\n```\n"
    )
    first, second, third = blocks_of(page)
    assert (first.line, first.option("exit"), first.option("first"), first.runs) == (4, "2", "touch x", True)
    assert (first.commands, first.output) == (("make x y",), ("said",))
    assert (second.mark, second.text, second.runs) == ("not run: minutes", "ls\n", False)
    assert (third.mark, third.language) == ("", "text")


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    inside, found = False, set()
    for line in page.read_text(encoding="utf-8").split("\n"):
        inside ^= line.lstrip().startswith("```")
        if not inside and (heading := re.match(r"#+ (.*)", line)):
            text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).strip().lower()
            found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_each_link_leads_to_a_file_and_to_a_heading_that_are_there(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and anchor not in slugs(there)):
            wrong.append(target)
    assert not wrong, f"{page}: {wrong}"


def test_each_page_that_code_or_configuration_names_is_there() -> None:
    folders = ("gossip_caffe", "benchmarks", "deploy", "protos", "tests", "examples")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix in SOURCES]
    files += [ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / "README.md"]
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in re.findall(r"(?<![\w/])docs/[\w/-]+\.md", file.read_text(encoding="utf-8"))
        if not (ROOT / name).is_file()
    ]
    assert not wrong, "\n".join(wrong)


SOURCES = {".py", ".toml", ".proto", ".Dockerfile", ".c", ".cpp", ".md"}


@pytest.mark.parametrize("page", PAGES)
def test_each_command_of_a_page_is_one_of_the_programs_with_options_that_it_has(page: Path) -> None:
    commands = [(block.place, words) for block in blocks_of(page) for words in _program_calls(block)]
    wrong = [f"{place}: {said}" for place, words in commands if (said := unknown(words))]
    assert not wrong, "\n".join(wrong)


def _program_calls(block: Block) -> list[list[str]]:
    if block.language not in SHELL:
        return []
    lines = [line for line in block.commands if line.startswith("gossip-caffe ")]
    return [shlex.split(re.split(r"[|&>]", re.sub(r"\$\([^)]*\)", "X", line))[0])[1:] for line in lines]


def test_the_page_of_the_settings_is_what_the_code_says() -> None:
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page(), "run: make docs"
    assert all(settings_page.descriptions().values()), "each setting has a text below it"


def test_the_page_of_the_metrics_is_what_the_table_says() -> None:
    assert metrics_page.PAGE.read_text(encoding="utf-8") == metrics_page.page(), "run: make docs"


def test_the_page_of_the_keys_in_etcd_is_what_the_code_says() -> None:
    assert etcd_keys_page.PAGE.read_text(encoding="utf-8") == etcd_keys_page.page(), "run: make docs"
    missing = [name for *_, name in etcd_keys_page.KEYS if not hasattr(JobKeys, name)]
    assert not missing, "each row of the table names a key of JobKeys"


@pytest.mark.needs("material", "mkdocstrings")
def test_the_site_is_built_strict_and_asks_no_other_machine_for_anything(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built = sorted(tmp_path.rglob("*.html"))
    assert len(built) > len(list((ROOT / "docs").rglob("*.md"))) - 1
    asked = [f"{page}: {found}" for page in built for found in _REQUEST.findall(page.read_text("utf-8"))]
    assert not asked, "\n".join(asked)


_REQUEST = re.compile(r'(?:src="|<link[^>]* href="|url\(|class="mermaid)(?:https?:)?//[^"]*|class="mermaid')


def test_each_file_of_code_that_a_page_names_is_there() -> None:
    roots = (ROOT, ROOT / "gossip_caffe", ROOT / "deploy" / "pycaffe", ROOT / "examples" / "digits")
    wrong = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages()
        for name in re.findall(r"`([\w/]+/[\w/]+(?:\.py|\.c|\.proto|\.toml)?)(?:::\w+)?`", page.read_text())
        if (Path(name).suffix or name.split("/")[0] in {"gossip_caffe", "tests", "deploy", "benchmarks"})
        and not any((root / name).exists() for root in roots)
    ]
    assert not wrong, "\n".join(wrong)
