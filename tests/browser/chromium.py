"""Chromium without a window, by its DevTools protocol over a pipe: no driver, port or package."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")


class Page:
    """One tab: `open`, `do` (JavaScript), `press`, `screenshot`; and what it complained of."""

    def __init__(self, reading: int, writing: int):
        self._reading, self._writing = os.fdopen(reading, "rb"), os.fdopen(writing, "wb")
        self._number, self._session = 0, {}
        self.errors: list[str] = []  # of the console, and exceptions
        self.requests: list[str] = []  # whatever is no file of ours
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        self._writing.write(json.dumps(message).encode() + b"\0")
        self._writing.flush()
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _message(self) -> bytes:
        found = bytearray()
        while (byte := self._reading.read(1)) != b"\0":
            assert byte, "chromium ended"
            found += byte
        return bytes(found)

    def _note(self, event: dict) -> None:
        kind, params = event.get("method"), event.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(str(params["args"]))
        elif kind == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif kind == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "about:", "data:")):
                self.requests.append(url)

    def open(self, file: Path, place: str = "", width: int = 1200, dark: bool = False) -> None:
        """Until the page says that it is ready."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url="about:blank")  # another place alone loads nothing
        self.call("Page.navigate", url=file.as_uri() + place)
        self.wait("document.body?.dataset.ready")

    def do(self, script: str):
        """The value of an expression in the page, awaited where it is a promise."""
        given = {"expression": script, "returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", **given)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not self.do(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        for key in keys:
            typed = {"text": key} if len(key) == 1 else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **typed)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def screenshot(self, file: Path, whole: bool = False) -> None:
        """Of what is seen; or of the whole page."""
        asked = {"captureBeyondViewport": True} if whole else {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            asked["clip"] = size | {"scale": 1}
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **asked)["data"]))

    def print(self, file: Path) -> None:
        """As PDF, on the paper that the page asks for."""
        printed = self.call("Page.printToPDF", preferCSSPageSize=True)
        file.write_bytes(base64.b64decode(printed["data"]))


@contextlib.contextmanager
def page(profile: Path) -> Iterator[Page]:
    """A tab of a Chromium of its own; `profile` is an empty folder for what it writes."""
    theirs, writing = os.pipe()  # chromium reads its commands from 3, and answers on 4
    reading, answers = os.pipe()
    start = f'exec "$0" "$@" 3<&{theirs} 4>&{answers}'
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
    process = subprocess.Popen(
        ["bash", "-c", start, PROGRAM, *flags, f"--user-data-dir={profile}"],
        pass_fds=(theirs, answers),
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    os.close(answers)
    tab = Page(reading, writing)
    try:
        yield tab
        tab.call("Runtime.evaluate", expression="0")  # events that still wait are noted
    finally:
        with contextlib.suppress(OSError, AssertionError):
            tab._session = {}
            tab.call("Browser.close")
        process.wait(20)
