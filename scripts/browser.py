"""Drive a headless Chromium: the site's tests and `scripts/screenshots.py` look at pages with it.

Speaks the DevTools protocol through tornado, which Jupyter needs anyway, so that no browser
framework has to be installed. The pages are served from this machine on a free port.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no other host can be reached
    "--remote-debugging-port=0",
)
PHONE, DESKTOP = 390, 1280
PATIENCE = 150  # seconds for one answer; on an idle machine it takes a fraction of one


class BrowserError(Exception):
    """The browser did not start or did not answer."""


def find_browser() -> str | None:
    """The path of a Chromium or Chrome: from `DIFFBOOK_CHROMIUM`, else from the search path."""
    named = os.environ.get("DIFFBOOK_CHROMIUM")
    if named:
        return named
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Visit:
    """What happened while a page loaded."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class Browser:
    """One browser with one tab. Use :func:`browser` to open and close it."""

    def __init__(self, command: str, profile: Path):
        flags = [*FLAGS, *(["--no-sandbox"] if _is_superuser() else [])]
        self._process = subprocess.Popen(
            [command, *flags, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self._socket = self._run(self._connect(profile / "DevToolsActivePort"))
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session: str | None = None
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def visit(
        self, url: str, *, width: int = DESKTOP, dark: bool = False, scripts: bool = True,
        still: bool = False,
    ) -> Visit:
        """Load ``url`` in a window ``width`` CSS pixels wide and wait until it is at rest.

        Without ``scripts`` the page's JavaScript is off; with ``still`` its reader asks for less
        motion.
        """
        self._send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        motion = {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"}
        self._send("Emulation.setEmulatedMedia", features=[scheme, motion])
        self._events.clear()
        self._send("Page.navigate", url=url)
        self._wait_for("Page.loadEventFired")
        if not scripts:  # nothing would answer
            time.sleep(0.3)
            return self._visit_so_far()
        # Formulas are set after the load event; without MathJax the promise is ready at once.
        self.evaluate(
            "(async () => { await (window.MathJax?.startup?.promise ?? 0);"
            " await document.fonts.ready;"
            " await new Promise(r => setTimeout(r, 100)); })()"
        )
        return self._visit_so_far()

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; promises are waited for."""
        answer = self._send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(f"the page could not run {script[:60]!r}: {answer}")
        return answer["result"].get("value")

    def media(self, name: str) -> None:
        """Show the page as for another medium: "print", or "" for the screen."""
        self._send("Emulation.setEmulatedMedia", media=name)

    def press(self, key: str) -> None:
        """Press and release a key: a sign, or one of Enter, Tab, Home, End, ArrowLeft, …"""
        codes = {"Enter": 13, "Tab": 9, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37,
                 "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Backspace": 8}
        text = {"text": "\r" if key == "Enter" else key} if key == "Enter" or len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self._send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code="Space" if key == " " else key,
                windowsVirtualKeyCode=codes.get(key, 0),
                **(text if kind == "keyDown" else {}),
            )

    def write(self, text: str) -> None:
        """Type ``text`` into what has the focus."""
        self._send("Input.insertText", text=text)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 5) -> None:
        """Press the mouse at ``start``, move it to ``end``, let go; points in CSS pixels of the
        window. With ``start == end`` this is a click."""

        def mouse(kind: str, at: tuple[float, float], buttons: int) -> None:
            self._send("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left",
                       buttons=buttons, clickCount=1)

        mouse("mousePressed", start, 1)
        for step in range(1, steps + 1 if start != end else 1):
            share = step / steps
            mouse("mouseMoved", (start[0] + share * (end[0] - start[0]),
                                 start[1] + share * (end[1] - start[1])), 1)
        mouse("mouseReleased", end, 0)

    def accessible(self) -> list[dict[str, Any]]:
        """What a screen reader gets: role, name and value of everything on the page that has a
        role, shadow roots included."""
        nodes = self._send("Accessibility.getFullAXTree")["nodes"]
        return [
            {key: node.get(key, {}).get("value") for key in ("role", "name", "value")}
            for node in nodes if not node.get("ignored")
        ]

    def errors(self) -> list[str]:
        """Errors on the console since the last visit began."""
        return self._visit_so_far().errors

    def requests(self) -> list[str]:
        """Addresses asked for since the last visit began."""
        return self._visit_so_far().requests

    def screenshot(self, path: Path, *, full: bool = True) -> None:
        """Write the page, or with ``full=False`` its first screen, as a PNG."""
        # Open up what is lazily loaded or has its own scroll bar before measuring.
        if full:
            height = min(self.evaluate("document.documentElement.scrollHeight"), 15_000)
            width = self.evaluate("window.innerWidth")
            self._send(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=width < 600,
            )
            time.sleep(0.3)
        data = self._send("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._loop.close()

    # -- the protocol

    def _run(self, awaitable: Any) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(awaitable, PATIENCE))

    async def _connect(self, port_file: Path) -> WebSocketClientConnection:
        for _ in range(300):
            if port_file.exists() and len(lines := port_file.read_text().split("\n")) >= 2:
                port, path = lines[0], lines[1]
                return await websocket_connect(
                    f"ws://127.0.0.1:{port}{path}", max_message_size=200 * 2**20
                )
            if self._process.poll() is not None:
                break
            await asyncio.sleep(0.1)
        raise BrowserError("the browser did not start")

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        return self._run(self._answer(message))

    async def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        await self._socket.write_message(json.dumps(message))
        while True:
            received = await self._receive()
            if received.get("id") == message["id"]:
                if "error" in received:
                    raise BrowserError(f"{message['method']}: {received['error']}")
                return received["result"]

    async def _receive(self) -> dict[str, Any]:
        text = await self._socket.read_message()
        if text is None:
            raise BrowserError("the browser closed the connection")
        received = json.loads(text)
        if "method" in received:
            self._events.append(received)
        return received

    def _wait_for(self, method: str) -> None:
        async def wait() -> None:
            while not any(event["method"] == method for event in self._events):
                await self._receive()

        self._run(wait())

    def _visit_so_far(self) -> Visit:
        visit = Visit()
        for event in self._events:
            method, details = event["method"], event["params"]
            if method == "Network.requestWillBeSent":
                visit.requests.append(details["request"]["url"])
            elif method == "Runtime.exceptionThrown":
                exception = details["exceptionDetails"]
                text = exception.get("exception", {}).get("description") or exception["text"]
                visit.errors.append(text)
            elif method == "Log.entryAdded" and details["entry"]["level"] == "error":
                visit.errors.append(f"{details['entry']['text']} {details['entry'].get('url')}")
            elif method == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning"):
                arguments = (a.get("value", a.get("description")) for a in details["args"])
                visit.errors.append(" ".join(str(a) for a in arguments))
        return visit


def _is_superuser() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


@contextmanager
def browser() -> Iterator[Browser]:
    """A running browser; raises :class:`BrowserError` where none is installed."""
    command = find_browser()
    if command is None:
        raise BrowserError(f"none of {', '.join(NAMES)} is installed (or set DIFFBOOK_CHROMIUM)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        opened = Browser(command, Path(profile))
        try:
            yield opened
        finally:
            opened.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the tests report what matters."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve ``folder`` on a free port of this machine; gives the address of its root."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
