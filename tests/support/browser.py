"""Debian's Chromium, without a window: pages are opened in it, looked at, and operated by the keyboard.

It is talked to by its DevTools protocol, over two pipes: JSON messages with a NUL behind each.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_READS, _WRITES = 3, 4
"""The descriptors that it has for the protocol."""
_KEYS = {"Tab": 9, "Enter": 13, "Space": 32}

AUDIT = r"""
(() => {
  const found = [], text = (e) => e.tagName + "." + e.className + " " + (e.textContent || "").trim().slice(0, 40);
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth + 1) found.push("wider than the window: " + root.scrollWidth);
  if (root.lang !== "en") found.push("no language");
  if (!document.title.trim()) found.push("no title");
  if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
  if (document.querySelectorAll("main").length !== 1) found.push("not one main");
  let level = 0;
  for (const h of document.querySelectorAll("h1, h2, h3, h4")) {
    if (+h.tagName[1] > level + 1) found.push("a level is left out: " + text(h));
    level = +h.tagName[1];
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  if (new Set(ids).size !== ids.length) found.push("an id twice");
  for (const e of document.querySelectorAll("a, button"))
    if (!(e.textContent.trim() || e.ariaLabel)) found.push("no name: " + text(e));
  for (const e of document.querySelectorAll("input:not([type=hidden])"))
    if (!e.labels.length || !e.labels[0].textContent.trim()) found.push("no label: " + e.name);
  for (const e of document.querySelectorAll("img"))
    if (!e.alt || !e.complete || !e.naturalWidth) found.push("no picture: " + e.src);
  for (const e of document.querySelectorAll("nav, svg[role=img], [role=region]"))
    if (!e.ariaLabel && !e.getAttribute("aria-labelledby")) found.push("no name: " + text(e));
  for (const e of document.querySelectorAll("th")) if (!e.scope) found.push("no scope: " + text(e));
  for (const e of document.querySelectorAll("[aria-labelledby], [aria-describedby]"))
    for (const id of (e.getAttribute("aria-labelledby") || e.getAttribute("aria-describedby")).split(" "))
      if (!document.getElementById(id)) found.push("nothing has the id " + id);
  const number = (c) => { const p = c.match(/[\d.]+/g).map(Number); return [p[0], p[1], p[2], p[3] ?? 1]; };
  const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) { const c = number(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; }
    return [255, 255, 255, 1];
  };
  const seen = new Set(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n; (n = walker.nextNode()) && seen.size < 3000;) {
    const e = n.parentElement;
    if (!n.data.trim() || e.closest(".vh, .skip, svg") || seen.has(e)) continue;
    seen.add(e);
    const style = getComputedStyle(e), [a, b] = [light(number(style.color)), light(ground(e))].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.6 && style.fontWeight >= 700);
    const ratio = (a + .05) / (b + .05);
    if (ratio < (large ? 3 : 4.5)) found.push("contrast " + ratio.toFixed(1) + ": " + text(e));
  }
  return [...new Set(found)];
})()
"""
"""What everybody needs who does not see a page as most do; lists what is missing."""


class Page:
    """One tab. ``problems`` is what it complained of: what the policy refused, scripts that failed, dialogs."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """A call of the protocol."""
        return self._browser.call(method, params, self._session)

    def go(self, url: str) -> int:
        """Open an address; its status."""
        self._browser.statuses.clear()
        self.call("Page.navigate", url=url)
        self.wait()
        return self._browser.statuses[0]

    def wait(self) -> None:
        """Wait until a page is there."""
        self._browser.until("Page.loadEventFired")

    def look(self, width: int, *, dark: bool = False, height: int = 800) -> None:
        """How wide the window is, and whether who looks has it dark."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def js(self, expression: str) -> Any:
        """The value of an expression; scripts are ours to run, whatever the page may."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        about: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        text = {"Enter": "\r", "Space": " "}.get(key)
        if text is not None:
            about |= {"text": text, "key": " " if key == "Space" else key}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text: str) -> None:
        """Type text where the focus is."""
        self.call("Input.insertText", text=text)

    def focus(self) -> str:
        """What has the focus: its text or name."""
        return str(self.js("(e => (e.name || e.textContent).trim())(document.activeElement)"))

    def picture(self, path: Path) -> None:
        """A PNG of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(b64decode(shot["data"]))


class Browser:
    """A running Chromium."""

    def __init__(self, writes: int, reads: int) -> None:
        self._writes, self._reads = writes, reads
        self._rest = b""
        self._last = 0
        self._events: list[dict[str, Any]] = []
        self._pages: dict[str, Page] = {}
        self.statuses: list[int] = []

    def page(self) -> Page:
        """A new tab."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        made = Page(self, session)
        self._pages[session] = made
        return made

    def call(self, method: str, params: dict[str, Any], session: str | None = None) -> Any:
        """A call of the protocol, and its result."""
        self._last += 1
        number = self._last
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def until(self, method: str) -> None:
        """Wait for an event."""
        while not any(event["method"] == method for event in self._events):
            self._next()
        self._events.clear()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._reads, 1 << 20)
            assert data, "the browser is gone"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        if "method" in found:
            self._event(found)
        return found

    def _event(self, event: dict[str, Any]) -> None:
        method, params = event["method"], event.get("params", {})
        page = self._pages.get(event.get("sessionId", ""))
        if method == "Network.responseReceived" and params["type"] == "Document":
            self.statuses.append(params["response"]["status"])
        if method == "Page.loadEventFired":
            self._events.append(event)
        if page is None:
            return
        if method == "Log.entryAdded" and "status of" not in params["entry"]["text"]:
            page.problems.append(params["entry"]["text"])
        elif method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening"):
            page.problems.append(json.dumps(params))


@contextmanager
def chromium(directory: Path) -> Iterator[Browser]:
    """A Chromium for the block; what it keeps is in ``directory``."""
    program = shutil.which("chromium")
    assert program is not None, "there is no Chromium: apt-get install chromium"
    (theirs, writes), (reads, mine) = os.pipe(), os.pipe()
    ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (theirs, mine)]
    actions = [(os.POSIX_SPAWN_DUP2, ends[0], _READS), (os.POSIX_SPAWN_DUP2, ends[1], _WRITES)]
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars",
               "--no-first-run", "--disable-dev-shm-usage", f"--user-data-dir={directory}"]  # fmt: skip
    log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT, 0o600)
    actions += [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    pid = os.posix_spawn(program, [program, *options], dict(os.environ), file_actions=actions, setpgroup=0)
    for fd in (theirs, mine, log, *ends):
        os.close(fd)
    try:
        yield Browser(writes, reads)
    finally:
        os.close(writes)
        os.close(reads)
        try:
            os.killpg(pid, signal.SIGKILL)
        finally:
            os.waitpid(pid, 0)
