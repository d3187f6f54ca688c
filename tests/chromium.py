"""A headless Chromium for tests, driven by the WebDriver protocol: JSON over HTTP, no library."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

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
)
#: Keys as WebDriver names them.
ENTER, ESCAPE, TAB = "\ue007", "\ue00c", "\ue004"
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One window."""

    def __init__(self, address: str, session: str) -> None:
        self._base = f"{address}/session/{session}"

    def ask(self, command: str, **values: Any) -> Any:
        return request(f"{self._base}/{command}", values)

    def cdp(self, command: str, **parameters: Any) -> Any:
        return self.ask("goog/cdp/execute", cmd=command, params=parameters)

    def open(self, page: Path) -> None:
        self.ask("url", url=page.as_uri())

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        return self.ask("execute/sync", script=f"return {script}", args=[])

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def count(self, selector: str) -> int:
        return int(self.run(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def click(self, selector: str) -> None:
        found = self.ask("element", using="css selector", value=selector)[_ELEMENT]
        self.ask(f"element/{found}/click")

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.ask("actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def look(self, *, dark: bool = False, width: int = 1200, height: int = 900) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[scheme])
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Save what the window shows, or the whole page."""
        taken = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def console(self) -> list[str]:
        """What the console said since it was asked last."""
        return [entry["message"] for entry in self.ask("se/log", type="browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since then, but those in the page itself."""
        log = self.ask("se/log", type="performance")
        entries = [json.loads(entry["message"])["message"] for entry in log]
        sent = [e["params"] for e in entries if e["method"] == "Network.requestWillBeSent"]
        asked = [one["request"]["url"] for one in sent]
        return [address for address in asked if not address.startswith("data:")]


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Start one with a profile of its own in `folder`; skip the test if there is none."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("there is no chromium and chromedriver on this machine")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with (folder / "chromedriver.log").open("wb") as log:
        server = subprocess.Popen([driver, f"--port={port}"], stdout=log, stderr=log)
        try:
            _wait(address, server)
            options = {
                "binary": browser,
                "args": [*FLAGS, f"--user-data-dir={folder / 'profile'}"],
            }
            wanted = {
                "browserName": "chrome",
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            }
            made = request(f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})
            try:
                started = Browser(address, made["sessionId"])
                started.ask("url", url="about:blank")
                started.requests()  # Those of the browser's own first page.
                yield started
            finally:
                with suppress(OSError):
                    request(f"{address}/session/{made['sessionId']}", None, "DELETE")
        finally:
            server.terminate()
            server.wait(10)


def request(address: str, values: dict[str, Any] | None, method: str = "POST") -> Any:
    body = None if values is None else json.dumps(values).encode()
    asked = urllib.request.Request(  # noqa: S310
        address, body, {"Content-Type": "application/json"}, method=method
    )
    # No proxy: the driver is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(asked, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None


def _wait(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        with suppress(OSError):
            if request(f"{address}/status", None, "GET")["ready"]:
                return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError("chromedriver does not start")
