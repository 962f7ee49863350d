"""A headless Chromium spoken to over its debugging pipe: no driver, no library, no port."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

PATIENCE_S = 240

REQUIRED = bool(os.environ.get("BENCH_APTS_REQUIRE_BROWSER"))
"""Whether a missing browser fails the tests that need one, as `make browser` wants it."""


def path():
    """Path of a browser, None without one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


NEEDED = pytest.mark.skipif(path() is None and not REQUIRED,
                            reason="needs chromium: apt-get install chromium")
"""Marks tests that need a browser."""


class Browser:
    """Starts the browser; ``page()`` opens a tab. Ends with ``close()``."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="browser-")
        theirs_in, self.out = os.pipe()
        self.inn, theirs_out = os.pipe()
        # The browser reads commands from descriptor 3 and answers on 4.
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}', path(), "--headless",
             "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
             f"--user-data-dir={self.folder}", "about:blank"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.numbers, self.rest, self.events = itertools.count(1), b"", []

    def call(self, method, session=None, **parameters):
        """Sends a command and returns its result; events on the way are kept."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def wait(self, method, session):
        """Waits for an event of a tab."""
        self.until(lambda: any(e["method"] == method and e.get("sessionId") == session
                               for e in self.events))

    def until(self, condition):
        """Reads events until ``condition()`` holds."""
        while not condition():
            self.events.append(self._read())

    def _read(self):
        deadline = time.monotonic() + PATIENCE_S
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.inn], [], [], deadline - time.monotonic())
            assert ready, "the browser does not answer"
            chunk = os.read(self.inn, 1 << 20)
            assert chunk, "the browser has gone"
            self.rest += chunk
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def page(self, url, width=1400, height=900, *, dark=False, media="", scripts=True):
        """Opens a tab, loads ``url`` in it and waits until all is there."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                 deviceScaleFactor=1, mobile=width < 500)
        tab.call("Emulation.setEmulatedMedia", media=media, features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        tab.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        tab.call("Page.navigate", url=url)
        self.wait("Page.loadEventFired", session)
        return tab

    def close(self):
        """Ends the browser and removes what it wrote."""
        self.process.kill()
        self.process.wait()
        os.close(self.out)
        os.close(self.inn)
        shutil.rmtree(self.folder, ignore_errors=True)


class Page:
    """A tab."""

    def __init__(self, browser, session):
        self.browser, self.session = browser, session

    def call(self, method, **parameters):
        return self.browser.call(method, self.session, **parameters)

    def run(self, code):
        """Evaluates JavaScript, waits for a promise, and returns the value."""
        answer = self.call("Runtime.evaluate", expression=code, awaitPromise=True,
                           returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key):
        """Presses and releases a key."""
        text = {"text": "\r"} if key == "Enter" else {}
        code = {"Tab": 9, "Enter": 13}[key]
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                      windowsVirtualKeyCode=code, **(text if kind == "keyDown" else {}))

    def mine(self, method):
        """Parameters of this tab's events of a kind."""
        return [e["params"] for e in self.browser.events
                if e["method"] == method and e.get("sessionId") == self.session]

    def complaints(self):
        """What the console shows as an error, and requests that failed."""
        return ([e["exceptionDetails"]["text"] for e in self.mine("Runtime.exceptionThrown")]
                + [str(e["args"]) for e in self.mine("Runtime.consoleAPICalled")
                   if e["type"] in ("error", "warning", "assert")]
                + [e["entry"]["text"] for e in self.mine("Log.entryAdded")
                   if e["entry"]["level"] in ("error", "warning")]
                + [e["errorText"] for e in self.mine("Network.loadingFailed")])

    def requests(self):
        """Addresses that were asked for, inline data aside."""
        found = [e["request"]["url"] for e in self.mine("Network.requestWillBeSent")]
        return [url for url in found if not url.startswith("data:")]

    def screenshot(self, target):
        """Writes what is in view as a PNG."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        target.write_bytes(base64.b64decode(data))
