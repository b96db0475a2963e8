"""The page in a real browser: charts of a living cluster, a kill without reload, and no request off loopback.

With GOSSIP_CAFFE_KEEP_PICTURES=1 it takes longer, and writes the pictures of docs/images.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.chromium import Browser, chromium
from tests.cluster_run import ROOT, ClusterRun, cluster_run, wait_for
from tests.tiny_job import write_job
from tests.unit.test_report import LOGS, STARTED, at

KEEPS = os.environ.get("GOSSIP_CAFFE_KEEP_PICTURES") == "1"
IMAGES = ROOT / "docs" / "images"
CHARTS = ("peers", "loss", "tests", "distance", "rate", "owners", "exchanges", "settled")
DRAWN = "[...document.querySelectorAll('.plot')].filter(plot => plot.querySelector('svg')).map(p => p.dataset.part)"


@contextmanager
def page_of(run: ClusterRun, *arguments: str) -> Iterator[str]:
    """The URL of a page that the command serves; Ctrl-C ends it in the end, with 0 and one line."""
    process = subprocess.Popen(
        run.command("dashboard", *arguments), env=run.environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        yield next(word for word in said.split() if word.startswith("http://127.0.0.1:"))
        process.send_signal(signal.SIGINT)
        assert (process.wait(60), process.stdout.read()) == (0, "the page is closed\n")
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()


def written(run_dir: Path, logs: dict[str, list[dict[str, Any]]]) -> Path:
    """A run folder with these logs."""
    (run_dir / "events").mkdir(parents=True)
    for number, events in enumerate(logs.values()):
        lines = "".join(json.dumps(event) + "\n" for event in events)
        (run_dir / "events" / f"p{number}.jsonl").write_text(lines)
    return run_dir


def crosses(browser: Browser) -> int:
    return int(browser.value("document.querySelectorAll('[data-part=peers] svg .cross').length"))


def assert_all_stays_here(browser: Browser, url: str) -> None:
    """Every request went to the page's own server, and the browser refused and missed nothing."""
    assert {"/", "/page.css", "/page.js", "/events"} <= {urlsplit(asked).path for asked in browser.requests}
    assert all(urlsplit(asked).netloc == urlsplit(url).netloc for asked in browser.requests), browser.requests
    assert not browser.errors


@pytest.mark.needs("caffe", "etcd", "chromium")
def test_a_living_cluster_is_drawn_and_a_kill_appears_without_reload(tmp_path: Path) -> None:
    job = write_job(
        tmp_path / "digits", records=4000, iterations=12_000, pace_ms=40, noise=130.0, tested=512
    )  # fmt: skip
    solver = job.solver.read_text().replace("test_iter: 4", "test_iter: 32")
    # One test of the consensus is enough for a chart; for the pictures there are more of them.
    once, often = ("test_initialization: false", "test_initialization: true"), ("1000000", "500")
    job.solver.write_text(solver.replace(*once).replace(*(often if KEEPS else once)))
    with cluster_run(tmp_path / "state") as run, chromium(tmp_path / "profile") as browser:
        up = ("cluster", "up", "--peers", "3", "--solver", str(job.solver), "--job", "digits")
        run.start(*up)
        wait_for("three peers train", lambda: len(run.training()) == 3)
        with page_of(run) as url:
            browser.view(1440, 900)
            browser.open(url)
            browser.wait_for(f"{DRAWN}.length === {len(CHARTS)}")
            assert sorted(browser.value(DRAWN)) == sorted(CHARTS)
            assert browser.value("document.querySelector('.pill').textContent") == "live"
            assert crosses(browser) == 0
            if KEEPS:
                time.sleep(25)
                run.run("cluster", "scale", "4")
                time.sleep(25)
            browser.value("window.marked = true")
            with (tmp_path / "state/clusters/local/run/events/p1.jsonl").open() as log:
                started = json.loads(log.readline())
            os.kill(started["pid"], signal.SIGKILL)
            browser.wait_for("document.querySelectorAll('[data-part=peers] svg .cross').length === 1")
            browser.wait_for("document.querySelector('.news').textContent.includes('p1 was killed')")
            assert browser.value("window.marked") is True, "the page was loaded again"
            assert "1 killed" in browser.value("document.querySelector('.tiles').textContent")
            if KEEPS:
                time.sleep(20)
                browser.wait_for("document.querySelector('.tiles').textContent.includes('close')")
            pictures = {"light": browser.picture()}
            browser.prefer(prefers_color_scheme="dark")
            browser.wait_for("getComputedStyle(document.body).backgroundColor === 'rgb(14, 18, 24)'")
            pictures["dark"] = browser.picture()
            assert_all_stays_here(browser, url)
        browser.wait_for("!document.getElementById('lost').hidden")
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    if KEEPS:
        IMAGES.mkdir(exist_ok=True)
        for theme, picture in pictures.items():
            (IMAGES / f"dashboard-{theme}.png").write_bytes(picture)


