"""A headless Chromium for tests, driven over its DevTools protocol through a pipe: no port, no package, no profile.

Messages are JSON with a zero byte after each. The browser resolves no name, so it can call no machine but this one.
"""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEADLINE_S = 120.0
"""Far more than an answer takes: a machine may be busy with other things."""
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)
AS_3_AND_4 = """
import os, sys
for place, given in zip((40, 41), sys.argv[1:3]):
    os.dup2(int(given), place)
for place in (3, 4):
    os.dup2(place + 37, place)
os.closerange(5, 64)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads from descriptor 3 and writes to descriptor 4."""


class Browser:
    """One page of a browser. ``requests``: the URL of each request that it has made."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._rest = b""
        self._number = 0
        self._session = ""
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol; returns its result."""
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + DEADLINE_S
        while (answer := self._next(deadline)).get("id") != self._number:
            self._take(answer)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._from, 1 << 16) if ready else b""
            if not piece:
                raise AssertionError("the browser has not answered" if not ready else "the browser has ended")
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _take(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
            case "Log.entryAdded":
                self.errors.append(
                    f"{told['entry']['level']}: {told['entry']['text']} {told['entry'].get('url')}"
                )
            case "Runtime.exceptionThrown":
                self.errors.append(str(told["exceptionDetails"]))

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise AssertionError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, script: str, deadline_s: float = DEADLINE_S) -> Any:
        """The first true value of an expression in the page; fails the test when there is none in time."""
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            if value := self.value(script):
                return value
            time.sleep(0.1)
        raise AssertionError(f"not within {deadline_s:.0f} s: {script}; {self.errors}")

    def press(self, key: str, code: int = 0) -> None:
        """Press and release a key. ``code``: the key's Windows code, for keys without a character."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def point(self, x: float, y: float) -> None:
        """Move the pointer to a place of the view."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def view(self, width: int, height: int, scale: float = 1.0) -> None:
        """Set the size of the view, in CSS pixels, and the pixels of the device for each."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, **features: str) -> None:
        """Set media features: ``prefers_color_scheme="dark"``."""
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=wanted)

    def picture(self) -> bytes:
        """The whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with a new profile in ``folder``; it has ended, with all of its processes, at the end of the block."""
    read_commands, to_browser = os.pipe()
    from_browser, write_answers = os.pipe()
    given = [str(read_commands), str(write_answers)]
    command = [sys.executable, "-c", AS_3_AND_4, *given, "chromium", *FLAGS, f"--user-data-dir={folder}"]
    with (folder.parent / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            pass_fds=(read_commands, write_answers),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "HOME": str(folder.parent)},
            start_new_session=True,
        )
    os.close(read_commands)
    os.close(write_answers)
    try:
        yield Browser(to_browser, from_browser)
    finally:
        os.close(to_browser)
        os.close(from_browser)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(DEADLINE_S)
