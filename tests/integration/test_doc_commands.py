"""The commands of the pages, run as a user runs them: each page's blocks in order, in a folder of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.doc_blocks import ROOT, Block, blocks_of, pages
from tests.doc_shell import DocShell, missing_lines
from tests.two_machines import THREE, machines

QUICKSTART = ROOT / "docs" / "quickstart.md"
TWO_MACHINES, THREE_MACHINES = ROOT / "docs" / "two-machines.md", ROOT / "docs" / "three-machines.md"
BLOCK_S = 240.0

pytestmark = [pytest.mark.needs("caffe", "etcd"), pytest.mark.timeout(900)]


def write_files(blocks: list[Block], folder: Path) -> None:
    """Write the blocks that are files."""
    for block in blocks:
        kind, _, name = block.mark.partition(": ")
        if kind == "file":
            (folder / name).write_text(block.text, encoding="utf-8")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the quickstart's files and its LMDBs."""
    folder = tmp_path_factory.mktemp("example")
    write_files(blocks_of(QUICKSTART), folder)
    code, printed = DocShell(folder).script("python make_lmdb.py", BLOCK_S)
    assert code == 0, printed
    return folder


@pytest.fixture
def folder(example: Path, tmp_path: Path) -> Path:
    """A copy of the example, for one page."""
    copy = tmp_path / "work"
    shutil.copytree(example, copy, ignore=shutil.ignore_patterns(".*"))
    return copy


def check_page(
    page: Path, shells: dict[str, DocShell], instead: Callable[[Block], None] = lambda _: None
) -> None:
    """Run the blocks of a page in order; each output that the page shows is held against what was printed.

    ``instead`` is called with each block that is not run.
    """
    printed = ""
    for block in blocks_of(page):
        if block.mark.startswith("not run"):
            instead(block)
        if block.runs:
            printed = shells[block.option("on")].run(block, BLOCK_S)
            shown = block.output if block.language == "console" else ()
        else:
            shown = block.output if block.mark == "output" else ()
        missing = missing_lines(shown, printed)
        assert not missing, f"{block.place}: not printed: {missing}\n{printed}"


def on_machines(block: Block) -> bool:
    """Whether a block runs on one of several machines."""
    return bool(block.option("on"))


RUN = [page for page in pages() if any(block.runs and not on_machines(block) for block in blocks_of(page))]


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in RUN])
def test_the_commands_of_a_page_do_what_the_page_says(page: Path, folder: Path) -> None:
    write_files(blocks_of(page), folder)
    shell = DocShell(folder)
    try:
        check_page(page, {"": shell})
    finally:
        shell.script("gossip-caffe cluster down", BLOCK_S)
        shell.stop()


@pytest.mark.needs("ip")
def test_the_page_on_two_machines_leads_to_a_trained_model(folder: Path, tmp_path: Path) -> None:
    with machines(tmp_path / "machines") as ways:
        for name, place in (("A", "srv"), ("B", "mnt")):
            shutil.copytree(folder, tmp_path / "machines" / name / place / "places")
        homes = {name: tmp_path / "homes" / name for name in ways}
        for home in homes.values():
            home.mkdir(parents=True)
        shells = {name: DocShell(homes[name], way=way) for name, way in ways.items()}
        try:
            check_page(TWO_MACHINES, shells)
        finally:
            for shell in shells.values():
                shell.stop()


_LISTEN = """import select, socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(("br0", 0))
wire.settimeout(0.2)
words, seen, count = sys.argv[1].encode().split(b","), set(), 0
print("listens", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        packet = wire.recv(1 << 16)
    except TimeoutError:
        continue
    count += len(packet)
    seen |= {word.decode() for word in words if word in packet}
print(count, ",".join(sorted(seen)), flush=True)
"""
CLEAR = "places,gossip_caffe.v1,etcdserverpb,gossip-caffe/jobs,fingerprint"
"""Words of the job, of calls and of records, one of which is in any message that is not encrypted."""


@pytest.mark.needs("ip", "cryptography")
def test_the_page_on_three_machines_leads_to_peers_of_whom_nothing_is_heard(
    folder: Path, tmp_path: Path
) -> None:
    with machines(tmp_path / "machines", THREE) as ways:
        homes = {name: tmp_path / "machines" / name for name in ways}
        for name, home in homes.items():
            shutil.copytree(folder, home / "srv" / "places")
            (tmp_path / "homes" / name).mkdir(parents=True)
        shells = {name: DocShell(tmp_path / "homes" / name, way=way) for name, way in ways.items()}

        def bring(block: Block) -> None:
            if "scp" in block.text:
                for name, home in homes.items():
                    shutil.copytree(homes["A"] / "srv" / "pki" / name.lower(), home / "srv" / "tls")

        listener = subprocess.Popen(
            [*ways["A"], sys.executable, "-c", _LISTEN, CLEAR],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "listens\n"
            check_page(THREE_MACHINES, shells, bring)
        finally:
            for shell in shells.values():
                shell.stop()
            heard, _ = listener.communicate("over\n")
    count, _, words = heard.strip().partition(" ")
    assert int(count) > 1_000_000
    assert words == ""