HERE = "document.activeElement.id"
TABLES = "document.querySelectorAll('details[open]').length"


@pytest.mark.needs("chromium")
def test_the_page_of_a_finished_run_is_used_by_keys_and_by_the_pointer(tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=document.title='hit'>"
    logs = {"p0": LOGS["p0"], "p10": LOGS["p10"], "x": [at(11.0, hostile, "started", **STARTED)]}
    run_dir = written(tmp_path / "run", logs)
    with (
        cluster_run(tmp_path / "state") as run,
        chromium(tmp_path / "profile") as browser,
        page_of(run, str(run_dir)) as url,
    ):
        browser.view(1200, 800)
        browser.prefer(prefers_reduced_motion="reduce", prefers_color_scheme="light")
        browser.open(url)
        browser.wait_for("document.title.includes('j') && events.readyState === 1 && told")
        assert browser.value("document.querySelector('.pill').textContent") == "ended"
        assert browser.value("document.querySelectorAll('.plot img').length") == 0

        for key, place in (("2", "card-loss"), ("ArrowRight", "card-tests"), ("ArrowLeft", "card-loss")):
            browser.press(key)
            assert browser.value(HERE) == place
        assert browser.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        browser.press("Enter")
        assert browser.value("document.activeElement.classList.contains('wide')")
        browser.press("t")
        assert browser.value(TABLES) == 1
        assert "p0" in browser.value("document.querySelector('[data-part=loss-table]').textContent")

        browser.press("?")
        assert browser.value("document.getElementById('keys').open")
        browser.press("Escape", 27)
        browser.wait_for("!document.getElementById('keys').open")
        ground = "getComputedStyle(document.body).backgroundColor"
        grounds = []
        for _ in range(3):
            browser.press("d")
            grounds.append(browser.value(ground))
        assert grounds[0] == grounds[2] != grounds[1]  # light, dark, and as the system has it: light

        place = "document.querySelector('[data-part=loss] svg').getBoundingClientRect()"
        tip = "document.getElementById('tip')"
        x, y, width, height = (browser.value(f"{place}.{name}") for name in ("x", "y", "width", "height"))
        browser.point(x + 0.97 * width, y + height / 2)
        told = browser.wait_for(f"!{tip}.hidden && {tip}.textContent")
        assert told.splitlines() == ["4 seconds", "p0: 0.4"]

        browser.press("p")
        more = at(19.0, "p0", "started", **STARTED), at(20.0, "p0", "left", reason="came again", error="")
        with (run_dir / "events" / "p0.jsonl").open("a") as log:
            log.writelines(json.dumps(event) + "\n" for event in more)
        browser.wait_for("waiting.has('news')")
        assert "came again" not in browser.value("document.querySelector('.news').textContent")
        browser.press("p")
        browser.wait_for("document.querySelector('.news').textContent.includes('came again')")
        assert browser.value(HERE) == "card-loss"  # what is drawn again takes no focus
        assert browser.value(TABLES) == 1
        assert_all_stays_here(browser, url)


@pytest.mark.needs("chromium")
def test_a_page_whose_server_comes_back_goes_on(tmp_path: Path) -> None:
    run_dir = written(tmp_path / "run", {"p0": LOGS["p0"]})
    with cluster_run(tmp_path / "state") as run, chromium(tmp_path / "profile") as browser:
        with page_of(run, str(run_dir)) as url:
            browser.open(url)
            browser.wait_for("events.readyState === 1")
            assert browser.value("document.getElementById('lost').hidden")
        browser.wait_for("!document.getElementById('lost').hidden")
        with page_of(run, str(run_dir), "--listen", urlsplit(url).netloc):
            browser.wait_for("document.getElementById('lost').hidden")
